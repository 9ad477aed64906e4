//! The cut: which tokens the steps of a chain keep.
//!
//! ```text
//! cut(steps):
//!     if top-k comes first, and tokens that have the first k among them are few: list these, cut the list by all steps
//!     for each step
//!         top-k: the k-th token; if the first k may be a list: list them, cut the list by the steps that are left
//!         top-p: the nucleus of what is kept so far; if that is a list: cut it by the steps that are left
//!         min-p: the least logit whose distance from the maximum is allowed, by bisecting the keys
//!     sum the kept mass of every block, unless the last pass did
//! ```
//!
//! Nothing is ever sorted. A list is cut by bisecting the keys, with counts or sums of masses ([`List::border`]). What
//! differs is how a list is found that is short and certainly has the cut:
//!
//! 1. top-k, k up to the number of blocks: the k-th largest block maximum is a lower bound of the k-th
//!    largest logit. The list has everything from there on, from blocks whose maximum reaches it.
//! 2. large k: an [`estimate`](super::estimate) gives a bracket that most likely contains the cut
//!    ([`bracket`](super::bracket)).
//! 3. top-p: [`nucleus`](super::nucleus).

use super::bracket::locate_count;
use super::cut::Cut;
use super::element::Element;
use super::estimate::{Certainty, Estimate, Span};
use super::list::{By, List, lowest};
use super::nucleus::{Buffers, Nucleus, nucleus};
use super::passes::{LIST_MAX, ScannedRow};
use super::simd::Simd;
use crate::arithmetic::cut::top_p_target;
use crate::arithmetic::plan::{Chain, Step};

/// A row of up to this many blocks is listed as a whole.
const LISTED_BLOCKS: usize = 4;

/// The kept tokens.
#[derive(Clone, Copy, Debug)]
pub enum Kept<'b> {
    /// All of them, weighed, by ascending id.
    List(&'b List),
    /// Those up to a cut.
    Blocks {
        cut: Cut,
        count: u64,
        /// Their mass in every block.
        masses: &'b [u64],
    },
}

impl Kept<'_> {
    /// How many there are.
    pub fn count(&self) -> u64 {
        match self {
            Self::List(list) => list.len() as u64,
            Self::Blocks { count, .. } => *count,
        }
    }
}

/// Applies the steps of a chain.
pub fn cut<'b, S: Simd, E: Element>(
    row: &ScannedRow<'_, S, E>,
    chain: &Chain,
    buffers: &'b mut Buffers,
) -> Kept<'b> {
    let steps = match chain.steps() {
        [Step::TopK(k), rest @ ..] if *k >= row.vocab_size => rest,
        steps => steps,
    };
    let listed = match steps {
        [Step::TopK(k), ..] => list_top_k(row, u64::from(*k), buffers),
        [Step::TopP(_), ..] => list_small_row(row, buffers),
        _ => false,
    };
    if listed {
        cut_list(row, steps, &mut buffers.lists.list)
    } else {
        cut_row(row, steps, buffers)
    }
}

/// Lists few tokens that have the first `k` among them; false where that failed.
pub fn list_top_k<S: Simd, E: Element>(
    row: &ScannedRow<'_, S, E>,
    k: u64,
    buffers: &mut Buffers,
) -> bool {
    let Buffers { estimate, lists, .. } = buffers;
    if let Some(least) = top_k_bound(row, k) {
        return row.collect(Cut::ties(least), LIST_MAX, lists).len() <= LIST_MAX;
    }
    if k > LIST_MAX as u64 / 3 {
        return false;
    }
    let least = top_k_span(row, k, estimate).low.max(lowest::<E>());
    let listed = row.collect(Cut::ties(least), LIST_MAX, lists).len();
    // With fewer than k, the estimate was wrong.
    listed <= LIST_MAX && listed as u64 >= k
}

/// Lists the first `k` tokens and few others: where too many tie with the last of them, those of the least ids. All tokens, where the row
/// has no more.
pub fn list_first<'b, S: Simd, E: Element>(
    row: &ScannedRow<'_, S, E>,
    k: u64,
    buffers: &'b mut Buffers,
) -> &'b mut List {
    let all = k >= u64::from(row.vocab_size);
    if all || !list_top_k(row, k, buffers) {
        let cut = if all { None } else { locate_top_k(row, k, buffers) };
        let cut = cut.unwrap_or(Cut::ties(lowest::<E>()));
        row.collect(cut, usize::MAX, &mut buffers.lists);
    }
    &mut buffers.lists.list
}

/// Lists every candidate, if the row has few tokens.
fn list_small_row<S: Simd, E: Element>(row: &ScannedRow<'_, S, E>, buffers: &mut Buffers) -> bool {
    let is_small = row.blocks.len() <= LISTED_BLOCKS;
    if is_small {
        row.collect(Cut::ties(lowest::<E>()), usize::MAX, &mut buffers.lists);
    }
    is_small
}

/// Applies steps to a list that has every token that the steps keep.
pub fn cut_list<'b, S: Simd, E: Element>(
    row: &ScannedRow<'_, S, E>,
    steps: &[Step],
    list: &'b mut List,
) -> Kept<'b> {
    let mut weighed = false;
    for step in steps {
        match *step {
            Step::TopK(k) => {
                // Keeps all if there are fewer than k.
                row.keep_prefix(By::Count, u64::from(k), list);
            }
            Step::TopP(fraction) => {
                let total = row.weigh(list);
                let enough = row.keep_prefix(By::Mass, top_p_target(fraction, total), list);
                debug_assert!(enough, "the target is a part of the mass");
                weighed = true;
            }
            Step::MinP(distance) => {
                list.retain::<S, E>(row.s, row.min_p_cut(distance).least, list.len());
            }
        }
    }
    if !weighed {
        row.weigh(list);
    }
    Kept::List(list)
}

/// Applies steps where the kept tokens may be many.
fn cut_row<'b, S: Simd, E: Element>(
    row: &ScannedRow<'_, S, E>,
    steps: &[Step],
    buffers: &'b mut Buffers,
) -> Kept<'b> {
    // The cut of the steps so far: `None` is after the last candidate.
    let mut kept: Option<Cut> = None;
    // How many tokens it keeps, where `buffers.masses` has their masses.
    let mut weighed = None;
    for (i, step) in steps.iter().enumerate() {
        let rest = &steps[i + 1..];
        let next = match *step {
            Step::TopK(k) => locate_top_k(row, u64::from(k), buffers),
            Step::MinP(distance) => Some(row.min_p_cut(distance)),
            Step::TopP(fraction) => match nucleus(row, fraction, kept, min_p(row, rest), buffers) {
                Nucleus::Listed => return cut_list(row, rest, &mut buffers.lists.list),
                Nucleus::UpTo(cut, count) => {
                    (kept, weighed) = (Some(cut), Some(count));
                    continue;
                }
            },
        };
        let Some(next) = next else { continue };
        let tighter = kept.map_or(next, |kept| kept.tighter(next));
        if kept != Some(tighter) {
            (kept, weighed) = (Some(tighter), None);
        }
        if let Step::TopK(k) = *step
            && k as usize <= LIST_MAX
        {
            let list = row.collect(tighter, LIST_MAX, &mut buffers.lists);
            return cut_list(row, rest, list);
        }
    }
    let masses = &mut buffers.masses;
    let Some(cut) = kept else {
        let masses = row.block_masses(masses);
        return Kept::Blocks { cut: Cut::ties(lowest::<E>()), count: row.candidates(), masses };
    };
    let (count, masses) = match weighed {
        Some(count) => (count, &masses[..]),
        None => row.kept_masses(cut, masses),
    };
    Kept::Blocks { cut, count, masses }
}

/// The cut of min-p, if that is among some steps.
fn min_p<S: Simd, E: Element>(row: &ScannedRow<'_, S, E>, steps: &[Step]) -> Option<Cut> {
    steps.iter().find_map(|step| match *step {
        Step::MinP(distance) => Some(row.min_p_cut(distance)),
        _ => None,
    })
}

/// The cut after the first `k` tokens; `None` if there are fewer.
pub fn locate_top_k<S: Simd, E: Element>(
    row: &ScannedRow<'_, S, E>,
    k: u64,
    buffers: &mut Buffers,
) -> Option<Cut> {
    let Buffers { estimate, bracket, .. } = buffers;
    let span = top_k_span(row, k, estimate);
    let wider = || guess_count(row, k, Certainty::AlmostCertain, estimate);
    locate_count(row, k, span, wider, bracket)
}

/// Where the `k`th largest logit most likely is.
fn top_k_span<S: Simd, E: Element>(
    row: &ScannedRow<'_, S, E>,
    k: u64,
    estimate: &mut Estimate,
) -> Span {
    let certain = top_k_bound(row, k).map(|low| Span { low, high: None });
    if let Some(certain) = certain
        && certain.low >= row.weights.max
    {
        // The k-th logit is the maximum: the pass around it finds the cut, and no estimate is needed.
        return certain;
    }
    estimate.take(row.s, row.blocks, row.weights);
    let guess = guess_count(row, k, Certainty::Likely, estimate);
    certain.map_or(guess, |certain| certain.within(guess))
}

/// Whether the maxima of so many blocks tell a lower bound of the `k`th largest logit.
pub fn maxima_tell(k: u64, blocks: usize) -> bool {
    k <= blocks as u64 || blocks <= LISTED_BLOCKS
}

/// A lower bound of the `k`th largest logit, where the block maxima tell one.
fn top_k_bound<S: Simd, E: Element>(row: &ScannedRow<'_, S, E>, k: u64) -> Option<f32> {
    if !maxima_tell(k, row.blocks.len()) {
        return None;
    }
    let (low, high) = (lowest::<E>(), row.weights.max);
    Some(row.maxima.border::<S, E>(row.s, By::Count, k, low, high).unwrap_or(low))
}

/// Where the `k`th largest logit may be by an estimate.
fn guess_count<S: Simd, E: Element>(
    row: &ScannedRow<'_, S, E>,
    k: u64,
    certainty: Certainty,
    estimate: &Estimate,
) -> Span {
    estimate.guess_count::<S, E>(row.s, k, row.vocab_size, row.weights.max, certainty)
}
