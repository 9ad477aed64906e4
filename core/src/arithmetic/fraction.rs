//! Parameters in [0, 1] as exact fractions, and the share of a mass that one of them names.

/// 2^64: the whole.
const WHOLE: f64 = 18_446_744_073_709_551_616.0;

/// A parameter in [0, 1] in units of 2^-64, truncated. It has 65 bits: that of 1 is 2^64.
#[inline]
pub fn q64(p: f32) -> u128 {
    // The product is a power-of-two scaling, exact in f64; the cast truncates.
    (f64::from(p) * WHOLE) as u128
}

/// The least mass that is at least this fraction of `mass`, and at least 1: a token without mass has no share.
///
/// `fraction` is at most 2^64, `mass` at most 2^60.
#[inline]
pub fn share(fraction: u128, mass: u64) -> u64 {
    let product = fraction * u128::from(mass);
    ((product + u128::from(u64::MAX)) >> 64).max(1) as u64
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::arithmetic::cut::{top_p_fraction, top_p_target};

    #[test]
    fn the_fraction_of_one_is_the_whole() {
        assert_eq!(q64(1.0), 1 << 64);
        assert_eq!(q64(0.5), 1 << 63);
        assert_eq!(q64(0.0), 0);
        // Below 2^-64 nothing is left, and the share is still one unit.
        assert_eq!(q64(f32::from_bits(1)), 0);
        assert_eq!(share(0, 1 << 60), 1);
        assert_eq!(share(q64(1.0), 1 << 60), 1 << 60);
        assert_eq!(share(q64(1.0), 1), 1);
    }

    #[test]
    fn a_share_is_rounded_up() {
        assert_eq!([6, 7].map(|mass| share(q64(0.5), mass)), [3, 4]);
        // 0.1 is 0.100000001 as an f32, so a tenth of ten units is two of them.
        assert_eq!(share(q64(0.1), 10), 2);
    }

    #[test]
    fn a_nucleus_is_a_share() {
        for p in [f32::from_bits(1), 1e-20, 0.1, 0.9, f32::from_bits(0x3f7f_ffff)] {
            for mass in [1, 1000, (1 << 40) + 1, 1 << 60] {
                assert_eq!(
                    share(q64(p), mass),
                    top_p_target(top_p_fraction(p), mass),
                    "{p} {mass}"
                );
            }
        }
    }
}
