//! Where top-p ends.
//!
//! ```text
//! nucleus(share, kept):                               // `kept`: the cut of the steps before, if any
//!     estimate = a sample of what is kept
//!     if nothing was cut and the estimate says that the row is flat
//!         span = where the nucleus ends by the estimate
//!         if min-p cuts above the span: sum what min-p keeps, and all; done if that is less than the share
//!         return locate(the share of what the pass weighs, span)              // 1 pass that weighs
//!     masses = sum every block, as far as it is kept                          // 1 pass that weighs
//!     want  = the share of their sum
//!     spare = their sum - want                        // what may be left out
//!     bound = the greatest logit, in steps of half an octave of mass, for which
//!             the sum over the blocks of min(mass of the block, BLOCK * mass(bound)) <= spare
//!     if few tokens reach the bound: return cut(list of those)                // and 1 that reads
//!     likely = the bound by the estimate
//!     if few tokens reach that: list them; return cut(the list) if they have the mass `want`
//!     else:                     return locate(want, the span by the estimate) // and 1 that weighs a side
//!     return cut(list of those that reach the bound)
//! ```
//!
//! Invariant: what is below a bound is spared, so the tokens that reach it have the mass `want` and the nucleus is among
//! them. A block leaves out at most its own mass, and at most `BLOCK` times that of the greatest logit left out: hence
//! the bound. An estimate is never believed: the list is weighed, and the pass around a span says whether it was right.
//!
//! 1. Peaked rows, most of whose tokens have no mass: blocks without mass are not read, the bound alone is good, and few
//!    tokens reach it. A row is peaked where the sample has few tokens with mass, or the block maxima much of the mass.
//! 2. Flat rows, whose nucleus is much of the row: weighing all twice would cost the most, so the span is guessed before
//!    anything is weighed. The heaviest tokens, which a sample would miss, are listed and summed first.
//! 3. Rows between: the bound is loose, since few blocks are as heavy throughout as it allows. With the sum known,
//!    the estimate of the tokens below the border is good: these are many and light.

use super::blocks::BLOCK;
use super::bracket::{self, Known, count_dropped_ties, locate_mass};
use super::cut::Cut;
use super::element::Element;
use super::estimate::{Certainty, Estimate, Heavy, Span};
use super::list::{By, Lists, TotalMass, lowest};
use super::mass::Weights;
use super::passes::{LIST_MAX, ScannedRow};
use super::simd::Simd;
use crate::arithmetic::cut::top_p_target;
use crate::arithmetic::mass::UNIT;

/// The share of a row that may be listed.
const LIST_SHARE: f64 = 0.1;
/// The same where that saves weighing it twice.
const FLAT_SHARE: f64 = 0.2;
/// The share of a row from which on a better bound is looked for before it is listed.
const TIGHTEN_SHARE: f64 = 1.0 / 400.0;
/// The share of a row without mass from which on weighing all of it is cheap.
const MASSLESS_SHARE: f64 = 0.45;
/// The share of the mass that block maxima have in rows whose nucleus is a short list.
const PEAKED_SHARE: f64 = 0.5;
/// Tokens with more than one part in so many of the row's mass are heavy.
const HEAVY_PARTS: f64 = 2048.0;

/// Memory for the search of a cut.
#[derive(Default)]
pub struct Buffers {
    /// Tokens from all over the row.
    pub estimate: Estimate,
    /// Tokens from a bound on.
    pub lists: Lists,
    pub bracket: bracket::Buffers,
    /// The mass of every block, as far as the steps before top-p keep it.
    before: Vec<u64>,
    /// The mass of the kept tokens in every block.
    pub masses: Vec<u64>,
}

/// Where the tokens of a nucleus are.
pub enum Nucleus {
    /// In [`Buffers::lists`], weighed: these and no others.
    Listed,
    /// Up to a cut: so many, whose masses are [`Buffers::masses`].
    UpTo(Cut, u64),
}

/// Finds where top-p ends among the tokens up to `kept` (`None`: all candidates), and weighs what it keeps. Where
/// `min_p` is found to be tighter on the way, it is what the nucleus is said to be.
pub fn nucleus<S: Simd, E: Element>(
    row: &ScannedRow<'_, S, E>,
    fraction: u64,
    kept: Option<Cut>,
    min_p: Option<Cut>,
    buffers: &mut Buffers,
) -> Nucleus {
    buffers.estimate.take(row.s, row.blocks, row.weights);
    if kept.is_none()
        && let Some(span) = guess_flat_nucleus(row, fraction, buffers)
    {
        return flat_nucleus(row, fraction, span, min_p, buffers);
    }
    let Buffers { estimate, lists, bracket, before, masses } = buffers;
    // What the sample has of tokens that are not kept.
    let mut not_kept = 0;
    let before = match kept {
        None => row.block_masses(before),
        Some(cut) => {
            estimate.leave_out_below(row.s, cut.least);
            not_kept = count_dropped_ties(row, cut, bracket) * row.weights.mass(cut.least);
            row.kept_masses(cut, before).1
        }
    };
    let total: u64 = before.iter().sum();
    let want = top_p_target(fraction, total);
    let spare = total - want;
    let bound = nucleus_bound(row, before, spare);
    if estimate.share(row.s, bound) > TIGHTEN_SHARE {
        let below = spare + not_kept;
        let likely = estimate.guess_nucleus_bound::<S, E>(row.s, below, bound, row.weights);
        if estimate.share(row.s, likely) > LIST_SHARE {
            let guess =
                |certainty| estimate.guess_nucleus::<S, E>(row.s, below, row.weights, certainty);
            let span = guess(Certainty::Likely);
            let wider = || guess(Certainty::AlmostCertain);
            let known = Known::Blocks { want, masses: before, kept, estimate };
            let (cut, count) = locate_mass(row, known, span, wider, bracket, masses);
            return Nucleus::UpTo(cut, count);
        }
        if list_nucleus(row, likely, want, lists) {
            return Nucleus::Listed;
        }
    }
    let listed = list_nucleus(row, bound, want, lists);
    assert!(listed, "no more than what is spared lies below the bound");
    Nucleus::Listed
}

/// The nucleus of a flat row of which all candidates are kept, and which most likely ends within `span`.
fn flat_nucleus<S: Simd, E: Element>(
    row: &ScannedRow<'_, S, E>,
    fraction: u64,
    span: Span,
    min_p: Option<Cut>,
    buffers: &mut Buffers,
) -> Nucleus {
    if let Some(cut) = min_p
        && span.high.is_some_and(|high| cut.least > high)
        && let Some(count) = weigh_min_p(row, cut, fraction, buffers)
    {
        return Nucleus::UpTo(cut, count);
    }
    let Buffers { estimate, bracket, masses, .. } = buffers;
    let wider = || {
        let certainty = Certainty::AlmostCertain;
        estimate.guess_flat_nucleus::<S, E>(row.s, share(fraction), row.weights, certainty)
    };
    let known = Known::Fraction(fraction);
    let (cut, count) = locate_mass(row, known, span, wider, bracket, masses);
    Nucleus::UpTo(cut, count)
}

/// Weighs and counts what min-p keeps, if all of that is in the nucleus.
fn weigh_min_p<S: Simd, E: Element>(
    row: &ScannedRow<'_, S, E>,
    cut: Cut,
    fraction: u64,
    buffers: &mut Buffers,
) -> Option<u64> {
    let Buffers { bracket, masses, .. } = buffers;
    let around = bracket.weigh_from(row, cut.least, masses);
    let mass: u64 = masses.iter().sum();
    (mass < top_p_target(fraction, around.mass)).then_some(around.count_above)
}

/// A span that most likely has the border, where that can be told before anything is weighed
/// and weighing everything is not cheap.
fn guess_flat_nucleus<S: Simd, E: Element>(
    row: &ScannedRow<'_, S, E>,
    fraction: u64,
    buffers: &mut Buffers,
) -> Option<Span> {
    let ScannedRow { s, weights, .. } = *row;
    let Buffers { estimate, lists, .. } = buffers;
    if let Some(massless) = weights.massless::<E>()
        && estimate.share(s, massless) < 1.0 - MASSLESS_SHARE
    {
        return None;
    }
    // Where few tokens have most of the mass, the nucleus is a short list.
    let row_mass = estimate.row_mass(s);
    if s.run(TotalMass { list: row.maxima, weights, least: lowest::<E>() }) as f64
        > PEAKED_SHARE * row_mass
    {
        return None;
    }
    let heavy = row_mass / HEAVY_PARTS;
    if heavy < UNIT as f64 {
        let least = weights.max + ((heavy / UNIT as f64).log2() as f32) / weights.scale.c;
        let least = E::value(E::key(least)).min(weights.max);
        let list = row.collect(Cut::ties(least), LIST_MAX, lists);
        if list.len() > LIST_MAX {
            return None;
        }
        let mass = row.weigh(list);
        estimate.leave_out_heavy(s, Heavy { least, mass });
    }
    let span = estimate.guess_flat_nucleus::<S, E>(s, share(fraction), weights, Certainty::Likely);
    let many = estimate.share(s, span.low) > LIST_SHARE;
    (many && estimate.share_within(s, span) <= FLAT_SHARE).then_some(span)
}

/// Lists the nucleus, all of whose tokens are `least` or above; false if there is more of it.
fn list_nucleus<S: Simd, E: Element>(
    row: &ScannedRow<'_, S, E>,
    least: f32,
    want: u64,
    lists: &mut Lists,
) -> bool {
    let list = row.collect(Cut::ties(least), usize::MAX, lists);
    row.weigh(list);
    row.keep_prefix(By::Mass, want, list)
}

/// A logit such that all tokens below it have at most `spare` mass.
fn nucleus_bound<S: Simd, E: Element>(
    row: &ScannedRow<'_, S, E>,
    masses: &[u64],
    spare: u64,
) -> f32 {
    let Weights { max, scale, .. } = row.weights;
    let least = |half_octaves: u32| {
        let x = max - half_octaves as f32 * 0.5 / scale.c;
        if x > lowest::<E>() { E::value(E::key(x)) } else { lowest::<E>() }
    };
    let spares = |half_octaves: u32| {
        let mass = row.weights.mass(least(half_octaves));
        // Masses fall with their logits but for the last bits of the polynomial.
        let each = mass + (mass >> 20) + 1;
        let all = BLOCK as u64 * each;
        masses.iter().map(|&block| block.min(all)).sum::<u64>() <= spare
    };
    // At 41 octaves down the mass is 0, and nothing is known to be spared but by this bound.
    let (mut too_high, mut enough) = (0, 82);
    while too_high + 1 < enough {
        let middle = u32::midpoint(too_high, enough);
        if spares(middle) { enough = middle } else { too_high = middle }
    }
    if spares(enough) { least(enough) } else { lowest::<E>() }
}

/// A nucleus in units of 2^-64, for estimates.
fn share(fraction: u64) -> f64 {
    fraction as f64 * f64::powi(2.0, -64)
}
