//! Which kept token is drawn: the least id such that the kept tokens up to it, in ascending id,
//! have more mass than the target. Ids ascending, not sorted order: no sort is needed to draw.

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
