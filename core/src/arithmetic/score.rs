//! A log-probability as an integer, so that sums of many have no order.

use super::log2::log2_mass;

/// The units of a score in a nat: 2^32.
const NAT: f64 = 4_294_967_296.0;
/// The natural logarithm of 2 in units of 2^-64.
const LN_2_Q64: i128 = 0xb172_17f7_d1cf_79ab;
/// What distances are clamped to: their scores stay within 61 bits.
const FAR: f32 = 268_435_456.0; // 2^28

/// The natural logarithm of a token's probability, in units of 2^-32.
///
/// `distance` is its `x - M`, `temperature` is above 0, and `mass` (1 or more) is that of the tokens it is drawn from.
pub fn score(distance: f32, temperature: f32, mass: u64) -> i64 {
    Scores::new(temperature, mass).of(distance)
}

/// The scores of tokens that are drawn from the same ones: the logarithm of their mass is taken once.
#[derive(Clone, Copy, Debug)]
pub struct Scores {
    temperature: f32,
    of_mass: i64,
}

impl Scores {
    /// As [`score`] takes them.
    pub fn new(temperature: f32, mass: u64) -> Self {
        let of_mass = (i128::from(log2_mass(mass)) * LN_2_Q64) >> 64;
        Self { temperature, of_mass: of_mass as i64 }
    }

    /// That of a token at this distance.
    pub fn of(&self, distance: f32) -> i64 {
        let far = f64::from(FAR);
        let of_token =
            (f64::from(distance.max(-FAR)) / f64::from(self.temperature)).clamp(-far, far);
        (of_token * NAT).round_ties_even() as i64 - self.of_mass
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::arithmetic::mass::UNIT;

    #[test]
    fn of_a_lone_token_is_zero_and_of_two_equals_is_ln_half() {
        assert_eq!(score(0.0, 0.9, UNIT), 0);
        assert_eq!(score(0.0, 0.9, 2 * UNIT), -(LN_2_Q64 >> 32) as i64);
    }

    #[test]
    fn is_the_textbooks() {
        for temperature in [0.3f32, 1.0, 2.5] {
            for (distance, mass) in [(-0.5f32, UNIT), (-3.0, 9 * UNIT / 4), (-20.0, UNIT << 10)] {
                let ln_mass = (mass as f64 / UNIT as f64).ln();
                let exact = f64::from(distance) / f64::from(temperature) - ln_mass;
                let got = score(distance, temperature, mass) as f64 / NAT;
                assert!((got - exact).abs() < 1e-9, "{distance} {temperature}: {got} {exact}");
            }
        }
    }

    #[test]
    fn nothing_is_too_far() {
        let least = -(1i64 << 60);
        assert_eq!(score(f32::MIN, 1.0, UNIT), least);
        assert_eq!(score(-1.0, 1e-30, UNIT), least);
        assert!(score(f32::MIN, 1.0, UNIT << 20) < least);
    }
}
