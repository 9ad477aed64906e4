//! Recorded traffic: requests of `Sample`, `Verify` and `BeamStep` and their answers in a file, to be sent again or
//! checked again.
//!
//! `logitd serve --record FILE` writes one, `logitd load --replay FILE` sends its requests at their
//! recorded pace, and `logitd verify --recorded FILE` samples them again and compares every bit,
//! wherever and on whatever they were computed.
//!
//! **A trace holds logits and seeds**: whoever has it can tell which tokens were drawn. Files are made
//! readable by their owner only.
//!
//! # Format
//!
//! Sixteen bytes, [`MAGIC`], then frames: a length (u32, little-endian), the CRC-32 of that length and of
//! what follows it (u32), and so many bytes of a [`Frame`](logitd_proto::trace::Frame) message. The proto file of that
//! message, `proto/logitd/trace/v1/trace.proto`, has all that a reader in another language needs. Frames are only ever appended. A server that
//! dies leaves at most one torn frame, at the end; [`Reader`] says where, and everything before it is
//! read. Each run of a server is a session, so that a file can be continued.
//!
//! Logits are split into planes of bytes (all first bytes, all second bytes, and so on), and those
//! planes are packed that get smaller by it, which makes f16 rows a quarter smaller. Packing takes longer than writing: while
//! requests wait for the disk, the next are stored as they came.

mod change;
mod format;
mod method;
mod planes;
mod reader;
pub mod recheck;
mod recorder;
mod verify;

pub use change::{Changes, Setting, changes};
pub use format::MAGIC;
pub use logitd_proto::trace::Session;
pub use method::Method;
pub use reader::{Damage, ReadError, Reader};
pub use recorder::{Offered, Recorder, RecorderOptions, RecorderStats};
pub use verify::{Mismatch, Verdict, verify};

use logitd_proto::{BeamStepRequest, SampleRequest, StreamError, VerifyRequest};
use std::time::Duration;

/// One recorded request and what came of it.
#[derive(Clone, Debug, PartialEq)]
pub struct Entry {
    /// When it arrived, from the start of its session; to the microsecond.
    pub arrival: Duration,
    /// From its arrival to its answer; to the microsecond.
    pub took: Duration,
    /// What was called.
    pub call: Call,
}

/// A call, by its method.
#[derive(Clone, Debug, PartialEq)]
#[expect(clippy::large_enum_variant, reason = "the largest is the one that there are most of")]
pub enum Call {
    /// A request of `Sample`, or of a stream of them.
    Sample(Exchange<SampleRequest>),
    /// A request of `Verify`, or of a stream of them.
    Verify(Exchange<VerifyRequest>),
    /// A request of `BeamStep`.
    BeamStep(Exchange<BeamStepRequest>),
}

/// A request and what came of it.
#[derive(Clone, Debug, PartialEq)]
pub struct Exchange<M: Method> {
    /// What was asked.
    pub request: M,
    /// What was answered, or with what it was refused.
    pub result: Result<M::Answer, StreamError>,
}

impl<M: Method> Exchange<M> {
    /// The request, asking for the very bits of its answer: where a seed was left to the server, it is
    /// now the one that the server took.
    pub fn seeded_request(&self) -> M {
        match &self.result {
            Ok(answer) => self.request.seeded(answer),
            Err(_) => self.request.clone(),
        }
    }
}

impl Call {
    /// Bytes of the request's logits.
    pub fn logits_bytes(&self) -> usize {
        match self {
            Self::Sample(exchange) => exchange.request.logits.len(),
            Self::Verify(exchange) => exchange.request.logits.len(),
            Self::BeamStep(exchange) => exchange.request.logits.len(),
        }
    }
}
