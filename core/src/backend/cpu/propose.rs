//! What the draft of a row was drawn from, made of what the draft says.
//!
//! This is done before the row for which the token was drafted is looked at, of which nothing has to be known here: not
//! even its dtype. Whether that row takes the draft needs one mass and the sum. Only a row that does not take it asks for more.

use super::draw::first_token;
use super::element::{Bf16, Element, F16, F32};
use super::prepare::prepare;
use super::proposal::{Proposed, UpTo};
use super::row::Scratch;
use super::search::{Kept, cut};
use super::shaped;
use super::simd::Simd;
use super::team::Team;
use crate::arithmetic::mass::{Scale, UNIT};
use crate::arithmetic::plan::Plan;
use crate::backend::adjusted::Adjuster;
use crate::batch::{Dtype, Row, RowStatus};
use crate::row::{Draft, Proposal, Rule};

/// Memory for proposals. Each thread has one.
#[derive(Default)]
pub struct Buffers {
    adjuster: Adjuster,
    /// A row as it is adjusted.
    copy: Vec<u8>,
    scratch: Scratch,
    /// Masses of tokens, ids ascending.
    few: Vec<(u32, u64)>,
}

/// What the draft of a row was drawn from, if that is asked for; `next` is read after that. An error is the status of the
/// proposal's row.
pub fn propose<'a, S: Simd>(
    s: S,
    team: &'a Team,
    draft: &'a Draft,
    next: &'a [u8],
    buffers: &'a mut Buffers,
) -> Result<Option<Proposed<'a>>, RowStatus> {
    let Rule::Rejection(proposal) = &draft.rule else { return Ok(None) };
    let Buffers { adjuster, copy, scratch, few } = buffers;
    few.clear();
    Ok(Some(match proposal {
        Proposal::Point => {
            few.push((draft.token, 1));
            Proposed::few(few)
        }
        Proposal::Sparse(weights) => Proposed::few(weights),
        Proposal::Dense(p) => Proposed::dense(s, p),
        Proposal::Row(source) => {
            let row = adjuster.apply(&source.row(), copy);
            match row.dtype() {
                Dtype::F16 => of_row::<S, F16>(s, team, &row, next, scratch, few)?,
                Dtype::Bf16 => of_row::<S, Bf16>(s, team, &row, next, scratch, few)?,
                Dtype::F32 => of_row::<S, F32>(s, team, &row, next, scratch, few)?,
            }
        }
    }))
}

/// What a row that needs no further adjustment is drawn from.
fn of_row<'a, S: Simd, E: Element>(
    s: S,
    team: &'a Team,
    row: &Row<'a>,
    next: &'a [u8],
    scratch: &'a mut Scratch,
    few: &'a mut Vec<(u32, u64)>,
) -> Result<Proposed<'a>, RowStatus> {
    let Scratch { prepare: memory, search, tokens, shaped, .. } = scratch;
    let prepared = prepare::<S, E>(s, team, row, None, memory);
    if prepared.status != RowStatus::Ok {
        return Err(prepared.status);
    }
    let scanned = |scale| prepared.scanned_row(s, team, scale, row.vocab_size(), next);
    let params = row.params();
    Ok(match params.plan() {
        _ if params.cuts().is_some() => {
            shaped::propose(scanned(Scale::new(1.0)), params, shaped, search, few)
        }
        Plan::Greedy => {
            few.push((first_token(s, &prepared, &mut tokens.draw), UNIT));
            Proposed::few(few)
        }
        Plan::Draw(chain) => {
            let row = scanned(chain.scale);
            match cut(&row, &chain, search) {
                Kept::List(list) => Proposed::list(list, few),
                Kept::Blocks { cut, masses, .. } => {
                    Proposed::row(masses.iter().sum(), UpTo { row, cut })
                }
            }
        }
    })
}
