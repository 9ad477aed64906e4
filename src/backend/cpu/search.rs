//! The search for the cut: which token is the last one kept.
//!
//! Nothing is ever sorted. A cut is found in a short list that certainly contains it, by bisecting
//! the keys with counts or sums of masses ([`List::border`]). What differs is how the list is come by:
//!
//! - top-k, k up to the number of blocks: the k-th largest block maximum is a lower bound of the k-th
//!   largest logit. The list has everything from there on, from blocks whose maximum reaches it.
//! - top-p, peaked rows: the masses of all blocks give the total, and so how much mass may be left
//!   out. A block leaves out at most its own mass, and at most [`BLOCK`] times that of the
//!   greatest logit left out: the greatest logit for which the sum of those bounds is not too much
//!   is a lower bound of the border. Few tokens are above it.
//! - top-p, flat rows, and large k: a sample of the row gives a bracket that most likely contains
//!   the border; one pass weighs (or counts) the tokens above it and lists those within. The pass
//!   says whether the guess was right; a wrong one says on which side the border is, and the next
//!   pass lists that side.
//!
//! Many equal logits never make a list long: those at the ends of a bracket are counted, not listed.
//! min-p is a bound on the logit, found by bisecting the keys alone.

use super::blocks::{BLOCK, Blocks};
use super::bracket::Bracket;
use super::collect::{Between, Collect, Ties};
use super::cut::{Cut, above};
use super::element::Element;
use super::list::{By, List, NthTie, Weigh};
use super::mass::{BlockMasses, KeptMasses, Weights};
use super::row::Found;
use super::simd::{Kernel, Simd};
use crate::arithmetic::cut::{min_p_distance, top_p_fraction, top_p_target};
use crate::arithmetic::mass::UNIT;
use crate::params::SamplingParams;

/// A row of up to this many blocks is listed as a whole.
const LISTED_BLOCKS: usize = 4;
/// Tokens that top-k's list may have before ties are suspected.
const LIST_MAX: usize = 8192;
/// The share of a row that may be listed rather than bracketed.
const LIST_SHARE: f64 = 1.0 / 10.0;
/// The share of a row from which on it pays to look for a better bound before listing it.
const TIGHTEN_SHARE: f64 = 1.0 / 40.0;
/// The share of the mass that block maxima may have in a row that a sample describes.
const HEAVY_SHARE: f64 = 0.1;
/// Half the width of a guessed range, in standard deviations.
const DEVIATIONS: f64 = 2.5;
/// Tokens sampled in a block.
const SAMPLED: usize = 16;

/// A row whose cut is to be found.
#[derive(Clone, Copy)]
pub struct Search<'a, S, E> {
    pub s: S,
    pub blocks: Blocks<'a, E>,
    pub weights: Weights,
    pub params: &'a SamplingParams,
    pub vocab_size: u32,
}

/// Where the kept tokens are.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Kept {
    /// In [`Found::list`], weighed.
    List,
    /// In the blocks: [`Found::masses`] has the mass of those that the cut keeps.
    Blocks {
        cut: Cut,
        /// How many; `None` is every candidate.
        count: Option<u64>,
    },
}

/// Two logits with the border between them, or at one of them.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Range {
    /// -inf where nothing is known.
    low: f32,
    high: Option<f32>,
}

/// A border, and what lies before it.
#[derive(Clone, Copy, Debug)]
struct Settled {
    cut: Cut,
    count: u64,
}

impl<S: Simd, E: Element> Search<'_, S, E> {
    /// Applies top-k, top-p and min-p.
    pub fn run(&self, found: &mut Found) -> Kept {
        let k = self.params.top_k().filter(|&k| k < self.vocab_size).map(u64::from);
        let nucleus = self.params.top_p().is_some();
        let blocks = self.blocks.len();
        match k {
            Some(k) if k <= blocks as u64 || blocks <= LISTED_BLOCKS => {
                let least = self.top_k_bound(k, found);
                if self.list_from(least, found) {
                    self.cut_list(Some(k), found);
                    return Kept::List;
                }
                self.search_blocks(Some((k, Range { low: least, high: None })), found)
            }
            Some(k) => {
                self.take_sample(found);
                let range = self.guess_count(k, &found.sample);
                self.search_blocks(Some((k, range)), found)
            }
            None if nucleus && blocks <= LISTED_BLOCKS => {
                self.list_from(f32::NEG_INFINITY, found);
                self.cut_list(None, found);
                Kept::List
            }
            None => self.search_blocks(None, found),
        }
    }

    /// A lower bound of the k-th largest logit.
    fn top_k_bound(&self, k: u64, found: &Found) -> f32 {
        let bound = found.maxima.border::<S, E>(self.s, By::Count, k, self.weights.max);
        bound.unwrap_or(f32::NEG_INFINITY)
    }

    /// Lists every candidate from a logit on; false if they are too many.
    fn list_from(&self, least: f32, found: &mut Found) -> bool {
        let cut = Cut::ties(least).tighter(Cut::none::<E>());
        found.list.reset(LIST_MAX + BLOCK);
        self.collect(cut, LIST_MAX, found);
        found.list.len() <= LIST_MAX
    }

    fn collect(&self, cut: Cut, limit: usize, found: &mut Found) {
        let Found { maxima, list, .. } = found;
        let range = 0..self.blocks.len();
        self.s.run(Collect { blocks: self.blocks, range, maxima: maxima.x(), cut, limit, list });
        list.seal();
    }

    /// Applies the cuts to a list that has every kept token.
    fn cut_list(&self, k: Option<u64>, found: &mut Found) {
        let list = &mut found.list;
        if let Some(k) = k
            && let Some(x) = list.border::<S, E>(self.s, By::Count, k, self.weights.max)
        {
            list.retain::<S, E>(self.s, self.tie_cut(By::Count, k, x, list));
        }
        let total = self.s.run(Weigh { list, weights: self.weights });
        if let Some(p) = self.params.top_p() {
            let want = top_p_target(top_p_fraction(p), total);
            let x = list.border::<S, E>(self.s, By::Mass, want, self.weights.max);
            let x = x.expect("the target is a part");
            list.retain::<S, E>(self.s, self.tie_cut(By::Mass, want, x, list));
        }
        if let Some(cut) = self.min_p_cut() {
            list.retain::<S, E>(self.s, cut);
        }
    }

    /// The cut within a list at the tokens that equal `x`, its border for `want`.
    fn tie_cut(&self, by: By, want: u64, x: f32, list: &List) -> Cut {
        let before = above::<E>(x).map_or(0, |x| list.measure(self.s, by, x));
        let nth = (want - before).div_ceil(self.each(by, x));
        let last_id = self.s.run(NthTie { list, x, nth });
        Cut { least: x, last_id: last_id.expect("the list reaches its border") }
    }

    /// What one token measures.
    fn each(&self, by: By, x: f32) -> u64 {
        match by {
            By::Count => 1,
            By::Mass => self.weights.mass(x),
        }
    }

    /// The cut of min-p: the least logit whose distance from the maximum is allowed.
    fn min_p_cut(&self) -> Option<Cut> {
        let distance = min_p_distance(self.params.min_p()?, self.params.temperature());
        let kept = |key| E::value(key) - self.weights.max >= distance;
        let (mut below, mut least) = (-E::INFINITY - 1, E::key(self.weights.max));
        while below + 1 < least {
            let middle = below.midpoint(least);
            if kept(middle) { least = middle } else { below = middle }
        }
        Some(Cut::ties(E::value(least) + 0.0))
    }

    /// The search where the kept tokens may be many.
    fn search_blocks(&self, k: Option<(u64, Range)>, found: &mut Found) -> Kept {
        let top_k = k.and_then(|(k, range)| self.settle_count(k, range, found));
        if let Some(Settled { cut, count }) = top_k
            && count <= LIST_MAX as u64
        {
            found.list.reset(LIST_MAX + BLOCK);
            self.collect(cut, LIST_MAX, found);
            self.cut_list(None, found);
            return Kept::List;
        }
        let min_p = self.min_p_cut();
        if let Some(p) = self.params.top_p() {
            let (nucleus, kept) = self.nucleus(p, top_k, found);
            return match min_p {
                Some(min_p) if min_p.tighter(nucleus) != nucleus => self.kept_by(min_p, found),
                _ => kept,
            };
        }
        let top_k = top_k.map(|settled| settled.cut);
        match (top_k, min_p) {
            (None, None) => {
                self.weigh_blocks(found);
                Kept::Blocks { cut: Cut::none::<E>(), count: None }
            }
            (Some(cut), None) | (None, Some(cut)) => self.kept_by(cut, found),
            (Some(a), Some(b)) => self.kept_by(a.tighter(b), found),
        }
    }

    /// Weighs what a cut keeps.
    fn kept_by(&self, cut: Cut, found: &mut Found) -> Kept {
        let count = self.weigh_kept(cut, found);
        Kept::Blocks { cut, count: Some(count) }
    }

    fn weigh_blocks(&self, found: &mut Found) {
        let Found { maxima, masses, .. } = found;
        masses.resize(self.blocks.len(), 0);
        self.s.run(BlockMasses {
            blocks: self.blocks,
            range: 0..self.blocks.len(),
            maxima: maxima.x(),
            weights: self.weights,
            masses,
        });
    }

    fn weigh_kept(&self, cut: Cut, found: &mut Found) -> u64 {
        let Found { maxima, masses, .. } = found;
        masses.resize(self.blocks.len(), 0);
        self.s.run(KeptMasses {
            blocks: self.blocks,
            range: 0..self.blocks.len(),
            maxima: maxima.x(),
            weights: self.weights,
            cut,
            masses,
        })
    }

    /// Finds the token where top-k ends. `None` if it keeps every candidate.
    fn settle_count(&self, k: u64, mut range: Range, found: &mut Found) -> Option<Settled> {
        loop {
            let Found { maxima, list, .. } = found;
            list.reset(self.vocab_size as usize + BLOCK);
            let above = self.s.run(Between {
                blocks: self.blocks,
                range: 0..self.blocks.len(),
                maxima: maxima.x(),
                least: range.least::<E>(),
                end: range.end(),
                list,
            });
            list.seal();
            let listed = list.len() as u64;
            match self.locate(By::Count, k, above, listed, range, found) {
                Located::At { cut, .. } => return Some(Settled { cut, count: k }),
                Located::Elsewhere(other) => range = other,
                Located::Nowhere => return None,
            }
        }
    }

    /// Finds the token where top-p ends, and weighs what it keeps.
    fn nucleus(&self, p: f32, top_k: Option<Settled>, found: &mut Found) -> (Cut, Kept) {
        let fraction = top_p_fraction(p);
        self.take_sample(found);
        if top_k.is_none()
            && let Some(range) = self.guess_flat_nucleus(p, found)
        {
            return self.bracket(|total| top_p_target(fraction, total), range, found);
        }
        match top_k {
            Some(top_k) => drop(self.weigh_kept(top_k.cut, found)),
            None => self.weigh_blocks(found),
        }
        let total: u64 = found.masses.iter().sum();
        let want = top_p_target(fraction, total);
        let spare = total - want;
        let least = self.nucleus_bound(spare, found);
        if self.sampled_share(least, found) > TIGHTEN_SHARE {
            let range = self.guess_nucleus(spare, found);
            if self.sampled_share(range.low, found) > LIST_SHARE {
                return self.bracket(|_| want, range, found);
            }
            if range.low > least
                && let Some(cut) = self.list_nucleus(range.low, want, found)
            {
                return (cut, Kept::List);
            }
        }
        let cut = self.list_nucleus(least, want, found);
        (cut.expect("the bound is below the border"), Kept::List)
    }

    /// The nucleus whose tokens all are `least` or above, left in the list; `None` if there is more.
    fn list_nucleus(&self, least: f32, want: u64, found: &mut Found) -> Option<Cut> {
        found.list.reset(self.vocab_size as usize + BLOCK);
        self.collect(Cut::ties(least), usize::MAX, found);
        let list = &mut found.list;
        self.s.run(Weigh { list, weights: self.weights });
        let x = list.border::<S, E>(self.s, By::Mass, want, self.weights.max)?;
        let cut = self.tie_cut(By::Mass, want, x, list);
        list.retain::<S, E>(self.s, cut);
        Some(cut)
    }

    /// The nucleus whose border is likely in a range. `want` is its mass, given that of all tokens.
    fn bracket(
        &self,
        want: impl Fn(u64) -> u64,
        mut range: Range,
        found: &mut Found,
    ) -> (Cut, Kept) {
        loop {
            let Found { list, masses, .. } = found;
            list.reset(self.vocab_size as usize + BLOCK);
            masses.resize(self.blocks.len(), 0);
            let bracketed = self.s.run(Bracket {
                blocks: self.blocks,
                range: 0..self.blocks.len(),
                weights: self.weights,
                least: range.least::<E>(),
                end: range.end(),
                list,
                above: masses,
            });
            list.seal();
            let listed = self.s.run(Weigh { list, weights: self.weights });
            let above = masses.iter().sum();
            match self.locate(By::Mass, want(bracketed.mass), above, listed, range, found) {
                Located::At { cut, place } => {
                    let count =
                        bracketed.count_above.wrapping_add(self.keep_until(cut, place, found));
                    return (cut, Kept::Blocks { cut, count: Some(count) });
                }
                Located::Elsewhere(other) => range = other,
                Located::Nowhere => unreachable!("the target is a part of the candidates' mass"),
            }
        }
    }

    /// A logit such that all tokens below it have at most `spare` mass.
    fn nucleus_bound(&self, spare: u64, found: &Found) -> f32 {
        let Weights { max, scale } = self.weights;
        let lowest = E::value(-E::INFINITY);
        let least = |half_octaves: u32| {
            let x = max - half_octaves as f32 * 0.5 / scale.c;
            if x > lowest { E::value(E::key(x)) } else { lowest }
        };
        let spares = |half_octaves: u32| {
            let mass = self.weights.mass(least(half_octaves));
            // Masses fall with their logits but for the last bits of the polynomial.
            let each = mass + (mass >> 20) + 1;
            let all = BLOCK as u64 * each;
            found.masses.iter().map(|&block| block.min(all)).sum::<u64>() <= spare
        };
        // At 41 octaves down the mass is 0, and nothing is known to be spared but by this bound.
        let (mut too_high, mut enough) = (0, 82);
        while too_high + 1 < enough {
            let middle = u32::midpoint(too_high, enough);
            if spares(middle) { enough = middle } else { too_high = middle }
        }
        if spares(enough) { least(enough) } else { lowest }
    }

    /// Says where the border for `want` is, after a pass: `above` was measured from the range's high
    /// end on, `listed` between its ends.
    fn locate(
        &self,
        by: By,
        want: u64,
        above: u64,
        listed: u64,
        range: Range,
        found: &mut Found,
    ) -> Located {
        if above >= want {
            let x = range.high.expect("nothing is above the end of an open range");
            let ties = self.count_ties(x, found);
            let beyond = above - ties * self.each(by, x);
            if beyond >= want {
                return Located::Elsewhere(Range { low: x, high: None });
            }
            let kept = (want - beyond).div_ceil(self.each(by, x));
            return Located::At {
                cut: self.nth_tie(x, kept, found),
                place: Place::High { dropped: ties - kept },
            };
        }
        let want = want - above;
        if listed >= want {
            let list = &found.list;
            let x = list.border::<S, E>(self.s, by, want, self.weights.max);
            let cut = self.tie_cut(by, want, x.expect("the list measures enough"), list);
            return Located::At { cut, place: Place::Between };
        }
        let want = want - listed;
        if range.low == f32::NEG_INFINITY {
            return Located::Nowhere;
        }
        let ties = self.count_ties(range.low, found);
        if ties * self.each(by, range.low) < want {
            return Located::Elsewhere(Range { low: f32::NEG_INFINITY, high: Some(range.low) });
        }
        let kept = want.div_ceil(self.each(by, range.low));
        Located::At { cut: self.nth_tie(range.low, kept, found), place: Place::Low { kept } }
    }

    /// Counts the tokens equal to `x` in every block.
    fn count_ties(&self, x: f32, found: &mut Found) -> u64 {
        let counts = &mut found.ties;
        counts.resize(self.blocks.len(), 0);
        self.s.run(Ties { blocks: self.blocks, range: 0..self.blocks.len(), x, counts });
        counts.iter().map(|&n| u64::from(n)).sum()
    }

    /// The cut at the `nth` token (from 1) that equals `x`; these have been counted.
    fn nth_tie(&self, x: f32, mut nth: u64, found: &Found) -> Cut {
        let block = found.ties.iter().position(|&ties| {
            let here = u64::from(ties) >= nth;
            nth -= if here { 0 } else { u64::from(ties) };
            here
        });
        let block = block.expect("there are as many");
        let logits = self.blocks.get(block).chunks_exact(E::SIZE).enumerate();
        let mut ties = logits.filter(|(_, logit)| E::read(logit) == x);
        let (i, _) = ties.nth(nth as usize - 1).expect("the block has as many");
        Cut { least: x, last_id: (block * BLOCK + i) as u32 }
    }

    /// Turns the masses above a bracket into those that the cut keeps, and returns how many tokens
    /// it keeps besides (less, wrapping, where it drops some).
    fn keep_until(&self, cut: Cut, place: Place, found: &mut Found) -> u64 {
        let Found { list, masses, ties, .. } = found;
        let add = |list: &List, masses: &mut [u64]| {
            for (i, &id) in list.ids().iter().enumerate() {
                masses[id as usize / BLOCK] += list.mass(i);
            }
            list.len() as u64
        };
        let mass = self.weights.mass(cut.least);
        match place {
            Place::High { dropped } => {
                let mut kept = ties.iter().map(|&n| u64::from(n)).sum::<u64>() - dropped;
                for (block, &ties) in masses.iter_mut().zip(ties.iter()) {
                    let here = kept.min(u64::from(ties));
                    kept -= here;
                    *block -= (u64::from(ties) - here) * mass;
                }
                dropped.wrapping_neg()
            }
            Place::Between => {
                list.retain::<S, E>(self.s, cut);
                add(list, masses)
            }
            Place::Low { kept } => {
                let mut rest = kept;
                for (block, &ties) in masses.iter_mut().zip(ties.iter()) {
                    let here = rest.min(u64::from(ties));
                    rest -= here;
                    *block += here * mass;
                }
                add(list, masses) + kept
            }
        }
    }

    /// Takes and weighs a sample: as many tokens from each block, at places that follow no pattern
    /// of the vocabulary. It decides how fast the cut is found, never where it is.
    fn take_sample(&self, found: &mut Found) {
        let list = &mut found.sample;
        list.reset(self.blocks.len() * SAMPLED);
        self.s.run(Sample { blocks: self.blocks, list });
        list.seal();
        self.s.run(Weigh { list, weights: self.weights });
    }

    /// The share of the sample from a logit on.
    fn sampled_share(&self, least: f32, found: &Found) -> f64 {
        let count = found.sample.measure(self.s, By::Count, least);
        count as f64 / found.sample.len() as f64
    }

    /// A range that most likely has the `k`th largest logit.
    fn guess_count(&self, k: u64, sample: &List) -> Range {
        let expected = k as f64 * sample.len() as f64 / f64::from(self.vocab_size);
        let margin = 3.0 * expected.sqrt() + 2.0;
        self.guess(By::Count, expected - margin, expected + margin, sample)
    }

    /// A range that most likely has the border of a nucleus, before any mass is known: only where
    /// no few tokens have much of the mass, and the range is short.
    ///
    /// What the sample estimates is the share of the mass below the border. Its variance has two
    /// parts: which of the tokens below are sampled, each with at most the border's mass; and
    /// how much mass was sampled at all.
    fn guess_flat_nucleus(&self, p: f32, found: &Found) -> Option<Range> {
        let Weights { max, scale } = self.weights;
        let sample = &found.sample;
        let total = sample.measure(self.s, By::Mass, E::value(-E::INFINITY)) as f64;
        // Heavy tokens escape a sample; the maxima of the blocks have the heaviest.
        let heavy = |x: &f32| f64::from((x - max) * scale.c).exp2();
        let heavy = found.maxima.x().iter().map(heavy).sum::<f64>() * UNIT as f64;
        if heavy * sample.len() as f64 > HEAVY_SHARE * total * f64::from(self.vocab_size) {
            return None;
        }
        let (p, rest) = (f64::from(p), 1.0 - f64::from(p));
        let middle = sample.border::<S, E>(self.s, By::Mass, (p * total) as u64, max)?;
        let each = self.weights.mass(middle) as f64;
        let variance = (rest * each + rest * rest * UNIT as f64) * total;
        let margin = DEVIATIONS * variance.sqrt() + each;
        let range = self.guess(By::Mass, p * total - margin, p * total + margin, sample);
        let share = self.sampled_share(range.low, found) - self.sampled_share(range.end(), found);
        (share <= LIST_SHARE).then_some(range)
    }

    /// A range that most likely has the border of the nucleus with `spare` mass below it.
    ///
    /// The tokens below are many and light, so what is sampled of them tells their mass well,
    /// wherever the rest of the row's mass is.
    fn guess_nucleus(&self, spare: u64, found: &Found) -> Range {
        let sample = &found.sample;
        let total = sample.measure(self.s, By::Mass, E::value(-E::INFINITY)) as f64;
        let below = spare as f64 * sample.len() as f64 / f64::from(self.vocab_size);
        let want = (total - below).max(1.0) as u64;
        let middle = sample.border::<S, E>(self.s, By::Mass, want, self.weights.max);
        let each = middle.map_or(0.0, |x| self.weights.mass(x) as f64);
        let margin = DEVIATIONS * (below * each).sqrt() + each;
        self.guess(By::Mass, total - below - margin, total - below + margin, sample)
    }

    fn guess(&self, by: By, high: f64, low: f64, sample: &List) -> Range {
        let border = |want: f64| {
            (want >= 1.0)
                .then(|| sample.border::<S, E>(self.s, by, want as u64, self.weights.max))
                .flatten()
        };
        Range { low: border(low).unwrap_or(f32::NEG_INFINITY), high: border(high) }
    }
}

/// Where a border was found to be.
#[derive(Clone, Copy, Debug)]
enum Located {
    At {
        cut: Cut,
        place: Place,
    },
    /// The guess was wrong, and this is certain.
    Elsewhere(Range),
    /// All candidates measure less.
    Nowhere,
}

/// Where in a range a cut is.
#[derive(Clone, Copy, Debug)]
enum Place {
    /// Among the tokens equal to the high end; these are dropped.
    High { dropped: u64 },
    /// In the list.
    Between,
    /// Among the tokens equal to the low end; so many are kept.
    Low { kept: u64 },
}

impl Range {
    /// The least logit of the list between the ends.
    fn least<E: Element>(self) -> f32 {
        above::<E>(self.low).unwrap_or(f32::INFINITY)
    }

    /// The end of that list.
    fn end(self) -> f32 {
        self.high.unwrap_or(f32::INFINITY)
    }
}

/// Copies some tokens of every block.
struct Sample<'a, E> {
    blocks: Blocks<'a, E>,
    list: &'a mut List,
}

impl<S: Simd, E: Element> Kernel<S> for Sample<'_, E> {
    type Output = ();

    #[inline(always)]
    fn call(self, s: S) {
        for (i, block) in self.blocks.range(0..self.blocks.len()) {
            // The upper bits of a multiple of the golden ratio.
            let place = ((i as u32).wrapping_mul(0x9e37_79b1) >> 16) as usize % (BLOCK / SAMPLED);
            for part in 0..SAMPLED / S::LANES {
                let at = (place * SAMPLED + part * S::LANES) * E::SIZE;
                self.list.push_all(s, E::widen(s, &block[at..]));
            }
        }
    }
}
