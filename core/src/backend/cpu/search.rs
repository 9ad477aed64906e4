//! The search for the cut: which token is the last one kept.
//!
//! Nothing is ever sorted. A cut is found in a short list that certainly contains it, by bisecting
//! the keys with counts or sums of masses ([`List::border`]). What differs is how the list is come by:
//!
//! - top-k, k up to the number of blocks: the k-th largest block maximum is a lower bound of the k-th
//!   largest logit. The list has everything from there on, from blocks whose maximum reaches it.
//! - large k: an [`estimate`](super::estimate) of the row gives a bracket that most likely contains the
//!   cut ([`bracket`](super::bracket)).
//! - top-p: [`nucleus`](super::nucleus).
//!
//! min-p is a bound on the logit, found by bisecting the keys alone.

use super::block_masses::{BlockMasses, KeptMasses};
use super::blocks::{BLOCK, Blocks};
use super::collect::Collect;
use super::cut::{Cut, above};
use super::element::Element;
use super::estimate::{Certainty, Span};
use super::list::{By, List, Weigh, bisect, lowest};
use super::mass::Weights;
use super::row::Found;
use super::simd::Simd;
use super::team::{Team, parts};
use crate::arithmetic::cut::{min_p_distance, top_p_fraction, top_p_target};
use crate::params::SamplingParams;
use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// A row of up to this many blocks is listed as a whole.
const LISTED_BLOCKS: usize = 4;
/// Tokens that a list from a bound may have before ties are suspected.
pub const LIST_MAX: usize = 8192;
/// Blocks that are worth a thread's while in a pass that does little more than read.
const LIGHT_BLOCKS_MIN: usize = 512;
/// The same for one that weighs every token.
const HEAVY_BLOCKS_MIN: usize = 192;

/// A row whose cut is to be found.
#[derive(Clone, Copy)]
pub struct Search<'a, S, E> {
    pub s: S,
    /// The threads that share this row.
    pub team: &'a Team,
    pub blocks: Blocks<'a, E>,
    pub weights: Weights,
    pub params: &'a SamplingParams,
    pub vocab_size: u32,
    /// What is to be read next, of any length.
    pub next: &'a [u8],
}

/// Where the kept tokens are.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Kept {
    /// In [`Found::lists`], weighed.
    List,
    /// In the blocks: [`Found::masses`] has the mass of those that the cut keeps.
    Blocks {
        cut: Cut,
        /// How many; `None` is every candidate.
        count: Option<u64>,
    },
}

impl<S: Simd, E: Element> Search<'_, S, E> {
    /// Applies top-k, top-p and min-p.
    pub fn run(&self, found: &mut Found) -> Kept {
        let k = self.params.top_k().filter(|&k| k < self.vocab_size).map(u64::from);
        let blocks = self.blocks.len();
        match k {
            Some(k) if k <= blocks as u64 || blocks <= LISTED_BLOCKS => {
                let least = self.top_k_bound(k, found);
                if self.list_from(least, found) {
                    self.cut_list(Some(k), found);
                    return Kept::List;
                }
                let mut span = Span { low: least, high: None };
                if least < self.weights.max {
                    found.estimate.take(self.s, self.blocks, self.weights);
                    span = span.within(self.guess_count(k, Certainty::Likely, found));
                }
                self.search_blocks(Some((k, span)), found)
            }
            Some(k) => {
                found.estimate.take(self.s, self.blocks, self.weights);
                let span = self.guess_count(k, Certainty::Likely, found);
                if k <= LIST_MAX as u64 / 4
                    && self.list_from(span.low.max(lowest::<E>()), found)
                    && found.lists.list.len() as u64 >= k
                {
                    self.cut_list(Some(k), found);
                    return Kept::List;
                }
                self.search_blocks(Some((k, span)), found)
            }
            None if self.params.top_p().is_some() && blocks <= LISTED_BLOCKS => {
                self.list_from(lowest::<E>(), found);
                self.cut_list(None, found);
                Kept::List
            }
            None => self.search_blocks(None, found),
        }
    }

    /// A lower bound of the k-th largest logit.
    fn top_k_bound(&self, k: u64, found: &Found) -> f32 {
        let max = self.weights.max;
        let bound = found.maxima.border::<S, E>(self.s, By::Count, k, lowest::<E>(), max);
        bound.unwrap_or(lowest::<E>())
    }

    /// Where the `k`th largest logit may be.
    pub fn guess_count(&self, k: u64, certainty: Certainty, found: &Found) -> Span {
        let Self { s, vocab_size, weights, .. } = *self;
        found.estimate.guess_count::<S, E>(s, k, vocab_size, weights.max, certainty)
    }

    /// Lists every token from a logit on; false if they are too many.
    fn list_from(&self, least: f32, found: &mut Found) -> bool {
        self.collect(Cut::ties(least), LIST_MAX, found);
        found.lists.list.len() <= LIST_MAX
    }

    /// Lists what a cut keeps; incomplete if it is more than `limit` tokens.
    pub fn collect(&self, cut: Cut, limit: usize, found: &mut Found) {
        let Self { s, blocks, .. } = *self;
        let Found { maxima, lists, .. } = found;
        let maxima = maxima.x();
        let capacity = |run: &Range<usize>| limit.min(run.len() * BLOCK) + BLOCK;
        let runs = self.light_runs();
        let total = runs.clone().map(|run| capacity(&run)).sum();
        let parts =
            lists.split(runs, |list, run| list.reset(capacity(run)), |list| list.reset(total));
        self.team.each(parts, |(range, list)| {
            s.run(Collect { blocks, range, maxima, cut, limit, list });
        });
        lists.join(List::append);
        lists.list.seal();
    }

    /// Applies the cuts to a list that has every kept token.
    fn cut_list(&self, k: Option<u64>, found: &mut Found) {
        let Self { s, weights, .. } = *self;
        let list = &mut found.lists.list;
        if let Some(k) = k {
            self.cut_list_by(By::Count, k, list);
        }
        let total = s.run(Weigh { list, weights });
        if let Some(p) = self.params.top_p() {
            self.cut_list_by(By::Mass, top_p_target(top_p_fraction(p), total), list);
        }
        if let Some(cut) = self.min_p_cut() {
            list.retain::<S, E>(s, cut.least, list.len());
        }
    }

    /// Keeps the shortest prefix (in the total order) that measures `want`, or everything. Returns
    /// the cut, if there is one.
    pub fn cut_list_by(&self, by: By, want: u64, list: &mut List) -> Option<Cut> {
        let x = list.border::<S, E>(self.s, by, want, lowest::<E>(), self.weights.max)?;
        let i = self.nth_of_border(by, want, x, list);
        let last_id = list.ids()[i];
        list.retain::<S, E>(self.s, x, i + 1);
        Some(Cut { least: x, last_id })
    }

    /// Where in a list the last token of the prefix is that measures `want`, among those equal to
    /// `x`, which is its border.
    pub fn nth_of_border(&self, by: By, want: u64, x: f32, list: &List) -> usize {
        let before = above::<E>(x).map_or(0, |x| list.measure(self.s, by, x));
        list.nth_tie(self.s, x, (want - before).div_ceil(self.each(by, x)))
    }

    /// What one token measures.
    pub fn each(&self, by: By, x: f32) -> u64 {
        match by {
            By::Count => 1,
            By::Mass => self.weights.mass(x),
        }
    }

    /// The cut of min-p: the least logit whose distance from the maximum is allowed.
    fn min_p_cut(&self) -> Option<Cut> {
        let distance = min_p_distance(self.params.min_p()?, self.params.temperature());
        let max = self.weights.max;
        // Bisects downwards: from the greatest logit that is too far away.
        let too_far = bisect_down::<E>(max, |x| x - max < distance);
        Some(Cut::ties(too_far.and_then(above::<E>).unwrap_or(lowest::<E>())))
    }

    /// The search where the kept tokens may be many.
    fn search_blocks(&self, k: Option<(u64, Span)>, found: &mut Found) -> Kept {
        let top_k = k.and_then(|(k, span)| self.locate_count(k, span, found));
        let k = k.map_or(0, |(k, _)| k);
        if let Some(cut) = top_k
            && k <= LIST_MAX as u64
        {
            self.collect(cut, LIST_MAX, found);
            self.cut_list(None, found);
            return Kept::List;
        }
        let min_p = self.min_p_cut();
        if let Some(p) = self.params.top_p() {
            let (cut, kept) = self.nucleus(p, top_k, min_p, found);
            return match min_p {
                Some(min_p) if min_p.tighter(cut) != cut => self.kept_by(min_p, found),
                _ => kept,
            };
        }
        match (top_k, min_p) {
            (None, None) => {
                self.weigh_blocks(found);
                Kept::Blocks { cut: Cut::ties(lowest::<E>()), count: None }
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

    /// Weighs every block.
    pub fn weigh_blocks(&self, found: &mut Found) {
        let Self { s, blocks, weights, next, .. } = *self;
        let Found { maxima, masses, .. } = found;
        let maxima = maxima.x();
        masses.resize(blocks.len(), 0);
        self.team.each(parts(self.heavy_runs(), 1, masses), |(range, masses)| {
            s.run(BlockMasses { blocks, range, maxima, weights, next, masses });
        });
    }

    /// Weighs what a cut keeps of every block, and counts it.
    pub fn weigh_kept(&self, cut: Cut, found: &mut Found) -> u64 {
        let Self { s, blocks, weights, next, .. } = *self;
        let Found { maxima, masses, .. } = found;
        let maxima = maxima.x();
        let count = AtomicU64::new(0);
        masses.resize(blocks.len(), 0);
        self.team.each(parts(self.heavy_runs(), 1, masses), |(range, masses)| {
            let kept = s.run(KeptMasses { blocks, range, maxima, weights, cut, next, masses });
            count.fetch_add(kept, Relaxed);
        });
        count.into_inner()
    }

    /// The runs of blocks for passes that do little more than read.
    pub fn light_runs(&self) -> impl Iterator<Item = Range<usize>> + Clone + use<S, E> {
        self.team.runs(self.blocks.len(), LIGHT_BLOCKS_MIN)
    }

    /// The runs of blocks for passes that weigh every token.
    pub fn heavy_runs(&self) -> impl Iterator<Item = Range<usize>> + Clone + use<S, E> {
        self.team.runs(self.blocks.len(), HEAVY_BLOCKS_MIN)
    }
}

/// The greatest value of a dtype up to `high` for which something holds that holds for everything
/// below it too.
fn bisect_down<E: Element>(high: f32, holds: impl Fn(f32) -> bool) -> Option<f32> {
    bisect::<E>(lowest::<E>(), high, holds)
}
