//! One stream, shared by many tasks: each sends its request and waits for its own answer.

use super::failure;
use crate::tools::load::target::{Code, Failure};
use logitd_client::{Client, Error, Receiver, SampleSender, StreamAnswer, VerifySender};
use logitd_proto::{SampleRequest, SampleStreamResponse, VerifyRequest, VerifyStreamResponse};
use std::collections::HashMap;
use std::fmt::Debug;
use std::future::Future;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tokio::sync::oneshot;

type Answered<T> = Result<T, Failure>;

/// The sending half of a stream, by which streams of several methods are told apart.
pub(super) trait Sender: Sized + Send {
    /// What is sent.
    type Request: Send;
    /// An answer on the stream.
    type Answered: StreamAnswer<Response: Debug + Send> + Send + 'static;

    /// Opens a stream.
    fn open(
        client: &Client,
    ) -> impl Future<Output = Result<(Self, Receiver<Self::Answered>), Error>> + Send;

    /// Sends a request; its answer will carry the id that is returned.
    fn send(&mut self, request: Self::Request) -> impl Future<Output = Result<u64, Error>> + Send;
}

impl Sender for SampleSender {
    type Request = SampleRequest;
    type Answered = SampleStreamResponse;

    async fn open(client: &Client) -> Result<(Self, Receiver<SampleStreamResponse>), Error> {
        Ok(client.stream().await?.split())
    }

    async fn send(&mut self, request: SampleRequest) -> Result<u64, Error> {
        self.send(request).await
    }
}

impl Sender for VerifySender {
    type Request = VerifyRequest;
    type Answered = VerifyStreamResponse;

    async fn open(client: &Client) -> Result<(Self, Receiver<VerifyStreamResponse>), Error> {
        Ok(client.verify_stream().await?.split())
    }

    async fn send(&mut self, request: VerifyRequest) -> Result<u64, Error> {
        self.send(request).await
    }
}

type ResponseOf<S> = <<S as Sender>::Answered as StreamAnswer>::Response;

/// A stream that is opened when it is first used, and opened again when it broke.
#[derive(Debug)]
pub(super) struct Multiplexed<S: Sender> {
    client: Client,
    /// Held while a request is handed to the transport, so that requests go out one after another.
    open: tokio::sync::Mutex<Option<Open<S, ResponseOf<S>>>>,
}

#[derive(Debug)]
struct Open<S, T> {
    sender: S,
    waiting: Waiting<T>,
}

impl<S: Sender> Multiplexed<S> {
    pub(super) fn new(client: Client) -> Self {
        Self { client, open: tokio::sync::Mutex::new(None) }
    }

    /// Sends a request and waits for its answer. Can be given up at any point.
    pub(super) async fn send(&self, request: S::Request) -> Answered<ResponseOf<S>> {
        let (_place, answer) = self.hand_over(request).await?;
        answer.await.unwrap_or_else(|_| Err(closed()))
    }

    async fn hand_over(&self, request: S::Request) -> Result<Expected<ResponseOf<S>>, Failure> {
        let mut open = self.open.lock().await;
        if open.as_ref().is_none_or(|open| open.waiting.is_over()) {
            // Not in place until it is whole: this may be given up while it waits.
            let opened = S::open(&self.client).await;
            let (sender, receiver) = opened.map_err(|error| failure(&error))?;
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
#[derive(Debug)]
struct Waiting<T>(Arc<Mutex<State<T>>>);

impl<T> Clone for Waiting<T> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

impl<T> Default for Waiting<T> {
    fn default() -> Self {
        Self(Arc::new(Mutex::new(State { answers: HashMap::new(), over: None })))
    }
}

#[derive(Debug)]
struct State<T> {
    answers: HashMap<u64, Pending<T>>,
    /// Why the stream is over.
    over: Option<Failure>,
}

#[derive(Debug)]
enum Pending<T> {
    Expected(oneshot::Sender<Answered<T>>),
    Arrived(Box<Answered<T>>),
}

/// A place among those that wait, and where its answer comes.
type Expected<T> = (Place<T>, oneshot::Receiver<Answered<T>>);

/// A place among those that wait; given up when dropped.
#[derive(Debug)]
struct Place<T>(Waiting<T>, u64);

impl<T> Drop for Place<T> {
    fn drop(&mut self) {
        self.0.lock().answers.remove(&self.1);
    }
}

impl<T> Waiting<T> {
    fn lock(&self) -> MutexGuard<'_, State<T>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn is_over(&self) -> bool {
        self.lock().over.is_some()
    }

    fn expect(&self, id: u64) -> Expected<T> {
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

    fn arrived(&self, id: u64, answer: Answered<T>) {
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

async fn receive<A: StreamAnswer>(mut receiver: Receiver<A>, waiting: Waiting<A::Response>) {
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
    use logitd_proto::SampleResponse;

    fn answer(device: &str) -> Answered<SampleResponse> {
        Ok(SampleResponse { device: device.into(), ..Default::default() })
    }

    #[test]
    fn answers_find_whoever_waits_before_and_after() {
        let waiting = Waiting::<SampleResponse>::default();
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
        let waiting = Waiting::<SampleResponse>::default();
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
