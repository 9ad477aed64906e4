//! Tokens that somebody drafted for rows: what decides whether a row takes its draft, and what it says instead.
//!
//! Speculative decoding has tokens proposed by something cheap, and rows of the target model for all of them at once. The row
//! at a draft's place takes it or emits another token, by itself: what it does depends on the row, its parameters and the
//! draft alone. Which rows of a sequence count is decided afterwards ([`verify`](crate::verify)).
//!
//! A row has a [`Draft`] by [`Row::with_draft`]. Rows without one pay nothing; comparing a draft with the token that is
//! sampled anyway needs none.

use crate::batch::Row;
use std::fmt;
use std::sync::Arc;

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
    /// A probability a token: each from 0 to 1, not all 0.
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
