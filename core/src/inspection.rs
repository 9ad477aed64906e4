//! What can be said of a row beside its tokens: log-probabilities, ranks and entropy of its distributions, and which
//! tokens its cuts kept.
//!
//! A row asks for it by an [`Inspect`] ([`Row::with_inspect`](crate::batch::Row::with_inspect)), and has an
//! [`Inspection`] beside its draws in the results. Rows that ask for nothing pay nothing. Of a row whose logits have ids of
//! their own ([`Row::with_ids`](crate::batch::Row::with_ids)), tokens here are indices of logits, as everywhere in results.

use crate::status::RowStatus;
use std::fmt;
use std::sync::Arc;

/// The most first tokens of a distribution that can be asked for.
pub const TOP_LOGPROBS_MAX: u32 = 1024;
/// The most tokens whose logprobs can be asked for by their ids.
pub const LOGPROB_IDS_MAX: usize = 1024;

/// A distribution over the tokens of a row.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum Distribution {
    /// The model's own: the stored logits at temperature 1, without adjustments and cuts.
    Raw = 0,
    /// What the cuts are given: adjusted logits at the row's temperature (at 1 where the row is greedy).
    Adjusted = 1,
    /// What tokens are drawn from: the kept tokens at the row's temperature. Of a greedy row, its one token.
    Sampled = 2,
}

impl Distribution {
    /// Every distribution, in the order of inspections.
    pub const ALL: [Self; 3] = [Self::Raw, Self::Adjusted, Self::Sampled];

    /// The name used by flags and files.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Raw => "raw",
            Self::Adjusted => "adjusted",
            Self::Sampled => "sampled",
        }
    }

    /// The distribution of that name.
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|of| of.name() == name)
    }
}

impl fmt::Display for Distribution {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// What is asked of a row beside its tokens. The default is nothing.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Inspect {
    /// Whether logprobs are asked of each of [`Distribution::ALL`].
    pub of: [bool; 3],
    /// How many first tokens of each of these: up to [`TOP_LOGPROBS_MAX`].
    pub top: u32,
    /// The tokens whose logprobs are wanted, whatever is drawn: up to [`LOGPROB_IDS_MAX`], in any order. One that the
    /// row does not have is absent from every distribution.
    pub ids: Arc<[u32]>,
    /// Whether the kept tokens are wanted, and up to how many of them as a list of ids; more are a bitmask.
    pub kept_ids_max: Option<u32>,
    /// Whether the row's continuations are wanted, and which.
    pub continuations: Option<Continue>,
}

/// What is asked of a row that goes on with a beam: its first tokens, with their log-probabilities over all of its
/// candidates, whatever its cuts are.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Continue {
    /// How many first tokens, fewer where the row has fewer candidates: 1 or more.
    pub count: u32,
    /// The temperature of the probabilities: 1e-4 to 10000.
    pub temperature: f32,
    /// Over which logits they add up to 1.
    pub normaliser: Normaliser,
}

impl Eq for Continue {}

impl std::hash::Hash for Continue {
    fn hash<H: std::hash::Hasher>(&self, state: &mut H) {
        (self.count, self.temperature.to_bits(), self.normaliser).hash(state);
    }
}

/// The logits over which the probabilities of continuations add up to 1.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Normaliser {
    /// The adjusted ones.
    #[default]
    Adjusted,
    /// The stored ones: tokens that are banned keep their share, as in Hugging Face's beam search.
    Raw,
}

impl Inspect {
    /// The distributions that are asked for, in order.
    pub fn distributions(&self) -> impl Iterator<Item = Distribution> {
        Distribution::ALL.into_iter().filter(|of| self.of[*of as usize])
    }

    /// Whether nothing is asked for.
    pub fn is_empty(&self) -> bool {
        self.of == [false; 3] && self.kept_ids_max.is_none() && self.continuations.is_none()
    }
}

/// What was found of a row. Equal means equal in every bit.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Inspection {
    /// One for each distribution asked for, in order.
    pub logprobs: Vec<Logprobs>,
    /// The kept tokens, if they were asked for and the row has a token.
    pub kept: Option<KeptIds>,
    /// The row's continuations, if they were asked for.
    pub continuations: Option<Continuations>,
}

/// How a row can go on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Continuations {
    /// Whether there are any: the row's own status, or that of the stored logits where these are the normaliser and are
    /// not OK.
    pub status: RowStatus,
    /// The first tokens in the total order of the adjusted logits, as many as were asked for, or all; empty unless the
    /// status is OK.
    pub tokens: Vec<Continuation>,
}

/// A token that a row can go on with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Continuation {
    /// The token's id.
    pub token: u32,
    /// Natural logarithm of its probability, in units of 2^-32.
    pub score: i64,
}

/// A token in a distribution. Equal means equal in every bit.
#[derive(Clone, Copy, Debug)]
pub struct TokenLogprob {
    /// The token's id.
    pub token: u32,
    /// 1 and the number of tokens before it in the total order of the distribution; 0 for a token that is not in it.
    pub rank: u32,
    /// Natural logarithm of its probability; -inf for a token that is not in the distribution.
    pub logprob: f32,
}

impl PartialEq for TokenLogprob {
    fn eq(&self, other: &Self) -> bool {
        let bits = |x: &Self| (x.token, x.rank, x.logprob.to_bits());
        bits(self) == bits(other)
    }
}

impl Eq for TokenLogprob {}

/// What is said of one distribution of a row.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Logprobs {
    /// Which one.
    pub of: Distribution,
    /// Whether there is such a distribution. That of the stored logits can be there where the row has no token (all
    /// tokens are banned), and be missing where it has one (a banned token is NaN).
    pub status: RowStatus,
    /// Its entropy, in nats; 0 unless the status is OK.
    pub entropy: Entropy,
    /// The drawn tokens, one a draw; empty unless both this status and the row's are OK.
    pub drawn: Vec<TokenLogprob>,
    /// The first tokens in the total order, as many as were asked for, or all.
    pub top: Vec<TokenLogprob>,
    /// The tokens that were asked for, in that order; empty unless the status is OK.
    pub ids: Vec<TokenLogprob>,
}

/// An entropy in nats. Equal means equal in every bit.
#[derive(Clone, Copy, Debug, Default)]
pub struct Entropy(pub f32);

impl PartialEq for Entropy {
    fn eq(&self, other: &Self) -> bool {
        self.0.to_bits() == other.0.to_bits()
    }
}

impl Eq for Entropy {}

/// The tokens that a row's cuts kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum KeptIds {
    /// Their ids, ascending.
    Ids(Vec<u32>),
    /// Token i is bit i % 32 of word i / 32.
    Bitmask(Vec<u32>),
}
