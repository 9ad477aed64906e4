//! One row, from its logits to its draws.
//!
//! ```text
//! row + plan -> prepare  (copy if on loan, scan)          -> status, block maxima
//!            -> search   (steps of the plan)              -> the kept tokens: a list, or a cut and block masses
//!            -> draw     (where the kept mass exceeds it) -> tokens, logprobs
//!         or -> race     (the token that runs fastest)    -> tokens, logprobs
//!         or -> decide   (the draft, or what is left)     -> token, logprob; if neither, draw or race
//!            -> inspect  (where more is asked for)        -> ranks, logprobs, entropies, kept ids
//! ```
//!
//! Rows with NaN, with +inf or with nothing but -inf end after the first stage. So do greedy rows, whose token is the
//! first that equals the maximum. Every stage borrows memory of the scratch and returns what it found.

use super::draft::Known;
use super::draw::first_token;
use super::element::Element;
use super::inspect::{self, Sampled, inspect};
use super::nucleus;
use super::prepare::{self, prepare};
use super::search::cut;
use super::shaped::{self, Stages};
use super::simd::Simd;
use super::team::Team;
use super::tokens::{self, Places, say_first, take};
use crate::arithmetic::mass::{Scale, UNIT};
use crate::arithmetic::plan::Plan;
use crate::batch::{Outcome, Row, RowStatus, Slot};

/// Memory that is kept from row to row. Each thread has one.
#[derive(Default)]
pub struct Scratch {
    pub prepare: prepare::Buffers,
    pub search: nucleus::Buffers,
    pub tokens: tokens::Buffers,
    pub inspect: inspect::Buffers,
    pub shaped: shaped::Buffers,
}

/// What a row is sampled with, beside what it says itself.
#[derive(Clone, Copy)]
pub struct With<'a> {
    /// Tokens that it does not have count as -inf.
    pub mask: Option<&'a [u32]>,
    /// What its draft was drawn from.
    pub proposed: Known<'a>,
    /// The row that is read next: it is fetched from memory while this one computes.
    pub next: &'a [u8],
}

/// Samples one row, with the threads of a team.
pub fn sample<S: Simd, E: Element>(
    s: S,
    team: &Team,
    row: &Row<'_>,
    with: With<'_>,
    scratch: &mut Scratch,
    slot: Slot<'_>,
) {
    let Slot { outcome, draws, inspection, state, accepted } = slot;
    let asked = row.inspect().zip(inspection);
    let params = row.params();
    let plan = params.plan();
    let With { mask, proposed, next } = with;
    let Scratch { prepare: memory, search, tokens, inspect: inspecting, shaped } = scratch;
    let prepared = prepare::<S, E>(s, team, row, mask, memory);
    let status = prepared.status;
    if status != RowStatus::Ok {
        *outcome = Outcome::failed(status);
        if let Some((asked, inspection)) = asked {
            *inspection = inspect::failed(asked, status);
        }
        return;
    }
    let scanned = |scale| prepared.scanned_row(s, team, scale, row.vocab_size(), next);
    if params.cuts().is_some() {
        let stages = Stages { search, tokens, inspect: inspecting, proposed };
        let inspection = asked.map(|(_, place)| place);
        let slot = Slot { outcome, draws, inspection, state, accepted };
        return shaped::sample(&scanned(Scale::new(1.0)), row, shaped, stages, slot);
    }
    let places = Places { draws: &mut *draws, accepted };
    let (scanned, sampled, found) = match &plan {
        Plan::Greedy => {
            let token = first_token(s, &prepared, &mut tokens.draw);
            let found = say_first(row, token, proposed, places).map(|()| (1, UNIT));
            (scanned(Scale::new(1.0)), Sampled::First(token), found)
        }
        Plan::Draw(chain) => {
            let scanned = scanned(chain.scale);
            let kept = cut(&scanned, chain, search);
            let found = take(&scanned, row, kept, proposed, tokens, places);
            let count = kept.count() as u32;
            (scanned, Sampled::Kept(kept), found.map(|mass| (count, mass)))
        }
    };
    *outcome = match found {
        Ok((kept, kept_mass)) => Outcome { status, kept, kept_mass },
        Err(status) => Outcome::failed(status),
    };
    if let Some((asked, inspection)) = asked {
        *inspection = match found {
            Ok(_) => inspect(&scanned, asked, sampled, draws, inspecting),
            Err(status) => inspect::undrafted(&scanned, asked, status, inspecting),
        };
    }
}
