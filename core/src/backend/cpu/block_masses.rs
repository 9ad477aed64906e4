//! Passes that sum masses up, block by block.
//!
//! ```text
//! for each block: sum of the masses of its tokens
//! ```
//!
//! 1. Where a block's maximum shows that all its masses are 0, it is not read.
//! 2. At ordinary temperatures most tokens have no mass at all (two in three on real rows, T = 0.8).
//!    Where two probes of a block say so, the tokens with mass are first brought together, in the row's
//!    format: a comparison and a compression for 32 f16 of AVX-512, against 32 instructions to
//!    weigh them. Several blocks at once, so that a store has ended before its bytes are loaded.
//! 3. Groups are of blocks that are weighed, wherever they lie: with others between them a store would not have ended.
//! 4. While a row is weighed, the next one is fetched: weighing leaves the memory idle.
//!
//! 128,256 tokens are 8,016 vectors of AVX-512, of 16 instructions (21 where masses are split) on
//! two ports: 64,000 cycles (84,000). With two in three left out: 21,000 and 4,008 vectors of 6
//! instructions to find them, 12,000.

use super::blocks::{BLOCK, Blocks, widened};
use super::cut::{Cut, LeastByBlock};
use super::element::{Bound, Element};
use super::mass::{Large, Parts, Size, Split, Weigher, Weights};
use super::simd::{Kernel, Simd};
use std::ops::Range;

/// Blocks whose tokens are brought together before they are weighed.
pub const GROUP: usize = 8;
/// Bytes of a vector, or more.
const VECTOR: usize = 64;
/// Vectors of small masses that add up in 32 bits.
const RUN: usize = 16;

/// The mass of every block of `range`.
pub struct BlockMasses<'a, E> {
    pub blocks: Blocks<'a, E>,
    pub range: Range<usize>,
    /// The greatest logit of each block of the row.
    pub maxima: &'a [f32],
    pub weights: Weights,
    pub part: Part,
    /// What is to be read next, of any length.
    pub next: &'a [u8],
    /// One for each block of `range`.
    pub masses: &'a mut [u64],
}

/// Which blocks of a row are weighed.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Part {
    /// All.
    All,
    /// Those whose greatest logit is this or more; the masses of the others become 0.
    From(f32),
    /// The others, after these; the masses of these stay.
    Below(f32),
}

impl Part {
    #[inline(always)]
    fn has(self, max_of_block: f32) -> bool {
        match self {
            Self::All => true,
            Self::From(least) => max_of_block >= least,
            Self::Below(least) => max_of_block < least,
        }
    }
}

impl<S: Simd, E: Element> Kernel<S> for BlockMasses<'_, E> {
    type Output = ();

    #[inline(always)]
    fn call(self, s: S) {
        let Self { blocks, maxima, weights, part, .. } = self;
        let small = Weigher::for_small(s, weights);
        let any = Weigher::for_any(s, weights);
        let massless = weights.massless::<E>();
        let bound = massless.map(|x| E::bound(s, x));
        let mut squeezed = Squeezed::new(massless.map_or(0, E::key));
        let Range { start, end } = self.range;
        if !matches!(part, Part::Below(_)) {
            self.masses.fill(0);
        }
        let (mut group, mut first) = ([0; GROUP], start);
        while first < end {
            let mut len = 0;
            while first < end && len < GROUP {
                let max = maxima[first];
                group[len] = first;
                len += usize::from(part.has(max) & (weights.size_of(max) != Size::Nothing));
                first += 1;
            }
            let group = &group[..len];
            squeezed.clear();
            for &i in group {
                match bound {
                    Some(bound) if few_hits::<S, E>(s, blocks.get(i), bound) => {
                        let hits = |_, raw| E::at_least(s, raw, bound);
                        squeezed.push::<S, E>(s, blocks.get(i), hits);
                    }
                    _ => squeezed.push_none(),
                }
            }
            for (j, &i) in group.iter().enumerate() {
                let next = Fetch::new(self.next, i * BLOCK * E::SIZE, BLOCK * E::SIZE);
                self.masses[i - start] = match (weights.size_of(maxima[i]), squeezed.get(j)) {
                    (Size::Nothing, _) => 0,
                    (Size::Small, Some(logits)) => {
                        sum_small::<S, E, false>(s, logits, &small, next)
                    }
                    (Size::Small, None) => sum_small::<S, E, true>(s, blocks.get(i), &small, next),
                    (Size::Any, Some(logits)) => sum_any::<S, E, Split<S>>(s, logits, &any, next),
                    (Size::Any, None) if weights.all_are_large() && !blocks.is_filled_up(i) => {
                        sum_any::<S, E, Large<S>>(s, blocks.get(i), &any, next)
                    }
                    (Size::Any, None) => sum_any::<S, E, Split<S>>(s, blocks.get(i), &any, next),
                }
            }
        }
    }
}

/// Some tokens of a few blocks, brought together as they are stored.
pub struct Squeezed {
    buffer: [u8; GROUP * (BLOCK * 4 + VECTOR)],
    /// Where those of each block are.
    ranges: [Option<(usize, usize)>; GROUP],
    blocks: usize,
    end: usize,
    /// The key of the logit that the last vector of a block is filled up with.
    filler: i32,
}

impl Squeezed {
    /// Room for [`GROUP`] blocks. The filler has no mass.
    #[inline(always)]
    pub fn new(filler: i32) -> Self {
        let buffer = [0; GROUP * (BLOCK * 4 + VECTOR)];
        Self { buffer, ranges: [None; GROUP], blocks: 0, end: 0, filler }
    }

    /// Forgets all blocks.
    #[inline(always)]
    pub fn clear(&mut self) {
        (self.blocks, self.end) = (0, 0);
    }

    /// Passes over the next block.
    #[inline(always)]
    pub fn push_none(&mut self) {
        self.ranges[self.blocks] = None;
        self.blocks += 1;
    }

    /// Copies the tokens of the next block that `hits` says, vector by vector.
    #[inline(always)]
    pub fn push<S: Simd, E: Element>(
        &mut self,
        s: S,
        block: &[u8],
        mut hits: impl FnMut(usize, E::Raw<S>) -> u32,
    ) {
        // One check for all that follow.
        let buffer = &mut self.buffer[self.end..][..BLOCK * E::SIZE + VECTOR];
        let bytes = S::LANES * 4;
        let mut end = 0;
        for i in 0..BLOCK / E::raw_lanes::<S>() {
            let raw = E::raw(s, &block[i * bytes..]);
            let hits = hits(i, raw);
            E::compress(s, hits, raw, &mut buffer[end..]);
            end += hits.count_ones() as usize * E::SIZE;
        }
        for filled in buffer[end..end + VECTOR].chunks_exact_mut(E::SIZE) {
            E::write(self.filler, filled);
        }
        let start = self.end;
        self.end += end.next_multiple_of(S::LANES * E::SIZE);
        self.ranges[self.blocks] = Some((start, self.end));
        self.blocks += 1;
    }

    /// What was copied of a block: whole vectors of widened logits.
    #[inline(always)]
    pub fn get(&self, block: usize) -> Option<&[u8]> {
        self.ranges[block].map(|(start, end)| &self.buffer[start..end])
    }
}

/// Memory that is asked for bit by bit, while other things are computed.
#[derive(Clone, Copy)]
pub struct Fetch<'a>(&'a [u8]);

impl<'a> Fetch<'a> {
    /// Some of what is to be read next, or as much as there is.
    #[inline(always)]
    pub fn new(next: &'a [u8], start: usize, len: usize) -> Self {
        let start = start.min(next.len());
        Self(&next[start..next.len().min(start + len)])
    }

    /// Asks for the next cache line.
    #[inline(always)]
    pub fn step<S: Simd>(&mut self, s: S) {
        if !self.0.is_empty() {
            s.prefetch_far(self.0);
            self.0 = &self.0[self.0.len().min(64)..];
        }
    }

    /// Asks for the rest.
    #[inline(always)]
    pub fn finish<S: Simd>(mut self, s: S) {
        while !self.0.is_empty() {
            self.step(s);
        }
    }
}

/// Whether so few tokens reach a bound, judged by two vectors, that it pays to bring them together.
#[inline(always)]
pub fn few_hits<S: Simd, E: Element>(s: S, block: &[u8], bound: Bound<S, E>) -> bool {
    let mut hits = 0;
    for place in [BLOCK / 4, BLOCK * 3 / 4] {
        hits += E::at_least(s, E::raw(s, &block[place * E::SIZE..]), bound).count_ones() as usize;
    }
    hits * 10 <= E::raw_lanes::<S>() * 2 * 6
}

#[inline(always)]
fn sum_small<S: Simd, E: Element, const CLAMP: bool>(
    s: S,
    logits: &[u8],
    weigher: &Weigher<S>,
    mut next: Fetch<'_>,
) -> u64 {
    let mut sum = s.no_sum();
    let bytes = S::LANES * E::SIZE;
    for run in logits.chunks(RUN * bytes) {
        let mut lanes = s.splat_u32(0);
        for vector in run.chunks_exact(bytes) {
            lanes = s.add(lanes, weigher.small::<CLAMP>(s, E::widen(s, vector)));
            next.step(s);
        }
        sum = s.widen_add(sum, lanes);
    }
    next.finish(s);
    s.total(sum)
}

/// The mass of some logits, whole vectors of them.
#[inline(always)]
pub fn sum_any<S: Simd, E: Element, P: Parts<S>>(
    s: S,
    logits: &[u8],
    weigher: &Weigher<S>,
    mut next: Fetch<'_>,
) -> u64 {
    let mut sum = P::none(s);
    for vector in logits.chunks_exact(S::LANES * E::SIZE) {
        sum = sum.plus(s, P::weigh(s, weigher, E::widen(s, vector)));
        next.step(s);
    }
    next.finish(s);
    sum.total(s)
}

/// The mass of the kept tokens of every block, and how many they are.
pub struct KeptMasses<'a, E> {
    pub blocks: Blocks<'a, E>,
    pub range: Range<usize>,
    /// The greatest logit of each block of the row.
    pub maxima: &'a [f32],
    pub weights: Weights,
    pub cut: Cut,
    /// What is to be read next, of any length.
    pub next: &'a [u8],
    /// One for each block of `range`.
    pub masses: &'a mut [u64],
}

impl<S: Simd, E: Element> Kernel<S> for KeptMasses<'_, E> {
    /// The number of kept tokens.
    type Output = u64;

    #[inline(always)]
    fn call(self, s: S) -> u64 {
        let Self { blocks, maxima, weights, cut, .. } = self;
        let weigher = Weigher::for_any(s, weights);
        let least_by_block = LeastByBlock::new::<E>(cut);
        let mut squeezed = Squeezed::new(-E::INFINITY - 1);
        let mut kept = 0;
        let groups = self.masses.chunks_mut(GROUP).zip(self.range.step_by(GROUP));
        for (masses, first) in groups {
            squeezed.clear();
            for (i, &max) in (first..).zip(&maxima[first..first + masses.len()]) {
                let (block, least) = (blocks.get(i), least_by_block.of(i));
                let bound = E::bound(s, least);
                if max >= least && few_hits::<S, E>(s, block, bound) {
                    squeezed.push::<S, E>(s, block, |_, raw| {
                        let hits = E::at_least(s, raw, bound);
                        kept += u64::from(hits.count_ones());
                        hits
                    });
                } else {
                    squeezed.push_none();
                }
            }
            for (j, mass) in masses.iter_mut().enumerate() {
                let i = first + j;
                let (block, least) = (blocks.get(i), least_by_block.of(i));
                *mass = 0;
                if maxima[i] < least {
                    continue;
                }
                let mut next = Fetch::new(self.next, i * BLOCK * E::SIZE, BLOCK * E::SIZE);
                let sum = if let Some(logits) = squeezed.get(j) {
                    sum_any::<S, E, Split<S>>(s, logits, &weigher, next)
                } else {
                    let mut sum = Split::none(s);
                    for x in widened::<S, E>(s, block) {
                        let m = s.ge(x, s.splat(least));
                        sum = sum.plus(s, Split::weigh(s, &weigher, x).only(s, m));
                        next.step(s);
                        kept += u64::from(s.bits(m).count_ones());
                    }
                    sum.total(s)
                };
                let dropped = cut.dropped_ties::<E>(i, block);
                kept -= dropped;
                *mass = sum - dropped * weights.mass(cut.least);
            }
        }
        kept
    }
}
