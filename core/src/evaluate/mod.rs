//! What sets of sampling parameters come to over rows whose next token is known: which tokens they keep, what
//! probability the reference token has, and how much is drawn from where; for tens of thousands of sets at once.
//!
//! ```text
//! row, reference --digest--> distinct logits, counts, rank --per temperature--> masses, cuts --per cut--> integers --> sums
//! ```
//!
//! [`digest`] is what remains of a row, [`sets`] the sets by what they share, [`sums`] the integers that rows add to. Two
//! implementations of [`Evaluator`] say the same: [`reference`](mod@reference) sorts each row, [`cpu`] works on digests.
//!
//! Whoever has rows at hand asks an [`Evaluator`] and has an [`EvaluationResult`]; whoever asks again about the same rows keeps
//! their digests, and asks [`Cpu::sums_by`](cpu::Cpu::sums_by).

mod chains;
pub mod cpu;
pub mod digest;
mod masses;
mod places;
pub mod reference;
pub mod row;
pub mod sets;
mod stages;
pub mod sums;
mod surface;

use crate::batch::{Row, RowStatus};
use cpu::Digested;
use sets::Sets;
use sums::Sums;

/// Labels of files and requests are below this.
pub const GROUPS_END: u32 = 4096;

/// Something that evaluates sets over rows.
pub trait Evaluator: Send + Sync {
    /// What the sets come to, and what is said of each row.
    fn evaluate(&self, positions: &[Position<'_>], question: &Question<'_>) -> EvaluationResult;
}

/// Something that works out sums over rows that were read: this process, or others.
pub trait Summing: std::fmt::Debug + Send + Sync {
    /// What the sets come to, by labels: that of a row, by its place. `seen` hears how many rows more are done, from any
    /// thread.
    fn sums_by(
        &self,
        rows: &[Digested],
        label: &(dyn Fn(usize) -> u32 + Sync),
        question: &Question<'_>,
        seen: &(dyn Fn(u64) + Sync),
    ) -> Result<Sums, String>;

    /// Sets that are best asked about at once, where there are many.
    fn sets_max(&self) -> usize;
}

/// A row and the token that came next.
#[derive(Clone, Copy, Debug)]
pub struct Position<'a> {
    row: Row<'a>,
    reference: u32,
    group: u32,
}

impl<'a> Position<'a> {
    /// A row (its parameters do not matter) with its reference token, and the label it is summed under.
    pub fn new(row: Row<'a>, reference: u32, group: u32) -> Result<Self, PositionError> {
        let vocab_size = row.vocab_size();
        if row.adjustments().is_some() {
            return Err(PositionError::Adjusted);
        }
        if row.has_ids() {
            return Err(PositionError::Candidates);
        }
        if reference >= vocab_size {
            return Err(PositionError::Reference { reference, vocab_size });
        }
        Ok(Self { row, reference, group })
    }

    /// Its logits.
    pub fn row(&self) -> &Row<'a> {
        &self.row
    }

    /// The token that came next.
    pub fn reference(&self) -> u32 {
        self.reference
    }

    /// The label it is summed under.
    pub fn group(&self) -> u32 {
        self.group
    }
}

/// Why a row and a token are no position.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PositionError {
    /// The row has no such token.
    #[error("reference {reference} is no token of the row; allowed: 0 to {}", vocab_size - 1)]
    Reference {
        /// The token.
        reference: u32,
        /// Tokens of the row.
        vocab_size: u32,
    },
    /// Its logits are not to be taken as they are, which evaluation does.
    #[error("the row has adjustments, which evaluation does not apply; leave them out")]
    Adjusted,
    /// It is short of most tokens, whose mass evaluation sums.
    #[error("the row has ids of its own; evaluation needs every token's logit")]
    Candidates,
}

/// What is asked of rows.
#[derive(Clone, Copy, Debug)]
pub struct Question<'a> {
    /// The sets.
    pub sets: &'a Sets,
    /// A token is of its row's tail if its own share of the mass at temperature 1 is less.
    pub tail: TailShare,
    /// Whether an answer is wanted of each row and set.
    pub rows: bool,
}

/// A share above 0 and below 1.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct TailShare(f32);

impl TailShare {
    /// That share, if it is one.
    pub fn new(share: f32) -> Option<Self> {
        (share > 0.0 && share < 1.0).then_some(Self(share))
    }

    /// The share.
    pub fn get(self) -> f32 {
        self.0
    }
}

impl Default for TailShare {
    fn default() -> Self {
        Self(sums::TAIL_SHARE)
    }
}

/// What was found.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct EvaluationResult {
    /// One a row.
    pub references: Vec<Reference>,
    /// What the sets come to.
    pub sums: Sums,
    /// If they were asked for: those of the first row, set by set, then those of the next. A row without a token has as
    /// many that say nothing.
    pub rows: Vec<Evaluation>,
}

/// What is said of a row whatever the sets are.
#[derive(Clone, Copy, Debug, Default)]
pub struct Reference {
    /// What became of the row; the other fields count where it is OK.
    pub status: RowStatus,
    /// How many tokens come before the reference token in the total order.
    pub rank: u32,
    /// The reference token's logprob at temperature 1, without cuts.
    pub logprob: f32,
    /// The row's entropy at temperature 1, without cuts, in nats.
    pub entropy: f32,
}

impl PartialEq for Reference {
    fn eq(&self, other: &Self) -> bool {
        let bits = |x: &Self| (x.status, x.rank, x.logprob.to_bits(), x.entropy.to_bits());
        bits(self) == bits(other)
    }
}

/// What a set comes to over one row.
#[derive(Clone, Copy, Debug, Default)]
pub struct Evaluation {
    /// Kept tokens; 0 where the row has no token.
    pub kept: u32,
    /// Their mass.
    pub kept_mass: u64,
    /// The reference token's logprob among them; `None` where it is cut.
    pub logprob: Option<f32>,
}

impl PartialEq for Evaluation {
    fn eq(&self, other: &Self) -> bool {
        let bits = |x: &Self| (x.kept, x.kept_mass, x.logprob.map(f32::to_bits));
        bits(self) == bits(other)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::adjustments::{AdjustmentsSpec, Limits};
    use crate::batch::Dtype;
    use crate::params::ParamsSpec;

    #[test]
    fn positions_are_rows_as_the_model_gave_them() {
        let (logits, ids) = ([0; 12], [0; 12]);
        let params = ParamsSpec::DEFAULT.parse(|| 0).unwrap();
        let row = Row::new(Dtype::F32, &logits, params).unwrap();
        let error = |row, reference| Position::new(row, reference, 0).err();
        assert_eq!(error(row, 2), None);
        assert_eq!(
            error(row, 3).unwrap().to_string(),
            "reference 3 is no token of the row; allowed: 0 to 2"
        );
        assert_eq!(error(row.with_ids(&ids), 2), Some(PositionError::Candidates));
        let spec = AdjustmentsSpec { counts: vec![(1, 1)], ..Default::default() };
        let adjustments = spec.parse(3, Limits::default()).unwrap();
        let adjusted = row.with_adjustments(Some(&adjustments));
        assert_eq!(error(adjusted, 2), Some(PositionError::Adjusted));
    }
}
