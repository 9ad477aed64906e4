//! A stream of requests to verify and answers, pipelined.

use super::stream::{Receiver, StreamAnswer, outgoing};
use super::{Error, Service};
use logitd_proto::verify_stream_response::Result as Outcome;
use logitd_proto::{
    StreamError, VerifyRequest, VerifyResponse, VerifyStreamRequest, VerifyStreamResponse,
};
use tokio::sync::mpsc;
use tonic::Request;

/// Many requests to verify in flight on one call. Answers come in the order of their completion.
///
/// As with a [`SampleStream`](super::SampleStream), whoever only sends will wait for ever: read between sends, or
/// [split](Self::split) the stream and do both at once.
#[derive(Debug)]
pub struct VerifyStream {
    sender: VerifySender,
    receiver: VerifyReceiver,
}

impl VerifyStream {
    pub(super) async fn open(mut service: Service) -> Result<Self, Error> {
        let (requests, outgoing, hang_up) = outgoing();
        let answers = service.verify_stream(Request::new(outgoing)).await?.into_inner();
        Ok(Self {
            sender: VerifySender { requests, next_id: 0 },
            receiver: Receiver::new(answers, hang_up),
        })
    }

    /// Sends a request; its answer will carry the id that is returned.
    pub async fn send(&mut self, request: VerifyRequest) -> Result<u64, Error> {
        self.sender.send(request).await
    }

    /// The next answer: the id of its request, and what came of it. `None` once the stream has ended.
    pub async fn receive(&mut self) -> Option<Result<(u64, Result<VerifyResponse, Error>), Error>> {
        self.receiver.receive().await
    }

    /// The two directions, to be used by different tasks.
    pub fn split(self) -> (VerifySender, VerifyReceiver) {
        (self.sender, self.receiver)
    }
}

/// The sending half. Dropping it says that no more requests come; those sent are still answered.
#[derive(Debug)]
pub struct VerifySender {
    requests: mpsc::Sender<VerifyStreamRequest>,
    next_id: u64,
}

impl VerifySender {
    /// Sends a request; its answer will carry the id that is returned. Waits while the server does not
    /// read.
    pub async fn send(&mut self, request: VerifyRequest) -> Result<u64, Error> {
        let id = self.next_id;
        let message = VerifyStreamRequest { id, request: Some(request) };
        self.requests.send(message).await.map_err(|_| Error::Closed)?;
        self.next_id += 1;
        Ok(id)
    }
}

/// The receiving half of a stream of requests to verify.
pub type VerifyReceiver = Receiver<VerifyStreamResponse>;

impl StreamAnswer for VerifyStreamResponse {
    type Response = VerifyResponse;

    fn into_parts(self) -> (u64, Option<Result<VerifyResponse, StreamError>>) {
        let result = self.result.map(|result| match result {
            Outcome::Response(response) => Ok(response),
            Outcome::Error(error) => Err(error),
        });
        (self.id, result)
    }
}
