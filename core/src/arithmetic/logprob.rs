//! The natural logarithm of a drawn token's probability among the kept tokens.

use super::mass::{Scale, UNIT};
use core::f64::consts::LN_2;

/// The logprob of a token with logit `x`, in a row with maximum `max` whose kept tokens have
/// `kept_mass`. Computed on the host in f64 with a pure-Rust logarithm: the same bits everywhere.
#[inline]
pub fn logprob(x: f32, max: f32, scale: Scale, kept_mass: u64) -> f32 {
    Logprobs::new(max, scale, kept_mass).of(x)
}

/// The logprobs of many tokens of one row: the logarithm of its mass is taken once.
#[derive(Clone, Copy, Debug)]
pub struct Logprobs {
    max: f32,
    scale: Scale,
    /// The natural logarithm of the mass, where that of the first token is 0.
    log_of_mass: f64,
}

impl Logprobs {
    /// Of the tokens of a row, as [`logprob`] has it.
    #[inline]
    pub fn new(max: f32, scale: Scale, kept_mass: u64) -> Self {
        let log_of_mass = libm::log(kept_mass as f64 / UNIT as f64);
        Self { max, scale, log_of_mass }
    }

    /// The logprob of a token with logit `x`.
    #[inline]
    pub fn of(&self, x: f32) -> f32 {
        let d = x - self.max;
        let log_mass = (f64::from(d) * f64::from(self.scale.c)) * LN_2;
        (log_mass - self.log_of_mass) as f32
    }
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
