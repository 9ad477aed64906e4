//! A stream of requests and answers, pipelined.

use super::version::Version;
use super::{Error, Service};
use logitd_proto::sample_stream_response::Result as Outcome;
use logitd_proto::{
    SampleRequest, SampleResponse, SampleStreamRequest, SampleStreamResponse, StreamError,
};
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::sync::mpsc;
use tokio_stream::Stream;
use tokio_util::sync::{CancellationToken, DropGuard, WaitForCancellationFutureOwned};
use tonic::{Request, Status, Streaming};

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
    /// With a `timeout`, the server ends the stream when it is over.
    pub(super) async fn open(
        mut service: Service,
        version: Version,
        timeout: Option<Duration>,
    ) -> Result<Self, Error> {
        let (requests, outgoing, hang_up) = outgoing();
        let mut call = Request::new(outgoing);
        if let Some(timeout) = timeout {
            call.set_timeout(timeout);
        }
        let answers = service.sample_stream(call).await?.into_inner();
        Ok(Self {
            sender: SampleSender { requests, next_id: 0, version },
            receiver: Receiver::new(answers, hang_up),
        })
    }

    /// Sends a request; its answer will carry the id that is returned.
    pub async fn send(&mut self, request: SampleRequest) -> Result<u64, Error> {
        self.sender.send(request).await
    }

    /// Sends a chunk of a larger batch; see [`SampleSender::send_chunk`].
    pub async fn send_chunk(
        &mut self,
        first_row: u64,
        request: SampleRequest,
    ) -> Result<u64, Error> {
        self.sender.send_chunk(first_row, request).await
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
    version: Version,
}

impl SampleSender {
    /// Sends a request; its answer will carry the id that is returned. Waits while the server does not
    /// read.
    pub async fn send(&mut self, request: SampleRequest) -> Result<u64, Error> {
        self.send_message(request, None).await
    }

    /// Sends some rows of a larger batch, of which `first_row` is the first; the answer will carry the id
    /// that is returned. It is sampled at once, whatever else of the batch is here.
    /// [`Client::sample_chunked`](super::Client::sample_chunked) does it for a batch that is all there.
    pub async fn send_chunk(
        &mut self,
        first_row: u64,
        request: SampleRequest,
    ) -> Result<u64, Error> {
        self.send_message(request, Some(first_row)).await
    }

    async fn send_message(
        &mut self,
        request: SampleRequest,
        first_row: Option<u64>,
    ) -> Result<u64, Error> {
        self.version.check(&request).await?;
        let id = self.next_id;
        let message = SampleStreamRequest { id, request: Some(request), first_row };
        self.requests.send(message).await.map_err(|_| Error::Closed)?;
        self.next_id += 1;
        Ok(id)
    }
}

/// The receiving half of a stream of requests to sample.
pub type SampleReceiver = Receiver<SampleStreamResponse>;

/// The receiving half of a stream. Dropping it hangs up: the server cancels what has no answer yet.
#[derive(Debug)]
pub struct Receiver<A> {
    answers: Streaming<A>,
    _hang_up: DropGuard,
}

/// An answer on a stream.
pub trait StreamAnswer {
    /// What a request is answered with.
    type Response;

    /// The id of its request, and what came of it, if it says that.
    fn into_parts(self) -> (u64, Option<Result<Self::Response, StreamError>>);
}

impl StreamAnswer for SampleStreamResponse {
    type Response = SampleResponse;

    fn into_parts(self) -> (u64, Option<Result<SampleResponse, StreamError>>) {
        let result = self.result.map(|result| match result {
            Outcome::Response(response) => Ok(response),
            Outcome::Error(error) => Err(error),
        });
        (self.id, result)
    }
}

impl<A: StreamAnswer> Receiver<A> {
    pub(super) fn new(answers: Streaming<A>, hang_up: DropGuard) -> Self {
        Self { answers, _hang_up: hang_up }
    }

    /// The next answer: the id of its request, and what came of it. `None` once the stream has ended.
    pub async fn receive(&mut self) -> Option<Result<(u64, Result<A::Response, Error>), Error>> {
        let answer = match self.answers.message().await {
            Ok(answer) => answer?,
            Err(status) => return Some(Err(status.into())),
        };
        let (id, result) = answer.into_parts();
        let Some(result) = result else {
            return Some(Err(Status::internal("an answer without a result").into()));
        };
        Some(Ok((id, result.map_err(Error::from))))
    }
}

/// A way for requests, until what is returned last is dropped.
pub(super) fn outgoing<M>() -> (mpsc::Sender<M>, Outgoing<M>, DropGuard) {
    let (requests, sent) = mpsc::channel(SENT_AHEAD);
    let hung_up = CancellationToken::new();
    let outgoing = Outgoing { sent, hung_up: Box::pin(hung_up.clone().cancelled_owned()) };
    (requests, outgoing, hung_up.drop_guard())
}

/// The requests on their way. They end when the sender is dropped, and also when the receiver is: as
/// long as one direction is open, the transport would not tell the server that the other is gone.
pub(super) struct Outgoing<M> {
    sent: mpsc::Receiver<M>,
    hung_up: Pin<Box<WaitForCancellationFutureOwned>>,
}

impl<M> Stream for Outgoing<M> {
    type Item = M;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        if self.hung_up.as_mut().poll(cx).is_ready() {
            self.sent.close();
            return Poll::Ready(None);
        }
        self.sent.poll_recv(cx)
    }
}
