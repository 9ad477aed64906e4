//! Whether a row takes a drafted token by rejection, and what it draws from where it does not.
//!
//! Both distributions are masses and their sum, integers of at most 2^60: no probability is rounded. Taken with real random
//! numbers, the masses that are accepted and those of the residual add up to the target's, token by token; the 64 random
//! bits miss that by at most 2^-64.

use super::fraction::{q64, share};
use super::interval::Interval;
use super::power::pow2;

/// A token's mass, and the sum over all tokens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Share {
    /// At most `total`.
    pub mass: u64,
    /// Above 0, at most 2^60.
    pub total: u64,
}

/// Whether a draft with `q` of its distribution is taken by a row that has `p` of it: with probability `p / q`, if that is
/// less than 1. A token that the draft's distribution does not have was not drawn from it, and is not taken.
#[inline]
pub fn accepts(bits: u64, p: Share, q: Share) -> bool {
    // bits * W * d < 2^64 * m * D, and the right side is a multiple of 2^64.
    q.mass > 0 && scaled(product(p.total, q.mass), bits) < product(p.mass, q.total)
}

/// What is left of a token when what the draft covers is taken off, in units that all tokens of a row share.
#[inline]
pub fn residual(p: Share, q: Share) -> u128 {
    product(p.mass, q.total).saturating_sub(product(q.mass, p.total))
}

/// `floor(value * bits / 2^64)`: a place below `value`, which is at most 2^120.
#[inline]
pub fn scaled(value: u128, bits: u64) -> u128 {
    let bits = u128::from(bits);
    let (high, low) = (value >> 64, value & u128::from(u64::MAX));
    high * bits + ((low * bits) >> 64)
}

/// Whether a draft's mass is likely enough, of what is kept with these sums: a probability of `epsilon`, or of `delta * exp(-H)` if
/// that is less. Without a mass it is not.
pub fn likely_enough(mass: u64, all: Interval, epsilon: f32, delta: f32) -> bool {
    let of_entropy = (q64(delta) * u128::from(pow2(all.mean()))).div_ceil(1 << 64) as u64;
    mass >= share(q64(epsilon), all.mass).min(of_entropy.max(1))
}

fn product(a: u64, b: u64) -> u128 {
    u128::from(a) * u128::from(b)
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn share(mass: u64, total: u64) -> Share {
        Share { mass, total }
    }

    #[test]
    fn places_stay_below_the_value() {
        assert_eq!(scaled(0, u64::MAX), 0);
        assert_eq!(scaled(1, u64::MAX), 0);
        assert_eq!(scaled(1 << 120, 1 << 63), 1 << 119);
        assert_eq!(scaled((1 << 120) - 1, u64::MAX), (1 << 120) - 1 - (1 << 56));
        assert_eq!(scaled(u128::from(u64::MAX), 3), 2);
    }

    #[test]
    fn a_draft_is_taken_as_often_as_the_ratio_says() {
        // p is a quarter, q a half: bits below a half.
        let (p, q) = (share(1 << 38, 1 << 40), share(5, 10));
        assert!(accepts((1 << 63) - 1, p, q));
        assert!(!accepts(1 << 63, p, q));
        // What the target likes better is always taken, what the draft cannot have drawn never.
        assert!(accepts(u64::MAX, share(6, 10), share(1 << 58, (1 << 59) + 1)));
        assert!(accepts(u64::MAX, share(1, 2), share(1, 2)));
        assert!(!accepts(0, share(1, 1), share(0, 3)));
        assert!(!accepts(0, share(0, 3), share(1, 1)));
    }

    #[test]
    fn the_residual_is_what_the_draft_has_too_little_of() {
        assert_eq!(residual(share(3, 4), share(1, 2)), 2);
        assert_eq!(residual(share(1, 4), share(1, 2)), 0);
        let most = share((1 << 60) - 1, (1 << 60) - 1);
        assert_eq!(residual(most, share(0, most.total)), u128::from(most.total).pow(2));
    }
}
