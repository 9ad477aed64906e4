//! Passes that find tokens by their logits, in the row's own format: 32 f16 a vector of AVX-512.
//!
//! A vector costs a load and three instructions where it has no hit. A hit is widened and
//! compressed into a list; lists are short.

use super::blocks::{BLOCK, Blocks};
use super::cut::{Cut, LeastByBlock};
use super::element::{Bound, Element};
use super::list::List;
use super::simd::{Kernel, Simd};
use std::ops::Range;

/// Appends to `list` the tokens that a cut keeps. Stops early when the list has more than `limit`,
/// by less than a block.
pub struct Collect<'a, E> {
    pub blocks: Blocks<'a, E>,
    pub range: Range<usize>,
    /// The greatest logit of each block of the row; a block without a kept token is not read.
    pub maxima: &'a [f32],
    pub cut: Cut,
    pub limit: usize,
    pub list: &'a mut List,
}

impl<S: Simd, E: Element> Kernel<S> for Collect<'_, E> {
    type Output = ();

    #[inline(always)]
    fn call(self, s: S) {
        let Self { cut, list, .. } = self;
        let least_by_block = LeastByBlock::new::<E>(cut);
        let Range { start, end } = self.range;
        for (i, &max) in (start..).zip(&self.maxima[start..end]) {
            let least = least_by_block.of(i);
            if max < least {
                continue;
            }
            if list.len() > self.limit {
                return;
            }
            let block = self.blocks.get(i);
            let bound = E::bound(s, least);
            for_hits::<S, E>(s, i, block, bound, |bits, x, id| list.push(s, bits, x, id));
            let dropped = cut.dropped_ties::<E>(i, block);
            if dropped > 0 {
                list.drop_last_ties(cut.least, dropped as usize);
            }
        }
    }
}

/// Counts the tokens with `x >= least`.
pub struct CountFrom<'a, E> {
    pub blocks: Blocks<'a, E>,
    pub range: Range<usize>,
    pub least: f32,
}

impl<S: Simd, E: Element> Kernel<S> for CountFrom<'_, E> {
    type Output = u64;

    #[inline(always)]
    fn call(self, s: S) -> u64 {
        let bound = E::bound(s, self.least);
        let mut sum = 0;
        for (_, block) in self.blocks.range(self.range) {
            sum += count::<S, E>(s, block, bound);
        }
        sum
    }
}

/// Counts the tokens of every block of `range` that equal `x`.
pub struct Ties<'a, E> {
    pub blocks: Blocks<'a, E>,
    pub range: Range<usize>,
    pub x: f32,
    /// One for each block of `range`.
    pub counts: &'a mut [u32],
}

impl<S: Simd, E: Element> Kernel<S> for Ties<'_, E> {
    type Output = ();

    #[inline(always)]
    fn call(self, s: S) {
        let from = E::bound(s, self.x);
        let above = super::cut::above::<E>(self.x).map(|x| E::bound(s, x));
        for ((_, block), ties) in self.blocks.range(self.range).zip(self.counts) {
            let more = above.map_or(0, |bound| count::<S, E>(s, block, bound));
            *ties = (count::<S, E>(s, block, from) - more) as u32;
        }
    }
}

/// Counts the tokens that a cut keeps.
pub struct CountKept<'a, E> {
    pub blocks: Blocks<'a, E>,
    pub range: Range<usize>,
    /// The greatest logit of each block of the row; a block without a kept token is not read.
    pub maxima: &'a [f32],
    pub cut: Cut,
}

impl<S: Simd, E: Element> Kernel<S> for CountKept<'_, E> {
    type Output = u64;

    #[inline(always)]
    fn call(self, s: S) -> u64 {
        let Self { maxima, cut, .. } = self;
        let least_by_block = LeastByBlock::new::<E>(cut);
        let mut sum = 0;
        for (i, block) in self.blocks.range(self.range) {
            let least = least_by_block.of(i);
            if maxima[i] >= least {
                sum += count::<S, E>(s, block, E::bound(s, least));
                sum -= cut.dropped_ties::<E>(i, block);
            }
        }
        sum
    }
}

/// Writes a bit for every token: whether a cut keeps it.
pub struct KeptBits<'a, E> {
    pub blocks: Blocks<'a, E>,
    pub range: Range<usize>,
    /// The greatest logit of each block of the row; a block without a kept token is not read.
    pub maxima: &'a [f32],
    pub cut: Cut,
    /// As many words as the blocks of `range` have tokens for, all 0.
    pub words: &'a mut [u32],
}

impl<S: Simd, E: Element> Kernel<S> for KeptBits<'_, E> {
    type Output = ();

    #[inline(always)]
    fn call(self, s: S) {
        let Self { maxima, cut, .. } = self;
        let least_by_block = LeastByBlock::new::<E>(cut);
        let lanes = E::raw_lanes::<S>();
        let words = self.words.chunks_exact_mut(BLOCK / 32);
        for ((i, block), words) in self.blocks.range(self.range).zip(words) {
            let least = least_by_block.of(i);
            if maxima[i] < least {
                continue;
            }
            let bound = E::bound(s, least);
            for token in (0..BLOCK).step_by(lanes) {
                let hits = E::at_least(s, E::raw(s, &block[token * E::SIZE..]), bound);
                words[token / 32] |= hits << (token % 32);
            }
            for token in cut.dropped_tokens::<E>(i, block) {
                words[token / 32] &= !(1 << (token % 32));
            }
        }
    }
}

#[inline(always)]
fn count<S: Simd, E: Element>(s: S, block: &[u8], bound: Bound<S, E>) -> u64 {
    let bytes = S::LANES * 4;
    let mut count = 0;
    for i in 0..BLOCK * E::SIZE / bytes {
        count += E::at_least(s, E::raw(s, &block[i * bytes..]), bound).count_ones();
    }
    u64::from(count)
}

/// Calls `found` with the lanes, logits and ids of the tokens of a block that reach a bound.
///
/// First every vector is compared, then those with a hit are gone through: one branch that cannot be
/// foretold for a block, not one for each hit.
#[inline(always)]
fn for_hits<S: Simd, E: Element>(
    s: S,
    index: usize,
    block: &[u8],
    bound: Bound<S, E>,
    mut found: impl FnMut(u32, S::F, S::I),
) {
    let lanes = E::raw_lanes::<S>();
    let mut hits = [0; VECTORS_MAX];
    let mut vectors = 0u64;
    for (i, hits) in hits[..BLOCK / lanes].iter_mut().enumerate() {
        *hits = E::at_least(s, E::raw(s, &block[i * lanes * E::SIZE..]), bound);
        vectors |= u64::from(*hits != 0) << i;
    }
    while vectors != 0 {
        let i = vectors.trailing_zeros() as usize;
        vectors &= vectors - 1;
        for part in 0..lanes / S::LANES {
            let at = i * lanes + part * S::LANES;
            let bits = hits[i % VECTORS_MAX] >> (part * S::LANES) & (u32::MAX >> (32 - S::LANES));
            let ids = s.add(s.iota(), s.splat_u32((index * BLOCK + at) as u32));
            found(bits, E::widen(s, &block[at * E::SIZE..]), ids);
        }
    }
}

/// Vectors of stored logits in a block: of 8 f32 at the least.
const VECTORS_MAX: usize = BLOCK / 8;
