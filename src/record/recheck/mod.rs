//! Checks answers of the API against a local backend: the same request, sampled again, must give the
//! same bits.
//!
//! An answer carries the seeds that were used, so it can be checked anywhere and at any time, whatever
//! computed it.

mod asked;
mod beam;
mod inspected;
mod sample;
#[cfg(test)]
pub(crate) mod tests;
mod verify;

pub use sample::{answer, recheck};

use crate::wire::inspection::InspectError;
use crate::wire::row::UnknownAnswer;
use crate::wire::violations::{Violation, Violations};
use logitd_core::adjustments::AdjustmentsError;
use logitd_core::arithmetic;
use logitd_core::backend::{Backend, DeviceError, dual};
use logitd_core::batch::{Results, RowError};
use logitd_core::candidates::CandidatesError;
use logitd_core::params::ParamsError;
use std::fmt;

/// A request whose answer can be computed again.
pub trait Recheck: Sized {
    /// What it is answered with.
    type Answer;

    /// Samples its rows with the seeds that `answer` names and compares every bit of what comes of them. Returns each row
    /// that differs, or the first of each sequence or group. `results` is working memory.
    fn recheck(
        &self,
        backend: &mut dyn Backend,
        answer: &Self::Answer,
        results: &mut Results,
    ) -> Result<Vec<Difference>, RecheckError>;

    /// The row of which something else is answered, with its logits, its parameters and both answers: what is needed to
    /// sample it again. `a` is what this backend says, `b` is the answer, where that says all of a row.
    fn replayable(
        &self,
        backend: &mut dyn Backend,
        answer: &Self::Answer,
        difference: &Difference,
    ) -> Result<dual::Difference, RecheckError>;

    /// Compares every bit of two answers, but for the time that they took and the device.
    fn differences(recorded: &Self::Answer, got: &Self::Answer) -> Vec<Difference>;

    /// How many rows an answer to it is of.
    fn row_count(&self, answer: &Self::Answer) -> usize;

    /// The request, asking for the very bits of its answer: where a seed was left to the server, it is now the one that
    /// the server took.
    fn seeded(&self, answer: &Self::Answer) -> Self;

    /// With which version of the arithmetic an answer was made.
    fn arithmetic_version(answer: &Self::Answer) -> u32;

    /// Which device made an answer.
    fn device(answer: &Self::Answer) -> &str;
}

/// Whether answers of this version of the arithmetic can be checked here.
fn check_version(theirs: u32) -> Result<(), RecheckError> {
    match arithmetic::replays(theirs) {
        true => Ok(()),
        false => Err(RecheckError::ArithmeticVersion { ours: arithmetic::VERSION, theirs }),
    }
}

/// What is different in a row, first of all.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Difference {
    /// Where the request has its rows in sequences or groups: which one, `sequence 3`.
    pub within: Option<Within>,
    /// The row's place in its request, or in its sequence or group.
    pub row: usize,
    /// The first field that differs, by its name in the API.
    pub field: &'static str,
    /// What the local backend says.
    pub expected: String,
    /// What the answer says.
    pub got: String,
}

impl fmt::Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { within, row, field, expected, got } = self;
        match within {
            Some(Within::Sequence(sequence)) => write!(f, "sequence {sequence}, ")?,
            Some(Within::Group(group)) => write!(f, "group {group}, ")?,
            None => {}
        }
        write!(f, "row {row}: {field} is {got}; expected {expected}")
    }
}

/// What a row belongs to, by its place in the request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Within {
    /// A sequence to be verified.
    Sequence(usize),
    /// A group of beams.
    Group(usize),
}

impl From<Violations<'_>> for RecheckError {
    fn from(wrong: Violations<'_>) -> Self {
        // Of several errors the first is as good as any.
        let first = wrong.into_parts().0.into_iter().next();
        let Violation { field, description } = first.expect("something is wrong");
        Self::Request { field, description }
    }
}

/// Why an answer cannot be checked.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum RecheckError {
    /// Two versions of the arithmetic need not agree.
    #[error(
        "answered with version {theirs} of the sampling arithmetic, and this program has version {ours}; \
         use the logitd that has version {theirs}"
    )]
    ArithmeticVersion {
        /// Of this program.
        ours: u32,
        /// Of the answer.
        theirs: u32,
    },
    /// The request names no dtype that is known here.
    #[error("the request's dtype is {0}; known: 1 (F16), 2 (BF16), 3 (F32)")]
    Dtype(i32),
    /// The request's logits are no whole rows.
    #[error("{bytes} bytes of logits are not whole rows of {row_bytes} bytes")]
    Length {
        /// Bytes held.
        bytes: usize,
        /// Bytes a row.
        row_bytes: usize,
    },
    /// The request's parameters do not match its rows.
    #[error("{params} parameter sets for {rows} rows; one for all or one a row is wanted")]
    Params {
        /// Sets given.
        params: usize,
        /// Rows given.
        rows: usize,
    },
    /// What a request says of its sequences or groups is wrong.
    #[error("{field}: {description}")]
    Request {
        /// The field, by its path in the request.
        field: String,
        /// The value and the allowed range.
        description: String,
    },
    /// A request of one method, and an answer of another.
    #[error("the answer is not one of the method that was called")]
    Method,
    /// The request's candidates are none.
    #[error(transparent)]
    Candidates(#[from] CandidatesError),
    /// A parameter of the request is out of range.
    #[error(transparent)]
    Value(#[from] ParamsError),
    /// Adjustments of the request are none.
    #[error(transparent)]
    Adjustments(#[from] AdjustmentsError),
    /// What the request asks of its rows cannot be asked.
    #[error(transparent)]
    Inspect(#[from] InspectError),
    /// A row of the request is none.
    #[error(transparent)]
    Row(#[from] RowError),
    /// A difference is in no row of the request: its answer has more rows, or fewer.
    #[error("the difference is in no row of the request")]
    NoRow,
    /// The answer says of a row what this program does not know.
    #[error(transparent)]
    Answer(#[from] UnknownAnswer),
    /// The local backend failed.
    #[error(transparent)]
    Device(#[from] DeviceError),
}

fn shown(value: Option<u32>) -> String {
    value.map_or_else(|| "absent".into(), |value| value.to_string())
}

fn shown_bits(value: Option<f32>) -> String {
    value.map_or_else(|| "absent".into(), |x| format!("{x} ({:#010x})", x.to_bits()))
}
