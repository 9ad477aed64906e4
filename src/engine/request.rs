//! What goes into the engine and what comes out.

use super::Source;
use super::cost::cost;
use bytes::Bytes;
use logitd_core::adjustments::{Adjustments, AdjustmentsSpec};
use logitd_core::backend::{DeviceError, DeviceInfo};
use logitd_core::batch::{Dtype, Loan, LoanError, Results, Row, RowError};
use logitd_core::candidates::TokenList;
use logitd_core::inspection::Inspect;
use logitd_core::params::SamplingParams;
use logitd_core::row::{self, Draft, Proposal, Rule};
use std::fmt;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Rows to sample, all answered together.
#[derive(Clone, Debug)]
pub struct Request {
    /// At least one. They may differ in everything.
    pub rows: Vec<RequestRow>,
    /// After this moment nobody wants the answer any more.
    pub deadline: Option<Instant>,
    /// Who goes first when some must wait.
    pub priority: Priority,
    /// Whose it is: within a priority, sources take turns.
    pub source: Source,
}

impl Request {
    /// Bytes of logits in all rows.
    pub fn bytes(&self) -> usize {
        self.rows.iter().map(RequestRow::bytes).sum()
    }
}

/// One row that owns its logits, or has them on loan. One that exists is valid: it is a [`Row`] whenever
/// asked.
#[derive(Clone, Debug)]
pub struct RequestRow {
    dtype: Dtype,
    logits: Logits,
    params: SamplingParams,
    /// Of a row of candidates.
    tokens: Option<TokenList>,
    adjustments: Option<Adjustments>,
    inspect: Option<Arc<Inspect>>,
    draft: Option<Arc<Draft>>,
}

#[derive(Clone, Debug)]
enum Logits {
    Own(Bytes),
    Lent { loan: Arc<dyn Loan>, at: usize, bytes: usize },
}

impl RequestRow {
    /// A row of `logits.len() / dtype.size_bytes()` tokens; refused where [`Row::new`] is.
    pub fn new(dtype: Dtype, logits: Bytes, params: SamplingParams) -> Result<Self, RowError> {
        Row::new(dtype, &logits, params)?;
        Ok(Self::of(dtype, Logits::Own(logits), params))
    }

    /// A row of candidates, whose tokens these are. Its results go by their indices.
    ///
    /// # Panics
    /// If there are not as many tokens as logits.
    pub fn of_candidates(
        dtype: Dtype,
        logits: Bytes,
        tokens: &TokenList,
        params: SamplingParams,
    ) -> Result<Self, RowError> {
        let row = Self { tokens: Some(tokens.clone()), ..Self::new(dtype, logits, params)? };
        row.as_row();
        Ok(row)
    }

    /// A row of `bytes / dtype.size_bytes()` tokens that begins `at` so many bytes of a loan; refused where
    /// [`Row::lent`] is. Its answer is a [`Failure::Loan`] if the loan is found broken in the end.
    pub fn lent(
        dtype: Dtype,
        loan: Arc<dyn Loan>,
        at: usize,
        bytes: usize,
        params: SamplingParams,
    ) -> Result<Self, RowError> {
        Row::lent(dtype, loan.as_ref(), at, bytes, params)?;
        Ok(Self::of(dtype, Logits::Lent { loan, at, bytes }, params))
    }

    fn of(dtype: Dtype, logits: Logits, params: SamplingParams) -> Self {
        Self { dtype, logits, params, tokens: None, adjustments: None, inspect: None, draft: None }
    }

    /// The same row with adjustments, which were parsed for its vocabulary.
    pub fn with_adjustments(self, adjustments: Option<Adjustments>) -> Self {
        Self { adjustments, ..self }
    }

    /// The same row, of which more than tokens is wanted: by the indices of its logits.
    pub fn with_inspect(self, inspect: Option<Arc<Inspect>>) -> Self {
        Self { inspect, ..self }
    }

    /// The same row, for which a token was drafted. It has one draw.
    pub fn with_draft(self, draft: Option<Arc<Draft>>) -> Self {
        Self { draft, ..self }
    }

    /// The row as backends see it.
    pub fn as_row(&self) -> Row<'_> {
        let row = match &self.logits {
            Logits::Own(logits) => Row::new(self.dtype, logits, self.params),
            Logits::Lent { loan, at, bytes } => {
                Row::lent(self.dtype, loan.as_ref(), *at, *bytes, self.params)
            }
        };
        let row = row
            .expect("checked when it was made")
            .with_adjustments(self.adjustments.as_ref())
            .with_inspect(self.inspect.as_deref())
            .with_draft(self.draft.as_deref());
        match &self.tokens {
            Some(tokens) => row.with_ids(tokens.as_bytes()),
            None => row,
        }
    }

    /// The most tokens that may run in its races, draw by draw.
    pub fn race_tokens_max(&self) -> u64 {
        self.params.race_tokens_max(self.as_row().vocab_size())
    }

    /// Bytes of logits.
    pub fn bytes(&self) -> usize {
        match &self.logits {
            Logits::Own(logits) => logits.len(),
            Logits::Lent { bytes, .. } => *bytes,
        }
    }

    /// Bytes that are looked through to sample it: its logits, the lists of its adjustments, and what its draft was
    /// drawn from.
    pub(super) fn size_bytes(&self) -> usize {
        let lists = self.adjustments.as_ref().map_or(0, list_bytes);
        self.bytes() + lists + self.draft.as_deref().map_or(0, draft_bytes)
    }

    /// What is asked of it beside its tokens.
    pub fn inspect(&self) -> Option<&Inspect> {
        self.inspect.as_deref()
    }

    /// How long it takes a processor, in bytes of the logits of plain rows that take as long.
    pub fn cost(&self) -> u64 {
        cost(&self.as_row())
    }

    /// Where the logits are lent.
    pub(super) fn loan(&self) -> Option<&Arc<dyn Loan>> {
        match &self.logits {
            Logits::Own(_) => None,
            Logits::Lent { loan, .. } => Some(loan),
        }
    }

    /// What to do with it.
    pub fn params(&self) -> &SamplingParams {
        &self.params
    }
}

impl row::Source for RequestRow {
    fn row(&self) -> Row<'_> {
        self.as_row()
    }
}

fn list_bytes(adjustments: &Adjustments) -> usize {
    adjustments.allowing().map(AdjustmentsSpec::bytes).sum()
}

/// Bytes of the distribution that a draft was drawn from.
fn draft_bytes(draft: &Draft) -> usize {
    match &draft.rule {
        Rule::Typical(_) | Rule::Rejection(Proposal::Point) => 0,
        Rule::Rejection(Proposal::Sparse(weights)) => size_of_val(&weights[..]),
        Rule::Rejection(Proposal::Dense(probabilities)) => size_of_val(&probabilities[..]),
        Rule::Rejection(Proposal::Row(source)) => {
            let row = source.row();
            row.bytes() + row.adjustments().map_or(0, list_bytes)
        }
    }
}

/// Who goes first when some must wait. Within a priority sources take turns, and the requests of each are
/// in the order of arrival.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Priority {
    /// After all others.
    Low,
    /// The default.
    #[default]
    Normal,
    /// Before all others.
    High,
}

impl fmt::Display for Priority {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Low => "low",
            Self::Normal => "normal",
            Self::High => "high",
        })
    }
}

/// The answer to a request.
#[derive(Clone, Debug)]
pub struct Completed {
    /// One a row, in the order of the request.
    pub results: Results,
    /// Where the time went.
    pub timings: Timings,
    /// What sampled the rows; with a request that was split over several, the last of them.
    pub device: Arc<DeviceInfo>,
}

/// Where the time of a request went.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Timings {
    /// From acceptance to the start of its batch; of a request that was split, its first.
    pub queue: Duration,
    /// Copying logits to the device; 0 where they are read in place. A split request's add up.
    pub copy: Duration,
    /// Computing its batch. A split request's batches add up.
    pub compute: Duration,
}

/// Why a request was not taken. Nothing has been done for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    /// There is no room at present.
    #[error(
        "{asked} more {what} than fit at present: {limit} may wait or be sampled at once \
         ({}); try again in {} ms", what.limit_name(), retry_after.as_millis()
    )]
    Overloaded {
        /// What there is too little of.
        what: Resource,
        /// How much of it may be held at once.
        limit: usize,
        /// How much of it was asked for.
        asked: usize,
        /// When to try again, estimated from the recent rate of service.
        retry_after: Duration,
    },
    /// There will never be room.
    #[error("{asked} {what} can never fit: the limit is {limit} ({})", what.limit_name())]
    TooLarge {
        /// What was asked too much of.
        what: Resource,
        /// How much of it there is.
        limit: usize,
        /// How much of it was asked for.
        asked: usize,
    },
    /// The deadline had passed when the request came.
    #[error("the deadline passed before the request was queued")]
    DeadlineExceeded,
    /// There are no rows in it.
    #[error("a request needs at least one row")]
    Empty,
    /// The engine takes no more work.
    #[error("the server is shutting down")]
    Draining,
    /// Every device has failed.
    #[error("no device is left to sample on")]
    NoDevice,
}

/// What can run out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Resource {
    /// Rows waiting or being sampled.
    QueueRows,
    /// Bytes of logits waiting or being sampled.
    QueueBytes,
    /// Bytes of logits in one batch: a row must fit one.
    BatchBytes,
}

impl Resource {
    /// The name of the limit, as in the configuration.
    pub const fn limit_name(self) -> &'static str {
        match self {
            Self::QueueRows => "queue_rows_max",
            Self::QueueBytes => "queue_bytes_max",
            Self::BatchBytes => "batch_bytes_max",
        }
    }
}

impl fmt::Display for Resource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::QueueRows => "rows",
            Self::QueueBytes => "bytes of logits",
            Self::BatchBytes => "bytes of logits in one row",
        })
    }
}

/// Why an accepted request has no answer.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Failure {
    /// The deadline passed while it waited.
    #[error("the deadline passed while the request waited for a device")]
    DeadlineExceeded,
    /// The engine was stopped before the request ran.
    #[error("the server stopped before the request ran")]
    Cancelled,
    /// A device failed under it, and nothing was left to run it on.
    #[error("{0}, and no other device is left")]
    Device(DeviceError),
    /// The logits were on loan, and what was read is not what was lent.
    #[error("{0}")]
    Loan(LoanError),
    /// Work for it panicked.
    #[error(
        "the server panicked at this request: a fault of the server, not of the request; its log says where; please report it"
    )]
    Panicked,
}
