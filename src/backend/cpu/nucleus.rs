//! Where top-p ends.
//!
//! - Peaked rows: the masses of all blocks give the total, and so how much mass may be left out. A
//!   block leaves out at most its own mass, and at most [`BLOCK`] times that of the greatest logit
//!   left out: the greatest logit for which the sum of those bounds is not too much is a lower bound
//!   of the border. Few tokens are above it, and the border is found in the list of them.
//! - Where they are not so few, a [`sample`](super::sample) of what is left out tells the border
//!   better: a bound to list from, or a bracket for one more pass.
//! - Flat rows: the sample tells the border before anything is weighed, and one pass around it does
//!   it all.

use super::blocks::BLOCK;
use super::cut::Cut;
use super::element::Element;
use super::list::{By, Weigh, lowest};
use super::mass::Weights;
use super::row::Found;
use super::search::{Kept, Search};
use super::simd::Simd;
use crate::arithmetic::cut::{top_p_fraction, top_p_target};

/// The share of a row that may be listed.
const LIST_SHARE: f64 = 0.1;
/// The share of a row from which on a better bound is looked for before it is listed.
const TIGHTEN_SHARE: f64 = 1.0 / 400.0;

impl<S: Simd, E: Element> Search<'_, S, E> {
    /// Finds the token where top-p ends, among those that top-k keeps, and weighs what it keeps.
    pub fn nucleus(&self, p: f32, top_k: Option<Cut>, found: &mut Found) -> (Cut, Kept) {
        let Self { s, weights, .. } = *self;
        let fraction = top_p_fraction(p);
        found.sample.take(s, self.blocks, weights);
        if let Some(cut) = top_k {
            self.weigh_kept(cut, found);
        } else {
            let Found { sample, maxima, .. } = &*found;
            let maxima = maxima.x();
            if let Some(span) = sample.guess_flat_nucleus::<S, E>(s, p, maxima, weights, LIST_SHARE)
            {
                return self.locate_mass(|total| top_p_target(fraction, total), span, found);
            }
            self.weigh_blocks(found);
        }

        let total: u64 = found.masses.iter().sum();
        let want = top_p_target(fraction, total);
        let spare = total - want;
        let least = self.nucleus_bound(spare, found);
        if found.sample.share(s, least) > TIGHTEN_SHARE {
            let likely = found.sample.guess_nucleus_bound::<S, E>(s, spare, least, weights);
            if found.sample.share(s, likely) > LIST_SHARE {
                let span = found.sample.guess_nucleus::<S, E>(s, spare, weights);
                return self.locate_mass(|_| want, span, found);
            }
            if let Some(cut) = self.nucleus_from(likely, want, found) {
                return (cut, Kept::List);
            }
        }
        let cut = self.nucleus_from(least, want, found);
        (cut.expect("the bound is below the border"), Kept::List)
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
