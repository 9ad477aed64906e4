//! Short lists of tokens, and the places where they are cut.
//!
//! A list holds the logits, ids and masses of some tokens, ids ascending. The same list type serves
//! the candidates of a cut, a sample of the row, and the maxima of its blocks.

use super::cut::{Cut, above};
use super::element::Element;
use super::mass::{Split, Sum, Weigher, Weights};
use super::simd::{Kernel, Simd};

/// Room after the last token, so that whole vectors can be written and read there.
const SLACK: usize = 16;

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
}

impl List {
    /// Makes room for this many tokens, and forgets all there are.
    pub fn reset(&mut self, capacity: usize) {
        self.len = 0;
        let capacity = capacity + SLACK;
        if self.x.len() < capacity {
            self.x.resize(capacity, f32::NEG_INFINITY);
            self.id.resize(capacity, 0);
            self.high.resize(capacity, 0);
            self.low.resize(capacity, 0);
        }
    }

    /// The number of tokens.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Their logits.
    pub fn x(&self) -> &[f32] {
        &self.x[..self.len]
    }

    /// Their ids.
    pub fn ids(&self) -> &[u32] {
        &self.id[..self.len]
    }

    /// The mass of one of them, once they were weighed.
    #[inline(always)]
    pub fn mass(&self, i: usize) -> u64 {
        (u64::from(self.high[i]) << 16) + u64::from(self.low[i])
    }

    /// Appends the lanes of a vector whose bit is set.
    #[inline(always)]
    pub fn push<S: Simd>(&mut self, s: S, bits: u32, x: S::F, id: S::I) {
        s.compress(bits, x, &mut self.x[self.len..]);
        s.compress_u32(bits, id, &mut self.id[self.len..]);
        self.len += bits.count_ones() as usize;
    }

    /// Appends logits whose ids do not matter.
    #[inline(always)]
    pub fn push_all<S: Simd>(&mut self, s: S, x: S::F) {
        s.store(x, &mut self.x[self.len..]);
        self.len += S::LANES;
    }

    /// Appends one token.
    pub fn push_one(&mut self, x: f32, id: u32) {
        self.x[self.len] = x;
        self.id[self.len] = id;
        self.len += 1;
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

    /// Keeps only what a cut keeps. Masses move along.
    pub fn retain<S: Simd, E: Element>(&mut self, s: S, cut: Cut) {
        // Ids ascend: up to one place ties are kept, from there on they are not.
        let ties_end = self.ids().partition_point(|&id| id <= cut.last_id);
        let above = above::<E>(cut.least).unwrap_or(f32::INFINITY);
        s.run(Retain { list: self, least: cut.least, ties_end, above });
        self.seal();
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
        let List { len, x, id, high, low } = self.list;
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

/// One bit for each of the first `n` lanes, or for all.
#[inline(always)]
fn lanes_below<S: Simd>(n: usize) -> u32 {
    if n < S::LANES { (1 << n) - 1 } else { u32::MAX >> (32 - S::LANES) }
}

/// Finds the id of the `nth` token (from 1) of a sealed list that equals `x`.
pub struct NthTie<'a> {
    pub list: &'a List,
    pub x: f32,
    pub nth: u64,
}

impl<S: Simd> Kernel<S> for NthTie<'_> {
    type Output = Option<u32>;

    #[inline(always)]
    fn call(self, s: S) -> Option<u32> {
        let List { len, x, id, .. } = self.list;
        let tie = s.splat(self.x);
        let mut rest = self.nth as u32;
        for i in (0..*len).step_by(S::LANES) {
            let y = s.load(&x[i..]);
            let mut ties = s.bits(s.ge(y, tie)) & s.bits(s.ge(tie, y));
            if ties.count_ones() < rest {
                rest -= ties.count_ones();
                continue;
            }
            for _ in 1..rest {
                ties &= ties - 1;
            }
            return Some(id[i + ties.trailing_zeros() as usize]);
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
            let mut sum = Sum::new(s);
            for i in (start..(*len).min(start + 64 * S::LANES)).step_by(S::LANES) {
                let mass: Split<S> = weigher.split(s, s.load(&x[i..]));
                s.store_u32(mass.high, &mut high[i..]);
                s.store_u32(mass.low, &mut low[i..]);
                sum.add(s, mass);
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
            let mut sum = Sum::new(s);
            for i in (start..(*len).min(start + 64 * S::LANES)).step_by(S::LANES) {
                let m = s.ge(s.load(&x[i..]), least);
                let mass = Split { high: s.load_u32(&high[i..]), low: s.load_u32(&low[i..]) };
                sum.add_where(s, m, mass);
            }
            total += sum.total(s);
        }
        total
    }
}

/// What tokens are measured by.
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
    /// the list's logits. `None` if the whole list measures less.
    ///
    /// Bisects the keys, so a call costs at most 16 or 32 passes over the list, and no sort.
    pub fn border<S: Simd, E: Element>(&self, s: S, by: By, want: u64, max: f32) -> Option<f32> {
        let (mut below, mut above) = (-E::INFINITY, E::key(max) + 1);
        if self.measure(s, by, E::value(below)) < want {
            return None;
        }
        // Invariant: enough from `below` on, too little from `above` on.
        while below + 1 < above {
            let middle = below.midpoint(above);
            if self.measure(s, by, E::value(middle)) >= want {
                below = middle;
            } else {
                above = middle;
            }
        }
        // Adding +0.0 makes a zero positive.
        Some(E::value(below) + 0.0)
    }
}
