//! One stream, shared by many tasks: each sends its request and waits for its own answer.

use super::failure;
use crate::tools::load::target::{Code, Failure};
use logitd_client::{Client, SampleReceiver, SampleSender};
use logitd_proto::{SampleRequest, SampleResponse};
use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tokio::sync::oneshot;

type Answer = Result<SampleResponse, Failure>;

/// A stream that is opened when it is first used, and opened again when it broke.
#[derive(Debug)]
pub(super) struct Multiplexed {
    client: Client,
    /// Held while a request is handed to the transport, so that requests go out one after another.
    open: tokio::sync::Mutex<Option<Open>>,
}

#[derive(Debug)]
struct Open {
    sender: SampleSender,
    waiting: Waiting,
}

impl Multiplexed {
    pub(super) fn new(client: Client) -> Self {
        Self { client, open: tokio::sync::Mutex::default() }
    }

    /// Sends a request and waits for its answer. Can be given up at any point.
    pub(super) async fn sample(&self, request: SampleRequest) -> Answer {
        let (_place, answer) = self.send(request).await?;
        answer.await.unwrap_or_else(|_| Err(closed()))
    }

    async fn send(
        &self,
        request: SampleRequest,
    ) -> Result<(Place, oneshot::Receiver<Answer>), Failure> {
        let mut open = self.open.lock().await;
        if open.as_ref().is_none_or(|open| open.waiting.is_over()) {
            // Not in place until it is whole: this may be given up while it waits.
            let stream = self.client.stream().await.map_err(|error| failure(&error))?;
            let (sender, receiver) = stream.split();
            let waiting = Waiting::default();
            tokio::spawn(receive(receiver, waiting.clone()));
            *open = Some(Open { sender, waiting });
        }
        let stream = open.as_mut().expect("opened above");
        match stream.sender.send(request).await {
            Ok(id) => Ok(stream.waiting.expect(id)),
            Err(error) => {
                *open = None;
                Err(failure(&error))
            }
        }
    }
}

/// Who waits for which answer. An answer can be there before the sender knows its id.
#[derive(Clone, Debug, Default)]
struct Waiting(Arc<Mutex<State>>);

#[derive(Debug, Default)]
struct State {
    answers: HashMap<u64, Pending>,
    /// Why the stream is over.
    over: Option<Failure>,
}

#[derive(Debug)]
enum Pending {
    Expected(oneshot::Sender<Answer>),
    Arrived(Box<Answer>),
}

/// A place among those that wait; given up when dropped.
#[derive(Debug)]
struct Place(Waiting, u64);

impl Drop for Place {
    fn drop(&mut self) {
        self.0.lock().answers.remove(&self.1);
    }
}

impl Waiting {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn is_over(&self) -> bool {
        self.lock().over.is_some()
    }

    fn expect(&self, id: u64) -> (Place, oneshot::Receiver<Answer>) {
        let (sender, receiver) = oneshot::channel();
        let mut state = self.lock();
        let known = match (state.answers.remove(&id), &state.over) {
            (Some(Pending::Arrived(answer)), _) => Some(*answer),
            (_, Some(over)) => Some(Err(over.clone())),
            _ => None,
        };
        match known {
            Some(answer) => {
                // Its receiver is right here.
                let _ = sender.send(answer);
            }
            None => {
                state.answers.insert(id, Pending::Expected(sender));
            }
        }
        drop(state);
        (Place(self.clone(), id), receiver)
    }

    fn arrived(&self, id: u64, answer: Answer) {
        let mut state = self.lock();
        match state.answers.remove(&id) {
            Some(Pending::Expected(sender)) => {
                // Whoever waited may have given up.
                let _ = sender.send(answer);
            }
            _ => {
                state.answers.insert(id, Pending::Arrived(Box::new(answer)));
            }
        }
    }

    /// Fails everything that waits, and all that comes.
    fn end(&self, why: Failure) {
        let mut state = self.lock();
        for (_, pending) in state.answers.drain() {
            if let Pending::Expected(sender) = pending {
                let _ = sender.send(Err(why.clone()));
            }
        }
        state.over = Some(why);
    }
}

async fn receive(mut receiver: SampleReceiver, waiting: Waiting) {
    let why = loop {
        match receiver.receive().await {
            Some(Ok((id, answer))) => waiting.arrived(id, answer.map_err(|error| failure(&error))),
            Some(Err(error)) => break failure(&error),
            None => break closed(),
        }
    };
    waiting.end(why);
}

fn closed() -> Failure {
    Failure::new(Code::UNAVAILABLE, "the stream has ended")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(device: &str) -> Answer {
        Ok(SampleResponse { device: device.into(), ..Default::default() })
    }

    #[test]
    fn answers_find_whoever_waits_before_and_after() {
        let waiting = Waiting::default();
        let (_a, mut first) = waiting.expect(0);
        waiting.arrived(1, answer("early"));
        waiting.arrived(0, answer("late"));
        let (_b, mut second) = waiting.expect(1);
        assert_eq!(first.try_recv().unwrap(), answer("late"));
        assert_eq!(second.try_recv().unwrap(), answer("early"));
        assert!(waiting.lock().answers.is_empty());
    }

    #[test]
    fn the_end_fails_all_and_who_gave_up_leaves_nothing() {
        let waiting = Waiting::default();
        let (place, _) = waiting.expect(0);
        let (_b, mut second) = waiting.expect(1);
        drop(place);
        assert_eq!(waiting.lock().answers.len(), 1);
        waiting.end(closed());
        assert_eq!(second.try_recv().unwrap(), Err(closed()));
        assert_eq!(waiting.expect(2).1.try_recv().unwrap(), Err(closed()));
        assert!(waiting.is_over());
    }
}
