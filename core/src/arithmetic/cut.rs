//! Where top-k, top-p and min-p cut. Every cut keeps a prefix of the total order; the shortest wins.

/// A nucleus as a 64-bit binary fraction of 1: `top_p * 2^64`, truncated. `top_p` in (0, 1).
#[inline]
pub fn top_p_fraction(top_p: f32) -> u64 {
    // The product is a power-of-two scaling, exact in f64; the cast truncates.
    (f64::from(top_p) * 18_446_744_073_709_551_616.0) as u64
}

/// The mass that a nucleus must reach: `max(1, ceil(top_p * mass))`, exactly.
///
/// `mass` is that of the tokens that top-k kept. The nucleus is the shortest prefix whose mass is
/// at least this.
#[inline]
pub fn top_p_target(fraction: u64, mass: u64) -> u64 {
    let product = u128::from(fraction) * u128::from(mass);
    ((product + u128::from(u64::MAX)) >> 64).max(1) as u64
}

/// The least `x - M` that min-p keeps: `ln(min_p) * T`, computed in f64 and rounded once.
/// `min_p` in (0, 1].
#[inline]
pub fn min_p_distance(min_p: f32, temperature: f32) -> f32 {
    (libm::log(f64::from(min_p)) * f64::from(temperature)) as f32
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_target_is_the_exact_ceiling() {
        let half = top_p_fraction(0.5);
        assert_eq!(half, 1 << 63);
        assert_eq!(top_p_target(half, 6), 3);
        assert_eq!(top_p_target(half, 7), 4);
        // Just below 1: all but 2^-24 of the mass.
        let most = top_p_fraction(f32::from_bits(0x3f7f_ffff));
        assert_eq!(most, u64::MAX << 40);
        assert_eq!(top_p_target(most, 1 << 60), (1 << 60) - (1 << 36));
        // Too small to be anything but the first token.
        assert_eq!(top_p_target(top_p_fraction(f32::from_bits(1)), 1 << 60), 1);
    }

    #[test]
    fn min_p_of_one_keeps_only_ties_of_the_maximum() {
        assert_eq!(min_p_distance(1.0, 0.7), 0.0);
    }
}
