//! A stream of requests and answers, pipelined.

use super::{Error, Service};
use crate::api::sample_stream_response::Result as Outcome;
use crate::api::{SampleRequest, SampleResponse, SampleStreamRequest, SampleStreamResponse};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Status, Streaming};

/// Requests handed to the transport before [`SampleSender::send`] waits for it.
const SENT_AHEAD: usize = 1;

/// Many requests in flight on one call. Answers come in the order of their completion.
///
/// The server reads no further while a stream has too many answers that were not read, so whoever only
/// sends will wait for ever. Read between sends, or [split](Self::split) the stream and do both at once.
#[derive(Debug)]
pub struct SampleStream {
    sender: SampleSender,
    receiver: SampleReceiver,
}

impl SampleStream {
    pub(super) async fn open(mut service: Service) -> Result<Self, Error> {
        let (requests, sent) = mpsc::channel(SENT_AHEAD);
        let answers = service.sample_stream(ReceiverStream::new(sent)).await?.into_inner();
        Ok(Self {
            sender: SampleSender { requests, next_id: 0 },
            receiver: SampleReceiver { answers },
        })
    }

    /// Sends a request; its answer will carry the id that is returned.
    pub async fn send(&mut self, request: SampleRequest) -> Result<u64, Error> {
        self.sender.send(request).await
    }

    /// The next answer: the id of its request, and what came of it. `None` once the stream has ended.
    pub async fn receive(&mut self) -> Option<Result<(u64, Result<SampleResponse, Error>), Error>> {
        self.receiver.receive().await
    }

    /// The two directions, to be used by different tasks.
    pub fn split(self) -> (SampleSender, SampleReceiver) {
        (self.sender, self.receiver)
    }
}

/// The sending half. Dropping it says that no more requests come; those sent are still answered.
#[derive(Debug)]
pub struct SampleSender {
    requests: mpsc::Sender<SampleStreamRequest>,
    next_id: u64,
}

impl SampleSender {
    /// Sends a request; its answer will carry the id that is returned. Waits while the server does not
    /// read.
    pub async fn send(&mut self, request: SampleRequest) -> Result<u64, Error> {
        let id = self.next_id;
        let message = SampleStreamRequest { id, request: Some(request) };
        self.requests.send(message).await.map_err(|_| Error::Closed)?;
        self.next_id += 1;
        Ok(id)
    }
}

/// The receiving half. Dropping it hangs up: the server cancels what has no answer yet.
#[derive(Debug)]
pub struct SampleReceiver {
    answers: Streaming<SampleStreamResponse>,
}

impl SampleReceiver {
    /// The next answer: the id of its request, and what came of it. `None` once the stream has ended.
    pub async fn receive(&mut self) -> Option<Result<(u64, Result<SampleResponse, Error>), Error>> {
        let answer = match self.answers.message().await {
            Ok(answer) => answer?,
            Err(status) => return Some(Err(status.into())),
        };
        let result = match answer.result {
            Some(Outcome::Response(response)) => Ok(response),
            Some(Outcome::Error(error)) => {
                let code = Code::from(error.code);
                Err(Status::with_details(code, error.message, error.status_details).into())
            }
            None => return Some(Err(Status::internal("an answer without a result").into())),
        };
        Some(Ok((answer.id, result)))
    }
}
