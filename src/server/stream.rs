//! `SampleStream`, `EvaluateStream` and `VerifyStream`: many requests in flight on one call.
//!
//! The reader takes a place for each request before it reads it, so that a stream has a bounded number
//! of requests anywhere; the place is free again when the answer has been handed to the transport. A
//! client that stops reading its answers therefore stops being read, and after the stall timeout its
//! call is cut off ([`unread`](super::unread)): whatever of it still waits is cancelled.
//!
//! A server that leaves goes on reading for a while, and refuses each request by its id. A client that
//! ends its requests then has lost nothing and knows so; one that never ends them is ended.

use super::call::Call;
use super::error::Error;
use super::frames::Admitted;
use super::metrics::{self, RequestWatch};
use super::run::AnswerRoom;
use super::sample::{self, Answered};
use super::state::Shared;
use super::{convert, evaluate, telemetry, verify};
use crate::engine::Refused;
use logitd_proto::{self as api, Plane, StreamError};
use std::future::Future;
use std::pin::{Pin, pin};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio::task::JoinSet;
use tokio_stream::Stream;
use tokio_util::sync::{CancellationToken, DropGuard};
use tonic::{Code, Status, Streaming};
use tracing::{Instrument, Span};

/// Answers ready for the transport. More would only be memory: the others wait in their tasks.
const READY_MAX: usize = 1;

/// What requests of a stream are, and how each is answered.
pub trait Exchange: Send + Sync + 'static {
    /// A message with a request.
    type Message: Send + 'static;
    /// The request in it.
    type Request: Send + 'static;
    /// What a request is answered with.
    type Response: Send + 'static;
    /// A message with a response, or with what became of the request instead.
    type Answer: Send + 'static;

    /// Begins to count a request.
    fn watch() -> RequestWatch;

    /// The parts of a message.
    fn open(message: Self::Message) -> Numbered<Option<Self::Request>>;

    /// Answers a request, as the unary call does.
    fn answer(
        shared: &Shared,
        call: &Call,
        admitted: Admitted,
        request: Self::Request,
        bytes: Plane,
    ) -> impl Future<Output = Result<Answered<Self::Response>, Error>> + Send;

    /// A message of these parts.
    fn close(answer: Numbered<Result<Self::Response, StreamError>>) -> Self::Answer;
}

/// What stands in a message of a stream, and by which numbers it goes.
pub struct Numbered<T> {
    id: u64,
    first_row: Option<u64>,
    inner: T,
}

macro_rules! exchange {
    ($(#[$doc:meta])* $name:ident, $watch:ident, $answer:path, $request:ident, $response:ident, $message:ident, $stream_response:ident, $result:ident $(, $first_row:ident)?) => {
        $(#[$doc])*
        pub struct $name;

        impl Exchange for $name {
            type Message = api::$message;
            type Request = api::$request;
            type Response = api::$response;
            type Answer = api::$stream_response;

            fn watch() -> RequestWatch {
                RequestWatch::$watch()
            }

            fn open(message: api::$message) -> Numbered<Option<api::$request>> {
                let api::$message { id, request, $($first_row)? } = message;
                Numbered { id, first_row: None$(.or($first_row))?, inner: request }
            }

            fn answer(
                shared: &Shared,
                call: &Call,
                admitted: Admitted,
                request: api::$request,
                bytes: Plane,
            ) -> impl Future<Output = Result<Answered<api::$response>, Error>> + Send {
                $answer(shared, call, admitted, request, bytes)
            }

            fn close(answer: Numbered<Result<api::$response, StreamError>>) -> api::$stream_response {
                let Numbered { id, inner, .. } = answer;
                $(let $first_row = answer.first_row;)?
                let result = match inner {
                    Ok(response) => api::$result::Result::Response(response),
                    Err(error) => api::$result::Result::Error(error),
                };
                api::$stream_response { id, result: Some(result), $($first_row)? }
            }
        }
    };
}

exchange!(
    /// Of `SampleStream`.
    Sampling, begin, sample::sample, SampleRequest, SampleResponse, SampleStreamRequest, SampleStreamResponse,
    sample_stream_response, first_row
);
exchange!(
    /// Of `EvaluateStream`.
    Evaluating, begin_evaluation, evaluate::evaluate, EvaluateRequest, EvaluateResponse, EvaluateStreamRequest,
    EvaluateStreamResponse, evaluate_stream_response, first_row
);
exchange!(
    /// Of `VerifyStream`.
    Verifying, begin, verify::verify, VerifyRequest, VerifyResponse, VerifyStreamRequest, VerifyStreamResponse,
    verify_stream_response
);

/// Starts to serve a stream; what it returns are its answers, in the order of their completion.
pub fn serve<X: Exchange>(
    shared: Arc<Shared>,
    call: Call,
    requests: Streaming<X::Message>,
) -> Answers<X> {
    let (answers, ready) = mpsc::channel(READY_MAX);
    let outbox = Outbox { ready: Some(ready), end: None };
    let stream = Arc::new(Requests { shared, call, outbox: Mutex::new(outbox) });
    let hung_up = CancellationToken::new();
    let reading =
        hung_up.clone().run_until_cancelled_owned(read(Arc::clone(&stream), answers, requests));
    tokio::spawn(reading.in_current_span());
    Answers { stream, _hang_up: hung_up.drop_guard() }
}

/// The answers of a stream. Dropping them, which the transport does when the client hangs up, cancels
/// what has no answer yet.
pub struct Answers<X: Exchange> {
    stream: Arc<Requests<X>>,
    _hang_up: DropGuard,
}

impl<X: Exchange> Stream for Answers<X> {
    type Item = Result<X::Answer, Status>;

    fn poll_next(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let mut outbox = self.stream.outbox();
        if let Some(ready) = &mut outbox.ready {
            match ready.poll_recv(cx) {
                Poll::Pending => return Poll::Pending,
                Poll::Ready(Some(answer)) => return Poll::Ready(Some(Ok(answer.response))),
                Poll::Ready(None) => outbox.ready = None,
            }
        }
        Poll::Ready(outbox.end.take().map(Err))
    }
}

/// One answer, with the place on the stream that its request had, and its room.
struct Answer<A> {
    response: A,
    _place: OwnedSemaphorePermit,
    _room: Option<AnswerRoom>,
}

struct Outbox<A> {
    ready: Option<mpsc::Receiver<Answer<A>>>,
    /// What the stream ends with, where that is not success.
    end: Option<Status>,
}

/// What the reader and the requests of one stream share.
struct Requests<X: Exchange> {
    shared: Arc<Shared>,
    call: Call,
    outbox: Mutex<Outbox<X::Answer>>,
}

/// Reads until the client is done, its deadline passes, or the server has left.
async fn read<X: Exchange>(
    stream: Arc<Requests<X>>,
    answers: mpsc::Sender<Answer<X::Answer>>,
    mut requests: Streaming<X::Message>,
) {
    let places = Arc::new(Semaphore::new(stream.shared.limits.stream_requests_max as usize));
    let call_span = Span::current();
    // Dropped with this future, and every request in it.
    let mut work = JoinSet::new();
    let draining = &stream.shared.draining;
    let mut left = pin!(async {
        draining.cancelled().await;
        tokio::time::sleep(stream.shared.stream_goodbye).await;
    });
    let mut late = pin!(passed(stream.call.deadline));
    let end = loop {
        while work.try_join_next().is_some() {}
        let next = async {
            let place = Arc::clone(&places).acquire_owned().await;
            (place, requests.message().await)
        };
        let (place, message) = tokio::select! {
            biased;
            () = &mut left => break Some(convert::status(&Error::StreamDraining)),
            () = &mut late => break Some(convert::status(&Error::StreamDeadline)),
            next = next => next,
        };
        match (place, message) {
            (Ok(place), Ok(Some(message))) => {
                // Taken here, where messages are in order.
                let admission = match stream.call.admissions.next() {
                    Some(Ok(_)) if draining.is_cancelled() => Some(Err(Refused::Draining.into())),
                    admission => admission,
                };
                let message = X::open(message);
                let span = telemetry::request_span(&call_span, message.id);
                let request =
                    Arc::clone(&stream).answer(message, admission, place, answers.clone());
                work.spawn(request.instrument(span));
            }
            // Not a message, too late, or cut short: nothing after it can be read.
            (_, Err(status)) => break Some(status),
            (Err(_), _) | (_, Ok(None)) => break None,
        }
    };
    while work.join_next().await.is_some() {}
    stream.outbox().end = end;
}

/// Resolves when the deadline has passed, if there is one.
async fn passed(deadline: Option<std::time::Instant>) {
    match deadline {
        Some(deadline) => tokio::time::sleep_until(deadline.into()).await,
        None => std::future::pending().await,
    }
}

impl<X: Exchange> Requests<X> {
    async fn answer(
        self: Arc<Self>,
        message: Numbered<Option<X::Request>>,
        admission: Option<Result<Admitted, Error>>,
        place: OwnedSemaphorePermit,
        answers: mpsc::Sender<Answer<X::Answer>>,
    ) {
        let watch = X::watch();
        let Numbered { id, first_row, inner: request } = message;
        let outcome = match (admission, request) {
            (Some(Ok(admitted)), Some(request)) => {
                let bytes = if first_row.is_some() { Plane::Chunked } else { Plane::Inline };
                X::answer(&self.shared, &self.call, admitted, request, bytes).await
            }
            (Some(Err(refused)), _) => Err(refused),
            (_, None) => Err(Error::invalid("request", "is missing")),
            (None, _) => Err(Error::invalid("message", "came past admission")),
        };
        let (code, inner, room) = match outcome {
            Ok(Answered { response, room }) => (Code::Ok, Ok(response), Some(room)),
            Err(error) => {
                let error = convert::stream_error(&error);
                (Code::from(error.code), Err(error), None)
            }
        };
        Span::current().record("code", metrics::code_name(code));
        tracing::debug!("answered");
        watch.done(code);
        let response = X::close(Numbered { id, first_row, inner });
        // Waits for the transport to take earlier answers. There may be nobody any more who wants it.
        let _ = answers.send(Answer { response, _place: place, _room: room }).await;
    }

    fn outbox(&self) -> MutexGuard<'_, Outbox<X::Answer>> {
        // Nothing panics half way through a change.
        self.outbox.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
