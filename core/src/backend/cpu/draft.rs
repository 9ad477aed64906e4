//! Whether a row takes its draft, and what it says instead.
//!
//! ```text
//! by probability:  m, W and E of what is kept; enough, or the row draws
//! by rejection:    m and W of what is kept, d and D of what was proposed; enough, or
//!     sums = max(m * D - d * W, 0), up to each token of a list, or up to each block
//!     the first sum above the target; if that is a block's, the first token's within
//! ```
//!
//! 1. Where few tokens have anything of the proposal, the sum of a block is D times that of its masses, which the search has
//!    left, less what these tokens take off: no logit is read for it but theirs.
//! 2. Otherwise it is one pass over the blocks in which something is kept ([`residual`](super::residual)), shared among the
//!    threads of the row.
//! 3. Where nothing is left the proposal is not what the draft was drawn from, and the row draws from its own masses: those
//!    that are left of nothing at all ([`Proposed::NOTHING`]).

use super::blocks::BLOCK;
use super::cut::Cut;
use super::element::Element;
use super::intervals::{SumList, interval};
use super::list::{List, lowest};
use super::passes::ScannedRow;
use super::proposal::{Proposed, UpTo};
use super::residual::{Hits, Left, TokenMasses};
use super::search::Kept;
use super::simd::Simd;
use super::team::parts;
use crate::arithmetic::accept::{Share, accepts, likely_enough, residual, scaled};
use crate::arithmetic::interval::Interval;
use crate::arithmetic::philox::{PURPOSE_ACCEPTANCE, PURPOSE_RESIDUAL, bits};
use crate::batch::{Row, RowStatus};
use crate::row::{Rule, Typical};

/// Memory for drafts that are not taken.
#[derive(Default)]
pub struct Buffers {
    /// What is left up to each token of a list.
    token_sums: Vec<u128>,
    /// What is left up to each block.
    block_sums: Vec<u128>,
}

/// What a draft was drawn from, where that is asked for, or why it is not known.
pub type Known<'a> = Result<Option<&'a Proposed<'a>>, RowStatus>;

/// A token that a row says.
#[derive(Clone, Copy)]
pub struct Said {
    /// Whether it is the draft.
    pub is_draft: bool,
    /// Its id.
    pub token: u32,
    /// Its logit.
    pub x: f32,
}

/// Decides about the draft of a row; `None` where the row draws. An error is the status of the proposal's row.
pub fn decide<S: Simd, E: Element>(
    scanned: &ScannedRow<'_, S, E>,
    row: &Row<'_>,
    kept: Kept<'_>,
    proposed: Known<'_>,
    buffers: &mut Buffers,
) -> Result<Option<Said>, RowStatus> {
    let draft = row.draft().expect("the row has one");
    let token = draft.token;
    let total = mass_of(kept);
    let (x, mass) = find(scanned, kept, token).unwrap_or((0.0, 0));
    let share = Share { mass, total };
    let taken = Some(Said { is_draft: true, token, x });
    let Some(proposed) = proposed? else {
        let Rule::Typical(Typical { epsilon, delta }) = draft.rule else {
            unreachable!("what is decided by rejection has a proposal")
        };
        let is_enough = likely_enough(mass, sums(scanned, kept), epsilon, delta);
        return Ok(taken.filter(|_| is_enough));
    };
    let (seed, position) = (row.params().seed(), row.params().position());
    let bits = |purpose| bits(seed, position, 0, purpose);
    if accepts(bits(PURPOSE_ACCEPTANCE), share, proposed.share(token)) {
        return Ok(taken);
    }
    Ok(Some(instead(scanned, kept, total, proposed, bits(PURPOSE_RESIDUAL), buffers)))
}

/// Whether a row that says its first token takes its draft.
pub fn is_first(row: &Row<'_>, first: u32, proposed: Known<'_>) -> Result<bool, RowStatus> {
    let draft = row.draft().expect("the row has one");
    let is_possible = proposed?.is_none_or(|proposed| proposed.share(draft.token).mass > 0);
    Ok(draft.token == first && is_possible)
}

/// The mass of all that is kept.
pub fn mass_of(kept: Kept<'_>) -> u64 {
    match kept {
        Kept::List(list) => (0..list.len()).map(|i| list.mass(i)).sum(),
        Kept::Blocks { masses, .. } => masses.iter().sum(),
    }
}

/// A kept token's logit and mass.
fn find<S: Simd, E: Element>(
    row: &ScannedRow<'_, S, E>,
    kept: Kept<'_>,
    token: u32,
) -> Option<(f32, u64)> {
    match kept {
        Kept::List(list) => {
            let i = list.ids().binary_search(&token).ok()?;
            Some((list.x()[i], list.mass(i)))
        }
        Kept::Blocks { cut, .. } => {
            let x = UpTo { row: *row, cut }.logit(token)?;
            Some((x, row.weights.mass(x)))
        }
    }
}

/// The sums over all that is kept.
fn sums<S: Simd, E: Element>(row: &ScannedRow<'_, S, E>, kept: Kept<'_>) -> Interval {
    match kept {
        Kept::List(list) => row.s.run(SumList { list, weights: row.weights }),
        Kept::Blocks { cut, .. } => {
            interval(row, Some(cut).filter(|&cut| cut != Cut::ties(lowest::<E>())))
        }
    }
}

/// Draws from what a proposal leaves of the kept tokens.
fn instead<S: Simd, E: Element>(
    row: &ScannedRow<'_, S, E>,
    kept: Kept<'_>,
    total: u64,
    proposed: &Proposed<'_>,
    bits: u64,
    buffers: &mut Buffers,
) -> Said {
    let (cut, masses) = match kept {
        Kept::List(list) => {
            let sums = &mut buffers.token_sums;
            let (proposed, left) = or_nothing(proposed, |proposed| {
                sum_up(sums, left_of(list, total, |i| proposed.share(list.ids()[i])))
            });
            debug_assert!(left > 0 && proposed.total() > 0);
            return said(list, first_above(sums, scaled(left, bits)));
        }
        Kept::Blocks { cut, masses, .. } => (cut, masses),
    };
    let Buffers { token_sums, block_sums } = buffers;
    let up_to = UpTo { row: *row, cut };
    let (proposed, left) = or_nothing(proposed, |proposed| {
        match proposed.listed() {
            Some(few) => sums_of_blocks(&up_to, masses, total, proposed.total(), few, block_sums),
            None => pass(&up_to, masses, total, proposed, block_sums),
        }
        cumulate(block_sums)
    });
    let target = scaled(left, bits);
    let block = first_above(block_sums, target);
    let before = if block == 0 { 0 } else { block_sums[block - 1] };
    sum_up_block(&up_to, block, total, proposed, token_sums);
    let token = (block * BLOCK + first_above(token_sums, target - before)) as u32;
    let x = up_to.logit(token).expect("what is left of it is kept");
    Said { is_draft: false, token, x }
}

/// Writes what is left up to each token of a block.
fn sum_up_block<S: Simd, E: Element>(
    row: &UpTo<'_, S, E>,
    block: usize,
    total: u64,
    proposed: &Proposed<'_>,
    sums: &mut Vec<u128>,
) {
    let (mut own, mut masses) = (TokenMasses::default(), TokenMasses::default());
    row.weigh_block(block, &Hits::ALL, &mut own);
    if proposed.listed().is_some() {
        let left_of = |place| {
            let share = Share { mass: own.mass(place), total };
            match share.mass {
                0 => 0,
                _ => residual(share, proposed.share((block * BLOCK + place) as u32)),
            }
        };
        sum_up(sums, (0..BLOCK).map(left_of));
    } else {
        proposed.weigh_block(row.row.s, block, &Hits::ALL, &mut masses);
        let left = Left { own: &own, total, proposed: &masses, all: proposed.total() };
        sum_up(sums, (0..BLOCK).map(|place| left.of_token(place)));
    }
}

/// What a proposal leaves, and the proposal; if that is nothing, what no proposal at all leaves.
fn or_nothing<'a, 'b>(
    proposed: &'a Proposed<'b>,
    mut left: impl FnMut(&Proposed<'b>) -> u128,
) -> (&'a Proposed<'b>, u128) {
    match left(proposed) {
        0 => (&Proposed::NOTHING, left(&Proposed::NOTHING)),
        some => (proposed, some),
    }
}

/// What is left of each token of a list.
fn left_of(
    list: &List,
    total: u64,
    proposed: impl Fn(usize) -> Share,
) -> impl Iterator<Item = u128> {
    (0..list.len()).map(move |i| residual(Share { mass: list.mass(i), total }, proposed(i)))
}

/// What is left of every block, where few tokens were proposed.
fn sums_of_blocks<S: Simd, E: Element>(
    row: &UpTo<'_, S, E>,
    masses: &[u64],
    total: u64,
    all: u64,
    few: &[(u32, u64)],
    sums: &mut Vec<u128>,
) {
    let whole = |&mass: &u64| u128::from(mass) * u128::from(all);
    sums.clear();
    sums.extend(masses.iter().map(whole));
    for &(id, mass) in few {
        let Some(x) = row.logit(id) else { continue };
        let own = row.row.weights.mass(x);
        let left = residual(Share { mass: own, total }, Share { mass, total: all });
        sums[id as usize / BLOCK] -= whole(&own) - left;
    }
}

/// What is left of every block: a pass over those that have a mass.
fn pass<S: Simd, E: Element>(
    row: &UpTo<'_, S, E>,
    masses: &[u64],
    total: u64,
    proposed: &Proposed<'_>,
    sums: &mut Vec<u128>,
) {
    let (team, s) = (row.row.team, row.row.s);
    sums.clear();
    sums.resize(masses.len(), 0);
    team.each(parts(row.row.heavy_runs(), 1, sums), |(range, sums)| {
        let (mut own, mut part) = (TokenMasses::default(), TokenMasses::default());
        for (block, sum) in range.zip(sums).filter(|(block, _)| masses[*block] > 0) {
            let hits = row.hits(block);
            row.weigh_block(block, &hits, &mut own);
            proposed.weigh_block(s, block, &hits, &mut part);
            *sum = s.run(Left { own: &own, total, proposed: &part, all: proposed.total() });
        }
    });
}

/// Writes the sums of ever more values, and returns the sum of all.
fn sum_up(sums: &mut Vec<u128>, values: impl Iterator<Item = u128>) -> u128 {
    sums.clear();
    sums.extend(values);
    cumulate(sums)
}

fn cumulate(values: &mut [u128]) -> u128 {
    values.iter_mut().fold(0, |sum, value| {
        *value += sum;
        *value
    })
}

/// The place of the first sum above a target.
fn first_above(sums: &[u128], target: u128) -> usize {
    sums.partition_point(|&sum| sum <= target)
}

fn said(list: &List, i: usize) -> Said {
    Said { is_draft: false, token: list.ids()[i], x: list.x()[i] }
}
