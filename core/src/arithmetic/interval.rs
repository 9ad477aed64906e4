//! What an interval of the total order says of itself: its mass, its mean surprisal, its entropy. All from two sums.

use super::log2::log2_mass;
use super::surprisal::Surprisal;
use core::f64::consts::LN_2;

/// 2^-32: a unit of an entropy, in bits.
const UNIT_BITS: f64 = 1.0 / 4_294_967_296.0;

/// The sums over an interval. They have no order, as all sums here.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Interval {
    /// W: the mass of its tokens, in units of 2^-40.
    pub mass: u64,
    /// E: their mass times surprisal, in units of 2^-44.
    pub term: u64,
}

impl Interval {
    /// With one more token.
    #[inline]
    pub fn with(self, token: Surprisal) -> Self {
        Self { mass: self.mass + token.mass, term: self.term + token.term }
    }

    /// A: the mean surprisal of its tokens, each counted by its mass, in units of 2^-22 bit. `mass` is not 0.
    pub fn mean(self) -> u64 {
        // 2^18 is from units of 2^-44 to those of 2^-62, which the mass's take to 2^-22.
        self.term_by_mass(18)
    }

    /// H: the entropy of its tokens, in units of 2^-32 bit. `mass` is not 0.
    pub fn entropy(self) -> u64 {
        let mean = i128::from(self.term_by_mass(28));
        // The logarithm is truncated and so are masses: what is 0 could come out below it.
        (i128::from(log2_mass(self.mass)) + mean).clamp(0, i128::from(u64::MAX)) as u64
    }

    /// `floor(term * 2^shift / mass)`. The product does not fit 64 bits.
    fn term_by_mass(self, shift: u32) -> u64 {
        let quotient = (u128::from(self.term) << shift) / u128::from(self.mass);
        // Beyond 64 bits only where all but a few units of mass are cut off.
        u64::try_from(quotient).unwrap_or(u64::MAX)
    }
}

/// An entropy in nats.
pub fn nats(entropy: u64) -> f32 {
    (entropy as f64 * UNIT_BITS * LN_2) as f32
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::arithmetic::mass::{Scale, UNIT};
    use crate::arithmetic::surprisal::surprisal;

    fn of(x: &[f32], temperature: f32) -> Interval {
        let max = x.iter().copied().fold(f32::NEG_INFINITY, f32::max);
        let scale = Scale::new(temperature);
        x.iter().map(|&x| surprisal(x, max, scale)).fold(Interval::default(), Interval::with)
    }

    fn halves(bits: &[u16]) -> Vec<f32> {
        bits.iter().map(|&bits| half::f16::from_bits(bits).to_f32()).collect()
    }

    /// Rows of an independent implementation.
    const SPREAD: [u16; 40] = [
        0xbc7d, 0xba23, 0x41a1, 0x442d, 0xc440, 0x32f5, 0x45a3, 0x414c, 0xc521, 0x42ad, 0xbf62,
        0xc1aa, 0x3cc6, 0x341a, 0xbc13, 0x4434, 0x3fe7, 0xb913, 0x3899, 0xc19a, 0xb9a9, 0x4009,
        0x404b, 0x3fff, 0x4336, 0xb4cc, 0xc2e7, 0x4496, 0x44d8, 0xc48d, 0xc126, 0xc129, 0xbfd1,
        0xbdfb, 0xc211, 0xbed8, 0x40d8, 0x44cc, 0xc1a3, 0x4117,
    ];
    const PEAKED: [u16; 31] = [
        0x4a00, 0x372e, 0x3547, 0x36db, 0xb1fc, 0xab73, 0x3db0, 0x353e, 0xacef, 0xb9b3, 0x33c7,
        0xbe4d, 0x3bd1, 0x1ff0, 0xb75b, 0x3c0f, 0x3d1a, 0x3813, 0xacd2, 0x3a6d, 0xb928, 0xb618,
        0x42a8, 0xbc10, 0x404d, 0x3d94, 0x338c, 0x2429, 0xbc01, 0x34e7, 0x3ef7,
    ];

    #[test]
    fn known_answers() {
        let (spread, peaked) = (halves(&SPREAD), halves(&PEAKED));
        for (row, temperature, expected) in [
            (&spread, 1.0, (3_608_932_684_770, 88_292_070_628_353, 6_413_319, 13_931_859_333)),
            (&spread, 0.6, (2_154_355_391_566, 46_539_827_642_975, 5_663_010, 9_966_730_376)),
            (&peaked, 1.0, (1_100_065_216_201, 130_575_298_856, 31_115, 34_981_669)),
            (&peaked, 0.6, (1_099_512_480_822, 304_891_428, 72, 79_243)),
        ] {
            let all = of(row, temperature);
            assert_eq!((all.mass, all.term, all.mean(), all.entropy()), expected, "{temperature}");
        }
    }

    #[test]
    fn entropy_is_that_of_the_textbook() {
        for temperature in [0.3f32, 1.0, 7.0] {
            let row = halves(&SPREAD);
            let p: Vec<f64> =
                row.iter().map(|&x| (f64::from(x) / f64::from(temperature)).exp()).collect();
            let sum: f64 = p.iter().sum();
            let exact: f64 = p.iter().map(|p| -(p / sum) * (p / sum).ln()).sum();
            let got = f64::from(nats(of(&row, temperature).entropy()));
            assert!((got - exact).abs() < 1e-6, "T {temperature}: {got} {exact}");
        }
    }

    #[test]
    fn of_equal_tokens_the_entropy_is_the_logarithm_of_their_number() {
        let flat = of(&[2.5; 1 << 10], 0.7);
        assert_eq!(flat, Interval { mass: UNIT << 10, term: 0 });
        assert_eq!((flat.mean(), flat.entropy()), (0, 10 << 32));
        assert_eq!(nats(flat.entropy()), 10.0 * core::f32::consts::LN_2);
        assert_eq!(of(&[2.5], 0.7).entropy(), 0);
    }

    #[test]
    fn sums_of_the_largest_row_do_not_overflow() {
        // The largest term there is, of nearly every token: x * 2^-x is greatest at 1 / ln 2.
        let scale = Scale::new(1.0);
        let token = (0..4096).map(|i| surprisal(i as f32 / -1024.0, 0.0, scale));
        let most = token.max_by_key(|token| token.term).expect("some");
        let all = Interval {
            mass: most.mass.checked_mul(1 << 20).expect("64 bits"),
            term: most.term.checked_mul(1 << 20).expect("64 bits"),
        };
        // 28 more bits would not fit.
        assert!(all.term.leading_zeros() < 28);
        assert!(all.mean().abs_diff(u64::from(most.g)) <= 1, "{} {}", all.mean(), most.g);
        assert!(all.entropy() > 20 << 32);
    }

    #[test]
    fn what_is_cut_off_below_zero_is_zero() {
        // A mass short of the unit, by itself.
        let short = Interval { mass: UNIT - 1, term: 0 };
        assert!(log2_mass(short.mass) < 0);
        assert_eq!(short.entropy(), 0);
    }
}
