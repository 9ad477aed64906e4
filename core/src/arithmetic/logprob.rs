//! The natural logarithm of a drawn token's probability among the kept tokens.

use super::mass::{Scale, UNIT};
use core::f64::consts::LN_2;

/// The logprob of a token with logit `x`, in a row with maximum `max` whose kept tokens have
/// `kept_mass`. Computed on the host in f64 with a pure-Rust logarithm: the same bits everywhere.
#[inline]
pub fn logprob(x: f32, max: f32, scale: Scale, kept_mass: u64) -> f32 {
    let d = x - max;
    let log_mass = (f64::from(d) * f64::from(scale.c)) * LN_2;
    (log_mass - libm::log(kept_mass as f64 / UNIT as f64)) as f32
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_a_lone_token_is_zero_and_of_two_equals_is_ln_half() {
        let scale = Scale::new(0.9);
        assert_eq!(logprob(3.0, 3.0, scale, UNIT).to_bits(), 0);
        assert_eq!(logprob(3.0, 3.0, scale, 2 * UNIT), (-core::f64::consts::LN_2) as f32);
    }
}
