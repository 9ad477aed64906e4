//! What becomes of rows.

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
