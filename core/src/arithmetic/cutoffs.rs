//! Top-a and eta cutoff: the least mass that a token is kept with (epsilon's is a [`share`]), and which tokens have so much.

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

/// The first groups of equal tokens that have that mass a token, up to one that has less: the place of this one. Groups before
/// `from` are not asked. Found by bisection, and a look at the groups that have about that mass.
pub fn heavier(masses: &[u64], from: usize, least: u64) -> usize {
    // All that stand before one with so much have `least`.
    let surely = least.saturating_add(rise(least));
    let (mut low, mut high) = (from, masses.len());
    while low < high {
        let middle = low.midpoint(high);
        if masses[middle] >= surely { low = middle + 1 } else { high = middle }
    }
    (low..masses.len()).find(|&group| masses[group] < least).unwrap_or(masses.len())
}

/// More than the mass of a token can be above that of one before it. Of 32-bit logits next to each other it can, by the last of
/// the polynomial's 24 bits.
pub fn rise(mass: u64) -> u64 {
    (mass >> 20) + 1
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::arithmetic::mass::UNIT;

    #[test]
    fn the_first_with_a_mass_end_at_one_that_has_less() {
        let masses = [1 << 40, 1 << 30, (1 << 30) - 64, 1 << 30, (1 << 30) - 128, 7, 3, 4, 0];
        for least in
            [0, 1, 3, 4, 5, 7, (1 << 30) - 128, (1 << 30) - 64, (1 << 30) - 63, 1 << 30, 1 << 40]
        {
            for from in 0..=masses.len() {
                let first = masses[from..].iter().take_while(|&&mass| mass >= least).count();
                assert_eq!(heavier(&masses, from, least), from + first, "{least} from {from}");
            }
        }
        assert_eq!(heavier(&masses, 0, u64::MAX), 0);
    }

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
