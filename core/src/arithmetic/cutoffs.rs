//! Top-a and eta cutoff: the least mass that a token is kept with. (Epsilon's is a [`share`].)

use super::fraction::{q64, share};
use super::interval::Interval;
use super::power::pow2;

/// The least mass that top-a keeps: `p_i >= v * p_max^2`, where the first token has the unit.
pub fn top_a(v: f32, mass: u64) -> u64 {
    let squared = (q64(v) << 40) / u128::from(mass);
    u64::try_from(squared.div_ceil(1 << 24)).unwrap_or(u64::MAX)
}

/// The least mass that eta cutoff keeps: `p_i >= min(v, sqrt(v) * exp(-H))`. `all` are the sums over the tokens that it is
/// given; their mass cancels.
pub fn eta(v: f32, all: Interval) -> u64 {
    let root = (f64::from(v).sqrt() * 18_446_744_073_709_551_616.0) as u128;
    let of_entropy = (root * u128::from(pow2(all.mean()))).div_ceil(1 << 64);
    // Below the unit, as the power is.
    share(q64(v), all.mass).min(of_entropy as u64)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::arithmetic::mass::UNIT;

    #[test]
    fn top_a_is_a_share_of_the_square() {
        // Of two equal tokens each has a half, and a half of its square is an eighth: a quarter of the unit.
        assert_eq!(top_a(0.5, 2 * UNIT), UNIT / 4);
        assert_eq!(top_a(1.0, UNIT), UNIT);
        assert_eq!(top_a(f32::from_bits(1), UNIT), 0);
        assert_eq!(top_a(1.0, 3 * UNIT), UNIT.div_ceil(3));
    }

    #[test]
    fn eta_is_the_lesser_of_two() {
        let equal = Interval { mass: 16 * UNIT, term: 0 };
        // Of 16 equal tokens: a quarter of each is the unit's share of entropy, and a sixteenth of all is one token.
        assert_eq!(eta(0.0625, equal), UNIT / 4);
        assert_eq!(eta(0.001, equal), share(q64(0.001), 16 * UNIT));
        let sharp = Interval { mass: UNIT, term: 0 };
        assert_eq!(eta(0.25, sharp), UNIT / 4);
    }
}
