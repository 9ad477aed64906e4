//! The draws of a row by race: each token's noise, and the token that runs fastest.
//!
//! ```text
//! list the kept tokens that have mass
//! for each draw
//!     best = 0
//!     for each vector of tokens
//!         top = the upper 32 of the 64 random bits of each, by its id
//!         if some mass * 2^32 / top may exceed best: the exact ratio of those, and the new best
//! ```
//!
//! 1. A ratio is exact only where it may win. `-log2(1 - u) >= u / ln 2`, so a token whose `mass / u` does not reach
//!    `best` cannot: its ratio is at most 0.7 of that, and the roundings of the comparison are a millionth. What is left
//!    for the polynomial and the division is about as many tokens as there are records in a sequence, its logarithm.
//! 2. Of the 64 random bits the comparison takes 24, and of a mass its upper part, plus one: both to the safe side.
//! 3. The word of the counter that tells tokens apart is the last, so that most of Philox's first three rounds is the
//!    same for all tokens ([`Noise`]), and of the last round one product is enough. That leaves 14 wide products and one
//!    narrow one a token, where ten rounds have 20.
//! 4. Two neighbouring tokens share their counter. A list that was cut rarely has both, so each token asks for itself;
//!    where a whole vector of pairs is there, as in rows that are kept whole, it is asked for once
//!    ([`Noise::top_of_pairs`]).
//! 5. Every draw goes over the list again. The winner is a maximum, so that threads take parts of the list and their
//!    winners are compared.
//!
//! Floor of 8 tokens in AVX2: a wide product is 7 instructions, a round's exclusive ors are 4: 133 with the last
//! product and selection, and 9 for the comparison. In AVX-512 a wide product is 5, and the ors fuse to 2: 93 for 16
//! tokens.

use super::blocks::BLOCK;
use super::cut::{Cut, above};
use super::draw::Stream;
use super::element::Element;
use super::list::{List, Lists, lowest};
use super::passes::ScannedRow;
use super::search::Kept;
use super::simd::{Kernel, Simd};
use crate::arithmetic::logprob::logprob;
use crate::arithmetic::race::{counter, ratio, token_bits};
use crate::batch::{Draw, Row};
use std::ops::Range;

/// Blocks of a list that are worth a thread's while, for one draw.
const RACE_BLOCKS_MIN: usize = 32;
/// Ids after the last, so that whole vectors can be read there.
const SLACK: usize = 16;

/// Memory for races.
#[derive(Default)]
pub struct Buffers {
    lists: Lists,
    /// The tokens' own ids, where a row has such.
    ids: Vec<u32>,
    /// Of each thread's part of the list, the winner of every draw.
    winners: Vec<Winner>,
}

/// The fastest token so far: its ratio, and its place in the list.
#[derive(Clone, Copy)]
struct Winner {
    ratio: f32,
    place: usize,
}

impl Winner {
    /// Slower than every token with mass.
    const NOBODY: Self = Self { ratio: 0.0, place: 0 };

    /// The faster; of equals the first, whose id is lower.
    fn or(self, later: Self) -> Self {
        if later.ratio > self.ratio { later } else { self }
    }
}

/// Takes every draw from the kept tokens, and returns their mass.
pub fn race<S: Simd, E: Element>(
    scanned: &ScannedRow<'_, S, E>,
    row: &Row<'_>,
    kept: Kept<'_>,
    stream: Stream,
    buffers: &mut Buffers,
    draws: &mut [Draw],
) -> u64 {
    let Buffers { lists, ids, winners } = buffers;
    let (list, kept_mass) = match kept {
        Kept::List(list) => (list, (0..list.len()).map(|i| list.mass(i)).sum()),
        Kept::Blocks { cut, masses, .. } => {
            let (list, _) = list_weighed(scanned, cut, lists);
            (list, masses.iter().sum())
        }
        Kept::Whole { .. } => list_weighed(scanned, Cut::ties(lowest::<E>()), lists),
    };
    let ids = ids_of(row, list, ids);
    run(scanned, list, ids, stream, winners, draws.len());
    let each = draws.len();
    for (draw, place) in draws.iter_mut().enumerate() {
        let of_parts = winners.iter().skip(draw).step_by(each);
        let i = of_parts.fold(Winner::NOBODY, |best, winner| best.or(*winner)).place;
        // As in the draws by mass: -0.0 is 0.0.
        let (x, weights) = (list.x()[i] + 0.0, scanned.weights);
        let logprob = logprob(x, weights.max, weights.scale, kept_mass);
        *place = Draw { token: list.ids()[i], logprob };
    }
    kept_mass
}

/// Lists the tokens up to a cut that can have mass, and weighs them. What is left out has none, and cannot win.
fn list_weighed<'b, S: Simd, E: Element>(
    row: &ScannedRow<'_, S, E>,
    cut: Cut,
    lists: &'b mut Lists,
) -> (&'b List, u64) {
    let with_mass = row.weights.massless::<E>().and_then(above::<E>).map(Cut::ties);
    let cut = with_mass.map_or(cut, |with_mass| cut.tighter(with_mass));
    let list = row.collect(cut, usize::MAX, lists);
    let mass = row.weigh(list);
    (list, mass)
}

/// The ids that the noise belongs to, and some more.
fn ids_of<'b>(row: &Row<'_>, list: &'b List, ids: &'b mut Vec<u32>) -> &'b [u32] {
    if !row.has_ids() {
        return list.ids_and_slack();
    }
    ids.clear();
    ids.extend(list.ids().iter().map(|&index| row.id(index)));
    ids.resize(list.len() + SLACK, 0);
    ids
}

/// Finds the winner of every draw, part by part of the list.
fn run<S: Simd, E: Element>(
    row: &ScannedRow<'_, S, E>,
    list: &List,
    ids: &[u32],
    stream: Stream,
    winners: &mut Vec<Winner>,
    draws: usize,
) {
    let runs = row.team.runs(list.len().div_ceil(BLOCK), RACE_BLOCKS_MIN);
    winners.clear();
    winners.resize(runs.clone().count() * draws, Winner::NOBODY);
    let places = winners.chunks_exact_mut(draws);
    row.team.each(runs.zip(places), |(run, winners)| {
        let range = run.start * BLOCK..list.len().min(run.end * BLOCK);
        for (draw, winner) in winners.iter_mut().enumerate() {
            let range = range.clone();
            *winner = row.s.run(Race { list, ids, range, stream, draw: draw as u32 });
        }
    });
}

/// One draw, over some places of a list. The range begins at a multiple of every vector's length.
struct Race<'a> {
    list: &'a List,
    /// Of all places, and [`SLACK`] more.
    ids: &'a [u32],
    range: Range<usize>,
    stream: Stream,
    draw: u32,
}

impl<S: Simd> Kernel<S> for Race<'_> {
    type Output = Winner;

    #[inline(always)]
    fn call(self, s: S) -> Winner {
        let noise = Noise::new(s, self.stream, self.draw);
        let mut best = Best { race: &self, winner: Winner::NOBODY, bound: s.splat(0.0) };
        let Range { start, end } = self.range;
        let mut i = start;
        while i < end {
            if i + 2 * S::LANES <= end && self.are_pairs(i, 2 * S::LANES) {
                let (first, second) = noise.top_of_pairs(s, self.ids[i]);
                best.improve(s, i, first);
                best.improve(s, i + S::LANES, second);
                i += 2 * S::LANES;
            } else {
                best.improve(s, i, noise.top(s, s.load_u32(&self.ids[i..])));
                i += S::LANES;
            }
        }
        best.winner
    }
}

impl Race<'_> {
    /// Whether so many places from `i` on have consecutive ids, the first even. Ids ascend.
    #[inline(always)]
    fn are_pairs(&self, i: usize, n: usize) -> bool {
        let first = self.ids[i];
        first.is_multiple_of(2) && self.ids[i + n - 1] - first == n as u32 - 1
    }

    /// What the token at a place runs with.
    fn ratio(&self, place: usize) -> f32 {
        let Stream { seed, position } = self.stream;
        ratio(self.list.mass(place), token_bits(seed, position, self.draw, self.ids[place]))
    }
}

/// The fastest token so far, and what a vector is compared with.
struct Best<'a, S: Simd> {
    race: &'a Race<'a>,
    winner: Winner,
    /// The winner's ratio, in the units of the comparison.
    bound: S::F,
}

impl<S: Simd> Best<'_, S> {
    /// Looks at the tokens from a place on, of whose random bits the upper 32 are `top`.
    #[inline(always)]
    fn improve(&mut self, s: S, place: usize, top: S::I) {
        let u = s.float(s.shift_right::<8>(top));
        let mass = s.float(s.load_u32(&self.race.list.high()[place..]));
        let may_win = s.ge(s.add_floats(mass, s.splat(1.0)), s.mul(u, self.bound));
        let hits = s.bits(may_win);
        if hits != 0 {
            self.compare(s, place, hits);
        }
    }

    /// Compares the exact ratios of those tokens whose bit is set.
    #[inline(never)]
    fn compare(&mut self, s: S, place: usize, mut hits: u32) {
        while hits != 0 {
            let place = place + hits.trailing_zeros() as usize;
            hits &= hits - 1;
            if place < self.race.range.end {
                let ratio = self.race.ratio(place);
                self.winner = self.winner.or(Winner { ratio, place });
            }
        }
        // 2^-24 for the random bits, 2^-16 for the upper part of a mass.
        self.bound = s.splat(self.winner.ratio * f32::from_bits(0x2b80_0000));
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
struct Noise<S: Simd> {
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
    fn new(s: S, stream: Stream, draw: u32) -> Self {
        let wide = |a: u32, b: u32| {
            let product = u64::from(a) * u64::from(b);
            ((product >> 32) as u32, product as u32)
        };
        let key = |round: u32, i: usize| {
            ((stream.seed >> (32 * i)) as u32).wrapping_add(W[i].wrapping_mul(round))
        };
        let (c0, c1) = (stream.position as u32, (stream.position >> 32) as u32);
        let (a, b) = (wide(c0, M[0]), wide(draw, M[1]));
        let first = a.0 ^ key(0, 1);
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

    /// Words 0 and 2 of the state before the last round, for counters.
    #[inline(always)]
    fn before_last(&self, s: S, counter: S::I) -> (S::I, S::I) {
        let [m0, m1] = self.m;
        let b = s.mul_wide(s.xor(counter, self.first), m1);
        let a = s.mul_wide(s.xor(b.0, self.second), m0);
        let (c0, c2, c3) = (s.xor(b.1, self.third[0]), s.xor(a.0, self.third[1]), a.1);
        let (a, b) = (s.mul_wide(c0, m0), s.mul_wide(c2, m1));
        let (mut c0, mut c1) = (s.xor(b.0, self.fourth[0]), b.1);
        let (mut c2, mut c3) = (s.xor(s.xor(a.0, c3), self.fourth[1]), a.1);
        for [k0, k1] in self.keys {
            let (a, b) = (s.mul_wide(c0, m0), s.mul_wide(c2, m1));
            (c0, c1) = (s.xor(s.xor(b.0, c1), k0), b.1);
            (c2, c3) = (s.xor(s.xor(a.0, c3), k1), a.1);
        }
        let _ = (c1, c3);
        (c0, c2)
    }

    /// For tokens by their ids: of an even one word 1 of what comes out, of an odd one word 3.
    #[inline(always)]
    fn top(&self, s: S, id: S::I) -> S::I {
        let pair = s.shift_left::<3>(s.shift_right::<1>(id));
        let (c0, c2) = self.before_last(s, s.add(pair, s.splat_u32(counter(0))));
        let odd = s.and(id, s.splat_u32(1));
        let is_even = s.add(odd, s.splat_u32(u32::MAX));
        let choose = |even, odd| s.xor(s.and(s.xor(even, odd), is_even), odd);
        s.mul_low(choose(c2, c0), choose(self.m[1], self.m[0]))
    }

    /// For two vectors of tokens with consecutive ids from an even one on.
    #[inline(always)]
    fn top_of_pairs(&self, s: S, first: u32) -> (S::I, S::I) {
        let pairs = s.shift_left::<3>(s.iota());
        let (c0, c2) = self.before_last(s, s.add(pairs, s.splat_u32(counter(first))));
        s.interleave(s.mul_low(c2, self.m[1]), s.mul_low(c0, self.m[0]))
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
            let noise = Noise::new(Portable, Stream { seed, position }, draw);
            let expected = |id| (token_bits(seed, position, draw, id) >> 32) as u32;
            let ids = [0, 1, 2, 3, 511, 512, 70_001, (1 << 20) - 1];
            assert_eq!(noise.top(Portable, ids), ids.map(expected));
            let (first, second) = noise.top_of_pairs(Portable, 1000);
            let got: Vec<u32> = first.into_iter().chain(second).collect();
            assert!(got.into_iter().eq((1000..1016).map(expected)), "seed {seed}");
        }
    }
}
