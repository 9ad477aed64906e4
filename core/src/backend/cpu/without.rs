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

/// Memory for such a row.
#[derive(Default)]
pub struct Buffers {
    /// The blocks with a token that is left out, one after another.
    copies: Vec<u8>,
    /// Which blocks these are.
    places: Vec<usize>,
    /// Their maxima, in the row's format.
    raw_maxima: Vec<u8>,
    /// The greatest logit of every block of the row.
    maxima: List,
}

/// A row and what is left of it.
pub struct Without<'a, S, E> {
    row: ScannedRow<'a, S, E>,
    blocks: Vec<&'a [u8]>,
    maxima: &'a List,
}

impl<'a, S: Simd, E: Element> Without<'a, S, E> {
    /// Leaves out tokens, ids ascending, but not all that the row has.
    pub fn new(row: ScannedRow<'a, S, E>, ids: &[u32], buffers: &'a mut Buffers) -> Self {
        let Buffers { copies, places, raw_maxima, maxima } = buffers;
        let bytes = BLOCK * E::SIZE;
        copies.clear();
        places.clear();
        for of_block in ids.chunk_by(|a, b| a / BLOCK as u32 == b / BLOCK as u32) {
            let (place, copy) = (of_block[0] as usize / BLOCK, copies.len());
            places.push(place);
            copies.extend_from_slice(row.blocks.get(place));
            for &id in of_block {
                E::write(-E::INFINITY - 1, &mut copies[copy + id as usize % BLOCK * E::SIZE..]);
            }
        }
        let copies: Vec<&[u8]> = copies.chunks_exact(bytes).collect();
        raw_maxima.resize(copies.len() * E::SIZE, 0);
        let (blocks, range) = (Blocks::of_each(&copies), 0..copies.len());
        row.s.run(Scan::<E> { blocks, range, maxima: raw_maxima });
        let of_copies = raw_maxima.chunks_exact(E::SIZE).map(E::read);

        maxima.reset(row.blocks.len());
        maxima.append(row.maxima);
        maxima.seal();
        let mut blocks: Vec<_> = (0..row.blocks.len()).map(|i| row.blocks.get(i)).collect();
        for ((&place, copy), max) in places.iter().zip(copies).zip(of_copies) {
            blocks[place] = copy;
            maxima.set_one(place, max);
        }
        Self { row, blocks, maxima }
    }

    /// The row without these tokens, of which `max` is the greatest logit that is left.
    pub fn row(&self, max: f32) -> ScannedRow<'_, S, E> {
        let weights = Weights { max, min: f32::NEG_INFINITY, ..self.row.weights };
        let scanned = Scanned { first_key: E::key(max), max_unsigned: E::NEGATIVE_INFINITY };
        let (blocks, maxima) = (Blocks::of_each(&self.blocks), self.maxima);
        ScannedRow { blocks, maxima, scanned, weights, ..self.row }
    }
}
