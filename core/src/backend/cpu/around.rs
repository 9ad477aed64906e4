//! Passes around a bracket of logits that most likely has a cut: what is above it is counted and
//! weighed, what is within is listed.
//!
//! Logits are listed in the row's format, 32 f16 of AVX-512 at a time, and without ids: the number of tokens listed
//! from each block says where they came from.

use super::block_masses::{Fetch, GROUP, Squeezed, sum_any};
use super::blocks::{BLOCK, Blocks};
use super::cut::{Cut, LeastByBlock};
use super::element::{Bound, Element};
use super::list::List;
use super::mass::{Large, Parts, Split, Weigher, Weights};
use super::simd::{Kernel, Simd};
use std::ops::Range;

/// The ends of a bracket.
#[derive(Clone, Copy, Debug)]
pub struct Ends {
    /// The least logit listed.
    pub least: f32,
    /// The least logit above the bracket: may be +inf.
    pub end: f32,
}

/// Counts the tokens above a bracket, and lists those within.
pub struct CountAround<'a, E> {
    pub blocks: Blocks<'a, E>,
    pub range: Range<usize>,
    /// The greatest logit of each block of the row.
    pub maxima: &'a [f32],
    pub ends: Ends,
    pub list: &'a mut List,
    /// How many tokens were listed from each block of `range`.
    pub listed: &'a mut [u32],
}

impl<S: Simd, E: Element> Kernel<S> for CountAround<'_, E> {
    /// The count above.
    type Output = u64;

    #[inline(always)]
    fn call(self, s: S) -> u64 {
        let bounds = Bounds::<S, E>::new(s, self.ends);
        let bytes = S::LANES * 4;
        let mut count = 0;
        for ((i, block), listed) in self.blocks.range(self.range).zip(self.listed) {
            *listed = 0;
            // A bracket of one logit has nothing within: its ends are the wrong way round.
            if self.maxima[i] < self.ends.least.min(self.ends.end) {
                continue;
            }
            for i in 0..BLOCK / E::raw_lanes::<S>() {
                let raw = E::raw(s, &block[i * bytes..]);
                let (within, above) = bounds.split(s, raw);
                count += u64::from(above.count_ones());
                if within != 0 {
                    *listed += within.count_ones();
                    self.list.push_raw::<S, E>(s, within, raw);
                }
            }
        }
        count
    }
}

/// Weighs all tokens, counts and weighs those above a bracket, and lists those within.
pub struct WeighAround<'a, E> {
    pub blocks: Blocks<'a, E>,
    pub range: Range<usize>,
    pub weights: Weights,
    pub ends: Ends,
    /// What is to be read next, of any length.
    pub next: &'a [u8],
    pub list: &'a mut List,
    /// How many tokens were listed from each block of `range`.
    pub listed: &'a mut [u32],
    /// The mass above, for each block of `range`.
    pub above: &'a mut [u64],
}

/// What a [`WeighAround`] finds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Around {
    /// The mass of all tokens.
    pub mass: u64,
    /// The number of tokens above the bracket.
    pub count_above: u64,
}

impl<S: Simd, E: Element> Kernel<S> for WeighAround<'_, E> {
    type Output = Around;

    #[inline(always)]
    fn call(self, s: S) -> Around {
        let weigher = Weigher::for_any(s, self.weights);
        let bounds = Bounds::<S, E>::new(s, self.ends);
        let mut around = Around::default();
        let outputs = self.listed.iter_mut().zip(self.above);
        for ((i, block), (listed, above)) in self.blocks.range(self.range).zip(outputs) {
            let next = Fetch::new(self.next, i * BLOCK * E::SIZE, BLOCK * E::SIZE);
            let before = self.list.raw_len();
            let (mass, mass_above, count_above) =
                if self.weights.all_are_large() && !self.blocks.is_filled_up(i) {
                    weigh_block::<S, E, Large<S>>(s, block, &weigher, &bounds, next, self.list)
                } else {
                    weigh_block::<S, E, Split<S>>(s, block, &weigher, &bounds, next, self.list)
                };
            *listed = ((self.list.raw_len() - before) / E::SIZE) as u32;
            *above = mass_above;
            around.mass += mass;
            around.count_above += count_above;
        }
        around
    }
}

/// Which tokens a [`WeighSide`] weighs: the mass of the others follows from that of their block.
#[derive(Clone, Copy, Debug)]
pub enum Side {
    /// The tokens above the bracket.
    Above,
    /// The tokens below its upper end that a cut keeps; these and the tokens above are all that was weighed before.
    Below(Cut),
}

/// Lists the tokens within a bracket, and weighs and counts those above, in blocks whose mass is known.
pub struct WeighSide<'a, E> {
    pub blocks: Blocks<'a, E>,
    pub range: Range<usize>,
    pub weights: Weights,
    pub side: Side,
    pub ends: Ends,
    /// What is to be read next, of any length.
    pub next: &'a [u8],
    pub list: &'a mut List,
    /// How many tokens were listed from each block of `range`.
    pub listed: &'a mut [u32],
    /// The mass of each block of the row.
    pub all: &'a [u64],
    /// The mass above, for each block of `range`.
    pub above: &'a mut [u64],
}

impl<S: Simd, E: Element> Kernel<S> for WeighSide<'_, E> {
    /// The count above.
    type Output = u64;

    #[inline(always)]
    fn call(self, s: S) -> u64 {
        let Self { blocks, weights, side, list, .. } = self;
        let weigher = Weigher::for_any(s, weights);
        let bounds = Bounds::<S, E>::new(s, self.ends);
        let (below, cut) = match side {
            Side::Above => (false, Cut::ties(f32::NEG_INFINITY)),
            Side::Below(cut) => (true, cut),
        };
        let least_by_block = LeastByBlock::new::<E>(cut);
        let mut squeezed = Squeezed::new(-E::INFINITY - 1);
        let mut count = 0;
        let outputs = self.above.chunks_mut(GROUP).zip(self.listed.chunks_mut(GROUP));
        for ((masses_above, listed), first) in outputs.zip(self.range.step_by(GROUP)) {
            squeezed.clear();
            for (j, listed) in listed.iter_mut().enumerate() {
                let least = E::bound(s, least_by_block.of(first + j));
                let before = list.raw_len();
                squeezed.push::<S, E>(s, blocks.get(first + j), |_, raw| {
                    let (within, above) = bounds.split(s, raw);
                    count += u64::from(above.count_ones());
                    list.push_raw::<S, E>(s, within, raw);
                    if below { E::at_least(s, raw, least) & !above } else { above }
                });
                *listed = ((list.raw_len() - before) / E::SIZE) as u32;
            }
            for (j, mass_above) in masses_above.iter_mut().enumerate() {
                let i = first + j;
                let next = Fetch::new(self.next, i * BLOCK * E::SIZE, BLOCK * E::SIZE);
                let logits = squeezed.get(j).expect("every block was pushed");
                let sum = sum_any::<S, E, Split<S>>(s, logits, &weigher, next);
                *mass_above = if below {
                    let dropped = cut.dropped_ties::<E>(i, blocks.get(i));
                    self.all[i] - (sum - dropped * weights.mass(cut.least))
                } else {
                    sum
                };
            }
        }
        count
    }
}

/// The mass of a block, the mass above a bracket and the count above it. What is within is listed.
#[inline(always)]
fn weigh_block<S: Simd, E: Element, P: Parts<S>>(
    s: S,
    block: &[u8],
    weigher: &Weigher<S>,
    bounds: &Bounds<S, E>,
    mut next: Fetch<'_>,
    list: &mut List,
) -> (u64, u64, u64) {
    let part_bytes = S::LANES * E::SIZE;
    let (mut all, mut above) = (P::none(s), P::none(s));
    let mut count = 0;
    for i in 0..BLOCK / E::raw_lanes::<S>() {
        let vector = &block[i * S::LANES * 4..];
        let raw = E::raw(s, vector);
        let (within, beyond) = bounds.split(s, raw);
        count += u64::from(beyond.count_ones());
        list.push_raw::<S, E>(s, within, raw);
        next.step(s);
        for part in 0..E::raw_lanes::<S>() / S::LANES {
            let x = E::widen(s, &vector[part * part_bytes..]);
            let mass = P::weigh(s, weigher, x);
            all = all.plus(s, mass);
            above = above.plus(s, mass.only(s, s.ge(x, bounds.end_wide)));
        }
    }
    (all.total(s), above.total(s), count)
}

/// [`Ends`] as vectors, to be compared with.
struct Bounds<S: Simd, E: Element> {
    least: Bound<S, E>,
    end: Bound<S, E>,
    /// The same in every lane of widened logits.
    end_wide: S::F,
}

impl<S: Simd, E: Element> Bounds<S, E> {
    #[inline(always)]
    fn new(s: S, ends: Ends) -> Self {
        Self {
            least: E::bound(s, ends.least),
            end: E::bound(s, ends.end),
            end_wide: s.splat(ends.end),
        }
    }

    /// Which logits are within, and which above.
    #[inline(always)]
    fn split(&self, s: S, raw: E::Raw<S>) -> (u32, u32) {
        let above = E::at_least(s, raw, self.end);
        (E::at_least(s, raw, self.least) & !above, above)
    }
}
