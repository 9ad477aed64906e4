//! A row as the later stages want it: here, read once, with the maximum of every block.
//!
//! ```text
//! prepare(row):
//!     for each block
//!         copy it, if the row is on loan or has a mask
//!         scan it, or its copy: the greatest logit; whether NaN, +inf or -inf occur
//!     status = by what occurs
//! ```
//!
//! 1. Memory on loan can change at any moment, so the later stages read the copy. A block is copied and scanned vector
//!    by vector: the row is read from memory once.
//! 2. Of a row with a mask the copy has -inf in place of what the mask leaves out: the later stages see a row like any
//!    other, and the row itself stays what it is.

use super::blocks::{BLOCK, Blocks, Filler, Tail};
use super::element::Element;
use super::list::{List, Widen};
use super::masked::{self, MaskScan, MaskedScan, WORD_TOKENS};
use super::mass::Weights;
use super::passes::ScannedRow;
use super::scan::{CopyScan, Scan, Scanned};
use super::simd::Simd;
use super::team::{Team, parts};
use crate::arithmetic::mass::Scale;
use crate::batch::{Row, RowStatus};
use std::marker::PhantomData;
use std::sync::Mutex;

/// Blocks that are worth a thread's while to scan.
const SCAN_BLOCKS_MIN: usize = 512;

/// Copies begin at a multiple of this, so that no vector lies in two lines.
const CACHE_LINE_BYTES: usize = 64;

/// Memory for a row that is prepared.
pub struct Buffers {
    tail: Box<Tail>,
    /// The copy of a row on loan.
    copy: Vec<u8>,
    /// The maximum of every block, in the row's format.
    raw_maxima: Vec<u8>,
    maxima: List,
}

impl Default for Buffers {
    fn default() -> Self {
        Self {
            tail: Box::new([0; BLOCK * 4]),
            copy: Vec::new(),
            raw_maxima: Vec::new(),
            maxima: List::default(),
        }
    }
}

/// A row that is here and scanned.
pub struct Prepared<'a, E> {
    pub status: RowStatus,
    pub scanned: Scanned,
    /// The greatest logit. Not -0.0.
    pub max: f32,
    /// The row's logits; the last block is filled up with -inf.
    pub blocks: Blocks<'a, E>,
    /// The greatest logit of every block.
    pub maxima: &'a List,
}

impl<'a, E: Element> Prepared<'a, E> {
    /// The row as passes see it, weighed at some temperature.
    pub fn scanned_row<S: Simd>(
        &self,
        s: S,
        team: &'a Team,
        scale: Scale,
        vocab_size: u32,
        next: &'a [u8],
    ) -> ScannedRow<'a, S, E> {
        let Self { scanned, max, blocks, maxima, .. } = *self;
        let weights = Weights { max, min: scanned.least::<E>(), scale };
        ScannedRow { s, team, blocks, maxima, scanned, weights, vocab_size, next }
    }
}

/// Copies a row that is on loan, or that has a mask, and scans what is then here.
pub fn prepare<'a, S: Simd, E: Element>(
    s: S,
    team: &Team,
    row: &Row<'a>,
    mask: Option<&[u32]>,
    buffers: &'a mut Buffers,
) -> Prepared<'a, E> {
    let Buffers { tail, copy, raw_maxima, maxima } = buffers;
    let blocks = row.bytes().div_ceil(BLOCK * E::SIZE);
    // And bytes to fill up a vector.
    raw_maxima.resize(blocks * E::SIZE + 64, 0);
    let (logits, scanned) = if row.is_lent() || mask.is_some() {
        copy_and_scan::<S, E>(s, team, row, mask, copy, raw_maxima)
    } else {
        // Filled up with a logit of its own, the last block has no -inf that the row has not.
        let blocks = Blocks::<E>::new(row.logits(), tail, Filler::Repeat);
        (row.logits(), scan(s, team, blocks, raw_maxima))
    };
    let blocks = Blocks::new(logits, tail, Filler::NegativeInfinity);
    prepared(s, scanned, blocks, raw_maxima, maxima)
}

/// A row that was scanned, with the maxima of its blocks as they are stored.
fn prepared<'a, S: Simd, E: Element>(
    s: S,
    scanned: Scanned,
    blocks: Blocks<'a, E>,
    raw_maxima: &[u8],
    maxima: &'a mut List,
) -> Prepared<'a, E> {
    let len = blocks.len();
    maxima.reset(len);
    s.run(Widen::<E> { raw: raw_maxima, len, list: maxima, element: PhantomData });
    maxima.seal();
    let max = E::value(scanned.first_key) + 0.0;
    Prepared { status: status::<E>(scanned), scanned, max, blocks, maxima }
}

/// Scans a row under a mask, without a copy: the maxima are those of the tokens that the mask has, and the blocks are
/// those of the row. Who looks at these has to look at the mask.
pub fn prepare_in_place<'a, S: Simd, E: Element>(
    s: S,
    team: &Team,
    row: &Row<'a>,
    mask: &[u32],
    buffers: &'a mut Buffers,
) -> Prepared<'a, E> {
    let Buffers { tail, raw_maxima, maxima, .. } = buffers;
    let (logits, block_bytes) = (row.logits(), BLOCK * E::SIZE);
    let (blocks, whole) = (logits.len().div_ceil(block_bytes), logits.len() / block_bytes);
    raw_maxima.resize(blocks * E::SIZE + 64, 0);
    let scanned = Mutex::new(Scanned::NOTHING);
    let runs = team.runs(whole, SCAN_BLOCKS_MIN);
    team.each(parts(runs, E::SIZE, raw_maxima), |(run, maxima)| {
        let from = &logits[run.start * block_bytes..run.end * block_bytes];
        let mask = &mask[run.start * BLOCK / WORD_TOKENS..];
        let part = s.run(MaskedScan { from, mask, maxima, element: PhantomData::<E> });
        let mut scanned = scanned.lock().expect("no other thread panicked");
        *scanned = scanned.and(part);
    });
    let mut scanned = scanned.into_inner().expect("no other thread panicked");
    if whole < blocks {
        let mut rest = logits[whole * block_bytes..].to_vec();
        masked::leave_out::<E>(&mut rest, &mask[whole * BLOCK / WORD_TOKENS..]);
        let blocks = Blocks::<E>::new(&rest, tail, Filler::Repeat);
        let maxima = &mut raw_maxima[whole * E::SIZE..];
        scanned = scanned.and(s.run(Scan { blocks, range: 0..1, maxima }));
    }
    let blocks = Blocks::new(logits, tail, Filler::NegativeInfinity);
    prepared(s, scanned, blocks, raw_maxima, maxima)
}

fn scan<S: Simd, E: Element>(
    s: S,
    team: &Team,
    blocks: Blocks<'_, E>,
    maxima: &mut [u8],
) -> Scanned {
    let scanned = Mutex::new(Scanned::NOTHING);
    let runs = team.runs(blocks.len(), SCAN_BLOCKS_MIN);
    team.each(parts(runs, E::SIZE, maxima), |(range, maxima)| {
        let part = s.run(Scan { blocks, range, maxima });
        let mut scanned = scanned.lock().expect("no other thread panicked");
        *scanned = scanned.and(part);
    });
    scanned.into_inner().expect("no other thread panicked")
}

/// Copies a row, and scans the copy.
fn copy_and_scan<'a, S: Simd, E: Element>(
    s: S,
    team: &Team,
    row: &Row<'_>,
    mask: Option<&[u32]>,
    copy: &'a mut Vec<u8>,
    maxima: &mut [u8],
) -> (&'a [u8], Scanned) {
    let block_bytes = BLOCK * E::SIZE;
    let blocks = row.bytes().div_ceil(block_bytes);
    copy.resize(copy.len().max(blocks * block_bytes + CACHE_LINE_BYTES), 0);
    let skip = copy.as_ptr().align_offset(CACHE_LINE_BYTES).min(CACHE_LINE_BYTES);
    let copy = &mut copy[skip..][..blocks * block_bytes];
    let runs = team.runs(blocks, SCAN_BLOCKS_MIN);
    let runs = parts(runs.clone(), block_bytes, copy).zip(parts(runs, E::SIZE, maxima));
    let scanned = Mutex::new(Scanned::NOTHING);
    team.each(runs, |((run, copy), (_, maxima))| {
        let at = run.start * block_bytes;
        // The last block of a row may not be a whole one.
        let bytes = copy.len().min(row.bytes() - at);
        let part = copy_and_scan_run::<S, E>(s, row, mask, at, &mut copy[..bytes], maxima);
        let mut scanned = scanned.lock().expect("no other thread panicked");
        *scanned = scanned.and(part);
    });
    (&copy[..row.bytes()], scanned.into_inner().expect("no other thread panicked"))
}

/// Copies the logits from byte `at` on, and scans them.
fn copy_and_scan_run<S: Simd, E: Element>(
    s: S,
    row: &Row<'_>,
    mask: Option<&[u32]>,
    at: usize,
    copy: &mut [u8],
    maxima: &mut [u8],
) -> Scanned {
    let element = PhantomData::<E>;
    let blocks = copy.len() / (BLOCK * E::SIZE);
    let mut rest = blocks * BLOCK * E::SIZE;
    let whole = (&mut copy[..rest], &mut maxima[..blocks * E::SIZE]);
    let scanned = match (row.mapped(), mask) {
        (_, Some(mask)) => {
            let (from, mask) = (&row.logits()[at..], &mask[at / E::SIZE / WORD_TOKENS..]);
            let (copy, maxima) = whole;
            s.run(MaskScan { from, mask, copy, maxima, element })
        }
        (Some(from), None) => {
            let (copy, maxima) = whole;
            s.run(CopyScan { from: &from[at..], copy, maxima, element })
        }
        (None, None) => {
            rest = 0;
            Scanned::NOTHING
        }
    };
    if rest == copy.len() {
        return scanned;
    }
    let (copy, maxima) = (&mut copy[rest..], &mut maxima[rest / BLOCK..]);
    row.copy_to(at + rest, copy);
    if let Some(mask) = mask {
        masked::leave_out::<E>(copy, &mask[(at + rest) / E::SIZE / WORD_TOKENS..]);
    }
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
