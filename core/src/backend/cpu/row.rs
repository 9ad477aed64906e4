//! One row, from its logits to its draws.
//!
//! ```text
//! scan: the maximum of every block; NaN, +inf, nothing but -inf end here
//! greedy: the first token that equals the maximum
//! find the cut (search.rs): the last kept token
//! weigh the kept tokens, by id: a short list of them, or the blocks of the row
//! for each draw: the list entry, or the block and then the token in it, where the mass is reached
//! ```

use super::blocks::{BLOCK, Blocks, Filler, Tail};
use super::collect::{Collect, CountFrom};
use super::cut::Cut;
use super::element::Element;
use super::estimate::Estimate;
use super::list::{List, Lists, Weigh, Widen, lowest};
use super::mass::Weights;
use super::scan::{CopyScan, Scan, Scanned};
use super::search::{Kept, Search};
use super::simd::Simd;
use super::team::{Team, parts};
use crate::arithmetic::draw::target;
use crate::arithmetic::logprob::logprob;
use crate::arithmetic::mass::{Scale, UNIT};
use crate::arithmetic::philox::token_bits;
use crate::batch::{Draw, Outcome, Row, RowStatus, Slot};
use crate::params::SamplingParams;
use std::marker::PhantomData;
use std::sync::Mutex;

/// Blocks that are worth a thread's while to scan.
const SCAN_BLOCKS_MIN: usize = 512;

/// Copies begin at a multiple of this, so that no vector lies in two lines.
const CACHE_LINE_BYTES: usize = 64;

/// Memory that is kept from row to row. One for each thread.
pub struct Scratch {
    tail: Box<Tail>,
    /// A row that is lent.
    copy: Vec<u8>,
    /// The maximum of every block, in the row's format.
    raw_maxima: Vec<u8>,
    pub(super) found: Found,
    /// The kept tokens of one block.
    block: List,
    /// Sums of masses.
    prefix: Vec<u64>,
    pending: Vec<Pending>,
}

/// What is known of a row while its cut is searched.
#[derive(Default)]
pub struct Found {
    /// The maximum of every block.
    pub maxima: List,
    /// Tokens from all over the row.
    pub estimate: Estimate,
    /// Tokens around the cut, or all that are kept.
    pub lists: Lists,
    /// A mass for every block: first of all its tokens, in the end of those kept.
    pub masses: Vec<u64>,
    /// Masses of blocks that are needed once more.
    pub weighed: Vec<u64>,
    /// How many tokens were listed from every block.
    pub counts: Vec<u32>,
    /// The number of tokens with one certain logit, for every block.
    pub ties: Vec<u32>,
}

/// A draw that has found its block.
#[derive(Clone, Copy)]
struct Pending {
    block: u32,
    draw: u32,
    /// What is left of its target there.
    target: u64,
}

impl Default for Scratch {
    fn default() -> Self {
        Self {
            tail: Box::new([0; BLOCK * 4]),
            copy: Vec::new(),
            raw_maxima: Vec::new(),
            found: Found::default(),
            block: List::default(),
            prefix: Vec::new(),
            pending: Vec::new(),
        }
    }
}

/// Samples one row, with the threads of a team. `next` is what they will read next: they fetch it
/// while they are busy with other things.
pub fn sample<S: Simd, E: Element>(
    s: S,
    team: &Team,
    row: &Row<'_>,
    next: &[u8],
    scratch: &mut Scratch,
    slot: Slot<'_>,
) {
    if !row.is_lent() {
        let scanned = scan::<S, E>(s, team, row, scratch);
        return sample_scanned::<S, E>(s, team, row, scanned, next, scratch, slot);
    }
    let mut copy = std::mem::take(&mut scratch.copy);
    let (row, scanned) = scan_lent::<S, E>(s, team, row, &mut copy, scratch);
    sample_scanned::<S, E>(s, team, &row, scanned, next, scratch, slot);
    scratch.copy = copy;
}

fn sample_scanned<S: Simd, E: Element>(
    s: S,
    team: &Team,
    row: &Row<'_>,
    scanned: Scanned,
    next: &[u8],
    scratch: &mut Scratch,
    slot: Slot<'_>,
) {
    let Slot { outcome, draws } = slot;
    let params = row.params();
    let status = status::<E>(scanned);
    if status != RowStatus::Ok {
        *outcome = Outcome::failed(status);
        return;
    }
    let blocks = Blocks::<E>::new(row.logits(), &mut scratch.tail, Filler::NegativeInfinity);
    let max = E::value(scanned.first_key) + 0.0;
    load_maxima::<S, E>(s, &scratch.raw_maxima, blocks.len(), &mut scratch.found.maxima);

    if params.is_greedy() {
        let token = first_token(s, blocks, &scratch.found.maxima, max, &mut scratch.block);
        *outcome = Outcome { status, kept: 1, kept_mass: UNIT };
        draws.fill(Draw { token, logprob: 0.0 });
        return;
    }

    let min = scanned.least::<E>();
    let weights = Weights { max, min, scale: Scale::new(params.temperature()) };
    let search = Search { s, team, blocks, weights, params, vocab_size: row.vocab_size(), next };
    let kept = search.run(&mut scratch.found);
    let Scratch { found, block, prefix, pending, .. } = scratch;
    *outcome = match kept {
        Kept::List => {
            let masses = (0..found.lists.list.len()).map(|i| found.lists.list.mass(i));
            let kept_mass = accumulate(prefix, masses);
            for (draw, place) in draws.iter_mut().enumerate() {
                let i = prefix.partition_point(|&sum| sum <= nth_target(params, draw, kept_mass));
                *place =
                    drawn(found.lists.list.ids()[i], found.lists.list.x()[i], weights, kept_mass);
            }
            Outcome { status, kept: found.lists.list.len() as u32, kept_mass }
        }
        Kept::Blocks { cut, count } => {
            let kept = match count {
                Some(count) => count,
                None => candidates::<S, E>(s, blocks, row.vocab_size(), scanned),
            };
            let kept_mass = accumulate(prefix, found.masses.iter().copied());
            find_blocks(params, prefix, draws.len(), pending);
            draw_in_blocks(s, blocks, weights, cut, &found.maxima, block, prefix, pending, draws);
            Outcome { status, kept: kept as u32, kept_mass }
        }
    };
}

fn scan<S: Simd, E: Element>(s: S, team: &Team, row: &Row<'_>, scratch: &mut Scratch) -> Scanned {
    // Filled up with a logit of its own, the last block has no -inf that the row has not.
    let blocks = Blocks::<E>::new(row.logits(), &mut scratch.tail, Filler::Repeat);
    // And bytes to fill up a vector.
    scratch.raw_maxima.resize(blocks.len() * E::SIZE + 64, 0);
    let maxima = &mut scratch.raw_maxima[..blocks.len() * E::SIZE];
    let scanned = Mutex::new(Scanned::NOTHING);
    let runs = team.runs(blocks.len(), SCAN_BLOCKS_MIN);
    team.each(parts(runs, E::SIZE, maxima), |(range, maxima)| {
        let part = s.run(Scan { blocks, range, maxima });
        let mut scanned = scanned.lock().expect("no other thread panicked");
        *scanned = scanned.and(part);
    });
    scanned.into_inner().expect("no other thread panicked")
}

/// Copies a row that is lent, and scans the copy.
fn scan_lent<'c, S: Simd, E: Element>(
    s: S,
    team: &Team,
    row: &Row<'_>,
    copy: &'c mut Vec<u8>,
    scratch: &mut Scratch,
) -> (Row<'c>, Scanned) {
    let block_bytes = BLOCK * E::SIZE;
    let blocks = row.bytes().div_ceil(block_bytes);
    copy.resize(copy.len().max(blocks * block_bytes + CACHE_LINE_BYTES), 0);
    let skip = copy.as_ptr().align_offset(CACHE_LINE_BYTES).min(CACHE_LINE_BYTES);
    let copy = &mut copy[skip..][..blocks * block_bytes];
    scratch.raw_maxima.resize(blocks * E::SIZE + 64, 0);
    let maxima = &mut scratch.raw_maxima[..blocks * E::SIZE];
    let runs = team.runs(blocks, SCAN_BLOCKS_MIN);
    let runs = parts(runs.clone(), block_bytes, copy).zip(parts(runs, E::SIZE, maxima));
    let scanned = Mutex::new(Scanned::NOTHING);
    team.each(runs, |((run, copy), (_, maxima))| {
        let at = run.start * block_bytes;
        // The last block of a row may not be a whole one.
        let bytes = copy.len().min(row.bytes() - at);
        let part = scan_copy::<S, E>(s, row, at, &mut copy[..bytes], maxima);
        let mut scanned = scanned.lock().expect("no other thread panicked");
        *scanned = scanned.and(part);
    });
    let copied = Row::new(row.dtype(), &copy[..row.bytes()], *row.params());
    let scanned = scanned.into_inner().expect("no other thread panicked");
    (copied.expect("as valid as what was copied"), scanned)
}

/// Copies the logits from byte `at` on, and scans them.
fn scan_copy<S: Simd, E: Element>(
    s: S,
    row: &Row<'_>,
    at: usize,
    copy: &mut [u8],
    maxima: &mut [u8],
) -> Scanned {
    let mut scanned = Scanned::NOTHING;
    let mut rest = 0;
    if let Some(from) = row.mapped() {
        let blocks = copy.len() / (BLOCK * E::SIZE);
        rest = blocks * BLOCK * E::SIZE;
        let (copy, maxima) = (&mut copy[..rest], &mut maxima[..blocks * E::SIZE]);
        scanned = s.run(CopyScan { from: &from[at..], copy, maxima, element: PhantomData::<E> });
    }
    if rest == copy.len() {
        return scanned;
    }
    let (copy, maxima) = (&mut copy[rest..], &mut maxima[rest / BLOCK..]);
    row.copy_to(at + rest, copy);
    let mut tail: Tail = [0; BLOCK * 4];
    let blocks = Blocks::<E>::new(copy, &mut tail, Filler::Repeat);
    scanned.and(s.run(Scan { blocks, range: 0..blocks.len(), maxima }))
}

fn status<E: Element>(scanned: Scanned) -> RowStatus {
    if scanned.first_key > E::INFINITY || scanned.max_unsigned > E::NEGATIVE_INFINITY {
        RowStatus::Nan
    } else if scanned.first_key == E::INFINITY {
        RowStatus::PositiveInfinity
    } else if scanned.first_key < -E::INFINITY {
        RowStatus::NoCandidate
    } else {
        RowStatus::Ok
    }
}

/// Widens the maxima, so that they can be used as a list.
fn load_maxima<S: Simd, E: Element>(s: S, raw: &[u8], count: usize, maxima: &mut List) {
    maxima.reset(count);
    s.run(Widen::<E> { raw, len: count, list: maxima, element: PhantomData });
    maxima.seal();
}

/// The number of tokens above -inf.
fn candidates<S: Simd, E: Element>(
    s: S,
    blocks: Blocks<'_, E>,
    vocab_size: u32,
    scanned: Scanned,
) -> u64 {
    if scanned.max_unsigned != E::NEGATIVE_INFINITY {
        return u64::from(vocab_size);
    }
    s.run(CountFrom { blocks, range: 0..blocks.len(), least: lowest::<E>() })
}

/// The first token of the total order.
fn first_token<S: Simd, E: Element>(
    s: S,
    blocks: Blocks<'_, E>,
    maxima: &List,
    max: f32,
    list: &mut List,
) -> u32 {
    let block = maxima.x().iter().position(|&x| x == max).expect("the maximum is some block's");
    let range = block..block + 1;
    list.reset(BLOCK);
    s.run(Collect { blocks, range, maxima: maxima.x(), cut: Cut::ties(max), limit: 0, list });
    list.ids()[0]
}

/// Writes the sums of ever more masses, and returns the sum of all.
fn accumulate(prefix: &mut Vec<u64>, masses: impl Iterator<Item = u64>) -> u64 {
    prefix.clear();
    let mut sum = 0;
    prefix.extend(masses.map(|mass| {
        sum += mass;
        sum
    }));
    sum
}

fn nth_target(params: &SamplingParams, draw: usize, kept_mass: u64) -> u64 {
    target(token_bits(params.seed(), params.position(), draw as u32), kept_mass)
}

fn drawn(token: u32, x: f32, weights: Weights, kept_mass: u64) -> Draw {
    // `weights.max` is not -0.0; with x = -0.0, the logprob of the only token would be.
    Draw { token, logprob: logprob(x + 0.0, weights.max, weights.scale, kept_mass) }
}

/// Finds the block of every draw, and sorts the draws by block, so that each is weighed once.
fn find_blocks(params: &SamplingParams, prefix: &[u64], draws: usize, pending: &mut Vec<Pending>) {
    let kept_mass = *prefix.last().expect("a row has a block");
    pending.clear();
    pending.extend((0..draws).map(|draw| {
        let target = nth_target(params, draw, kept_mass);
        let block = prefix.partition_point(|&sum| sum <= target);
        let before = if block == 0 { 0 } else { prefix[block - 1] };
        Pending { block: block as u32, draw: draw as u32, target: target - before }
    }));
    pending.sort_unstable_by_key(|pending| pending.block);
}

#[expect(clippy::too_many_arguments)]
fn draw_in_blocks<S: Simd, E: Element>(
    s: S,
    blocks: Blocks<'_, E>,
    weights: Weights,
    cut: Cut,
    maxima: &List,
    list: &mut List,
    prefix: &mut Vec<u64>,
    pending: &[Pending],
    draws: &mut [Draw],
) {
    let kept_mass = *prefix.last().expect("a row has a block");
    for pending in pending.chunk_by(|a, b| a.block == b.block) {
        let block = pending[0].block as usize;
        let range = block..block + 1;
        list.reset(BLOCK);
        s.run(Collect { blocks, range, maxima: maxima.x(), cut, limit: BLOCK, list });
        list.seal();
        s.run(Weigh { list, weights });
        accumulate(prefix, (0..list.len()).map(|i| list.mass(i)));
        for &Pending { draw, target, .. } in pending {
            let i = prefix.partition_point(|&sum| sum <= target);
            draws[draw as usize] = drawn(list.ids()[i], list.x()[i], weights, kept_mass);
        }
    }
}
