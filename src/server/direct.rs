//! Calls over the control socket, without HTTP/2 ([`logitd_proto::direct`]).
//!
//! A connection is one task with one call at a time, which wakes nobody but the device: what a small call
//! costs beside its sampling is two reads, two writes and the way to the device and back. Everything else is as
//! with `Sample` and `Verify`: permits, limits, deadlines, tokens, errors, metrics, drain.

use super::account::Account;
use super::auth::TOKEN_BYTES_MAX;
use super::call::Call;
use super::control;
use super::convert;
use super::envelope::Arity;
use super::error::Error;
use super::frames::{Admissions, Admitted};
use super::intake::{self, Intake, RequestFields};
use super::line::Lane;
use super::log::Sparse;
use super::metrics::{self, RequestWatch};
use super::pool::Buffer;
use super::room::Room;
use super::run::AnswerRoom;
use super::sample::{Answered, sample};
use super::state::Shared;
use super::verify::verify;
use crate::engine::{GroupId, Refused};
use crate::plane::Peer;
use logitd_proto::direct::{
    Hello, REQUEST_BYTES_MAX, REQUEST_HEAD_BYTES, RequestHead, SAMPLE, VERIFY,
};
use logitd_proto::sample_stream_response::Result as Outcome;
use logitd_proto::verify_stream_response::Result as Verified;
use logitd_proto::{
    self as api, Plane, Received, SampleStreamResponse, Sent, VerifyStreamResponse,
};
use rustix::net::{RecvFlags, recv};
use std::future::Future;
use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};
use tokio::io::{AsyncReadExt, AsyncWriteExt, Interest};
use tokio::net::UnixStream;
use tokio::time::timeout;
use tonic::{Code, Status};
use tracing::field::Empty;
use tracing::{Instrument, Span};

/// The server, as the control socket sees it.
#[derive(Clone)]
pub struct Host(pub Arc<Shared>);

impl control::Host for Host {
    async fn calls(&self, stream: UnixStream, peer: Peer, hello: Hello) -> io::Result<()> {
        serve(Arc::clone(&self.0), stream, peer, hello).await
    }

    fn check_token(&self, token: &[u8]) -> Result<(), String> {
        self.0.credentials.find(token).map(|_| ()).map_err(|error| error.to_string())
    }

    fn connections(&self, change: i32) {
        metrics::shm_connections(change.into());
    }

    fn refused(&self, peer: Peer, reason: &str) {
        static REFUSED: Sparse = Sparse::new();
        metrics::shm_connection_refused();
        if let Some(suppressed) = REFUSED.pass() {
            tracing::warn!(?peer, suppressed, "connection to --shm refused: {reason}");
        }
    }

    fn not_accepted(&self, error: &io::Error) {
        static FAILED: Sparse = Sparse::new();
        if let Some(suppressed) = FAILED.pass() {
            tracing::warn!(%error, suppressed, "cannot accept connections to --shm");
        }
    }
}

/// Memory that a connection keeps between its calls.
const IDLE_BYTES_MAX: usize = 16 << 10;

/// So much of a request is received at a time: more than most have.
const RECEIVE_BYTES: usize = 64 << 10;

/// Serves calls on a connection until its client hangs up.
async fn serve(
    shared: Arc<Shared>,
    mut stream: UnixStream,
    peer: Peer,
    hello: Hello,
) -> io::Result<()> {
    let patience = shared.bounds.receive_timeout.min(shared.handshake_timeout);
    let call = match within(patience, call(&shared, &mut stream, peer, hello)).await? {
        Ok(call) => call,
        Err(error) => return refuse(&mut stream, &error.to_string()).await,
    };
    stream.write_all(&0u32.to_le_bytes()).await?;
    let mut connection = Connection { shared, call, stream, buffer: Vec::new() };
    while connection.answer_next().await? {}
    Ok(())
}

/// Says why there will be no calls.
async fn refuse(stream: &mut UnixStream, reason: &str) -> io::Result<()> {
    stream.write_all(&[&(reason.len() as u32).to_le_bytes(), reason.as_bytes()].concat()).await
}

/// What every call of the connection has in common.
async fn call(
    shared: &Shared,
    stream: &mut UnixStream,
    peer: Peer,
    hello: Hello,
) -> io::Result<Result<Call, Error>> {
    let token_bytes = hello.token_bytes as usize;
    if token_bytes > TOKEN_BYTES_MAX {
        return Ok(Err(Error::Unauthenticated("the token is not known")));
    }
    let mut token = vec![0; token_bytes];
    stream.read_exact(&mut token).await?;
    let token = match shared.credentials.find(&token) {
        Ok(token) => token,
        Err(error) => return Ok(Err(error)),
    };
    Ok(Ok(Call {
        deadline: None,
        token,
        peer: Some(peer),
        account: Account::open(GroupId::of(peer.pid), &shared.limits, Lane::nowhere()),
        admissions: Admissions::default(),
    }))
}

struct Connection {
    shared: Arc<Shared>,
    call: Call,
    stream: UnixStream,
    /// A request, then its answer.
    buffer: Vec<u8>,
}

impl Connection {
    /// Reads a request and answers it; false when the client has hung up.
    async fn answer_next(&mut self) -> io::Result<bool> {
        let mut head = [0; REQUEST_HEAD_BYTES];
        if self.first_byte(&mut head[..1]).await? == 0 {
            return Ok(false);
        }
        let active = self.shared.active.token();
        let watch = RequestWatch::begin();
        let span = telemetry_span(&self.call);
        let answered = self.request_next(&mut head).instrument(span.clone()).await;
        let (code, room, goes_on) = match answered {
            Ok(room) => (Code::Ok, Some(room), true),
            Err(Ended::Refused(error, goes_on)) => {
                let error = convert::stream_error(&error);
                let code = Code::from(error.code);
                // Written the same way, whatever the request was.
                let result = Some(Outcome::Error(error));
                let refusal = SampleStreamResponse { result, ..Default::default() };
                framed(refusal, &mut self.buffer);
                (code, None, goes_on)
            }
            // Counted as cancelled.
            Err(Ended::HungUp) => return Ok(false),
            Err(Ended::Broken(error)) => return Err(error),
        };
        span.in_scope(|| {
            Span::current().record("code", metrics::code_name(code));
            tracing::debug!("answered");
        });
        watch.done(code);
        let patience = &self.shared.patience;
        let written = within(patience.stall, self.stream.write_all(&self.buffer));
        tokio::select! {
            biased;
            written = written => written?,
            () = patience.leaving() => {
                patience.unread.fetch_add(1, Ordering::Relaxed);
                return Err(io::ErrorKind::ConnectionAborted.into());
            }
        }
        drop((active, room));
        self.buffer.clear();
        self.buffer.shrink_to(IDLE_BYTES_MAX);
        Ok(goes_on)
    }

    /// Waits for a request to begin. A connection of a process that shares no memory does not wait for ever: it holds
    /// a place that others need.
    async fn first_byte(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let patience = self.shared.idle_timeout;
        loop {
            let read = self.stream.read(into);
            if patience.is_zero() {
                return read.await;
            }
            match timeout(patience, read).await {
                Ok(read) => return read,
                Err(_) if self.owns_memory() => {}
                Err(_) => return Ok(0),
            }
        }
    }

    fn owns_memory(&self) -> bool {
        let Self { shared, call, .. } = self;
        shared.shm.as_ref().zip(call.peer).is_some_and(|(shm, peer)| shm.regions.is_owner(peer))
    }

    /// The rest of the request; the buffer then has the answer to it.
    async fn request_next(
        &mut self,
        head: &mut [u8; REQUEST_HEAD_BYTES],
    ) -> Result<AnswerRoom, Ended> {
        let begun = Instant::now();
        let patience = Arc::clone(&self.shared.patience);
        let received = within(self.shared.bounds.receive_timeout, self.receive(head));
        let (RequestHead { kind, timeout_us, .. }, room) = tokio::select! {
            biased;
            received = received => received??,
            () = patience.over.cancelled() => {
                patience.unended.fetch_add(1, Ordering::Relaxed);
                return Err(Ended::Refused(Refused::Draining.into(), false));
            }
        };
        let Self { shared, call, stream, buffer } = self;
        let deadline = (timeout_us > 0)
            .then(|| begun.checked_add(Duration::from_micros(timeout_us.into())))
            .flatten();
        let call = Call { deadline, ..call.clone() };
        tokio::select! {
            biased;
            answered = answer(shared, &call, kind, buffer, room) => answered,
            () = hung_up(stream) => Err(Ended::HungUp),
        }
    }

    /// Receives a request into the buffer, and what it takes of the server's room. One that finds none is read
    /// past, so that the connection can go on.
    async fn receive(
        &mut self,
        head: &mut [u8; REQUEST_HEAD_BYTES],
    ) -> io::Result<Result<(RequestHead, Room), Ended>> {
        let Self { shared, call, stream, buffer } = self;
        stream.read_exact(&mut head[1..]).await?;
        let head = RequestHead::decode(*head);
        let length = head.length as usize;
        if let Err(error) = known(head.kind).and_then(|()| within_size(shared, length)) {
            return Ok(Err(Ended::Refused(error, false)));
        }
        let rooms = shared.rooms(call);
        let mut room = match rooms.take(length, 0) {
            _ if shared.draining.is_cancelled() => Err(Refused::Draining.into()),
            room => room,
        };
        while buffer.len() < length {
            let left = length - buffer.len();
            let Ok(found) = &mut room else {
                let past = &mut stream.take(left as u64);
                let read = tokio::io::copy(past, &mut tokio::io::sink()).await?;
                return match read == left as u64 {
                    true => Ok(Err(Ended::Refused(room.expect_err("refused"), true))),
                    false => Err(io::ErrorKind::UnexpectedEof.into()),
                };
            };
            let part = left.min(RECEIVE_BYTES) as u64;
            if stream.take(part).read_to_end(buffer).await? < part as usize {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            if let Err(error) = rooms.arrived(found, buffer.len()) {
                room = Err(error);
            }
        }
        Ok(room.map(|room| (head, room)).map_err(|error| Ended::Refused(error, true)))
    }
}

/// Puts what a request of a known kind is answered with in its place.
async fn answer(
    shared: &Shared,
    call: &Call,
    kind: u8,
    buffer: &mut Vec<u8>,
    room: Room,
) -> Result<AnswerRoom, Ended> {
    let refused = |error| Ended::Refused(error, true);
    match kind {
        VERIFY => {
            let (request, logits) = decode(shared, intake::VERIFY, buffer).map_err(refused)?;
            let admitted = Admitted::new(room, logits);
            let answered = verify(shared, call, admitted, request, Plane::Inline).await;
            let Answered { response, room } = answered.map_err(refused)?;
            let result = Some(Verified::Response(response));
            framed(VerifyStreamResponse { id: 0, result }, buffer);
            Ok(room)
        }
        _ => {
            let (request, logits) = decode(shared, intake::SAMPLE, buffer).map_err(refused)?;
            let admitted = Admitted::new(room, logits);
            let answered = sample(shared, call, admitted, request, Plane::Inline).await;
            let Answered { response, room } = answered.map_err(refused)?;
            let result = Some(Outcome::Response(response));
            framed(SampleStreamResponse { result, ..Default::default() }, buffer);
            Ok(room)
        }
    }
}

/// Puts a message in the place of what is there, behind its length.
fn framed(message: impl Sent, into: &mut Vec<u8>) {
    const LENGTH_BYTES: usize = size_of::<u32>();
    into.clear();
    into.extend([0; LENGTH_BYTES]);
    message.append(into);
    let length = (into.len() - LENGTH_BYTES) as u32;
    into[..LENGTH_BYTES].copy_from_slice(&length.to_le_bytes());
}

/// Whether there are requests of a kind.
fn known(kind: u8) -> Result<(), Error> {
    match kind {
        SAMPLE | VERIFY => Ok(()),
        kind => {
            let text = format!("is of kind {kind}; allowed: {SAMPLE} (sample), {VERIFY} (verify)");
            Err(Error::invalid("message", text))
        }
    }
}

/// The request, and its logits where they were taken out of it. A small one is decoded at once; others are held to
/// the bounds of a message first.
fn decode<D: Received>(
    shared: &Shared,
    fields: &'static RequestFields,
    message: &[u8],
) -> Result<(D, Option<Buffer>), Error> {
    let malformed = |status: Status| Error::invalid("message", status.message());
    let rows_max = shared.bounds.request_rows_max;
    if Intake::is_harmless(message.len(), rows_max) {
        return Ok((api::decode(message).map_err(malformed)?, None));
    }
    let mut intake =
        Intake::new(Arity::Unary, fields, message.len(), rows_max, shared.pool.clone());
    intake.read(message, true)?;
    let (rest, logits) = intake.finish();
    Ok((api::decode(&rest).map_err(malformed)?, logits))
}

/// Whether a request is as short as it has to be: by this protocol, and by the server's limit.
fn within_size(shared: &Shared, length: usize) -> Result<(), Error> {
    let limit = shared.bounds.message_bytes_max;
    if length > REQUEST_BYTES_MAX {
        let text = format!(
            "has {length} bytes; allowed: {REQUEST_BYTES_MAX} in a direct call, whose logits lie in shared memory"
        );
        return Err(Error::invalid("message", text));
    }
    if length > limit {
        return Err(Error::OverLimit {
            what: "the message's length in bytes",
            value: length as u64,
            limit: limit as u64,
            name: "message_bytes_max",
            way_out: "put the logits in shared memory",
        });
    }
    Ok(())
}

/// Why a request has no response.
enum Ended {
    /// It is told why; and whether the connection goes on.
    Refused(Error, bool),
    /// There is nobody to tell.
    HungUp,
    /// Nothing can be read or written.
    Broken(io::Error),
}

impl From<io::Error> for Ended {
    fn from(error: io::Error) -> Self {
        Self::Broken(error)
    }
}

/// Resolves when the client has closed the connection. Never where it sends more instead.
async fn hung_up(stream: &UnixStream) {
    let peek = || Ok(recv(stream, &mut [0u8; 1][..], RecvFlags::PEEK | RecvFlags::DONTWAIT)?);
    if let Ok((1.., _)) = stream.async_io(Interest::READABLE, peek).await {
        std::future::pending().await
    }
}

async fn within<T>(limit: Duration, work: impl Future<Output = io::Result<T>>) -> io::Result<T> {
    timeout(limit, work).await.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
}

fn telemetry_span(call: &Call) -> Span {
    // As of a gRPC call that belongs to no trace.
    let span =
        tracing::debug_span!("call", method = "direct", token = Empty, rows = Empty, code = Empty);
    if let Some(token) = &call.token {
        span.record("token", token.name());
    }
    span
}
