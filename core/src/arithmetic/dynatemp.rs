//! Dynamic temperature: a temperature that follows the entropy of a row.

use super::log2::log2;
use super::power::pow2;

/// 1, in units of 2^-32.
const ONE: u64 = 1 << 32;
/// 2^-40.
const UNIT: f64 = 1.0 / 1_099_511_627_776.0;
/// The least temperature, unless the row's own is lower.
const LEAST: f32 = 1e-4;
/// The greatest.
const MOST: f32 = 1e4;

/// The temperature between `temperature - range` and `temperature + range` of a row with so many candidates, whose entropy at
/// temperature 1 is given in units of 2^-32 bit.
pub fn temperature(temperature: f32, range: f32, exponent: f32, count: u64, entropy: u64) -> f32 {
    if count < 2 {
        return temperature;
    }
    let normalised = (u128::from(entropy) << 32) / u128::from(log2(count));
    let ratio = power(normalised.min(u128::from(ONE)) as u64, exponent);
    let low = f64::from((temperature - range).max(0.0));
    let high = f64::from(temperature + range);
    ((low + (high - low) * ratio) as f32).clamp(temperature.min(LEAST), MOST)
}

/// A number of [0, 1] in units of 2^-32 to some power.
fn power(r: u64, exponent: f32) -> f64 {
    if r == 0 {
        return 0.0;
    }
    let bits = (log2(ONE) - log2(r)) as f64 * f64::from(exponent);
    let bits = bits.min(1_099_511_627_776.0) / 1024.0;
    pow2(bits as u64) as f64 * UNIT
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn follows_the_entropy() {
        let of = |entropy| temperature(1.0, 0.5, 1.0, 16, entropy);
        assert_eq!((of(0), of(2 << 32), of(4 << 32), of(5 << 32)), (0.5, 1.0, 1.5, 1.5));
        assert_eq!(temperature(1.0, 0.5, 2.0, 16, 2 << 32), 0.75);
        assert_eq!(temperature(1.0, 0.5, 1.0, 1, 0), 1.0);
    }

    #[test]
    fn stays_within_what_temperatures_can_be() {
        assert_eq!(temperature(0.5, 1.0, 1.0, 16, 0), 1e-4);
        assert_eq!(temperature(1e-6, 1.0, 1.0, 16, 0), 1e-6);
        assert_eq!(temperature(1e4, 100.0, 1.0, 16, 4 << 32), 1e4);
    }
}
