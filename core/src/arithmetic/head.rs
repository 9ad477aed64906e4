//! Top-h: the first tokens that have a share of the entropy of the first [`TOKENS`].

use super::fraction::q64;
use super::log2::log2_mass;

/// How many first tokens it looks at.
pub const TOKENS: usize = 100;

/// How many of these tokens are kept: the longest prefix whose sum is at most that share of all, and at least one. Masses
/// and surprisals of the first tokens, in order.
pub fn top_h(h: f32, tokens: impl Iterator<Item = (u64, u32)> + Clone) -> usize {
    let mass = tokens.clone().map(|(mass, _)| mass).sum();
    let u = log2_mass(mass) >> 10;
    let parts = tokens.map(|(mass, g)| u128::from(mass) * (u + i64::from(g)) as u128);
    let all: u128 = parts.clone().sum();
    // The greatest sum of which 2^64 is at most q64(h) of all: products by halves, since all has up to 72 bits.
    let (high, low) = (all >> 64, all & u128::from(u64::MAX));
    let most = q64(h) * high + ((q64(h) * low) >> 64);
    let sums = parts.scan(0, |sum, part| {
        *sum += part;
        Some(*sum)
    });
    sums.take_while(|sum| *sum <= most).count().max(1)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::arithmetic::mass::UNIT;

    #[test]
    fn of_equal_tokens_it_keeps_that_share() {
        let equal = |n: usize| std::iter::repeat_n((UNIT, 0), n);
        assert_eq!(top_h(0.5, equal(100)), 50);
        assert_eq!(top_h(0.001, equal(100)), 1);
        assert_eq!(top_h(1.0, equal(100)), 100);
        // No entropy: all of it is a share.
        assert_eq!(top_h(0.5, equal(1)), 1);
    }

    #[test]
    fn tokens_without_mass_have_no_entropy() {
        let tokens = [(UNIT, 0), (0, 60 << 22), (0, 61 << 22)];
        assert_eq!(top_h(0.5, tokens.into_iter()), 3);
    }
}
