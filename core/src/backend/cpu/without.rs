//! A row of which few tokens are left out, seen as if their logits were -inf.
//!
//! The blocks with such a token are copied and scanned again; the others are those of the row. So every pass, and whoever draws or
//! inspects, sees a row like any other, and no more than these blocks is written.

use super::blocks::{BLOCK, Blocks};
use super::element::Element;
use super::list::List;
use super::mass::Weights;
use super::passes::ScannedRow;
use super::scan::{Scan, Scanned};
use super::simd::Simd;

/// Copies of the blocks with a token that is left out.
#[derive(Default)]
pub struct Copies {
    /// One after another.
    copies: Vec<u8>,
    /// By block of the row: 0, or the number of its copy, from 1.
    places: Vec<u32>,
    /// Which blocks have a copy.
    copied: Vec<usize>,
    /// The maxima of the copies, in the row's format.
    raw_maxima: Vec<u8>,
    /// The greatest logit of every block of the row.
    maxima: List,
}

impl Copies {
    /// Leaves out tokens of a row, ids ascending, but not all that it has.
    pub fn leave_out<S: Simd, E: Element>(&mut self, row: &ScannedRow<'_, S, E>, ids: &[u32]) {
        let Self { copies, places, copied, raw_maxima, maxima } = self;
        copied.drain(..).for_each(|block| places[block] = 0);
        places.resize(row.blocks.len(), 0);
        copies.clear();
        for of_block in ids.chunk_by(|a, b| a / BLOCK as u32 == b / BLOCK as u32) {
            let (block, copy) = (of_block[0] as usize / BLOCK, copies.len());
            copied.push(block);
            places[block] = copied.len() as u32;
            copies.extend_from_slice(row.blocks.get(block));
            for &id in of_block {
                E::write(-E::INFINITY - 1, &mut copies[copy + id as usize % BLOCK * E::SIZE..]);
            }
        }
        raw_maxima.resize(copied.len() * E::SIZE, 0);
        let (blocks, range) = (Blocks::of_whole(copies), 0..copied.len());
        row.s.run(Scan::<E> { blocks, range, maxima: raw_maxima });
        maxima.reset(row.blocks.len());
        maxima.append(row.maxima);
        maxima.seal();
        for (&block, max) in copied.iter().zip(raw_maxima.chunks_exact(E::SIZE)) {
            maxima.set_one(block, E::read(max));
        }
    }

    /// The row without these tokens, of which `max` is the greatest logit that is left.
    pub fn row<'a, S: Simd, E: Element>(
        &'a self,
        row: ScannedRow<'a, S, E>,
        max: f32,
    ) -> ScannedRow<'a, S, E> {
        let weights = Weights { max, ..row.weights };
        let scanned = Scanned { first_key: E::key(max), max_unsigned: E::NEGATIVE_INFINITY };
        let (blocks, maxima) = (row.blocks.with(&self.places, &self.copies), &self.maxima);
        ScannedRow { blocks, maxima, scanned, weights, ..row }
    }
}
