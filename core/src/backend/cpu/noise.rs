//! What the tokens of a race run with, vector by vector, and the one that is ahead.

use super::draw::Stream;
use super::simd::Simd;
use crate::arithmetic::philox::{PURPOSE_RACE, PURPOSE_RACE_DRAFT};
use crate::arithmetic::race::counter;

/// The fastest token so far.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Winner {
    pub ratio: f32,
    /// Its place in the row.
    pub index: u32,
    pub x: f32,
}

impl Winner {
    /// Slower than every token with mass.
    pub const NOBODY: Self = Self { ratio: 0.0, index: u32::MAX, x: 0.0 };

    /// The faster; of equals the first of the row, whose id is lower.
    #[inline(always)]
    pub fn or(self, other: Self) -> Self {
        let earlier = other.ratio == self.ratio && other.index < self.index;
        if other.ratio > self.ratio || earlier { other } else { self }
    }
}

/// The multipliers of Philox, and what its keys grow by.
const M: [u32; 2] = [0xd251_1f53, 0xcd9e_8d57];
const W: [u32; 2] = [0x9e37_79b9, 0xbb67_ae85];

/// Philox for the tokens of one draw, as far as they differ: vectors of the upper halves of their random bits.
///
/// A round makes `[b.hi ^ c1 ^ k0, b.lo, a.hi ^ c3 ^ k1, a.lo]` of `c`, with `a = c0 * M0` and `b = c2 * M1`. The token
/// is in `c3`: after the first round it is in `c2` alone, after the second in `c0` and `c1`, after the third in all but
/// `c1`.
pub struct Noise<S: Simd> {
    m: [S::I; 2],
    /// What the first round adds to the token's word: `a.hi ^ k1`.
    first: S::I,
    /// `c1 ^ k0` of the second.
    second: S::I,
    /// `b.hi ^ k0` and `c3 ^ k1` of the third.
    third: [S::I; 2],
    /// `c1 ^ k0` and `k1` of the fourth.
    fourth: [S::I; 2],
    /// The keys of the fifth to the ninth.
    keys: [[S::I; 2]; 5],
}

impl<S: Simd> Noise<S> {
    #[inline(always)]
    pub fn new(s: S, stream: Stream, draw: u32) -> Self {
        let wide = |a: u32, b: u32| {
            let product = u64::from(a) * u64::from(b);
            ((product >> 32) as u32, product as u32)
        };
        let key = |round: u32, i: usize| {
            ((stream.seed >> (32 * i)) as u32).wrapping_add(W[i].wrapping_mul(round))
        };
        let (c0, c1) = (stream.position as u32, (stream.position >> 32) as u32);
        let (a, b) = (wide(c0, M[0]), wide(draw, M[1]));
        // The purpose is in the lowest bits of the token's word, and that of drafts differs in bits that tokens do not have.
        let purpose = if stream.is_draft { PURPOSE_RACE ^ PURPOSE_RACE_DRAFT } else { 0 };
        let first = a.0 ^ key(0, 1) ^ purpose;
        let (c0, c1, c3) = (b.0 ^ c1 ^ key(0, 0), b.1, a.1);
        let a = wide(c0, M[0]);
        let second = c1 ^ key(1, 0);
        let (c2, c3) = (a.0 ^ c3 ^ key(1, 1), a.1);
        let b = wide(c2, M[1]);
        let splat = |x| s.splat_u32(x);
        Self {
            m: M.map(splat),
            first: splat(first),
            second: splat(second),
            third: [b.0 ^ key(2, 0), c3 ^ key(2, 1)].map(splat),
            fourth: [b.1 ^ key(3, 0), key(3, 1)].map(splat),
            keys: [4, 5, 6, 7, 8].map(|round| [key(round, 0), key(round, 1)].map(splat)),
        }
    }

    /// For the counters in the even lanes, and in the even lanes only: words 1 and 3 of what comes out.
    #[inline(always)]
    fn words(&self, s: S, counter: S::I) -> (S::I, S::I) {
        let [m0, m1] = self.m;
        let b = s.mul_even(s.xor(counter, self.first), m1);
        let a = s.mul_even(s.xor(s.odd_lanes(b), self.second), m0);
        let (c0, c2, c3) = (s.xor(b, self.third[0]), s.xor(s.odd_lanes(a), self.third[1]), a);
        let (a, b) = (s.mul_even(c0, m0), s.mul_even(c2, m1));
        let (mut c0, mut c1) = (s.xor(s.odd_lanes(b), self.fourth[0]), b);
        let (mut c2, mut c3) = (s.xor(s.xor(s.odd_lanes(a), c3), self.fourth[1]), a);
        for [k0, k1] in self.keys {
            let (a, b) = (s.mul_even(c0, m0), s.mul_even(c2, m1));
            (c0, c1) = (s.xor(s.xor(s.odd_lanes(b), c1), k0), b);
            (c2, c3) = (s.xor(s.xor(s.odd_lanes(a), c3), k1), a);
        }
        let _ = (c1, c3);
        (s.mul_even(c2, m1), s.mul_even(c0, m0))
    }

    /// For pairs of tokens by their [`counter`]s: those with even ids, and those with odd ones.
    #[inline(always)]
    pub fn top_by_counter(&self, s: S, counter: S::I) -> (S::I, S::I) {
        let first = self.words(s, counter);
        let second = self.words(s, s.odd_lanes(counter));
        (s.join_even(first.0, second.0), s.join_even(first.1, second.1))
    }

    /// For tokens by their ids.
    #[inline(always)]
    pub fn top(&self, s: S, id: S::I) -> S::I {
        let pair = s.shift_left::<3>(s.shift_right::<1>(id));
        let (even, odd) = self.top_by_counter(s, s.add(pair, s.splat_u32(counter(0))));
        let is_even = s.add(s.and(id, s.splat_u32(1)), s.splat_u32(u32::MAX));
        s.xor(s.and(s.xor(even, odd), is_even), odd)
    }

    /// For two vectors of tokens with consecutive ids from an even one on.
    #[inline(always)]
    pub fn top_of_pairs(&self, s: S, first: u32) -> (S::I, S::I) {
        let pairs = s.shift_left::<3>(s.iota());
        let (even, odd) = self.top_by_counter(s, s.add(pairs, s.splat_u32(counter(first))));
        s.interleave(even, odd)
    }
}

#[cfg(test)]
mod tests {
    use super::super::portable::Portable;
    use super::*;

    #[test]
    fn noise_is_the_upper_half_of_the_random_bits() {
        let seeds = [(0, 0, 0), (7, 9, 3), (u64::MAX, 1 << 40, 1023), (1 << 33, u64::MAX, 1)];
        for (seed, position, draw) in seeds {
            for is_draft in [false, true] {
                let stream = Stream { seed, position, is_draft };
                let noise = Noise::new(Portable, stream, draw);
                let expected = |id| (stream.race_bits(draw, id) >> 32) as u32;
                let ids = [0, 1, 2, 3, 511, 512, 70_001, (1 << 20) - 1];
                assert_eq!(noise.top(Portable, ids), ids.map(expected));
                let (first, second) = noise.top_of_pairs(Portable, 1000);
                let got: Vec<u32> = first.into_iter().chain(second).collect();
                assert!(got.into_iter().eq((1000..1016).map(expected)), "seed {seed}");
            }
        }
    }
}
