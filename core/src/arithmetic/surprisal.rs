//! How surprising a token is, as an integer: a by-product of its mass.

use super::mass::{ROUND, ROUND_BITS, Scale, power, split};

/// 2^22: the units of a surprisal in a bit.
const BIT: f32 = 4_194_304.0;
/// Shifts of a `u64` by more than this leave nothing.
const SHIFT_MAX: i32 = 63;

/// A token's mass, and what is derived from it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Surprisal {
    /// As [`mass`](super::mass::mass) has it.
    pub mass: u64,
    /// `-log2(mass / 2^40)` in units of 2^-22 bit, below 2^28. It never falls along the total order, and the row's
    /// first token has 0.
    pub g: u32,
    /// Mass times surprisal, in units of 2^-44. The sum over a row of 2^20 tokens fits 64 bits.
    pub term: u64,
}

/// The surprisal of a token with logit `x` in a row whose maximum is `max`. What [`mass`](super::mass::mass) asks
/// of its arguments is asked here too.
#[inline]
pub fn surprisal(x: f32, max: f32, scale: Scale) -> Surprisal {
    let (n, f) = split(x, max, scale);
    let power = power(n, f);
    let fraction = f.mul_add(BIT, ROUND).to_bits().wrapping_sub(ROUND_BITS) as i32;
    let g = (-(n << 22) - fraction) as u32;
    // The product, not the truncated mass, is shifted: a mass of 0 can have a term.
    let shift = 1 - power.exponent;
    let term = if shift > SHIFT_MAX { 0 } else { (power.mantissa * u64::from(g)) >> shift };
    Surprisal { mass: power.truncated(), g, term }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::arithmetic::mass::{UNIT, mass};

    /// From an independent implementation: `x - M` and temperature; mass, g and term.
    const KNOWN: [(u32, f32, (u64, u32, u64)); 9] = [
        (0x0000_0000, 1.0, (1_099_511_627_776, 0, 0)),
        (0xbe80_0000, 1.0, (856_300_519_424, 1_512_775, 4_941_520_760_618)),
        (0xbf80_0000, 0.7, (263_499_087_872, 8_644_431, 8_689_116_224_946)),
        (0xc049_0fd0, 1.0, (47_514_329_088, 19_010_081, 3_445_630_053_037)),
        (0xc120_0000, 1.3, (501_733_440, 46_546_935, 89_089_026_714)),
        (0xc1d0_0000, 1.0, (5, 157_328_639, 3371)),
        (0xc1e4_0000, 1.0, (0, 172_456_393, 303)),
        (0xc47a_0000, 1.0, (0, 260_046_839, 0)),
        (0xb586_37bd, 0.3, (1_099_507_957_760, 20, 83_885_800)),
    ];

    #[test]
    fn known_answers() {
        for (bits, temperature, expected) in KNOWN {
            let Surprisal { mass, g, term } =
                surprisal(f32::from_bits(bits), 0.0, Scale::new(temperature));
            assert_eq!((mass, g, term), expected, "{bits:08x} at {temperature}");
        }
    }

    #[test]
    fn the_first_token_has_none_and_no_token_has_less_than_the_one_before() {
        for temperature in [1e-30, 0.05, 0.7, 1.0, 1e4] {
            let scale = Scale::new(temperature);
            let first = surprisal(0.0, 0.0, scale);
            assert_eq!(first, Surprisal { mass: UNIT, g: 0, term: 0 });
            let mut last = 0;
            for bits in 0..0x7c00u16 {
                let x = -half::f16::from_bits(bits).to_f32();
                let Surprisal { mass: m, g, .. } = surprisal(x, 0.0, scale);
                assert!(g >= last && g < 1 << 28, "T {temperature}: {x} has {g} after {last}");
                assert_eq!(m, mass(x, 0.0, scale), "T {temperature}: {x}");
                last = g;
            }
            let nothing = surprisal(f32::NEG_INFINITY, 0.0, scale);
            assert_eq!((nothing.mass, nothing.term), (0, 0), "T {temperature}");
        }
    }

    #[test]
    fn a_term_is_mass_times_surprisal() {
        let scale = Scale::new(0.8);
        for i in 1..40_000 {
            let Surprisal { mass, g, term } = surprisal(i as f32 / -2048.0, 0.0, scale);
            // The mass is short of the power by less than a unit.
            let least = (u128::from(mass) * u128::from(g)) >> 18;
            let most = (u128::from(mass + 1) * u128::from(g)) >> 18;
            assert!((least..=most).contains(&u128::from(term)), "{i}: {mass} {g} {term}");
        }
    }
}
