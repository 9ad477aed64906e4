//! The binary logarithm of an integer, bit by bit.

/// The bits of a logarithm behind the point.
const FRACTION_BITS: u32 = 32;
/// `log2(2^40)` in units of 2^-32.
const LOG2_OF_UNIT: u64 = 40 << FRACTION_BITS;

/// `log2(w)` in units of 2^-32, truncated. `w` is at least 1.
///
/// The power of two comes first. What is left lies in [1, 2); squaring it doubles its logarithm, so that each square
/// that reaches 2 gives a 1 bit, and is halved. Squares lose what does not fit 64 bits: the result is exact, or a
/// unit below.
pub fn log2(w: u64) -> u64 {
    debug_assert_ne!(w, 0, "0 has no logarithm");
    let mut a = w << w.leading_zeros();
    let mut result = u64::from(w.ilog2());
    for _ in 0..FRACTION_BITS {
        let square = u128::from(a) * u128::from(a);
        let bit = (square >> 127) as u64;
        a = (square >> (63 + bit)) as u64;
        result = result << 1 | bit;
    }
    result
}

/// `log2(w / 2^40)` in units of 2^-32: the logarithm of a mass of 1 or more, where that of a row's first token
/// is 0.
pub fn log2_mass(w: u64) -> i64 {
    log2(w) as i64 - LOG2_OF_UNIT as i64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn known_answers() {
        for (w, expected) in [
            (1, 0),
            (2, 1 << 32),
            (3, 6_807_362_105),
            (5, 9_972_605_231),
            (1000, 42_802_717_581),
            (1 << 40, LOG2_OF_UNIT),
            ((1 << 40) + 1, 171_798_691_840),
            ((1 << 60) - 1, 257_698_037_759),
            (1_000_000_000_000_000_000, 256_816_305_489),
            (195_686_076_556_228_268, 246_708_585_350),
        ] {
            assert_eq!(log2(w), expected, "{w}");
        }
        assert_eq!(log2_mass(1 << 40), 0);
        assert_eq!(log2_mass(1), -(LOG2_OF_UNIT as i64));
    }

    #[test]
    fn a_unit_below_the_logarithm_at_most() {
        let mut w = 1u64;
        for i in 0..2000 {
            let exact = (w as f64).log2() * 4_294_967_296.0;
            let error = log2(w) as f64 - exact;
            assert!((-1.001..=0.001).contains(&error), "{w}: {error}");
            w = w.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(i) >> (i % 60);
            w = w.max(1);
        }
        assert_eq!(log2(u64::MAX), (64 << 32) - 1);
    }
}
