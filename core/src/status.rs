//! What becomes of rows, and of the state that a sequence carries from row to row.

use std::fmt;

/// What became of a row.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum RowStatus {
    /// It has a token.
    #[default]
    Ok = 0,
    /// A logit is NaN.
    Nan = 1,
    /// A logit is +inf, and none is NaN.
    PositiveInfinity = 2,
    /// Every logit is -inf.
    NoCandidate = 3,
}

impl RowStatus {
    /// Every one, by its number.
    pub const ALL: [Self; 4] = [Self::Ok, Self::Nan, Self::PositiveInfinity, Self::NoCandidate];

    /// The name used by the API and the command line.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Ok => "OK",
            Self::Nan => "NAN",
            Self::PositiveInfinity => "POSITIVE_INFINITY",
            Self::NoCandidate => "NO_CANDIDATE",
        }
    }
}

impl fmt::Display for RowStatus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// What the next row of a sequence is given back, where its controls follow what was drawn.
#[derive(Clone, Copy, Debug)]
pub enum State {
    /// Mirostat's.
    Mirostat {
        /// The most surprisal that is kept, in bits.
        mu: f32,
    },
    /// That of adaptive-p.
    Adaptive {
        /// The probabilities of drawn tokens, earlier ones less and less.
        sum: f32,
        /// How many these come to.
        weight: f32,
    },
}

impl State {
    fn bits(self) -> (u8, u32, u32) {
        match self {
            Self::Mirostat { mu } => (0, mu.to_bits(), 0),
            Self::Adaptive { sum, weight } => (1, sum.to_bits(), weight.to_bits()),
        }
    }
}

/// Equal means equal in every bit.
impl PartialEq for State {
    fn eq(&self, other: &Self) -> bool {
        self.bits() == other.bits()
    }
}

impl Eq for State {}
