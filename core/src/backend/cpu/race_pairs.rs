//! The race of rows that are kept whole, or of which many tokens are kept.
//!
//! ```text
//! heavy blocks, in which many a token may win: a list of their tokens with mass, which races first
//! others:                                      the counters of all pairs of tokens of which one has mass
//! for each draw
//!     best = the winner of the list
//!     for each block of the others
//!         limit = the upper random bits above which no token of this block beats best
//!         for each vector of pairs: if one of its tokens' is up to the limit, the exact ratio of that token
//! ```
//!
//! 1. A token's mass is at most that of its block's greatest logit, so one integer a block decides what may win, and
//!    no token is weighed for the race: see [`limit`]. No limit is below 1, and every token with mass may have random
//!    bits that win: the least noise is 2^-64.5. So none is left out before its bits are known.
//! 2. Neighbours share a counter, and ten rounds of Philox. On real rows (T = 0.8) 44 in 100 tokens have mass, but of 65
//!    in 100 pairs one has: 26 in 100 calls less than by token.

use super::blocks::BLOCK;
use super::collect::Collect;
use super::cut::{Cut, LeastByBlock};
use super::draw::Stream;
use super::element::Element;
use super::list::List;
use super::mass::{Weigher, Weights};
use super::noise::{Noise, Winner};
use super::passes::ScannedRow;
use super::simd::{Kernel, Simd};
use super::team::parts;
use crate::arithmetic::race::{counter, ratio};
use std::ops::Range;

/// Pairs of a block.
const PAIRS: usize = BLOCK / 2;
/// A block is heavy where its greatest mass is more than this part of the kept mass: about eight of its tokens may win.
const HEAVY_PART: f32 = 64.0;
/// For a while, the mass of heavy blocks.
const HEAVY: f32 = f32::INFINITY;
/// The most lanes of a vector.
const LANES_MAX: usize = 16;
/// Blocks that are worth a thread's while.
const BLOCKS_MIN: usize = 32;

/// The pairs of all blocks that are not heavy.
#[derive(Default)]
pub struct Pairs {
    /// [`PAIRS`] places for each block: the [`counter`]s of pairs, ascending.
    counters: Vec<u32>,
    /// How many there are of each block.
    counts: Vec<u32>,
    /// No mass of the block is greater.
    most: Vec<f32>,
    cut: Option<Cut>,
}

impl Pairs {
    /// Lists the pairs with a kept token, and in `heavy` the kept tokens of heavy blocks, weighed.
    pub fn list<S: Simd, E: Element>(
        &mut self,
        row: &ScannedRow<'_, S, E>,
        cut: Cut,
        kept_mass: u64,
        heavy: &mut List,
    ) -> &mut Self {
        let (s, blocks, maxima) = (row.s, row.blocks, row.maxima.x());
        self.counters.resize(self.counters.len().max(blocks.len() * PAIRS), 0);
        self.counts.resize(blocks.len(), 0);
        self.most.resize(blocks.len(), 0.0);
        self.cut = Some(cut);
        let first = maxima.iter().position(|&x| x == row.weights.max).expect("some block's");
        let least = LeastByBlock::new::<E>(cut);
        s.run(Most { maxima, weights: row.weights, most: &mut self.most });
        let mut heavy_blocks = 0;
        for (block, (most, &max)) in self.most.iter_mut().zip(maxima).enumerate() {
            if max < least.of(block) {
                *most = 0.0;
            } else if block == first || *most > kept_mass as f32 / HEAVY_PART {
                *most = HEAVY;
                heavy_blocks += 1;
            }
        }
        heavy.reset(heavy_blocks * BLOCK);
        for (block, most) in self.most.iter_mut().enumerate().filter(|(_, most)| **most == HEAVY) {
            let range = block..block + 1;
            s.run(Collect { blocks, range, maxima, cut, limit: usize::MAX, list: heavy });
            *most = 0.0;
        }
        heavy.seal();
        row.weigh(heavy);
        let (most, runs) = (&self.most, row.team.runs(blocks.len(), BLOCKS_MIN));
        let outputs = parts(runs.clone(), PAIRS, &mut self.counters);
        let outputs = outputs.zip(parts(runs, 1, &mut self.counts));
        row.team.each(outputs, |((range, counters), (_, counts))| {
            s.run(ListPairs { row, range, least, most, counters, counts });
        });
        self
    }

    /// Finds the winner of every draw, part by part of the row, where `best` is the winner so far.
    pub fn run<S: Simd, E: Element>(
        &self,
        row: &ScannedRow<'_, S, E>,
        stream: Stream,
        best: &[Winner],
        winners: &mut Vec<Winner>,
    ) {
        let runs = row.team.runs(row.blocks.len(), BLOCKS_MIN);
        winners.clear();
        for _ in runs.clone() {
            winners.extend(best);
        }
        row.team.each(runs.zip(winners.chunks_exact_mut(best.len())), |(range, winners)| {
            for (draw, winner) in winners.iter_mut().enumerate() {
                let (range, draw, best) = (range.clone(), draw as u32, *winner);
                *winner = row.s.run(RacePairs { row, pairs: self, range, stream, draw, best });
            }
        });
    }
}

/// The masses of the blocks' maxima, before they are truncated.
struct Most<'a> {
    maxima: &'a [f32],
    weights: Weights,
    most: &'a mut [f32],
}

impl<S: Simd> Kernel<S> for Most<'_> {
    type Output = ();

    #[inline(always)]
    fn call(self, s: S) {
        let weigher = Weigher::for_any(s, self.weights);
        let (mut x, mut masses) = ([0.0; LANES_MAX], [0.0; LANES_MAX]);
        for (maxima, most) in self.maxima.chunks(S::LANES).zip(self.most.chunks_mut(S::LANES)) {
            x[..maxima.len()].copy_from_slice(maxima);
            let units = s.mul(weigher.power::<true>(s, s.load(&x)), s.splat(65_536.0));
            s.store(units, &mut masses);
            most.copy_from_slice(&masses[..most.len()]);
        }
    }
}

/// Lists the pairs of some blocks of which a token reaches the least logit.
struct ListPairs<'a, S, E> {
    row: &'a ScannedRow<'a, S, E>,
    range: Range<usize>,
    least: LeastByBlock,
    /// For each block of the row; blocks of 0 have no pairs.
    most: &'a [f32],
    /// [`PAIRS`] for each block of `range`.
    counters: &'a mut [u32],
    counts: &'a mut [u32],
}

impl<S: Simd, E: Element> Kernel<S> for ListPairs<'_, S, E> {
    type Output = ();

    #[inline(always)]
    fn call(self, s: S) {
        let Self { row, least, most, .. } = self;
        let lanes = E::raw_lanes::<S>();
        let steps = s.shift_left::<3>(s.iota());
        let outputs = self.counters.chunks_exact_mut(PAIRS).zip(self.counts);
        for ((i, block), (counters, count)) in row.blocks.range(self.range).zip(outputs) {
            *count = 0;
            if most[i] == 0.0 {
                continue;
            }
            let bound = E::bound(s, least.of(i));
            let mut len = 0;
            for word in (0..BLOCK).step_by(64) {
                let mut hits = 0;
                for at in (0..64).step_by(lanes) {
                    let raw = E::raw(s, &block[(word + at) * E::SIZE..]);
                    hits |= u64::from(E::at_least(s, raw, bound)) << at;
                }
                let pairs = even_bits(hits | hits >> 1);
                for at in (0..32).step_by(S::LANES) {
                    let bits = pairs >> at & (u32::MAX >> (32 - S::LANES));
                    let first = counter((i * BLOCK + word + 2 * at) as u32);
                    let each = s.add(steps, s.splat_u32(first));
                    s.compress_u32(bits, each, &mut counters[len..]);
                    len += bits.count_ones() as usize;
                }
            }
            *count = len as u32;
        }
    }
}

/// Bits 0, 2, 4, .. side by side.
#[inline(always)]
fn even_bits(bits: u64) -> u32 {
    let mut bits = bits & 0x5555_5555_5555_5555;
    bits = (bits | bits >> 1) & 0x3333_3333_3333_3333;
    bits = (bits | bits >> 2) & 0x0f0f_0f0f_0f0f_0f0f;
    bits = (bits | bits >> 4) & 0x00ff_00ff_00ff_00ff;
    bits = (bits | bits >> 8) & 0x0000_ffff_0000_ffff;
    (bits | bits >> 16) as u32
}

/// The greatest upper half of random bits with which a mass of at most `most` may reach a ratio, or more.
///
/// `-log2(1 - u) >= u / ln 2`, so that a token with more has a noise above `most / best`, by 10^-5 of it: ten times
/// what the polynomial, the division and the product here are off by. Bits are compared by their upper half, which is
/// below them by less than the 1 that is added.
#[inline(always)]
fn limit(most: f32, per_mass: f64) -> u32 {
    // Conversions of floats saturate.
    ((f64::from(most) * per_mass) as u32).saturating_add(1)
}

/// What [`limit`] takes of a ratio.
#[inline(always)]
fn limit_per_mass(best: f32) -> f64 {
    4_294_967_296.0 * std::f64::consts::LN_2 * 1.000_01 / f64::from(best)
}

/// One draw, over the pairs of some blocks.
struct RacePairs<'a, S, E> {
    row: &'a ScannedRow<'a, S, E>,
    pairs: &'a Pairs,
    range: Range<usize>,
    stream: Stream,
    draw: u32,
    best: Winner,
}

impl<S: Simd, E: Element> Kernel<S> for RacePairs<'_, S, E> {
    type Output = Winner;

    #[inline(always)]
    fn call(mut self, s: S) -> Winner {
        let Pairs { counters, counts, most, .. } = self.pairs;
        let noise = Noise::new(s, self.stream, self.draw);
        let mut per_mass = limit_per_mass(self.best.ratio);
        for block in self.range.clone() {
            let count = counts[block] as usize;
            if count == 0 {
                continue;
            }
            let counters = &counters[block * PAIRS..(block + 1) * PAIRS];
            let mut top_max = limit(most[block], per_mass);
            for at in (0..count).step_by(S::LANES) {
                let (even, odd) = noise.top_by_counter(s, s.load_u32(&counters[at..]));
                let hits = s.at_most_u32(s.min_u32(even, odd), s.splat_u32(top_max));
                if hits != 0 {
                    let end = count.min(at + S::LANES);
                    let mut tops = [[0; LANES_MAX]; 2];
                    s.store_u32(even, &mut tops[0]);
                    s.store_u32(odd, &mut tops[1]);
                    self.compare(&counters[at..end], hits, &tops, top_max);
                    per_mass = limit_per_mass(self.best.ratio);
                    top_max = limit(most[block], per_mass);
                }
            }
        }
        self.best
    }
}

impl<S: Simd, E: Element> RacePairs<'_, S, E> {
    /// Compares the exact ratios of the tokens of those pairs whose bit is set, where their upper random bits are up to
    /// a limit.
    #[inline(never)]
    fn compare(&mut self, counters: &[u32], hits: u32, tops: &[[u32; LANES_MAX]; 2], top_max: u32) {
        for (lane, counter) in counters.iter().enumerate().filter(|(lane, _)| hits >> lane & 1 == 1)
        {
            // See `counter`.
            let first = counter >> 3 << 1;
            for (index, tops) in (first..).zip(tops) {
                if tops[lane] <= top_max {
                    self.compare_token(index);
                }
            }
        }
    }

    fn compare_token(&mut self, index: u32) {
        let Self { row, stream, draw, .. } = *self;
        let (block, place) = (index as usize / BLOCK, index as usize % BLOCK);
        let x = E::read(&row.blocks.get(block)[place * E::SIZE..]);
        let cut = self.pairs.cut.expect("what was listed");
        let is_kept = x > cut.least || x == cut.least && index <= cut.last_id;
        if is_kept {
            let bits = stream.race_bits(draw, index);
            let ratio = ratio(row.weights.mass(x), bits);
            self.best = self.best.or(Winner { ratio, index, x });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::portable::Portable;
    use super::super::{Cpu, CpuOptions, Isa};
    use super::*;
    use crate::arithmetic::mass::{Scale, UNIT};
    use crate::arithmetic::philox::token_bits as random;
    use crate::backend::Backend;
    use crate::backend::reference::Reference;
    use crate::batch::{Dtype, Results, Row};
    use crate::params::{DrawRule, ParamsSpec};

    #[test]
    fn what_is_beyond_the_limit_is_slower_and_little_else_is() {
        let (mut within, mut closest) = (0, 0.0f64);
        for i in 0..300_000 {
            let bits = random(1, i, 0);
            // A mass of 24 bits, and the ratio of another one: each of any size.
            let mass = (((bits & 0xff_ffff | 0x80_0000) << 17) >> (bits >> 24 & 63).min(40)).max(1);
            let other = random(1, i, 1) >> (bits >> 32 & 63);
            let heavier = (((bits >> 40) | 0x80_0000) << 17) >> (random(1, i, 2) & 31);
            let best = ratio(heavier.min(UNIT), other);
            let limit = limit(mass as f32, limit_per_mass(best));
            assert!(limit >= 1);
            for beyond in [1, 2, 3, 17, 1 << 9, 1 << 20, 1 << 30] {
                let Some(top) = limit.checked_add(beyond) else { break };
                for mass in [mass, mass - 1, mass / 2] {
                    let bits = u64::from(top) << 32;
                    let ratio = ratio(mass, bits).max(ratio(mass, bits | 0xffff_ffff));
                    assert!(ratio < best, "{mass} with {top} beyond {limit}: {ratio} {best}");
                    closest = closest.max(f64::from(ratio) / f64::from(best));
                }
            }
            if (1 << 10..1 << 22).contains(&limit) {
                let top = limit - limit / 1000 - 3;
                assert!(ratio(mass, u64::from(top) << 32) > best, "{mass}: {limit} is too much");
                within += 1;
            }
        }
        println!("{within} limits are close, and the closest ratio is {closest} of the best");
        assert!(within > 10_000 && closest > 0.999);
    }

    #[test]
    fn no_mass_of_a_block_is_greater_than_what_is_said_of_it() {
        let maxima: Vec<f32> = (0..997).map(|i| 20.0 - i as f32 / 17.0).collect();
        let weights = Weights { max: 20.0, min: -40.0, scale: Scale::new(0.8) };
        let mut most = vec![0.0; maxima.len()];
        Portable.run(Most { maxima: &maxima, weights, most: &mut most });
        for (&max, most) in maxima.iter().zip(most) {
            let mass = weights.mass(max);
            assert!(most > 0.0 && most as u64 == mass, "{max}: {mass} {most}");
        }
    }

    #[test]
    fn even_bits_are_brought_together() {
        for i in 0..64 {
            let expected = if i % 2 == 0 { 1 << (i / 2) } else { 0 };
            assert_eq!(even_bits(1 << i), expected, "{i}");
        }
        assert_eq!(even_bits(u64::MAX), u32::MAX);
    }

    /// Rows in which few tokens, many, or all may win; with ties and odd lengths.
    fn logits() -> Vec<Vec<f32>> {
        let noise = |i: usize| (random(3, i as u64, 0) >> 40) as f32 / (1 << 24) as f32;
        let peaked = |i: usize| if i % 1999 == 7 { 9.0 } else { -3.0 * noise(i) };
        vec![
            (0..40_001).map(|i| 20.0 * noise(i) - 8.0).collect(),
            (0..40_000).map(peaked).collect(),
            vec![1.5; 20_003],
            (0..30_000).map(|i| (i % 2) as f32 - (i / 6000) as f32).collect(),
            (0..9_000).map(|i| if i == 8_999 { 30.0 } else { noise(i) }).collect(),
            (0..1 << 17).map(|i| -(8.0 * noise(i)).powi(2)).collect(),
        ]
    }

    #[test]
    fn races_equal_the_reference_on_every_isa() {
        let rows: Vec<(Dtype, Vec<u8>)> = (logits().iter())
            .flat_map(|row| {
                let halves = row.iter().flat_map(|&x| half::f16::from_f32(x).to_le_bytes());
                let floats = row.iter().flat_map(|x| x.to_le_bytes());
                [(Dtype::F16, halves.collect()), (Dtype::F32, floats.collect())]
            })
            .collect();
        let mut batch = Vec::new();
        for (i, (dtype, logits)) in rows.iter().enumerate() {
            for (temperature, top_k, top_p, min_p) in [
                (0.8, 0, 1.0, 0.0),
                (0.2, 0, 1.0, 0.0),
                (10.0, 0, 1.0, 0.0),
                (2.0, 0, 0.97, 0.0),
                (3.0, 12_345, 1.0, 0.0),
                (1.0, 0, 1.0, 1e-6),
            ] {
                let position = random(5, i as u64, 1) >> (8 * (i % 8));
                let (draws, draw_rule) = (3, DrawRule::Race);
                let spec = ParamsSpec {
                    temperature,
                    top_k,
                    top_p,
                    min_p,
                    draws,
                    draw_rule,
                    position,
                    ..Default::default()
                };
                let params = spec.parse(|| !(i as u64)).unwrap();
                batch.push(Row::new(*dtype, logits, params).unwrap());
            }
        }
        let (mut expected, mut got) = (Results::default(), Results::default());
        Reference::default().sample(&batch, &mut expected).unwrap();
        for isa in Isa::supported() {
            for threads in [1, 3] {
                let mut cpu = Cpu::new(CpuOptions { isa: Some(isa), threads }).unwrap();
                cpu.sample(&batch, &mut got).unwrap();
                assert!(expected.iter().eq(got.iter()), "{isa}, {threads} threads");
                // A row by itself is shared by all threads.
                let (last, mut alone) = (batch.len() - 12, Results::default());
                cpu.sample(&batch[last..last + 1], &mut alone).unwrap();
                assert!(expected.iter().nth(last) == alone.iter().next(), "{isa} alone");
            }
        }
    }
}
