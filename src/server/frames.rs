//! The body of a call, watched message by message as it comes off the wire.
//!
//! A gRPC message says its length before its payload. There, before the payload is read into memory,
//! it must be within its limits and find room ([`room`](super::room)), which it takes as its bytes arrive: a
//! message over the size limit or over the server's capacity is not stored.
//! A unary call is answered with the refusal at once. On a stream the payload is read past, all but
//! the request's id, and a message with nothing but that id takes its place: it finds the refusal where
//! the others find their permit (see [`Admissions`]), and the stream lives on.
//!
//! The logits of a message go straight into a reused buffer (`intake`), which goes the same way as its
//! permit; only the rest of the message goes on through the decoder.
//!
//! A message that has begun must arrive in time, and a unary call must end in that time: its one message is
//! handled when nothing more can follow it.

use super::convert;
use super::envelope::{Arity, IdScanner};
use super::error::Error;
use super::intake::{Intake, RequestFields};
use super::pool::{Buffer, Pool};
use super::room::{Room, Rooms, Shares};
use super::unread::Patience;
use super::waiting::{Found, Wait};
use crate::engine::{Permit, Refused};
use bytes::{BufMut, Bytes, BytesMut};
use http_body::{Body, Frame};
use logitd_proto::SampleStreamRequest;
use prost::Message;
use std::collections::VecDeque;
use std::future::Future;
use std::pin::Pin;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};
use tonic::Status;

/// Compression flag and length.
const HEADER_BYTES: usize = 5;
/// The flag of a message that is not compressed.
const PLAIN: u8 = 0;

/// What belongs to the messages that were passed on but not yet handled, in their order: what each was
/// let in with, or why it was not.
#[derive(Clone, Debug, Default)]
pub struct Admissions(Arc<Mutex<VecDeque<Result<Admitted, Error>>>>);

impl Admissions {
    /// That of the next message.
    pub fn next(&self) -> Option<Result<Admitted, Error>> {
        self.lock().pop_front()
    }

    fn add(&self, admission: Result<Admitted, Error>) {
        self.lock().push_back(admission);
    }

    fn lock(&self) -> MutexGuard<'_, VecDeque<Result<Admitted, Error>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A message that was let in: its permit, and its logits where they were taken out of it.
#[derive(Debug)]
pub struct Admitted {
    room: Room,
    logits: Option<Buffer>,
}

impl Admitted {
    /// One that has all the room it needs.
    pub fn new(room: Room, logits: Option<Buffer>) -> Self {
        Self { room, logits }
    }

    /// Makes the message's request whole again, of which these are the logits. Its shares are to be held until it is
    /// answered.
    pub fn complete(self, logits: &mut Bytes) -> (Permit, Shares) {
        if let Some(taken) = self.logits {
            *logits = taken.freeze();
        }
        self.room.into_parts()
    }
}

/// What a message must stay within.
#[derive(Clone, Debug)]
pub struct Bounds {
    /// Encoded bytes of a message.
    pub message_bytes_max: usize,
    /// Parameter sets of a request, which are no more than its rows.
    pub request_rows_max: usize,
    /// From a message's begin to its end.
    pub receive_timeout: Duration,
}

/// What a call's messages meet before they are handled.
#[derive(Clone)]
pub struct Gate {
    /// Where they find room; none where they are too small to need any.
    pub rooms: Option<Rooms>,
    /// What each must stay within.
    pub bounds: Bounds,
    /// Where logits are put.
    pub pool: Pool,
    /// After this moment nobody wants a unary call's answer.
    pub deadline: Option<Instant>,
    /// How long they are waited for when the server leaves.
    pub patience: Arc<Patience>,
}

/// A call's body with its messages admitted one by one.
pub struct Messages<B> {
    body: B,
    gate: Gate,
    shape: Arity,
    fields: &'static RequestFields,
    admissions: Admissions,
    state: State,
    /// Received and not yet looked at.
    rest: Bytes,
    /// Resolves when the message that has begun, or the only one, is late.
    late: Option<Pin<Box<dyn Future<Output = Error> + Send>>>,
    any: bool,
}

/// How far a message was when it had to wait.
enum Begun {
    Header(Bytes),
    Payload(Box<Intake>),
}

enum State {
    /// Between messages, or in the header of one.
    Header(BytesMut),
    /// So much of the payload is still to come, and is passed on as it comes.
    Plain(usize),
    /// So much of it is still to come, and is taken apart.
    Payload { left: usize, arrived: usize, intake: Box<Intake>, room: Room },
    /// It waits for room, unread: a message of which only the header was looked at, or one that is being taken apart.
    Waiting { left: usize, arrived: usize, begun: Begun, room: Wait },
    /// The payload of a refused request of a stream is read past.
    Refused { left: usize, id: IdScanner, error: Error },
    /// An error was given; nothing follows.
    Over,
}

impl<B> Messages<B> {
    /// Watches `body`, whose requests have their logits where `fields` says. Without rooms its messages get no permits,
    /// and must be small by their bounds.
    pub fn new(
        body: B,
        gate: Gate,
        shape: Arity,
        fields: &'static RequestFields,
        admissions: Admissions,
    ) -> Self {
        Self {
            body,
            gate,
            shape,
            fields,
            admissions,
            state: State::Header(BytesMut::new()),
            rest: Bytes::new(),
            late: None,
            any: false,
        }
    }

    /// Takes as much as can be told from what is there; `None` when more must be received.
    fn step(&mut self) -> Option<Result<Bytes, Error>> {
        match &mut self.state {
            State::Header(header) => {
                let missing = HEADER_BYTES - header.len();
                header.extend_from_slice(&self.rest.split_to(missing.min(self.rest.len())));
                if header.len() < HEADER_BYTES {
                    return None;
                }
                let header = std::mem::take(header).freeze();
                self.admit(header).transpose()
            }
            State::Plain(left) => {
                let chunk = self.rest.split_to((*left).min(self.rest.len()));
                *left -= chunk.len();
                if *left == 0 {
                    self.next_message();
                }
                (!chunk.is_empty()).then_some(Ok(chunk))
            }
            State::Payload { left, arrived, room, .. } => {
                let here = (*left).min(self.rest.len());
                let rooms = self.gate.rooms.as_ref().expect("it has found room");
                let charged = room.arrived(*arrived + here, &rooms.line);
                if charged.is_err() && self.wait_with_payload(here) {
                    return None;
                }
                let State::Payload { left, arrived, intake, room } = &mut self.state else {
                    return None;
                };
                let chunk = self.rest.split_to(here);
                *left -= here;
                *arrived += here;
                match charged.and_then(|()| intake.read(&chunk, room.is_whole())) {
                    Ok(()) if *left == 0 => Some(Ok(self.end_payload())),
                    Ok(()) => {
                        self.wait_with_payload(0);
                        None
                    }
                    Err(error) => {
                        let (length, rooms) = (*left + *arrived, self.gate.rooms.as_ref());
                        let told = rooms.expect("it has found room").told(length, error);
                        self.refuse_payload(&chunk, told)
                    }
                }
            }
            State::Refused { left, id, error } => {
                let chunk = self.rest.split_to((*left).min(self.rest.len()));
                *left -= chunk.len();
                id.read(&chunk);
                if *left > 0 {
                    return None;
                }
                self.admissions.add(Err(error.clone()));
                let stand_in = only_id(id.id, id.first_row);
                self.next_message();
                Some(Ok(stand_in))
            }
            State::Waiting { .. } | State::Over => None,
        }
    }

    /// A message of this header begins: finds room for it, before any of it is kept.
    fn admit(&mut self, header: Bytes) -> Result<Option<Bytes>, Error> {
        if self.shape == Arity::Unary && self.any {
            return Err(Error::invalid("message", "is one of several; allowed: one a unary call"));
        }
        self.any = true;
        let length = u32::from_be_bytes(header[1..].try_into().expect("four bytes")) as usize;
        match self.within_size(length).and_then(|()| self.room(length)) {
            Ok(Some(Found::Room(room))) => Ok(self.begin(header, length, Some(room))),
            Ok(Some(Found::Wait(room))) => {
                let begun = Begun::Header(header);
                self.state = State::Waiting { left: length, arrived: 0, begun, room };
                Ok(None)
            }
            Ok(None) => Ok(self.begin(header, length, None)),
            Err(error) => self.refuse(length, error),
        }
    }

    /// The payload of a message is next.
    fn begin(&mut self, header: Bytes, length: usize, room: Option<Room>) -> Option<Bytes> {
        match room {
            Some(room) if header[0] == PLAIN => {
                let rows_max = self.gate.bounds.request_rows_max;
                let pool = self.gate.pool.clone();
                let intake = Intake::new(self.shape, self.fields, length, rows_max, pool);
                let intake = Box::new(intake);
                self.state = State::Payload { left: length, arrived: 0, intake, room };
                None
            }
            // A question; or a compressed message, which the decoder refuses.
            room => {
                if let Some(room) = room {
                    self.admissions.add(Ok(Admitted { room, logits: None }));
                }
                match length {
                    0 => self.next_message(),
                    _ => self.state = State::Plain(length),
                }
                Some(header)
            }
        }
    }

    /// Refuses a message of which nothing was read.
    fn refuse(&mut self, length: usize, error: Error) -> Result<Option<Bytes>, Error> {
        if self.shape == Arity::Unary {
            return Err(error);
        }
        self.state = State::Refused { left: length, id: IdScanner::default(), error };
        Ok(None)
    }

    /// Has a message wait that is being taken apart, if it lacks room and there is a place for it; so many bytes of it are
    /// here that have not been looked at. Whether it does.
    fn wait_with_payload(&mut self, here: usize) -> bool {
        let State::Payload { left, arrived, room, .. } = &self.state else { return false };
        let (left, arrived, length) = (*left, *arrived, *left + *arrived);
        let rooms = self.gate.rooms.as_ref().filter(|_| room.lack().is_some());
        let place = rooms.and_then(|rooms| Some((rooms, rooms.place(length, arrived + here)?)));
        let Some((rooms, place)) = place else { return false };
        let state = std::mem::replace(&mut self.state, State::Over);
        let State::Payload { intake, room, .. } = state else { return false };
        let room = rooms.wait(Some(room), length, arrived + here, place);
        self.state = State::Waiting { left, arrived, begun: Begun::Payload(intake), room };
        true
    }

    /// Goes on with a message that has waited.
    fn poll_wait(&mut self, cx: &mut Context<'_>) -> Poll<Result<Option<Bytes>, Error>> {
        let State::Waiting { room, .. } = &mut self.state else { return Poll::Ready(Ok(None)) };
        let room = std::task::ready!(room.as_mut().poll(cx));
        let state = std::mem::replace(&mut self.state, State::Over);
        let State::Waiting { left, arrived, begun, .. } = state else {
            return Poll::Ready(Ok(None));
        };
        Poll::Ready(match (begun, room) {
            (Begun::Header(header), Ok(room)) => Ok(self.begin(header, left, Some(room))),
            (Begun::Header(_), Err(error)) => self.refuse(left, error),
            (Begun::Payload(intake), room) => room.map(|room| {
                self.state = State::Payload { left, arrived, intake, room };
                None
            }),
        })
    }

    /// The message without its logits, with a header that says so.
    fn end_payload(&mut self) -> Bytes {
        let state = std::mem::replace(&mut self.state, State::Over);
        self.next_message();
        let State::Payload { intake, room, .. } = state else { return Bytes::new() };
        let (message, logits) = intake.finish();
        self.admissions.add(Ok(Admitted { room, logits }));
        framed(&message)
    }

    /// A message is refused on its way; what has come of it is let go.
    fn refuse_payload(&mut self, last: &[u8], error: Error) -> Option<Result<Bytes, Error>> {
        let state = std::mem::replace(&mut self.state, State::Over);
        let State::Payload { left, arrived, intake, .. } = state else { return Some(Err(error)) };
        if self.shape == Arity::Unary {
            return Some(Err(error));
        }
        let mut id = IdScanner::default();
        let passed = intake.passed();
        id.resume(&passed);
        id.read(&last[last.len() - (arrived - passed.bytes)..]);
        self.state = State::Refused { left, id, error };
        None
    }

    fn room(&self, length: usize) -> Result<Option<Found>, Error> {
        let here = self.rest.len().min(length);
        self.gate.rooms.as_ref().map(|rooms| rooms.find(length, here)).transpose()
    }

    fn within_size(&self, length: usize) -> Result<(), Error> {
        let message_bytes_max = self.gate.bounds.message_bytes_max;
        if length > message_bytes_max {
            return Err(Error::OverLimit {
                what: "the message's length in bytes",
                value: length as u64,
                limit: message_bytes_max as u64,
                name: "message_bytes_max",
                way_out: "send fewer rows at a time",
            });
        }
        Ok(())
    }

    fn next_message(&mut self) {
        self.state = State::Header(BytesMut::new());
        if self.shape == Arity::Stream {
            self.late = None;
        }
    }

    fn can_step(&self) -> bool {
        match self.state {
            State::Refused { left: 0, .. } | State::Payload { left: 0, .. } => true,
            State::Waiting { .. } => false,
            _ => !self.rest.is_empty(),
        }
    }

    /// Whether nothing of a message is missing.
    fn at_boundary(&self) -> bool {
        matches!(&self.state, State::Header(header) if header.is_empty())
    }

    /// Whether the client owes us something: the rest of a message, or the only one.
    fn incomplete(&self) -> bool {
        !self.at_boundary() || (self.shape == Arity::Unary && !self.any)
    }

    fn fail(&mut self, error: &Error) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        self.state = State::Over;
        Poll::Ready(Some(Err(convert::status(error))))
    }

    /// Why nothing more is waited for. A stream may be silent between messages; a unary call must end.
    fn poll_late(&mut self, cx: &mut Context<'_>) -> Poll<Error> {
        if self.at_boundary() && self.shape == Arity::Stream {
            return Poll::Pending;
        }
        let begin = || {
            let Gate { bounds, deadline, patience, .. } = &self.gate;
            // A stream looks at its deadline itself.
            let deadline = deadline.filter(|_| self.shape == Arity::Unary);
            Box::pin(late(bounds.receive_timeout, deadline, Arc::clone(patience))) as Pin<_>
        };
        self.late.get_or_insert_with(begin).as_mut().poll(cx)
    }
}

/// Resolves when a message is too late.
async fn late(timeout: Duration, deadline: Option<Instant>, patience: Arc<Patience>) -> Error {
    let timed_out = Instant::now() + timeout;
    let first = deadline.unwrap_or(timed_out).min(timed_out);
    tokio::select! {
        biased;
        () = tokio::time::sleep_until(first.into()) => match deadline {
            Some(deadline) if deadline <= timed_out => Refused::DeadlineExceeded.into(),
            _ => Error::ReceiveTimeout(timeout),
        },
        () = patience.over.cancelled() => {
            patience.unended.fetch_add(1, Ordering::Relaxed);
            Refused::Draining.into()
        }
    }
}

impl<B> Body for Messages<B>
where
    B: Body<Data = Bytes> + Unpin,
    B::Error: std::fmt::Display,
{
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        let this = &mut *self;
        loop {
            if matches!(this.state, State::Over) {
                return Poll::Ready(None);
            }
            while this.can_step() {
                match this.step() {
                    Some(Ok(chunk)) => return Poll::Ready(Some(Ok(Frame::data(chunk)))),
                    Some(Err(error)) => return this.fail(&error),
                    None => {}
                }
            }
            if matches!(this.state, State::Waiting { .. }) {
                match this.poll_wait(cx) {
                    Poll::Ready(Ok(None)) => continue,
                    Poll::Ready(Ok(Some(chunk))) => {
                        return Poll::Ready(Some(Ok(Frame::data(chunk))));
                    }
                    Poll::Ready(Err(error)) => return this.fail(&error),
                    Poll::Pending => match this.poll_late(cx) {
                        Poll::Ready(error) => return this.fail(&error),
                        Poll::Pending => return Poll::Pending,
                    },
                }
            }
            match Pin::new(&mut this.body).poll_frame(cx) {
                Poll::Pending => match this.poll_late(cx) {
                    Poll::Ready(error) => return this.fail(&error),
                    Poll::Pending => return Poll::Pending,
                },
                Poll::Ready(Some(Ok(frame))) => match frame.into_data() {
                    Ok(data) => this.rest = data,
                    Err(other) => return Poll::Ready(Some(Ok(other))),
                },
                Poll::Ready(Some(Err(error))) => {
                    this.state = State::Over;
                    // The client reset the call, or its connection broke. Not CANCELLED: tonic takes that for
                    // the body's end, and the message it then misses is counted as our fault.
                    return Poll::Ready(Some(Err(Status::aborted(error.to_string()))));
                }
                Poll::Ready(None) if this.incomplete() => {
                    return this
                        .fail(&Error::invalid("message", "ends before its announced length"));
                }
                Poll::Ready(None) => return Poll::Ready(None),
            }
        }
    }
}

/// A message of a stream that says which it is and has no request, with its header.
fn only_id(id: u64, first_row: Option<u64>) -> Bytes {
    framed(&SampleStreamRequest { id, request: None, first_row }.encode_to_vec())
}

/// A message with its header.
fn framed(message: &[u8]) -> Bytes {
    let mut bytes = BytesMut::with_capacity(HEADER_BYTES + message.len());
    bytes.put_u8(PLAIN);
    bytes.put_u32(message.len() as u32);
    bytes.put(message);
    bytes.freeze()
}
