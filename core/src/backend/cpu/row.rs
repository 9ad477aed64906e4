//! One row, from its logits to its draws.
//!
//! ```text
//! row + plan -> prepare  (copy if on loan, scan)          -> status, block maxima
//!            -> search   (steps of the plan)              -> the kept tokens: a list, or a cut and block masses
//!            -> draw     (where the kept mass exceeds it) -> tokens, logprobs
//!         or -> race     (the token that runs fastest)    -> tokens, logprobs
//!            -> inspect  (where more is asked for)        -> ranks, logprobs, entropies, kept ids
//! ```
//!
//! Rows with NaN, with +inf or with nothing but -inf end after the first stage. So do greedy rows, whose token is the
//! first that equals the maximum. Every stage borrows memory of the scratch and returns what it found.

use super::draw::{self, Stream, draw, first_token};
use super::element::Element;
use super::inspect::{self, Sampled, inspect};
use super::mass::Weights;
use super::nucleus;
use super::passes::ScannedRow;
use super::prepare::{self, prepare};
use super::race::{self, race};
use super::search::cut;
use super::shaped::{self, Stages};
use super::simd::Simd;
use super::team::Team;
use crate::arithmetic::draw::DrawRule;
use crate::arithmetic::mass::{Scale, UNIT};
use crate::arithmetic::plan::Plan;
use crate::batch::{Draw, Outcome, Row, RowStatus, Slot};

/// Memory that is kept from row to row. Each thread has one.
#[derive(Default)]
pub struct Scratch {
    pub prepare: prepare::Buffers,
    pub search: nucleus::Buffers,
    pub draw: draw::Buffers,
    pub race: race::Buffers,
    pub inspect: inspect::Buffers,
    pub shaped: shaped::Buffers,
}

/// Samples one row, with the threads of a team. Tokens that a mask does not have count as -inf. `next` is the row that they read next: they fetch it from memory while
/// they compute.
pub fn sample<S: Simd, E: Element>(
    s: S,
    team: &Team,
    row: &Row<'_>,
    mask: Option<&[u32]>,
    next: &[u8],
    scratch: &mut Scratch,
    slot: Slot<'_>,
) {
    let Slot { outcome, draws, inspection, state, accepted } = slot;
    let asked = row.inspect().zip(inspection);
    let params = row.params();
    let plan = params.plan();
    let prepared = prepare::<S, E>(s, team, row, mask, &mut scratch.prepare);
    let status = prepared.status;
    if status != RowStatus::Ok {
        *outcome = Outcome::failed(status);
        if let Some((asked, inspection)) = asked {
            *inspection = inspect::failed(asked, status);
        }
        return;
    }
    let scanned = |scale| ScannedRow {
        s,
        team,
        blocks: prepared.blocks,
        maxima: prepared.maxima,
        scanned: prepared.scanned,
        weights: Weights { max: prepared.max, min: prepared.scanned.least::<E>(), scale },
        vocab_size: row.vocab_size(),
        next,
    };
    if params.cuts().is_some() {
        let Scratch { search, draw, race, inspect, shaped, .. } = scratch;
        let (scanned, stages) = (scanned(Scale::new(1.0)), Stages { search, draw, race, inspect });
        let slot =
            Slot { outcome, draws, inspection: asked.map(|(_, place)| place), state, accepted };
        return shaped::sample(&scanned, row, shaped, stages, slot);
    }
    let chain = match &plan {
        Plan::Greedy => {
            let token = first_token(s, &prepared, &mut scratch.draw);
            *outcome = Outcome { status, kept: 1, kept_mass: UNIT };
            draws.fill(Draw { token, logprob: 0.0 });
            if let Some((asked, inspection)) = asked {
                let (row, sampled) = (scanned(Scale::new(1.0)), Sampled::First(token));
                *inspection = inspect(&row, asked, sampled, draws, &mut scratch.inspect);
            }
            return;
        }
        Plan::Draw(chain) => chain,
    };
    let scanned = scanned(chain.scale);
    let kept = cut(&scanned, chain, &mut scratch.search);
    let stream = Stream { seed: params.seed(), position: params.position() };
    let kept_mass = match chain.rule {
        DrawRule::Cumulative => draw(&scanned, kept, stream, &mut scratch.draw, draws),
        DrawRule::Race => race(&scanned, row, kept, stream, &mut scratch.race, draws),
    };
    *outcome = Outcome { status, kept: kept.count() as u32, kept_mass };
    if let Some((asked, inspection)) = asked {
        let sampled = Sampled::Kept(kept);
        *inspection = inspect(&scanned, asked, sampled, draws, &mut scratch.inspect);
    }
}
