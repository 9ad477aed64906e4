//! Which kept token is drawn: the least id such that the kept tokens up to it, in ascending id,
//! have more mass than the target. Ids ascending, not sorted order: no sort is needed to draw.

/// How a draw follows from random bits. Either rule draws a token with its share of the kept mass.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum DrawRule {
    /// By a place in the kept mass: [`target`].
    #[default]
    Cumulative,
    /// By a noise of each token's own: [`race`](super::race).
    Race,
}

impl DrawRule {
    /// Every rule.
    pub const ALL: [Self; 2] = [Self::Cumulative, Self::Race];

    /// The name used by flags and files.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Cumulative => "cumulative",
            Self::Race => "race",
        }
    }

    /// The rule of that name.
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|rule| rule.name() == name)
    }
}

/// Maps 64 random bits to a mass below `kept_mass`.
#[inline]
pub fn target(bits: u64, kept_mass: u64) -> u64 {
    ((u128::from(bits) * u128::from(kept_mass)) >> 64) as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_target_stays_below_the_mass() {
        assert_eq!(target(0, 1 << 40), 0);
        assert_eq!(target(u64::MAX, 1 << 60), (1 << 60) - 1);
        assert_eq!(target(1 << 63, 1000), 500);
        assert_eq!(target(u64::MAX, 1), 0);
    }
}
