//! Rows and their results, as the backends see them.
//!
//! A [`Row`] borrows its logits as the little-endian bytes they arrived in, at any alignment: a
//! backend reads them in place or copies them once. Logits that lie in memory of another process are
//! a [`Loan`], and are always copied once: their owner can write while we read. A [`Results`] is a flat table that is reused
//! from batch to batch, so that sampling allocates nothing in steady state.

use crate::adjustments::Adjustments;
use crate::draft::Draft;
use crate::inspection::{Inspect, Inspection};
use crate::params::SamplingParams;
pub use crate::status::{RowStatus, State};
use half::{bf16, f16};
use std::fmt;
use std::ops::Range;
use std::sync::atomic::AtomicU8;

/// The largest vocabulary a row can have: 2^20 tokens, so that a row's mass stays within 2^60.
pub const VOCAB_SIZE_MAX: u32 = 1 << 20;

/// How logits are stored. All are widened to f32 exactly, subnormals included.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Dtype {
    /// IEEE binary16.
    F16 = 0,
    /// The upper half of a binary32.
    Bf16 = 1,
    /// IEEE binary32.
    F32 = 2,
}

impl Dtype {
    /// Every dtype.
    pub const ALL: [Self; 3] = [Self::F16, Self::Bf16, Self::F32];

    /// Bytes a logit.
    pub const fn size_bytes(self) -> usize {
        match self {
            Self::F16 | Self::Bf16 => 2,
            Self::F32 => 4,
        }
    }

    /// The name used by flags and files: `f16`, `bf16` or `f32`.
    pub const fn name(self) -> &'static str {
        match self {
            Self::F16 => "f16",
            Self::Bf16 => "bf16",
            Self::F32 => "f32",
        }
    }
}

impl fmt::Display for Dtype {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// Memory that its owner may change or take away at any moment. So it is copied, never borrowed, and what
/// was made of the copy counts only if [`check`](Self::check) finds nothing wrong afterwards.
pub trait Loan: fmt::Debug + Send + Sync {
    /// Copies what begins `at` so many bytes. What cannot be read becomes zeros, and is remembered for
    /// [`check`](Self::check).
    ///
    /// # Panics
    /// If that is beyond what was lent.
    fn copy(&self, at: usize, into: &mut [u8]);

    /// Whether everything that was copied so far is what was lent. Changes nothing: what is checked may still
    /// be refused.
    fn check(&self) -> Result<(), LoanError>;

    /// What was copied is answered: called once, after the last [`check`](Self::check) and before the answer.
    fn settle(&self) {}

    /// All of it, where this process can read it in place. Its owner may be writing meanwhile.
    fn mapped(&self) -> Option<&[AtomicU8]> {
        None
    }

    /// Where the byte `at` lies in the memory of a device, by [the device's id](crate::backend::DeviceInfo::id).
    fn address_on(&self, device: &str, at: usize) -> Option<u64> {
        let _ = (device, at);
        None
    }
}

/// Why nothing that was made of a loan counts.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LoanError {
    /// Its owner wrote to it meanwhile.
    #[error("{0}")]
    Changed(String),
    /// It can no longer be read.
    #[error("{0}")]
    Lost(String),
}

/// Where a row's logits are.
#[derive(Clone, Copy, Debug)]
enum Logits<'a> {
    Here(&'a [u8]),
    Lent { loan: &'a dyn Loan, at: usize, bytes: usize },
}

/// One row of logits and what to do with it.
#[derive(Clone, Copy, Debug)]
pub struct Row<'a> {
    dtype: Dtype,
    vocab_size: u32,
    logits: Logits<'a>,
    params: SamplingParams,
    /// A little-endian u32 a logit where they are not 0, 1, 2, ..
    ids: Option<&'a [u8]>,
    adjustments: Option<&'a Adjustments>,
    inspect: Option<&'a Inspect>,
    draft: Option<&'a Draft>,
}

impl<'a> Row<'a> {
    /// A row of `logits.len() / dtype.size_bytes()` tokens.
    pub fn new(dtype: Dtype, logits: &'a [u8], params: SamplingParams) -> Result<Self, RowError> {
        Self::of(dtype, logits.len(), Logits::Here(logits), params)
    }

    /// A row of `bytes / dtype.size_bytes()` tokens, which begins `at` so many bytes of a loan.
    pub fn lent(
        dtype: Dtype,
        loan: &'a dyn Loan,
        at: usize,
        bytes: usize,
        params: SamplingParams,
    ) -> Result<Self, RowError> {
        Self::of(dtype, bytes, Logits::Lent { loan, at, bytes }, params)
    }

    fn of(
        dtype: Dtype,
        bytes: usize,
        logits: Logits<'a>,
        params: SamplingParams,
    ) -> Result<Self, RowError> {
        let size = dtype.size_bytes();
        let vocab_size = bytes / size;
        if !bytes.is_multiple_of(size) {
            return Err(RowError::Torn { bytes, dtype });
        }
        if !(1..=VOCAB_SIZE_MAX as usize).contains(&vocab_size) {
            return Err(RowError::VocabSize(vocab_size));
        }
        Ok(Self {
            dtype,
            vocab_size: vocab_size as u32,
            logits,
            params,
            ids: None,
            adjustments: None,
            inspect: None,
            draft: None,
        })
    }

    /// The same row, as one of a few tokens with these ids: a little-endian u32 a logit, ascending. Results go by the
    /// index of the logit all the same; a token's own id is what the noise of a race belongs to.
    ///
    /// # Panics
    /// If there are not as many ids as logits.
    pub fn with_ids(self, ids: &'a [u8]) -> Self {
        assert_eq!(ids.len(), self.vocab_size as usize * size_of::<u32>(), "an id a logit");
        Self { ids: Some(ids), ..self }
    }

    /// Their ids, a little-endian u32 a logit, where they have ids of their own.
    pub fn ids(&self) -> Option<&'a [u8]> {
        self.ids
    }

    /// Whether its logits have ids of their own.
    pub fn has_ids(&self) -> bool {
        self.ids.is_some()
    }

    /// The id of the token with a logit.
    pub fn id(&self, index: u32) -> u32 {
        let Some(ids) = self.ids else { return index };
        let at = index as usize * size_of::<u32>();
        u32::from_le_bytes(ids[at..at + size_of::<u32>()].try_into().expect("four bytes"))
    }

    /// The same row with adjustments, which were parsed for its vocabulary.
    pub fn with_adjustments(self, adjustments: Option<&'a Adjustments>) -> Self {
        Self { adjustments, ..self }
    }

    /// The same row, of which more than tokens is wanted.
    pub fn with_inspect(self, inspect: Option<&'a Inspect>) -> Self {
        Self { inspect, ..self }
    }

    /// The same row, for which a token was drafted. It has one draw.
    ///
    /// # Panics
    /// If the draft, or what it was drawn from, is not of this row's vocabulary.
    pub fn with_draft(self, draft: Option<&'a Draft>) -> Self {
        assert!(
            draft.is_none_or(|draft| draft.fits(self.vocab_size)),
            "a draft of this vocabulary"
        );
        Self { draft, ..self }
    }

    /// How the logits are stored.
    pub fn dtype(&self) -> Dtype {
        self.dtype
    }

    /// The number of tokens, 1 to [`VOCAB_SIZE_MAX`].
    pub fn vocab_size(&self) -> u32 {
        self.vocab_size
    }

    /// Bytes of logits.
    pub fn bytes(&self) -> usize {
        self.vocab_size as usize * self.dtype.size_bytes()
    }

    /// `vocab_size` little-endian values, at any alignment.
    ///
    /// # Panics
    /// If they are lent: see [`here`](Self::here).
    pub fn logits(&self) -> &'a [u8] {
        match self.logits {
            Logits::Here(logits) => logits,
            Logits::Lent { .. } => panic!("logits that are lent are copied first"),
        }
    }

    /// The same row with logits that can be read: its own, or a copy of what is lent in `copy`.
    pub fn here<'b>(&self, copy: &'b mut Vec<u8>) -> Row<'b>
    where
        'a: 'b,
    {
        let logits = match self.logits {
            Logits::Here(logits) => logits,
            Logits::Lent { .. } => {
                copy.resize(copy.len().max(self.bytes()), 0);
                self.copy_to(0, &mut copy[..self.bytes()]);
                &copy[..self.bytes()]
            }
        };
        Row { logits: Logits::Here(logits), ..*self }
    }

    /// A row of these logits, as many as this one has, in place of it and of its adjustments.
    ///
    /// # Panics
    /// If they are not as many.
    pub fn with_copy<'b>(&self, dtype: Dtype, logits: &'b [u8]) -> Row<'b>
    where
        'a: 'b,
    {
        let row = Row::new(dtype, logits, self.params).expect("a row's logits");
        assert_eq!(row.vocab_size, self.vocab_size, "the logits of this row");
        Row { ids: self.ids, inspect: self.inspect, draft: self.draft, ..row }
    }

    /// Copies the logits' bytes from `from` on, as many as there is room for.
    ///
    /// # Panics
    /// If there are not so many.
    pub fn copy_to(&self, from: usize, into: &mut [u8]) {
        match self.logits {
            Logits::Here(logits) => into.copy_from_slice(&logits[from..from + into.len()]),
            Logits::Lent { loan, at, bytes } => {
                assert!(from <= bytes && into.len() <= bytes - from, "bytes of this row");
                loan.copy(at + from, into);
            }
        }
    }

    /// Whether the logits are lent.
    pub fn is_lent(&self) -> bool {
        matches!(self.logits, Logits::Lent { .. })
    }

    /// The logits where they are lent and can be read in place, but only once: see [`Loan`].
    pub fn mapped(&self) -> Option<&'a [AtomicU8]> {
        match self.logits {
            Logits::Here(_) => None,
            Logits::Lent { loan, at, bytes } => Some(&loan.mapped()?[at..at + bytes]),
        }
    }

    /// Where the logits lie in the memory of a device, if they do.
    pub fn address_on(&self, device: &str) -> Option<u64> {
        match self.logits {
            Logits::Here(_) => None,
            Logits::Lent { loan, at, .. } => loan.address_on(device, at),
        }
    }

    /// The same row with other parameters.
    pub fn with_params(self, params: SamplingParams) -> Self {
        Self { params, ..self }
    }

    /// What to do with it.
    pub fn params(&self) -> &SamplingParams {
        &self.params
    }

    /// What is done to single logits before that.
    pub fn adjustments(&self) -> Option<&'a Adjustments> {
        self.adjustments
    }

    /// What is asked of it beside its tokens.
    pub fn inspect(&self) -> Option<&'a Inspect> {
        self.inspect
    }

    /// The token that was drafted for it.
    pub fn draft(&self) -> Option<&'a Draft> {
        self.draft
    }

    /// The logit of one token, widened.
    ///
    /// # Panics
    /// If `token` is not below [`vocab_size`](Self::vocab_size), or the logits are lent.
    pub fn logit(&self, token: u32) -> f32 {
        let i = token as usize;
        match self.dtype {
            Dtype::F16 => f16::from_bits(self.bits16(i)).to_f32(),
            Dtype::Bf16 => bf16::from_bits(self.bits16(i)).to_f32(),
            Dtype::F32 => {
                let at = i * 4;
                f32::from_le_bytes(self.logits()[at..at + 4].try_into().expect("four bytes"))
            }
        }
    }

    fn bits16(&self, i: usize) -> u16 {
        u16::from_le_bytes(self.logits()[i * 2..i * 2 + 2].try_into().expect("two bytes"))
    }
}

/// Why bytes are not a row.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RowError {
    /// The byte count is not a whole number of logits.
    #[error("{bytes} bytes are not a whole number of {dtype} logits of {} bytes", dtype.size_bytes())]
    Torn {
        /// The bytes given.
        bytes: usize,
        /// What they were said to be.
        dtype: Dtype,
    },
    /// No token, or too many.
    #[error("vocab_size is {0}; allowed: 1 to {VOCAB_SIZE_MAX}")]
    VocabSize(usize),
}

/// What is said once about a row. `kept` and `kept_mass` are 0 unless the status is OK.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Outcome {
    /// Whether the row has a token, and why not.
    pub status: RowStatus,
    /// How many tokens the cuts left.
    pub kept: u32,
    /// Their mass, in units of 2^-40 of the first token's.
    pub kept_mass: u64,
}

impl Outcome {
    /// A row without a token.
    pub const fn failed(status: RowStatus) -> Self {
        Self { status, kept: 0, kept_mass: 0 }
    }
}

/// One drawn token. Equal means equal in every bit.
#[derive(Clone, Copy, Debug, Default)]
pub struct Draw {
    /// The token's id.
    pub token: u32,
    /// Natural logarithm of its probability among the kept tokens.
    pub logprob: f32,
}

impl PartialEq for Draw {
    fn eq(&self, other: &Self) -> bool {
        self.token == other.token && self.logprob.to_bits() == other.logprob.to_bits()
    }
}

impl Eq for Draw {}

/// The results of a batch, in the order of its rows.
#[derive(Clone, Debug, Default)]
pub struct Results {
    outcomes: Vec<Outcome>,
    /// Where each row's draws end; they start where the row before ends.
    ends: Vec<u32>,
    draws: Vec<Draw>,
    /// What rows asked for beside their draws; empty where none did.
    inspections: Vec<Option<Box<Inspection>>>,
    /// What rows give back to their sequences; empty where none does.
    states: Vec<Option<State>>,
    /// Which rows took their drafts; empty where none has one.
    accepted: Vec<Option<bool>>,
    /// Which rows the processor sampled in a device's place; empty where none.
    on_host: Vec<bool>,
}

impl Results {
    /// Makes room for these rows, keeping the memory of earlier batches.
    pub fn reset(&mut self, rows: &[Row<'_>]) {
        self.outcomes.clear();
        self.outcomes.resize(rows.len(), Outcome::default());
        self.ends.clear();
        let mut end = 0;
        self.ends.extend(rows.iter().map(|row| {
            end += row.params().draws();
            end
        }));
        self.draws.clear();
        self.draws.resize(end as usize, Draw::default());
        self.inspections.clear();
        if rows.iter().any(|row| row.inspect.is_some()) {
            let asked = |row: &Row<'_>| row.inspect.map(|_| Box::default());
            self.inspections.extend(rows.iter().map(asked));
        }
        self.states.clear();
        if rows.iter().any(|row| row.params.has_state()) {
            self.states.resize(rows.len(), None);
        }
        self.accepted.clear();
        if rows.iter().any(|row| row.draft.is_some()) {
            self.accepted.resize(rows.len(), None);
        }
        self.on_host.clear();
    }

    /// Says which rows, one after another, the processor samples in the device's place.
    pub fn set_on_host(&mut self, rows: &[bool]) {
        rows.clone_into(&mut self.on_host);
    }

    /// Whether the processor sampled a row in the device's place: one that no kernel samples, or that does not fit a launch.
    pub fn used_host(&self) -> bool {
        self.on_host.contains(&true)
    }

    /// The place of each row's result, to be written independently (by several threads, say).
    pub fn slots(&mut self) -> impl Iterator<Item = Slot<'_>> {
        let mut rest = self.draws.as_mut_slice();
        let mut start = 0;
        let mut inspections = self.inspections.iter_mut();
        let mut states = self.states.iter_mut();
        let mut accepted = self.accepted.iter_mut();
        self.outcomes.iter_mut().zip(&self.ends).map(move |(outcome, &end)| {
            let (draws, after) = std::mem::take(&mut rest).split_at_mut((end - start) as usize);
            (rest, start) = (after, end);
            let inspection = inspections.next().and_then(Option::as_deref_mut);
            let (state, accepted) = (states.next(), accepted.next());
            Slot { outcome, draws, inspection, state, accepted }
        })
    }

    /// Adds a copy of some rows of another table.
    ///
    /// # Panics
    /// If `other` does not have them.
    pub fn extend_from(&mut self, other: &Self, rows: Range<usize>) {
        let start = if rows.start == 0 { 0 } else { other.ends[rows.start - 1] };
        let end = if rows.end == 0 { 0 } else { other.ends[rows.end - 1] };
        let base = self.draws.len() as u32;
        extend(self.outcomes.len(), &mut self.inspections, &other.inspections, rows.clone());
        extend(self.outcomes.len(), &mut self.states, &other.states, rows.clone());
        extend(self.outcomes.len(), &mut self.accepted, &other.accepted, rows.clone());
        extend(self.outcomes.len(), &mut self.on_host, &other.on_host, rows.clone());
        self.outcomes.extend_from_slice(&other.outcomes[rows.clone()]);
        self.ends.extend(other.ends[rows].iter().map(|end| base + (end - start)));
        self.draws.extend_from_slice(&other.draws[start as usize..end as usize]);
    }

    /// The number of rows.
    pub fn len(&self) -> usize {
        self.outcomes.len()
    }

    /// Whether there are no rows.
    pub fn is_empty(&self) -> bool {
        self.outcomes.is_empty()
    }

    /// The result of one row.
    ///
    /// # Panics
    /// If there is no such row.
    pub fn row(&self, i: usize) -> RowResult<'_> {
        let outcome = self.outcomes[i];
        let start = if i == 0 { 0 } else { self.ends[i - 1] };
        let draws = match outcome.status {
            RowStatus::Ok => &self.draws[start as usize..self.ends[i] as usize],
            _ => &[],
        };
        let inspection = self.inspections.get(i).and_then(Option::as_deref);
        let state = self.states.get(i).copied().flatten();
        let accepted = self.accepted.get(i).copied().flatten();
        RowResult { outcome, draws, inspection, state, accepted }
    }

    /// Every row's result, in order.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = RowResult<'_>> {
        (0..self.len()).map(|i| self.row(i))
    }
}

/// Adds what some rows of another table have, where either table has anything of the kind.
fn extend<T: Clone + Default>(len: usize, own: &mut Vec<T>, others: &[T], rows: Range<usize>) {
    if own.is_empty() && others.is_empty() {
        return;
    }
    own.resize(len, T::default());
    match others {
        [] => own.resize(len + rows.len(), T::default()),
        others => own.extend_from_slice(&others[rows]),
    }
}

/// Where a backend writes the result of one row.
#[derive(Debug)]
pub struct Slot<'a> {
    /// Said once.
    pub outcome: &'a mut Outcome,
    /// One place a draw; left as it is where the status is not OK.
    pub draws: &'a mut [Draw],
    /// What the row asks for beside its draws, if it asks; empty.
    pub inspection: Option<&'a mut Inspection>,
    /// What the row gives back to its sequence, where rows of the batch do; empty.
    pub state: Option<&'a mut Option<State>>,
    /// Whether the row took its draft, where rows of the batch have one; empty.
    pub accepted: Option<&'a mut Option<bool>>,
}

/// The result of one row. Equal means equal in every bit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RowResult<'a> {
    /// Said once.
    pub outcome: Outcome,
    /// One a draw asked for; none where the status is not OK.
    pub draws: &'a [Draw],
    /// What was asked for beside them.
    pub inspection: Option<&'a Inspection>,
    /// What it gives back to its sequence, where its controls have a state and the status is OK.
    pub state: Option<State>,
    /// Whether it took its draft, where it has one and the status is OK. Its one draw is the draft then, and otherwise
    /// what it says instead.
    pub accepted: Option<bool>,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::inspection::KeptIds;
    use crate::params::ParamsSpec;

    #[test]
    fn results_of_rows_do_not_overlap() {
        let params = |draws| ParamsSpec { draws, ..Default::default() }.parse(|| 0).unwrap();
        let logits = [0; 6];
        let rows = [3, 1, 2].map(|n| Row::new(Dtype::F16, &logits, params(n)).unwrap());
        let mut results = Results::default();
        results.reset(&rows);
        for (i, slot) in results.slots().enumerate() {
            slot.draws.fill(Draw { token: i as u32, logprob: 0.0 });
            slot.outcome.status = if i == 1 { RowStatus::Nan } else { RowStatus::Ok };
        }
        let lengths: Vec<_> = results.iter().map(|r| r.draws.len()).collect();
        assert_eq!(lengths, [3, 0, 2]);
        assert!(results.row(2).draws.iter().all(|d| d.token == 2));

        let mut pieced = Results::default();
        pieced.extend_from(&results, 2..3);
        pieced.extend_from(&results, 1..1);
        pieced.extend_from(&results, 0..2);
        assert!(pieced.iter().eq([2, 0, 1].map(|i| results.row(i))));
    }

    #[test]
    fn inspections_go_where_their_rows_go() {
        let params = ParamsSpec::default().parse(|| 0).unwrap();
        let logits = [0; 6];
        let asked = Inspect { kept_ids_max: Some(1), ..Inspect::default() };
        let plain = Row::new(Dtype::F16, &logits, params).unwrap();
        let results = |asks: &[bool]| {
            let asked = |&asks| plain.with_inspect(Some(&asked).filter(|_| asks));
            let rows: Vec<_> = asks.iter().map(asked).collect();
            let mut results = Results::default();
            results.reset(&rows);
            for (i, slot) in results.slots().enumerate() {
                assert_eq!(slot.inspection.is_some(), asks[i]);
                if let Some(inspection) = slot.inspection {
                    inspection.kept = Some(KeptIds::Ids(vec![i as u32]));
                }
            }
            results
        };
        let (none, some) = (results(&[false, false]), results(&[true, false, true]));
        for order in [[&none, &some], [&some, &none]] {
            let mut pieced = Results::default();
            order.iter().for_each(|part| pieced.extend_from(part, 0..part.len()));
            pieced.extend_from(&some, 1..3);
            let all = order[0].iter().chain(order[1].iter()).chain([some.row(1), some.row(2)]);
            assert!(pieced.iter().eq(all));
        }
        // What was there before is gone.
        let mut reused = some.clone();
        reused.reset(&[plain]);
        assert_eq!(reused.row(0).inspection, None);
    }

    #[test]
    fn bytes_that_are_not_a_row_are_refused() {
        let params = ParamsSpec::default().parse(|| 0).unwrap();
        let error = |dtype, bytes: &[u8]| Row::new(dtype, bytes, params).unwrap_err();
        assert_eq!(error(Dtype::F32, &[0; 6]), RowError::Torn { bytes: 6, dtype: Dtype::F32 });
        assert_eq!(error(Dtype::F16, &[]), RowError::VocabSize(0));
        let long = vec![0; (VOCAB_SIZE_MAX as usize + 1) * 2];
        assert_eq!(error(Dtype::Bf16, &long), RowError::VocabSize(VOCAB_SIZE_MAX as usize + 1));
    }
}
