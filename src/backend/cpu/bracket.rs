//! Passes around a bracket of logits that most likely has a cut: what is above it is counted and
//! weighed, what is within is listed.
//!
//! What is listed goes to the list as it is stored, 32 f16 of AVX-512 at a time, and without ids: how
//! many tokens came from each block says enough.

use super::blocks::{BLOCK, Blocks};
use super::element::{Bound, Element};
use super::list::List;
use super::mass::{Sum, Weigher, Weights};
use super::simd::{Kernel, Simd};
use super::weigh::fetch;
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
            if self.maxima[i] < self.ends.least {
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
        let end = s.splat(self.ends.end);
        let bytes = S::LANES * 4;
        let part_bytes = S::LANES * E::SIZE;
        let mut around = Around::default();
        let outputs = self.listed.iter_mut().zip(self.above);
        for ((i, block), (listed, mass_above)) in self.blocks.range(self.range).zip(outputs) {
            fetch::<S, E>(s, self.next, i);
            let (mut all, mut above) = (Sum::new(s), Sum::new(s));
            let before = self.list.raw_len();
            for i in 0..BLOCK / E::raw_lanes::<S>() {
                let vector = &block[i * bytes..];
                let raw = E::raw(s, vector);
                let (within, beyond) = bounds.split(s, raw);
                around.count_above += u64::from(beyond.count_ones());
                self.list.push_raw::<S, E>(s, within, raw);
                for part in 0..E::raw_lanes::<S>() / S::LANES {
                    let x = E::widen(s, &vector[part * part_bytes..]);
                    let mass = weigher.split(s, x);
                    all.add(s, mass);
                    above.add_where(s, s.ge(x, end), mass);
                }
            }
            *listed = ((self.list.raw_len() - before) / E::SIZE) as u32;
            around.mass += all.total(s);
            *mass_above = above.total(s);
        }
        around
    }
}

/// [`Ends`] as they are compared with.
struct Bounds<S: Simd, E: Element> {
    least: Bound<S, E>,
    end: Bound<S, E>,
}

impl<S: Simd, E: Element> Bounds<S, E> {
    #[inline(always)]
    fn new(s: S, ends: Ends) -> Self {
        Self { least: E::bound(s, ends.least), end: E::bound(s, ends.end) }
    }

    /// Which logits are within, and which above.
    #[inline(always)]
    fn split(&self, s: S, raw: E::Raw<S>) -> (u32, u32) {
        let above = E::at_least(s, raw, self.end);
        (E::at_least(s, raw, self.least) & !above, above)
    }
}
