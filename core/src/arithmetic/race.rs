//! The race: every kept token runs with an exponential noise of its own, and the fastest is drawn.
//!
//! Token `i` of mass `m_i` arrives after `E_i / m_i`, where `E_i` is exponentially distributed, and is first with
//! probability `m_i / W`: the distribution of a [cumulative](super::draw) draw. The noise is keyed by the token's
//! id and depends on no other token, so the winner moves as little as the masses do. No sum is in it: what wins is a
//! maximum, in any order.

use super::philox::{PURPOSE_RACE, PURPOSE_RACE_DRAFT, philox4x32_10};

/// Coefficients of the polynomial for `-log2(1 - y) / y` on (0, 1/2], from the constant term up.
pub const K: [f32; 9] = [
    f32::from_bits(0x3fb8_aa3b),
    f32::from_bits(0x3f38_a9e2),
    f32::from_bits(0x3ef6_6b68),
    f32::from_bits(0x3eb4_409f),
    f32::from_bits(0x3ec1_2234),
    f32::from_bits(0xbe7f_2349),
    f32::from_bits(0x3fdb_f9a6),
    f32::from_bits(0xc015_8fd4),
    f32::from_bits(0x4001_c1e8),
];

/// The word of the random counter that tells tokens apart. Tokens `2n` and `2n + 1` share one: each takes half of
/// what comes out.
#[inline(always)]
pub fn counter(token: u32) -> u32 {
    PURPOSE_RACE | (token >> 1) << 3
}

/// The 64 random bits of a token in one draw.
#[inline]
pub fn token_bits(seed: u64, position: u64, draw: u32, token: u32) -> u64 {
    bits(seed, position, draw, counter(token), token)
}

/// The same where a draft is drawn.
#[inline]
pub fn draft_bits(seed: u64, position: u64, draw: u32, token: u32) -> u64 {
    bits(seed, position, draw, counter(token) ^ PURPOSE_RACE ^ PURPOSE_RACE_DRAFT, token)
}

#[inline]
fn bits(seed: u64, position: u64, draw: u32, counter: u32, token: u32) -> u64 {
    let out = philox4x32_10(
        [position as u32, (position >> 32) as u32, draw, counter],
        [seed as u32, (seed >> 32) as u32],
    );
    let half = 2 * (token as usize & 1);
    u64::from(out[half]) | u64::from(out[half + 1]) << 32
}

/// `-log2(1 - bits / 2^64)`: exponentially distributed, above 0, at most 64.
///
/// Bits from 2^63 on are mirrored, so that what is close to 1 is as fine as what is close to 0: `1 - bits / 2^64` is
/// `2^-n` times what lies in (1/2, 1], and the polynomial sees no more than 1/2.
#[inline]
pub fn exponential(bits: u64) -> f32 {
    let (n, y64) = if bits < 1 << 63 {
        (0, bits)
    } else {
        let w = bits.wrapping_neg();
        let n = w.leading_zeros();
        (n, (w << n).wrapping_neg())
    };
    let low = (y64 as u32 | 1) as f32 * f32::from_bits(0x1f80_0000); // 2^-64
    let y = ((y64 >> 32) as u32 as f32).mul_add(f32::from_bits(0x2f80_0000), low); // 2^-32
    let p = K[..8].iter().rev().fold(K[8], |p, &k| p.mul_add(y, k));
    y.mul_add(p, n as f32)
}

/// What a token of that mass runs with: the greatest wins, and of equals the one with the lowest id. Without mass it
/// is 0, and less than every other.
#[inline]
pub fn ratio(mass: u64, bits: u64) -> f32 {
    // A mass has 24 bits that count: the conversion is exact.
    mass as f32 / exponential(bits)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::arithmetic::mass::UNIT;

    #[test]
    fn known_answers() {
        for (bits, expected) in [
            (0, 0x1fb8_aa3b),
            (1, 0x1fb8_aa3b),
            (1 << 32, 0x2fb8_aa3b),
            (4_611_686_018_427_400_249, 0x3ed4_7fcc),
            (6_398_368_922_848_072_845, 0x3f1d_51ae),
            ((1 << 63) - 1, 0x3f80_0000),
            (1 << 63, 0x3f80_0000),
            ((1 << 63) + 1, 0x3f80_0000),
            (3 << 62, 0x4000_0000),
            (u64::MAX, 0x4280_0000),
        ] {
            assert_eq!(exponential(bits).to_bits(), expected, "{bits}");
        }
    }

    #[test]
    fn close_to_the_logarithm() {
        let mut worst = 0.0f64;
        for i in 0..100_000u32 {
            let bits = token_bits(1, 2, 3, i);
            let exact = -(-(bits as f64) * 2f64.powi(-64)).ln_1p() / std::f64::consts::LN_2;
            worst = worst.max((f64::from(exponential(bits)) / exact - 1.0).abs());
        }
        assert!(worst < 4e-7, "relative error {worst:e}");
    }

    #[test]
    fn tokens_of_a_pair_have_bits_of_their_own_and_purposes_do_not_meet() {
        let bits: Vec<u64> = (0..64).map(|token| token_bits(7, 9, 0, token)).collect();
        let mut distinct = bits.clone();
        distinct.sort_unstable();
        distinct.dedup();
        assert_eq!(distinct.len(), bits.len());
        assert!((0..1 << 20).all(|token| counter(token) & 7 == PURPOSE_RACE));
        assert_ne!(counter(2), counter(4));
    }

    #[test]
    fn what_has_mass_wins_over_what_has_none() {
        assert_eq!(ratio(0, 0), 0.0);
        assert!(ratio(1, u64::MAX) > 0.0 && ratio(UNIT, 0).is_finite());
    }
}
