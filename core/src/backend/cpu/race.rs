//! The draws of a row by race: each token's noise, and the token that runs fastest.
//!
//! ```text
//! few tokens are kept:  they are a list
//! many, or all:         a list of those in heavy blocks; pairs of the others (race_pairs.rs)
//! for each draw
//!     best = 0
//!     for each vector of the list
//!         top = the upper 32 of the 64 random bits of each, by its id
//!         if some mass * 2^32 / top may exceed best: the exact ratio of those, and the new best
//!     the same with the pairs, whose tokens are not weighed
//! ```
//!
//! 1. A ratio is exact only where it may win. `-log2(1 - u) >= u / ln 2`, so a token whose `mass / u` does not reach
//!    `best` cannot: its ratio is at most 0.7 of that, and the roundings of the comparison are a millionth. What is left
//!    for the polynomial and the division is about as many tokens as there are records in a sequence, its logarithm.
//! 2. Of the 64 random bits the comparison takes 24, and of a mass its upper part, plus one: both to the safe side.
//! 3. The word of the counter that tells tokens apart is the last, so that most of Philox's first three rounds is the
//!    same for all tokens ([`Noise`]). That leaves 14 products, and two for the last round, where ten rounds have 20.
//! 4. A state is in lanes of 64 bits, where a product is one instruction: the lower half of it stays where it is, the
//!    upper one is moved by a shift, and what is left in a lane's upper half is never looked at. No product is taken
//!    apart and put together again.
//! 5. Two neighbouring tokens share their counter. A list that was cut rarely has both, so each token asks for itself;
//!    where a whole vector of pairs is there, it is asked for once ([`Noise::top_of_pairs`]).
//! 6. Every draw goes over the list again. The winner is a maximum, so that threads take parts of the list and their
//!    winners are compared.
//!
//! Floor of 16 pairs in AVX-512: two vectors of 8 counters, each with 16 products, 14 shifts and 16 exclusive ors (two
//! of which are often one instruction), 5 to part them and to join what comes out, 2 for the comparison: 99, of which
//! two a cycle make 50 cycles. Of 8 pairs in AVX2: 2 * 57 + 9 = 123, of which three or four a cycle. 131,072 tokens of
//! real rows (T = 0.8) have 42,300 pairs with mass: 132,000 cycles a draw, or 51 us at 2.6 GHz, in AVX-512, and some
//! 190,000, or 73 us, in AVX2. The masses come to what they do in the temperature case.
//!
//! Measured, on one core of a shared EPYC (Zen 4), medians of nine alternating runs of `logitd bench --case race --case
//! temperature --threads 1 --vocab-size 131072`, with and without `--isa avx2`: 98 us a row in AVX-512, 3.35 times
//! the temperature case, of which each draw is 55 us and finding the pairs some 10; as a list of single tokens with
//! their masses it was 133 us, 4.5 times. In AVX2 143 us, 3.1 times, of which each draw is 76 us; it was 194 us, 4.2 times.
//! Less than twice the temperature case is not to be expected while each token with mass may win: the ten rounds of its
//! random bits cost more than its mass.

use super::blocks::BLOCK;
use super::cut::{Cut, above};
use super::draw::Stream;
use super::element::Element;
use super::list::{List, Lists};
use super::noise::{Noise, Winner};
use super::passes::ScannedRow;
use super::race_pairs::Pairs;
use super::search::Kept;
use super::simd::{Kernel, Simd};
use crate::arithmetic::logprob::logprob;
use crate::arithmetic::race::ratio;
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
    pairs: Pairs,
    /// Of each thread's part of the tokens, the winner of every draw.
    winners: Vec<Winner>,
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
    let Buffers { lists, ids, pairs, winners } = buffers;
    let each = draws.len();
    let kept_mass = match kept {
        Kept::List(list) => {
            run(scanned, list, ids_of(row, list, ids), stream, winners, each);
            (0..list.len()).map(|i| list.mass(i)).sum()
        }
        Kept::Blocks { cut, masses, .. } => {
            let kept_mass = masses.iter().sum();
            let cut = with_mass(scanned, cut);
            if row.has_ids() {
                // Neighbours in the row do not share their noise.
                let list = scanned.collect(cut, usize::MAX, lists);
                scanned.weigh(list);
                run(scanned, list, ids_of(row, list, ids), stream, winners, each);
            } else {
                let pairs = pairs.list(scanned, cut, kept_mass, &mut lists.list);
                let list = &lists.list;
                run(scanned, list, list.ids_and_slack(), stream, winners, each);
                let best = |draw| fastest(winners, each, draw);
                let best: Vec<Winner> = (0..each).map(best).collect();
                pairs.run(scanned, stream, &best, winners);
            }
            kept_mass
        }
    };
    for (i, draw) in draws.iter_mut().enumerate() {
        let Winner { index, x, .. } = fastest(winners, each, i);
        // As in the draws by mass: -0.0 is 0.0.
        let logprob = logprob(x + 0.0, scanned.weights.max, scanned.weights.scale, kept_mass);
        *draw = Draw { token: index, logprob };
    }
    kept_mass
}

/// The winner of one of `each` draws, from the winners of every part.
fn fastest(winners: &[Winner], each: usize, draw: usize) -> Winner {
    winners.iter().skip(draw).step_by(each).fold(Winner::NOBODY, |best, winner| best.or(*winner))
}

/// The part of a cut that can have mass. What is left out has none, and cannot win.
fn with_mass<S: Simd, E: Element>(row: &ScannedRow<'_, S, E>, cut: Cut) -> Cut {
    let with_mass = row.weights.massless::<E>().and_then(above::<E>).map(Cut::ties);
    with_mass.map_or(cut, |with_mass| cut.tighter(with_mass))
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
    fn runner(&self, place: usize) -> Winner {
        let bits = self.stream.race_bits(self.draw, self.ids[place]);
        let (index, x) = (self.list.ids()[place], self.list.x()[place]);
        Winner { ratio: ratio(self.list.mass(place), bits), index, x }
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
                self.winner = self.winner.or(self.race.runner(place));
            }
        }
        // 2^-24 for the random bits, 2^-16 for the upper part of a mass.
        self.bound = s.splat(self.winner.ratio * f32::from_bits(0x2b80_0000));
    }
}
