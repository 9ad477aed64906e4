//! Rows: logits, and what to do with them.
//!
//! A [`Row`] borrows its logits as the little-endian bytes they arrived in, at any alignment: a
//! backend reads them in place or copies them once. Logits that lie in memory of another process are
//! a [`Loan`], and are always copied once: their owner can write while we read.
//!
//! A row may have a [`Draft`] ([`Row::with_draft`]). Speculative decoding has tokens proposed by something cheap, and rows of the
//! target model for all of them at once. The row at a draft's place takes it or emits another token, by itself: what it does
//! depends on the row, its parameters and the draft alone. Which rows of a sequence count is decided afterwards
//! ([`verify`](crate::verify)). Comparing a draft with the token that is sampled anyway needs none.

use crate::adjustments::Adjustments;
use crate::inspection::Inspect;
use crate::params::SamplingParams;
use half::{bf16, f16};
use std::fmt;
use std::sync::Arc;
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

/// Memory that its owner lends for the time of a request, and may change or take away at any moment. So it is copied,
/// and what was made of the copy counts only if [`check`](Self::check) finds nothing wrong afterwards.
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

/// The most drafts of a sequence.
pub const DRAFTS_MAX: usize = 64;
/// The sum of the weights of a sparse proposal stays below this.
pub const WEIGHTS_END: u64 = 1 << 60;

/// A token that was drafted for a row, below its vocabulary's size.
#[derive(Clone, Debug)]
pub struct Draft {
    /// The token's id.
    pub token: u32,
    /// What decides whether the row takes it.
    pub rule: Rule,
}

impl Draft {
    /// Whether it, and what it was drawn from, are of a vocabulary.
    pub fn fits(&self, vocab_size: u32) -> bool {
        let fits = match &self.rule {
            Rule::Typical(_) | Rule::Rejection(Proposal::Point) => true,
            Rule::Rejection(Proposal::Row(source)) => source.row().vocab_size() == vocab_size,
            Rule::Rejection(Proposal::Sparse(weights)) => {
                weights.last().is_none_or(|(id, _)| *id < vocab_size)
            }
            Rule::Rejection(Proposal::Dense(p)) => p.len() == vocab_size as usize,
        };
        fits && self.token < vocab_size
    }
}

/// What decides whether a row takes its draft.
#[derive(Clone, Debug)]
pub enum Rule {
    /// Rejection sampling (Leviathan et al., arXiv 2211.17192): tokens have the target's distribution whatever the
    /// draft's is, if that is told truly. A row that does not take its draft draws from what the draft had too little of.
    Rejection(Proposal),
    /// A draft is taken if it is likely enough (Cai et al., arXiv 2401.10774); otherwise the row draws a token as it would
    /// without. Tokens do not have the target's distribution.
    Typical(Typical),
}

/// The distribution that a draft was drawn from.
#[derive(Clone, Debug)]
pub enum Proposal {
    /// None: the draft was certain.
    Point,
    /// What the tokens of this row are drawn from: as many logits as the target row has.
    Row(Arc<dyn Source>),
    /// Tokens with weights, ids ascending; others have none. The sum of the weights is below [`WEIGHTS_END`], and above 0.
    Sparse(Vec<(u32, u64)>),
    /// A probability a token: each from 0 to 1, and at least one of 2^-40 or more.
    Dense(Vec<f32>),
}

/// For people, without logits.
impl fmt::Display for Rule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Rejection(Proposal::Point) => f.write_str("rejection, certain"),
            Self::Rejection(Proposal::Row(source)) => {
                let row = source.row();
                write!(f, "rejection, from a row of {} ({})", row.dtype(), row.params())
            }
            Self::Rejection(Proposal::Sparse(weights)) => {
                write!(f, "rejection, from {} tokens with weights", weights.len())
            }
            Self::Rejection(Proposal::Dense(_)) => f.write_str("rejection, from probabilities"),
            Self::Typical(Typical { epsilon, delta }) => {
                write!(f, "probability, epsilon {epsilon}, delta {delta}")
            }
        }
    }
}

/// When a draft is likely enough: its probability is at least the lesser of `epsilon` and `delta * exp(-H)`, where H is
/// the entropy that the row is drawn with. Both are above 0, up to 1.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Typical {
    /// Enough whatever the entropy.
    pub epsilon: f32,
    /// Of what the entropy allows.
    pub delta: f32,
}

/// What owns the row of a proposal.
pub trait Source: fmt::Debug + Send + Sync {
    /// The row: it has no draft itself, and nothing is asked about it.
    fn row(&self) -> Row<'_>;
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::params::ParamsSpec;

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
