//! Short lists of tokens, and the places where they are cut.
//!
//! A list holds the logits, ids and masses of some tokens, ids ascending: the tokens from a bound on, the tokens
//! around a cut, the kept tokens. The greatest logits of a row's blocks are a list, too.

use super::blocks::BLOCK;
use super::cut::above;
use super::element::Element;
use super::mass::{Parts, Split, Weigher, Weights};
use super::simd::{Kernel, Simd};
use std::marker::PhantomData;
use std::ops::Range;

/// Room after the last token, so that whole vectors can be written and read there.
const SLACK: usize = 16;

/// A list, and the lists in which the other threads collect their parts of it.
#[derive(Debug, Default)]
pub struct Lists {
    /// The list.
    pub list: List,
    more: Vec<List>,
    /// How many of `more` are in use.
    more_len: usize,
}

impl Lists {
    /// A list for each run. The first is the one to which [`join`](Self::join) appends the others.
    pub fn split<R: Iterator<Item = Range<usize>> + Clone>(
        &mut self,
        runs: R,
        reset: impl Fn(&mut List, &Range<usize>),
        reset_first: impl FnOnce(&mut List),
    ) -> impl Iterator<Item = (Range<usize>, &mut List)> {
        self.more_len = runs.clone().count() - 1;
        if self.more.len() < self.more_len {
            self.more.resize_with(self.more_len, List::default);
        }
        reset_first(&mut self.list);
        for (list, run) in self.more.iter_mut().zip(runs.clone().skip(1)) {
            reset(list, &run);
        }
        runs.zip(std::iter::once(&mut self.list).chain(&mut self.more))
    }

    /// A list for each run, for logits that are pushed raw: at most all tokens of so many blocks.
    pub fn split_raw<E: Element>(
        &mut self,
        runs: impl Iterator<Item = Range<usize>> + Clone,
        blocks: usize,
    ) -> impl Iterator<Item = (Range<usize>, &mut List)> {
        self.split(
            runs,
            |list, run| list.reset_raw::<E>(run.len() * BLOCK),
            move |list| list.reset_raw::<E>(blocks * BLOCK),
        )
    }

    /// Appends the other lists to the first.
    pub fn join(&mut self, append: impl Fn(&mut List, &List)) {
        for other in &self.more[..self.more_len] {
            append(&mut self.list, other);
        }
    }
}

/// Some tokens of a row, ids ascending.
#[derive(Debug, Default)]
pub struct List {
    len: usize,
    /// Logits; -inf for at least [`SLACK`] places after the last, where [`List::seal`] was called.
    x: Vec<f32>,
    id: Vec<u32>,
    /// Masses are `high * 2^16 + low`.
    high: Vec<u32>,
    low: Vec<u32>,
    /// Logits in the row's format, from a pass that does not widen them: see [`List::widen`].
    raw: Vec<u8>,
    raw_len: usize,
}

impl List {
    /// Makes room for so many tokens, and forgets those of the list.
    pub fn reset(&mut self, capacity: usize) {
        (self.len, self.raw_len) = (0, 0);
        let capacity = capacity + SLACK;
        if self.x.len() < capacity {
            self.x.resize(capacity, f32::NEG_INFINITY);
            self.id.resize(capacity, 0);
            self.high.resize(capacity, 0);
            self.low.resize(capacity, 0);
        }
    }

    /// Makes room for so many tokens that are pushed raw, and forgets those of the list.
    pub fn reset_raw<E: Element>(&mut self, capacity: usize) {
        (self.len, self.raw_len) = (0, 0);
        let bytes = capacity * E::SIZE + 4 * SLACK;
        if self.raw.len() < bytes {
            self.raw.resize(bytes, 0);
        }
    }

    /// The number of tokens.
    pub fn len(&self) -> usize {
        self.len
    }

    /// The tokens' logits.
    pub fn x(&self) -> &[f32] {
        &self.x[..self.len]
    }

    /// The same, and -inf for at least [`SLACK`] places after the last of a sealed list.
    pub fn x_and_slack(&self) -> &[f32] {
        &self.x
    }

    /// The tokens' ids.
    pub fn ids(&self) -> &[u32] {
        &self.id[..self.len]
    }

    /// The same, and at least [`SLACK`] more of no meaning.
    pub fn ids_and_slack(&self) -> &[u32] {
        &self.id
    }

    /// The upper parts of the masses of a list that was weighed, in units of 2^16, and at least [`SLACK`] more of no
    /// meaning.
    #[inline(always)]
    pub fn high(&self) -> &[u32] {
        &self.high
    }

    /// The mass of one token of a list that was weighed.
    #[inline(always)]
    pub fn mass(&self, i: usize) -> u64 {
        (u64::from(self.high[i]) << 16) + u64::from(self.low[i])
    }

    /// Appends one token.
    pub fn push_one(&mut self, id: u32, x: f32) {
        (self.x[self.len], self.id[self.len]) = (x, id);
        self.len += 1;
    }

    /// Gives the token at a place another logit.
    pub fn set_one(&mut self, place: usize, x: f32) {
        self.x[..self.len][place] = x;
    }

    /// Gives the tokens other logits, one each.
    pub fn set_x(&mut self, x: impl Iterator<Item = f32>) {
        self.x[..self.len].iter_mut().zip(x).for_each(|(place, x)| *place = x);
    }

    /// Appends the lanes of a vector whose bit is set.
    #[inline(always)]
    pub fn push<S: Simd>(&mut self, s: S, bits: u32, x: S::F, id: S::I) {
        s.compress(bits, x, &mut self.x[self.len..]);
        s.compress_u32(bits, id, &mut self.id[self.len..]);
        self.len += bits.count_ones() as usize;
    }

    /// Appends the lanes of a vector of stored logits whose bit is set, in the row's format.
    #[inline(always)]
    pub fn push_raw<S: Simd, E: Element>(&mut self, s: S, bits: u32, raw: E::Raw<S>) {
        E::compress(s, bits, raw, &mut self.raw[self.raw_len..]);
        self.raw_len += bits.count_ones() as usize * E::SIZE;
    }

    /// The bytes pushed raw.
    #[inline(always)]
    pub fn raw_len(&self) -> usize {
        self.raw_len
    }

    /// Appends the tokens of another list, whose ids are greater. Masses are not kept.
    pub fn append(&mut self, other: &Self) {
        let end = self.len + other.len;
        self.x[self.len..end].copy_from_slice(other.x());
        self.id[self.len..end].copy_from_slice(other.ids());
        self.len = end;
    }

    /// Appends what was pushed raw to another list.
    pub fn append_raw(&mut self, other: &Self) {
        let end = self.raw_len + other.raw_len;
        self.raw[self.raw_len..end].copy_from_slice(&other.raw[..other.raw_len]);
        self.raw_len = end;
    }

    /// Makes tokens of the logits that were pushed raw, and seals the list. `counts` says how many came from each
    /// block of the row: a token's id is that of the first token of its block.
    pub fn widen<S: Simd, E: Element>(&mut self, s: S, counts: &[u32]) {
        let (raw, len) = (std::mem::take(&mut self.raw), self.raw_len / E::SIZE);
        self.reset(len);
        s.run(Widen::<E> { raw: &raw, len, list: self, element: PhantomData });
        self.raw = raw;
        let mut end = 0;
        for (block, &count) in counts.iter().enumerate() {
            let start = end;
            end += count as usize;
            // A vector at least, for speed: the next block overwrites what is too much.
            let filled = end.max(start + SLACK).min(self.id.len());
            self.id[start..filled].fill((block * BLOCK) as u32);
        }
        self.seal();
    }

    /// Adds the masses of the tokens that [`retain`](Self::retain) would keep to those of their blocks, and returns how
    /// many tokens these are. `counts` says how many tokens of the list came from each block.
    pub fn add_to_blocks<S: Simd, E: Element>(
        &self,
        s: S,
        least: f32,
        ties_end: usize,
        counts: &[u32],
        masses: &mut [u64],
    ) -> u64 {
        let above = above::<E>(least).unwrap_or(f32::INFINITY);
        s.run(AddToBlocks { list: self, least, ties_end, above, counts, masses })
    }

    /// Takes out the last `n` tokens that equal `x`.
    pub fn drop_last_ties(&mut self, x: f32, n: usize) {
        let from = (0..self.len).rev().filter(|&i| self.x[i] == x).nth(n - 1).expect("n ties");
        let mut kept = from;
        for i in from..self.len {
            (self.x[kept], self.id[kept]) = (self.x[i], self.id[i]);
            kept += usize::from(self.x[i] != x);
        }
        self.len = kept;
    }

    /// Ends the appending: what follows the last token compares as less than every candidate.
    pub fn seal(&mut self) {
        self.x[self.len..self.len + SLACK].fill(f32::NEG_INFINITY);
    }

    /// Keeps the tokens above `least`, and of those equal to it the ones before the `ties_end`th
    /// token of the list. Masses move along.
    pub fn retain<S: Simd, E: Element>(&mut self, s: S, least: f32, ties_end: usize) {
        let above = above::<E>(least).unwrap_or(f32::INFINITY);
        s.run(Retain { list: self, least, ties_end, above });
        self.seal();
    }

    /// Where the `nth` token (from 1) that equals `x` is in a sealed list.
    pub fn nth_tie<S: Simd>(&self, s: S, x: f32, nth: u64) -> usize {
        s.run(NthTie { list: self, x, nth }).expect("the list has as many")
    }
}

/// Appends stored logits to a list, without ids.
pub struct Widen<'a, E> {
    /// At least `len` of them, and bytes to fill up a vector.
    pub raw: &'a [u8],
    pub len: usize,
    pub list: &'a mut List,
    pub element: PhantomData<E>,
}

impl<S: Simd, E: Element> Kernel<S> for Widen<'_, E> {
    type Output = ();

    #[inline(always)]
    fn call(self, s: S) {
        let List { len, x, .. } = self.list;
        for i in (0..self.len).step_by(S::LANES) {
            s.store(E::widen(s, &self.raw[i * E::SIZE..]), &mut x[*len + i..]);
        }
        *len += self.len;
    }
}

/// Keeps the tokens from `above` on, and up to `ties_end` those from `least` on.
struct Retain<'a> {
    list: &'a mut List,
    least: f32,
    ties_end: usize,
    above: f32,
}

impl<S: Simd> Kernel<S> for Retain<'_> {
    type Output = ();

    #[inline(always)]
    fn call(self, s: S) {
        let List { len, x, id, high, low, .. } = self.list;
        let (least, above) = (s.splat(self.least), s.splat(self.above));
        let mut kept = 0;
        for i in (0..*len).step_by(S::LANES) {
            let y = s.load(&x[i..]);
            let ties = s.bits(s.ge(y, least)) & lanes_below::<S>(self.ties_end.saturating_sub(i));
            let bits = (ties | s.bits(s.ge(y, above))) & lanes_below::<S>(*len - i);
            // A vector is written after it was read, and no further than it reaches.
            s.compress(bits, y, &mut x[kept..]);
            for values in [&mut *id, &mut *high, &mut *low] {
                s.compress_u32(bits, s.load_u32(&values[i..]), &mut values[kept..]);
            }
            kept += bits.count_ones() as usize;
        }
        *len = kept;
    }
}

/// Counts the tokens from `above` on, and up to `ties_end` the tokens from `least` on, and adds their masses to those
/// of the blocks from which the tokens came.
struct AddToBlocks<'a> {
    list: &'a List,
    least: f32,
    ties_end: usize,
    above: f32,
    counts: &'a [u32],
    masses: &'a mut [u64],
}

impl<S: Simd> Kernel<S> for AddToBlocks<'_> {
    type Output = u64;

    #[inline(always)]
    fn call(self, s: S) -> u64 {
        let List { x, high, low, .. } = self.list;
        let (least, above) = (s.splat(self.least), s.splat(self.above));
        let mut kept = 0;
        let mut end = 0;
        for (&count, block) in self.counts.iter().zip(self.masses) {
            let start = end;
            end += count as usize;
            let mut sum = Split::none(s);
            for i in (start..end).step_by(S::LANES) {
                let y = s.load(&x[i..]);
                let ties =
                    s.bits(s.ge(y, least)) & lanes_below::<S>(self.ties_end.saturating_sub(i));
                let bits = (ties | s.bits(s.ge(y, above))) & lanes_below::<S>(end - i);
                let mass = Split { high: s.load_u32(&high[i..]), low: s.load_u32(&low[i..]) };
                sum = sum.plus(s, mass.only(s, s.mask(bits)));
                kept += u64::from(bits.count_ones());
            }
            *block += sum.total(s);
        }
        kept
    }
}

/// One bit for each of the first `n` lanes, or for all.
#[inline(always)]
fn lanes_below<S: Simd>(n: usize) -> u32 {
    if n < S::LANES { (1 << n) - 1 } else { u32::MAX >> (32 - S::LANES) }
}

/// Finds the `nth` token (from 1) of a sealed list that equals `x`.
struct NthTie<'a> {
    list: &'a List,
    x: f32,
    nth: u64,
}

impl<S: Simd> Kernel<S> for NthTie<'_> {
    type Output = Option<usize>;

    #[inline(always)]
    fn call(self, s: S) -> Option<usize> {
        let List { len, x, .. } = self.list;
        let tie = s.splat(self.x);
        let mut rest = self.nth;
        for i in (0..*len).step_by(S::LANES) {
            let y = s.load(&x[i..]);
            let mut ties = s.bits(s.ge(y, tie)) & s.bits(s.ge(tie, y));
            if u64::from(ties.count_ones()) < rest {
                rest -= u64::from(ties.count_ones());
                continue;
            }
            for _ in 1..rest {
                ties &= ties - 1;
            }
            return Some(i + ties.trailing_zeros() as usize);
        }
        None
    }
}

/// Computes the masses of a sealed list, and their sum.
pub struct Weigh<'a> {
    pub list: &'a mut List,
    pub weights: Weights,
}

impl<S: Simd> Kernel<S> for Weigh<'_> {
    type Output = u64;

    #[inline(always)]
    fn call(self, s: S) -> u64 {
        let List { len, x, high, low, .. } = self.list;
        let weigher = Weigher::for_any(s, self.weights);
        let mut total = 0;
        for start in (0..*len).step_by(64 * S::LANES) {
            let mut sum = Split::none(s);
            for i in (start..(*len).min(start + 64 * S::LANES)).step_by(S::LANES) {
                let mass = Split::weigh(s, &weigher, s.load(&x[i..]));
                s.store_u32(mass.high, &mut high[i..]);
                s.store_u32(mass.low, &mut low[i..]);
                sum = sum.plus(s, mass);
            }
            total += sum.total(s);
        }
        total
    }
}

/// Sums the masses of the tokens of a sealed list that are at least `least`, and does not keep them.
pub struct TotalMass<'a> {
    pub list: &'a List,
    pub weights: Weights,
    pub least: f32,
}

impl<S: Simd> Kernel<S> for TotalMass<'_> {
    type Output = u64;

    #[inline(always)]
    fn call(self, s: S) -> u64 {
        let weigher = Weigher::for_any(s, self.weights);
        let least = s.splat(self.least);
        let mut total = 0;
        for start in (0..self.list.len).step_by(64 * S::LANES) {
            let mut sum = Split::none(s);
            for i in (start..self.list.len.min(start + 64 * S::LANES)).step_by(S::LANES) {
                let x = s.load(&self.list.x[i..]);
                sum = sum.plus(s, Split::weigh(s, &weigher, x).only(s, s.ge(x, least)));
            }
            total += sum.total(s);
        }
        total
    }
}

/// Counts the tokens of a sealed list that are at least `least`.
pub struct Count<'a> {
    pub list: &'a List,
    pub least: f32,
}

impl<S: Simd> Kernel<S> for Count<'_> {
    type Output = u64;

    #[inline(always)]
    fn call(self, s: S) -> u64 {
        let least = s.splat(self.least);
        let mut count = 0;
        for i in (0..self.list.len).step_by(S::LANES) {
            count += u64::from(s.bits(s.ge(s.load(&self.list.x[i..]), least)).count_ones());
        }
        count
    }
}

/// Sums the masses of the tokens of a sealed and weighed list that are at least `least`.
pub struct MassOf<'a> {
    pub list: &'a List,
    pub least: f32,
}

impl<S: Simd> Kernel<S> for MassOf<'_> {
    type Output = u64;

    #[inline(always)]
    fn call(self, s: S) -> u64 {
        let List { len, x, high, low, .. } = self.list;
        let least = s.splat(self.least);
        let mut total = 0;
        for start in (0..*len).step_by(64 * S::LANES) {
            let mut sum = Split::none(s);
            for i in (start..(*len).min(start + 64 * S::LANES)).step_by(S::LANES) {
                let m = s.ge(s.load(&x[i..]), least);
                let mass = Split { high: s.load_u32(&high[i..]), low: s.load_u32(&low[i..]) };
                sum = sum.plus(s, mass.only(s, m));
            }
            total += sum.total(s);
        }
        total
    }
}

/// By what tokens are measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum By {
    /// One each.
    Count,
    /// Their mass.
    Mass,
}

impl List {
    /// How much of a sealed list is at least `least`.
    pub fn measure<S: Simd>(&self, s: S, by: By, least: f32) -> u64 {
        match by {
            By::Count => s.run(Count { list: self, least }),
            By::Mass => s.run(MassOf { list: self, least }),
        }
    }

    /// The greatest logit such that it and everything above measure at least `want`. It is one of
    /// the list's logits, and between `low` and `high`. `None` if the whole list measures less.
    pub fn border<S: Simd, E: Element>(
        &self,
        s: S,
        by: By,
        want: u64,
        low: f32,
        high: f32,
    ) -> Option<f32> {
        bisect::<E>(low, high, |least| self.measure(s, by, least) >= want)
    }
}

/// The greatest value of a dtype between two finite ones (both included) from which on there is
/// `enough`. `None` if there is not from the low one on. At most 16 or 32 steps.
pub fn bisect<E: Element>(low: f32, high: f32, enough: impl Fn(f32) -> bool) -> Option<f32> {
    let (mut below, mut above) = (E::key(low), E::key(high) + 1);
    if !enough(E::value(below)) {
        return None;
    }
    // Invariant: enough from `below` on, too little from `above` on.
    while below + 1 < above {
        let middle = below.midpoint(above);
        if enough(E::value(middle)) { below = middle } else { above = middle }
    }
    // Adding +0.0 makes a zero positive.
    Some(E::value(below) + 0.0)
}

/// The least finite value of a dtype.
pub fn lowest<E: Element>() -> f32 {
    E::value(-E::INFINITY)
}
