//! The passes over a row that has been scanned, each shared out among the threads that sample it.
//!
//! A pass borrows the memory that it writes to, and returns what it found: the count, and the part of that memory
//! that now says something. What the memory held before does not matter.

use super::around::{Around, CountAround, Ends, Side, WeighAround, WeighSide};
use super::block_masses::{BlockMasses, KeptMasses, Part};
use super::blocks::{BLOCK, Blocks};
use super::collect::{Collect, CountFrom, Ties};
use super::cut::{Cut, above};
use super::element::Element;
use super::list::{By, List, Lists, Weigh, bisect, lowest};
use super::mass::Weights;
use super::scan::Scanned;
use super::simd::Simd;
use super::team::{Team, parts};
use std::ops::Range;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// Blocks that are worth a thread's while in a pass that does little more than read.
const LIGHT_BLOCKS_MIN: usize = 512;
/// The same for one that weighs every token.
const HEAVY_BLOCKS_MIN: usize = 192;

/// Tokens that a list from a bound may have before ties are suspected.
pub const LIST_MAX: usize = 8192;

/// A row that has been scanned, and who works on it.
#[derive(Clone, Copy)]
pub struct ScannedRow<'a, S, E> {
    pub s: S,
    /// The threads that share this row.
    pub team: &'a Team,
    pub blocks: Blocks<'a, E>,
    /// The greatest logit of every block.
    pub maxima: &'a List,
    pub scanned: Scanned,
    pub weights: Weights,
    pub vocab_size: u32,
    /// What is to be read next, of any length.
    pub next: &'a [u8],
}

/// The tokens within a bracket.
pub struct Within<'b> {
    /// With the ids of the first tokens of their blocks.
    pub list: &'b mut List,
    /// How many came from every block.
    pub counts: &'b [u32],
}

impl<S: Simd, E: Element> ScannedRow<'_, S, E> {
    /// The number of tokens above -inf.
    pub fn candidates(&self) -> u64 {
        if self.scanned.max_unsigned != E::NEGATIVE_INFINITY {
            return u64::from(self.vocab_size);
        }
        self.count_from(lowest::<E>())
    }

    /// The number of tokens from a logit on.
    pub fn count_from(&self, least: f32) -> u64 {
        let Self { s, blocks, .. } = *self;
        let count = AtomicU64::new(0);
        self.team.each(self.light_runs(), |range| {
            count.fetch_add(s.run(CountFrom { blocks, range, least }), Relaxed);
        });
        count.into_inner()
    }

    /// What one token measures.
    pub fn each(&self, by: By, x: f32) -> u64 {
        match by {
            By::Count => 1,
            By::Mass => self.weights.mass(x),
        }
    }

    /// Keeps the shortest prefix (in the total order) of a list that measures `want`; false where all of it measures
    /// less.
    pub fn keep_prefix(&self, by: By, want: u64, list: &mut List) -> bool {
        let max = self.weights.max;
        let Some(x) = list.border::<S, E>(self.s, by, want, lowest::<E>(), max) else {
            return false;
        };
        let i = self.nth_of_border(by, want, x, list);
        list.retain::<S, E>(self.s, x, i + 1);
        true
    }

    /// Where in a list the last token of the prefix is that measures `want`, among those equal to
    /// `x`, which is its border.
    pub fn nth_of_border(&self, by: By, want: u64, x: f32, list: &List) -> usize {
        let before = above::<E>(x).map_or(0, |x| list.measure(self.s, by, x));
        list.nth_tie(self.s, x, (want - before).div_ceil(self.each(by, x)))
    }

    /// The cut of min-p: after the least logit whose distance from the maximum is allowed.
    pub fn min_p_cut(&self, distance: f32) -> Cut {
        let max = self.weights.max;
        // Bisects downwards: from the greatest logit that is too far away.
        let too_far = bisect::<E>(lowest::<E>(), max, |x| x - max < distance);
        Cut::ties(too_far.and_then(above::<E>).unwrap_or(lowest::<E>()))
    }

    /// Lists what a cut keeps; incomplete if it is more than `limit` tokens.
    pub fn collect<'b>(&self, cut: Cut, limit: usize, lists: &'b mut Lists) -> &'b mut List {
        let Self { s, blocks, .. } = *self;
        let maxima = self.maxima.x();
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
        &mut lists.list
    }

    /// Lists what a cut keeps of one block, on this thread.
    pub fn collect_block(&self, block: usize, cut: Cut, list: &mut List) {
        let Self { s, blocks, .. } = *self;
        let (range, maxima) = (block..block + 1, self.maxima.x());
        list.reset(BLOCK);
        s.run(Collect { blocks, range, maxima, cut, limit: BLOCK, list });
        list.seal();
    }

    /// Computes the masses of a list, and returns their sum.
    pub fn weigh(&self, list: &mut List) -> u64 {
        self.s.run(Weigh { list, weights: self.weights })
    }

    /// The mass of every block.
    pub fn block_masses<'b>(&self, masses: &'b mut Vec<u64>) -> &'b [u64] {
        self.block_masses_of(Part::All, masses)
    }

    /// The mass of some blocks: what becomes of the others, `part` says.
    pub fn block_masses_of<'b>(&self, part: Part, masses: &'b mut Vec<u64>) -> &'b [u64] {
        let Self { s, blocks, weights, next, .. } = *self;
        let maxima = self.maxima.x();
        masses.resize(blocks.len(), 0);
        self.team.each(parts(self.heavy_runs(), 1, masses), |(range, masses)| {
            s.run(BlockMasses { blocks, range, maxima, weights, part, next, masses });
        });
        masses
    }

    /// The mass of every block, of the tokens that a cut keeps.
    pub fn masses_up_to<'b>(&self, cut: Cut, masses: &'b mut Vec<u64>) -> &'b [u64] {
        if cut == Cut::ties(lowest::<E>()) {
            return self.block_masses(masses);
        }
        self.kept_masses(cut, masses).1
    }

    /// How many tokens a cut keeps, and their mass in every block.
    pub fn kept_masses<'b>(&self, cut: Cut, masses: &'b mut Vec<u64>) -> (u64, &'b [u64]) {
        let Self { s, blocks, weights, next, .. } = *self;
        let maxima = self.maxima.x();
        let count = AtomicU64::new(0);
        masses.resize(blocks.len(), 0);
        self.team.each(parts(self.heavy_runs(), 1, masses), |(range, masses)| {
            let kept = s.run(KeptMasses { blocks, range, maxima, weights, cut, next, masses });
            count.fetch_add(kept, Relaxed);
        });
        (count.into_inner(), masses)
    }

    /// Counts the tokens above a bracket, and lists those within.
    pub fn count_around<'b>(
        &self,
        ends: Ends,
        lists: &'b mut Lists,
        counts: &'b mut Vec<u32>,
    ) -> (u64, Within<'b>) {
        let Self { s, blocks, .. } = *self;
        let maxima = self.maxima.x();
        let count = AtomicU64::new(0);
        counts.resize(blocks.len(), 0);
        let runs = self.light_runs();
        let lists_of_runs = lists.split_raw::<E>(runs.clone(), blocks.len());
        let outputs = parts(runs, 1, counts).zip(lists_of_runs);
        self.team.each(outputs, |((range, listed), (_, list))| {
            let above = s.run(CountAround { blocks, range, maxima, ends, list, listed });
            count.fetch_add(above, Relaxed);
        });
        (count.into_inner(), self.within(lists, counts))
    }

    /// Weighs all tokens, counts and weighs (block by block, in `above`) those above a bracket, and lists those within.
    pub fn weigh_around<'b>(
        &self,
        ends: Ends,
        above: &mut Vec<u64>,
        lists: &'b mut Lists,
        counts: &'b mut Vec<u32>,
    ) -> (Around, Within<'b>) {
        let Self { s, blocks, weights, next, .. } = *self;
        let sum = Mutex::new(Around::default());
        counts.resize(blocks.len(), 0);
        above.resize(blocks.len(), 0);
        let runs = self.heavy_runs();
        let lists_of_runs = lists.split_raw::<E>(runs.clone(), blocks.len());
        let outputs = parts(runs.clone(), 1, above).zip(parts(runs, 1, counts)).zip(lists_of_runs);
        self.team.each(outputs, |(((range, above), (_, listed)), (_, list))| {
            let around =
                s.run(WeighAround { blocks, range, weights, ends, next, list, listed, above });
            let mut sum = sum.lock().expect("no other thread panicked");
            sum.mass += around.mass;
            sum.count_above += around.count_above;
        });
        let around = sum.into_inner().expect("no other thread panicked");
        (around, self.within(lists, counts))
    }

    /// Counts and weighs the tokens above a bracket in blocks whose masses (`all`) are known, by weighing one side of
    /// it only, and lists those within.
    pub fn weigh_side<'b>(
        &self,
        side: Side,
        ends: Ends,
        all: &[u64],
        above: &mut Vec<u64>,
        lists: &'b mut Lists,
        counts: &'b mut Vec<u32>,
    ) -> (u64, Within<'b>) {
        let Self { s, blocks, weights, next, .. } = *self;
        let count = AtomicU64::new(0);
        counts.resize(blocks.len(), 0);
        above.resize(blocks.len(), 0);
        let runs = self.light_runs();
        let lists_of_runs = lists.split_raw::<E>(runs.clone(), blocks.len());
        let outputs = parts(runs.clone(), 1, above).zip(parts(runs, 1, counts)).zip(lists_of_runs);
        self.team.each(outputs, |(((range, above), (_, listed)), (_, list))| {
            let pass =
                WeighSide { blocks, range, weights, side, ends, next, list, listed, all, above };
            count.fetch_add(s.run(pass), Relaxed);
        });
        (count.into_inner(), self.within(lists, counts))
    }

    /// Makes one list of what the threads have listed within a bracket.
    fn within<'b>(&self, lists: &'b mut Lists, counts: &'b [u32]) -> Within<'b> {
        lists.join(List::append_raw);
        let list = &mut lists.list;
        list.widen::<S, E>(self.s, counts);
        Within { list, counts }
    }

    /// How many tokens of every block equal `x`.
    pub fn count_ties<'b>(&self, x: f32, ties: &'b mut Vec<u32>) -> &'b [u32] {
        let Self { s, blocks, .. } = *self;
        ties.resize(blocks.len(), 0);
        self.team.each(parts(self.light_runs(), 1, ties), |(range, counts)| {
            s.run(Ties { blocks, range, x, counts });
        });
        ties
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
