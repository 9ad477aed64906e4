//! Where top-p ends.
//!
//! - Flat rows: an [`estimate`](super::estimate) tells the border before anything is weighed, and one pass
//!   around it does it all. The heaviest tokens, which a sample would miss, are listed before.
//! - Peaked rows, of which most has no mass: the masses of all blocks give the total, and so how much
//!   mass may be left out. A block leaves out at most its own mass, and at most [`BLOCK`] times that of
//!   the greatest logit left out: the greatest logit for which the sum of those bounds is not too
//!   much is a lower bound of the border. Few tokens are above it, and the border is found in the list
//!   of them.
//! - Others: with the total known, the sample tells the border better: a bound to list from, or a
//!   bracket for one more pass, which weighs the smaller side only.

use super::around::Ends;
use super::blocks::BLOCK;
use super::cut::Cut;
use super::element::Element;
use super::estimate::{Certainty, Heavy, Span};
use super::list::{By, Weigh, lowest};
use super::mass::Weights;
use super::row::Found;
use super::search::{Kept, LIST_MAX, Search};
use super::simd::Simd;
use crate::arithmetic::cut::{top_p_fraction, top_p_target};
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

impl<S: Simd, E: Element> Search<'_, S, E> {
    /// Finds the token where top-p ends, among those that top-k keeps, and weighs what it keeps. The
    /// cut of min-p is returned if it was found to be tighter on the way.
    pub fn nucleus(
        &self,
        p: f32,
        top_k: Option<Cut>,
        min_p: Option<Cut>,
        found: &mut Found,
    ) -> (Cut, Kept) {
        let Self { s, weights, .. } = *self;
        let fraction = top_p_fraction(p);
        found.estimate.take(s, self.blocks, weights);
        // What the sample has of tokens that are not kept.
        let mut not_kept = 0;
        if let Some(cut) = top_k {
            found.estimate.leave_out_below(s, cut.least);
            not_kept = self.count_dropped_ties(cut, found) * weights.mass(cut.least);
            self.weigh_kept(cut, found);
        } else if let Some(span) = self.guess_flat_nucleus(p, found) {
            let want = |total| top_p_target(fraction, total);
            let min_p = min_p.filter(|cut| span.high.is_some_and(|high| cut.least > high));
            if let Some(kept) = min_p.and_then(|cut| self.min_p_within(cut, want, found)) {
                return kept;
            }
            let guess = |found: &Found| {
                let certainty = Certainty::AlmostCertain;
                found.estimate.guess_flat_nucleus::<S, E>(s, p, weights, certainty)
            };
            return self.locate_mass(want, span, guess, found);
        } else {
            self.weigh_blocks(found);
        }

        let total: u64 = found.masses.iter().sum();
        let want = top_p_target(fraction, total);
        let spare = total - want;
        let least = self.nucleus_bound(spare, found);
        if found.estimate.share(s, least) > TIGHTEN_SHARE {
            let below = spare + not_kept;
            let likely = found.estimate.guess_nucleus_bound::<S, E>(s, below, least, weights);
            if found.estimate.share(s, likely) > LIST_SHARE {
                let guess = |certainty, found: &Found| {
                    found.estimate.guess_nucleus::<S, E>(s, below, weights, certainty)
                };
                let span = guess(Certainty::Likely, found);
                let again = |found: &Found| guess(Certainty::AlmostCertain, found);
                return self.locate_mass_of(want, top_k, span, again, found);
            }
            if let Some(cut) = self.nucleus_from(likely, want, found) {
                return (cut, Kept::List);
            }
        }
        let cut = self.nucleus_from(least, want, found);
        (cut.expect("the bound is below the border"), Kept::List)
    }

    /// Weighs what min-p keeps, if all of that is in the nucleus.
    fn min_p_within(
        &self,
        cut: Cut,
        want: impl Fn(u64) -> u64,
        found: &mut Found,
    ) -> Option<(Cut, Kept)> {
        let around = self.weigh_around(Ends { least: cut.least, end: cut.least }, found);
        let mass: u64 = found.masses.iter().sum();
        let kept = Kept::Blocks { cut, count: Some(around.count_above) };
        (mass < want(around.mass)).then_some((cut, kept))
    }

    /// A span that most likely has the border, where that can be told before anything is weighed
    /// and weighing everything is not cheap.
    fn guess_flat_nucleus(&self, p: f32, found: &mut Found) -> Option<Span> {
        let Self { s, weights, .. } = *self;
        if let Some(massless) = weights.massless::<E>()
            && found.estimate.share(s, massless) < 1.0 - MASSLESS_SHARE
        {
            return None;
        }
        // Where few tokens have most of the mass, the nucleus is a short list.
        let row_mass = found.estimate.row_mass(s);
        let maxima = s.run(Weigh { list: &mut found.maxima, weights });
        if maxima as f64 > PEAKED_SHARE * row_mass {
            return None;
        }
        let heavy = row_mass / HEAVY_PARTS;
        if heavy < UNIT as f64 {
            let least = weights.max + ((heavy / UNIT as f64).log2() as f32) / weights.scale.c;
            let least = E::value(E::key(least)).min(weights.max);
            self.collect(Cut::ties(least), LIST_MAX, found);
            if found.lists.list.len() > LIST_MAX {
                return None;
            }
            let mass = s.run(Weigh { list: &mut found.lists.list, weights });
            found.estimate.leave_out_heavy(s, Heavy { least, mass });
        }
        let span = found.estimate.guess_flat_nucleus::<S, E>(s, p, weights, Certainty::Likely);
        let many = found.estimate.share(s, span.low) > LIST_SHARE;
        (many && found.estimate.share_within(s, span) <= FLAT_SHARE).then_some(span)
    }

    /// The nucleus whose tokens all are `least` or above, left in the list; `None` if there is more.
    fn nucleus_from(&self, least: f32, want: u64, found: &mut Found) -> Option<Cut> {
        self.collect(Cut::ties(least), usize::MAX, found);
        let list = &mut found.lists.list;
        self.s.run(Weigh { list, weights: self.weights });
        self.cut_list_by(By::Mass, want, list)
    }

    /// A logit such that all tokens below it have at most `spare` mass.
    fn nucleus_bound(&self, spare: u64, found: &Found) -> f32 {
        let Weights { max, scale, .. } = self.weights;
        let least = |half_octaves: u32| {
            let x = max - half_octaves as f32 * 0.5 / scale.c;
            if x > lowest::<E>() { E::value(E::key(x)) } else { lowest::<E>() }
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
        if spares(enough) { least(enough) } else { lowest::<E>() }
    }
}
