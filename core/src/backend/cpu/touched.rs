//! Rows of which tokens are banned, or a few have other logits than those that are stored.
//!
//! ```text
//! sample(row, mask, touched):
//!     if top-k comes first, and maxima of blocks tell where its border is at most (or the row is greedy):
//!         scan the row under the mask; list few tokens that have its first k among them, less those out of the mask
//!         adjust the touched tokens, in f32, and merge them into that list, by id
//!         cut the list and draw from it, as f32
//!     else, or where that list gets too long, or where something is asked of all adjusted tokens:
//!         copy the row under the mask; if tokens are touched, widened to f32 and with these in it; sample the copy
//!     if something is asked of the stored logits: scan these, too (first, if continuations are scored by them)
//! ```
//!
//! **Why the first way is exact.** The first k tokens of the whole are among the first k of the others and the touched
//! ones. What a list is cut by (counts, masses, distances from the maximum) depends on the tokens' logits and ids alone,
//! and 16-bit logits are widened exactly. So the cut is that of the row with the touched logits in it. The row is not
//! copied: what its maxima are under the mask bounds what is listed, and no banned NaN or +inf is in the list.

use super::blocks::{BLOCK, Blocks, Filler};
use super::collect::Collect;
use super::cut::Cut;
use super::element::{Element, F32};
use super::inspect::{self, inspect_list};
use super::list::List;
use super::masked::{WORD_TOKENS, WidenMasked, has, leave_out};
use super::mass::Weights;
use super::passes::ScannedRow;
use super::prepare::{Prepared, prepare, prepare_in_place};
use super::row::{self, With};
use super::scan::Scanned;
use super::search::{cut_list, list_top_k, maxima_tell};
use super::simd::Simd;
use super::team::{Team, parts};
use super::tokens::{Places, say_first, take};
use crate::adjustments::changes::Changes;
use crate::arithmetic::mass::{Scale, UNIT};
use crate::arithmetic::plan::{Plan, Step};
use crate::backend::adjusted::patch;
use crate::batch::{Dtype, Outcome, Row, RowStatus, Slot};
use crate::inspection::{Continue, Distribution, Normaliser};
use std::marker::PhantomData;

/// Blocks that are worth a thread's while to widen.
const WIDEN_BLOCKS_MIN: usize = 256;

/// Memory that is kept from row to row. Each thread has one.
#[derive(Default)]
pub struct Scratch {
    /// That of rows as they are stored.
    pub row: row::Scratch,
    /// The touched tokens, ids ascending.
    touched: Vec<(u32, f32)>,
    /// Those and the first of the others.
    merged: List,
    none: List,
    wide: Vec<u8>,
}

/// Samples one row, with the threads of a team.
pub fn sample<S: Simd, E: Element>(
    s: S,
    team: &Team,
    row: &Row<'_>,
    changes: &Changes<'_>,
    with: With<'_>,
    scratch: &mut Scratch,
    slot: Slot<'_>,
) {
    let scored_by_stored = |asked: &Continue| asked.normaliser == Normaliser::Raw;
    let going_on = row.inspect().and_then(|asked| asked.continuations).filter(scored_by_stored);
    let row::Scratch { prepare: memory, inspect: buffers, .. } = &mut scratch.row;
    buffers.normal = going_on.map(|asked| {
        let prepared = prepare::<S, E>(s, team, row, None, memory);
        inspect::normal(s, team, &prepared, row.vocab_size(), asked, buffers)
    });
    sample_and_say_raw::<S, E>(s, team, row, changes, with, scratch, slot);
    // A row without a token has not used it.
    scratch.row.inspect.normal = None;
}

/// Samples the row, and says what is asked of its stored logits.
fn sample_and_say_raw<S: Simd, E: Element>(
    s: S,
    team: &Team,
    row: &Row<'_>,
    changes: &Changes<'_>,
    with: With<'_>,
    scratch: &mut Scratch,
    slot: Slot<'_>,
) {
    let asked = row.inspect().filter(|asked| asked.of[Distribution::Raw as usize]);
    let Some(asked) = asked else {
        return sample_adjusted::<S, E>(s, team, row, changes, with, scratch, slot);
    };
    // Raw is made of the stored logits, the rest of the adjusted ones.
    let mut rest = asked.clone();
    rest.of[Distribution::Raw as usize] = false;
    let row = row.with_inspect(Some(&rest));
    let Slot { outcome, draws, inspection, state, accepted } = slot;
    let inspection = inspection.expect("there is a place for what is asked");
    let slot = Slot { outcome, draws, inspection: Some(inspection), state, accepted };
    sample_adjusted::<S, E>(s, team, &row, changes, with, scratch, slot);
    let drawn = if outcome.status == RowStatus::Ok { &*draws } else { &[] };
    let row::Scratch { prepare: memory, inspect: buffers, .. } = &mut scratch.row;
    let prepared = prepare::<S, E>(s, team, &row, None, memory);
    let raw = inspect::raw(s, team, &prepared, row.vocab_size(), asked, drawn, buffers);
    inspection.logprobs.insert(0, raw);
}

/// Samples the row as it is adjusted.
fn sample_adjusted<S: Simd, E: Element>(
    s: S,
    team: &Team,
    row: &Row<'_>,
    changes: &Changes<'_>,
    with: With<'_>,
    scratch: &mut Scratch,
    mut slot: Slot<'_>,
) {
    let by_list = match row.params().plan() {
        Plan::Greedy => true,
        Plan::Draw(chain) => {
            let blocks = (row.vocab_size() as usize).div_ceil(BLOCK);
            let tell = |k: u32| k < row.vocab_size() && maxima_tell(k.into(), blocks);
            matches!(chain.steps(), [Step::TopK(k), ..] if tell(*k))
        }
    };
    let of_all = row.inspect().is_some_and(|asked| {
        asked.of[Distribution::Adjusted as usize] || asked.continuations.is_some()
    });
    let by_list = by_list && !of_all && row.params().cuts().is_none();
    if by_list && sample_by_list::<S, E>(s, team, row, changes, with, scratch, &mut slot) {
        return;
    }
    if changes.touched().is_empty() {
        let with = With { mask: changes.mask(), ..with };
        return row::sample::<S, E>(s, team, row, with, &mut scratch.row, slot);
    }
    let Scratch { row: scratch, wide, .. } = scratch;
    widen::<S, E>(s, team, row, changes, wide);
    let adjusted = row.with_copy(Dtype::F32, &wide[..row.vocab_size() as usize * 4]);
    row::sample::<S, F32>(s, team, &adjusted, with, scratch, slot);
}

/// The first way; false where it led nowhere.
fn sample_by_list<S: Simd, E: Element>(
    s: S,
    team: &Team,
    row: &Row<'_>,
    changes: &Changes<'_>,
    with: With<'_>,
    scratch: &mut Scratch,
    slot: &mut Slot<'_>,
) -> bool {
    let Slot { outcome, draws, inspection, accepted, .. } = slot;
    let asked = row.inspect().zip(inspection.as_deref_mut());
    let Scratch { row: scratch, touched, merged, none, .. } = scratch;
    let row::Scratch { prepare: memory, search, tokens, inspect: inspecting, .. } = scratch;
    let adjusted = |touch| changes.apply(touch, row.logit(touch.token));
    touched.clear();
    touched.extend(changes.touched().iter().map(|touch| (touch.token, adjusted(touch))));
    touched.sort_unstable_by_key(|(id, _)| *id);

    let Some(mask) = changes.mask() else { return false };
    let prepared = prepare_in_place::<S, E>(s, team, row, mask, memory);
    let status = worse(prepared.status, status(touched));
    if status != RowStatus::Ok {
        **outcome = Outcome::failed(status);
        if let Some((asked, inspection)) = asked {
            *inspection = inspect::failed(asked, status);
        }
        return true;
    }
    touched.retain(|(_, x)| *x > f32::NEG_INFINITY);
    let others = (prepared.status == RowStatus::Ok).then_some(&prepared);
    let greatest = touched.iter().map(|(_, x)| *x).chain(others.map(|others| others.max));
    let max = greatest.fold(f32::NEG_INFINITY, f32::max) + 0.0;
    let chain = match row.params().plan() {
        Plan::Greedy => {
            let other = others.filter(|others| others.max == max);
            let other = other.map(|others| first_token(s, others, mask, merged));
            let touched = touched.iter().find(|(_, x)| *x == max).map(|(id, _)| *id);
            let token = touched.into_iter().chain(other).min().expect("one has the maximum");
            let places = Places { draws, accepted: accepted.as_deref_mut() };
            let said = say_first(row, token, with.proposed, places);
            **outcome = match said {
                Ok(()) => Outcome { status, kept: 1, kept_mass: UNIT },
                Err(status) => Outcome::failed(status),
            };
            if let Some((asked, inspection)) = asked {
                if let Err(status) = said {
                    *inspection = inspect::failed(asked, status);
                    return true;
                }
                merged.reset(1);
                merged.push_one(token, max);
                merged.seal();
                let weights = Weights { max, min: max, scale: Scale::new(1.0) };
                let n = row.vocab_size();
                *inspection = inspect_list(s, merged, weights, n, asked, draws, inspecting);
            }
            return true;
        }
        Plan::Draw(chain) => chain,
    };
    let mut listed: &List = none;
    if let Some(others) = others {
        let Step::TopK(k) = chain.steps()[0] else { return false };
        let scanned = others.scanned_row(s, team, chain.scale, row.vocab_size(), with.next);
        if !list_top_k(&scanned, u64::from(k), search) {
            return false;
        }
        listed = &search.lists.list;
    }
    merge(listed, mask, touched, merged);
    let least = merged.x().iter().copied().fold(max, f32::min);
    let mut no_tail = [0; BLOCK * 4];
    let all = ScannedRow::<S, F32> {
        s,
        team: &Team::ALONE,
        blocks: Blocks::new(&[], &mut no_tail, Filler::NegativeInfinity),
        maxima: none,
        scanned: Scanned::NOTHING,
        weights: Weights { max, min: least, scale: chain.scale },
        vocab_size: row.vocab_size(),
        next: &[],
    };
    let kept = cut_list(&all, chain.steps(), merged);
    let places = Places { draws, accepted: accepted.as_deref_mut() };
    let found = take(&all, row, kept, with.proposed, tokens, places);
    **outcome = match found {
        Ok(kept_mass) => Outcome { status, kept: kept.count() as u32, kept_mass },
        Err(status) => Outcome::failed(status),
    };
    if let Some((asked, inspection)) = asked {
        let (weights, n) = (all.weights, row.vocab_size());
        *inspection = match found {
            Ok(_) => inspect_list(s, merged, weights, n, asked, draws, inspecting),
            Err(status) => inspect::failed(asked, status),
        };
    }
    true
}

/// The first token of the total order, of those that a mask has.
fn first_token<S: Simd, E: Element>(
    s: S,
    prepared: &Prepared<'_, E>,
    mask: &[u32],
    list: &mut List,
) -> u32 {
    let (blocks, maxima, max) = (prepared.blocks, prepared.maxima.x(), prepared.max);
    let block = maxima.iter().position(|&x| x == max).expect("the maximum is some block's");
    list.reset(BLOCK);
    s.run(Collect { blocks, range: block..block + 1, maxima, cut: Cut::ties(max), limit: 0, list });
    let tokens = list.ids().iter().zip(list.x());
    let mut first = tokens.filter(|&(&id, &x)| x == max && has(mask, id));
    *first.next().expect("the maximum is some token's").0
}

/// Both, less what is listed and not in the mask, ids ascending. No token is in both.
fn merge(listed: &List, mask: &[u32], touched: &[(u32, f32)], merged: &mut List) {
    merged.reset(listed.len() + touched.len());
    let mut touched = touched.iter().copied().peekable();
    let listed = listed.ids().iter().zip(listed.x()).filter(|(id, _)| has(mask, **id));
    for (&id, &x) in listed {
        while let Some((id, x)) = touched.next_if(|(touched, _)| *touched < id) {
            merged.push_one(id, x);
        }
        merged.push_one(id, x);
    }
    touched.for_each(|(id, x)| merged.push_one(id, x));
    merged.seal();
}

/// What the touched tokens by themselves are.
fn status(touched: &[(u32, f32)]) -> RowStatus {
    let any = |is: fn(f32) -> bool| touched.iter().any(|(_, x)| is(*x));
    if any(f32::is_nan) {
        RowStatus::Nan
    } else if any(|x| x == f32::INFINITY) {
        RowStatus::PositiveInfinity
    } else if any(|x| x > f32::NEG_INFINITY) {
        RowStatus::Ok
    } else {
        RowStatus::NoCandidate
    }
}

/// What both parts of a row together are.
fn worse(a: RowStatus, b: RowStatus) -> RowStatus {
    let worst =
        [RowStatus::Nan, RowStatus::PositiveInfinity, RowStatus::Ok, RowStatus::NoCandidate];
    worst.into_iter().find(|status| a == *status || b == *status).expect("a status")
}

/// The second way: the whole row as f32.
fn widen<S: Simd, E: Element>(
    s: S,
    team: &Team,
    row: &Row<'_>,
    changes: &Changes<'_>,
    wide: &mut Vec<u8>,
) {
    let mask = changes.mask().expect("touched tokens are left out");
    let tokens = row.vocab_size() as usize;
    wide.resize(wide.len().max(tokens * 4), 0);
    let wide = &mut wide[..tokens * 4];
    let logits = row.logits();
    let blocks = tokens / BLOCK;
    let (whole, rest) = wide.split_at_mut(blocks * BLOCK * 4);
    let runs = team.runs(blocks, WIDEN_BLOCKS_MIN);
    team.each(parts(runs, BLOCK * 4, whole), |(run, wide)| {
        let from = &logits[run.start * BLOCK * E::SIZE..run.end * BLOCK * E::SIZE];
        let mask = &mask[run.start * BLOCK / WORD_TOKENS..];
        s.run(WidenMasked { from, mask, wide, element: PhantomData::<E> });
    });
    let from = logits[blocks * BLOCK * E::SIZE..].chunks_exact(E::SIZE);
    for (from, to) in from.zip(rest.chunks_exact_mut(4)) {
        to.copy_from_slice(&E::read(from).to_le_bytes());
    }
    leave_out::<F32>(rest, &mask[blocks * BLOCK / WORD_TOKENS..]);
    patch(row, changes, wide);
}
