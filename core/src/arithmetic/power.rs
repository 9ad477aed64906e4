//! A power of two with a negative exponent, as a mass: what [`surprisal`](super::surprisal) is the logarithm of.

use super::mass::power;

/// 2^-22: a unit of a surprisal, in bits.
const UNIT_BITS: f32 = 1.0 / 4_194_304.0;
/// Powers below `2^-62` have no mass.
const EXPONENT_MAX: u64 = 62;

/// `2^40 * 2^-a`, truncated, for `a` in units of 2^-22. The mass of a token with surprisal `a`, as nearly as a
/// surprisal tells it.
pub fn pow2(a: u64) -> u64 {
    // To the nearest whole number; the saturated sum is far beyond what has a mass.
    let whole = a.saturating_add(1 << 21) >> 22;
    if whole > EXPONENT_MAX {
        return 0;
    }
    // At most 2^21 from 0, so exact as an f32.
    let rest = (whole << 22) as i64 - a as i64;
    power(-(whole as i32), rest as f32 * UNIT_BITS).truncated()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::arithmetic::mass::{Scale, UNIT};
    use crate::arithmetic::surprisal::{Surprisal, surprisal};

    #[test]
    fn known_answers() {
        for (a, expected) in [
            (0, UNIT),
            (1, 1_099_511_431_168),
            (1 << 21, 777_472_114_688),
            (1 << 22, UNIT / 2),
            (12_345_678, 142_934_278_144),
            (40 << 22, 1),
            (63 << 22, 0),
            (37_438_051, 2_260_622_592),
        ] {
            assert_eq!(pow2(a), expected, "{a}");
        }
        assert_eq!(pow2(u64::MAX), 0);
    }

    #[test]
    fn the_power_of_a_surprisal_is_about_the_mass() {
        let scale = Scale::new(1.0);
        for i in 0..2000 {
            let Surprisal { mass, g, .. } = surprisal(i as f32 / -64.0, 0.0, scale);
            let (power, mass) = (pow2(u64::from(g)) as f64, mass as f64);
            assert!((power - mass).abs() <= mass * 4e-7 + 1.0, "{i}: {power} {mass}");
        }
    }

    #[test]
    fn no_power_is_above_one_with_a_smaller_exponent() {
        let mut last = UNIT;
        for a in (0..63 << 22).step_by(4099) {
            let power = pow2(a);
            assert!(power <= last, "{a}: {power} after {last}");
            last = power;
        }
    }
}
