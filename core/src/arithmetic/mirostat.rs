//! Mirostat 2: keeps tokens up to a surprisal, which follows what is drawn.

use super::log2::log2_mass;

/// 2^32: units of a surprisal in a bit.
const BIT: f64 = 4_294_967_296.0;

/// The state of a sequence that has none yet.
pub fn beginning(tau: f32) -> f32 {
    2.0 * tau
}

/// The greatest surprisal that is kept, as a token's `g`, of tokens with that mass together; below 0 is none.
pub fn most(mu: f32, mass: u64) -> i64 {
    // The cast saturates.
    let mu = (f64::from(mu) * BIT).floor() as i64;
    let most = i128::from(mu) - i128::from(log2_mass(mass));
    (most >> 10).clamp(i128::from(i64::MIN), i128::from(i64::MAX)) as i64
}

/// The state after a token was drawn, whose `g` and the mass that it was drawn from are given.
pub fn next(mu: f32, eta: f32, tau: f32, g: u32, mass: u64) -> f32 {
    let surprisal = log2_mass(mass) + (i64::from(g) << 10);
    let error = surprisal as f64 / BIT - f64::from(tau);
    (f64::from(mu) - f64::from(eta) * error) as f32
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::arithmetic::mass::UNIT;

    #[test]
    fn keeps_up_to_that_many_bits() {
        assert_eq!(most(3.0, UNIT), 3 << 22);
        // Of two equal tokens, one bit is each token's own.
        assert_eq!((most(3.0, 2 * UNIT), most(0.5, 2 * UNIT)), (2 << 22, -(1 << 21)));
        assert!(most(f32::MAX, UNIT) > 1 << 28 && most(f32::MIN, 1) < 0);
    }

    #[test]
    fn follows_what_is_drawn() {
        assert_eq!(beginning(2.5), 5.0);
        // Three bits where two were wanted.
        assert_eq!(next(5.0, 0.5, 2.0, 2 << 22, 2 * UNIT), 4.5);
        assert_eq!(next(5.0, 0.5, 2.0, 0, UNIT), 6.0);
    }
}
