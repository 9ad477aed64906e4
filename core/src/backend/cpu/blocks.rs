//! A row as whole blocks of [`BLOCK`] tokens.
//!
//! Kernels see nothing but whole blocks, so none has code for a rest, and none reads past the end
//! of a row: the last tokens are copied to a block of their own, and that is filled up. A row of which few
//! tokens are left out has copies of their blocks, and the others as they are.

use super::element::Element;
use super::simd::Simd;
use std::marker::PhantomData;
use std::ops::Range;

/// Tokens of a block: whole vectors of every instruction set and dtype, and few enough that their
/// masses, where they are small, add up in 32 bits.
pub const BLOCK: usize = 512;

/// The memory of a row's last block, where it is not a whole one.
pub type Tail = [u8; BLOCK * 4];

/// What the last block is filled up with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Filler {
    /// Its first logit again: no value that the row does not have.
    Repeat,
    /// Tokens without mass, after all others in the order.
    NegativeInfinity,
}

/// The blocks of a row.
#[derive(Clone, Copy)]
pub struct Blocks<'a, E> {
    whole: &'a [u8],
    /// One block, or none.
    tail: &'a [u8],
    /// By block: 0, or the number, from 1, of the copy that stands in its place. Empty where there are no copies.
    places: &'a [u32],
    /// Blocks, one after another.
    copies: &'a [u8],
    element: PhantomData<E>,
}

impl<'a, E: Element> Blocks<'a, E> {
    const BYTES: usize = BLOCK * E::SIZE;

    /// Splits a row, using `tail` for the tokens that do not fill a block.
    pub fn new(logits: &'a [u8], tail: &'a mut Tail, filler: Filler) -> Self {
        let (whole, rest) = logits.split_at(logits.len() / Self::BYTES * Self::BYTES);
        if rest.is_empty() {
            return Self::of_whole(whole);
        }
        let tail = &mut tail[..Self::BYTES];
        let (tokens, fill) = tail.split_at_mut(rest.len());
        tokens.copy_from_slice(rest);
        for logit in fill.chunks_exact_mut(E::SIZE) {
            match filler {
                Filler::Repeat => logit.copy_from_slice(&rest[..E::SIZE]),
                Filler::NegativeInfinity => E::write(-E::INFINITY - 1, logit),
            }
        }
        Self { tail, ..Self::of_whole(whole) }
    }

    /// Nothing but whole blocks, one after another.
    pub fn of_whole(whole: &'a [u8]) -> Self {
        debug_assert!(whole.len().is_multiple_of(Self::BYTES));
        Self { whole, tail: &[], places: &[], copies: &[], element: PhantomData }
    }

    /// These blocks, of which some are replaced by copies, which lie one after another: `places` has 0 for each block, or the number of
    /// its copy, from 1.
    pub fn with(self, places: &'a [u32], copies: &'a [u8]) -> Self {
        debug_assert_eq!(places.len(), self.len());
        Self { places, copies, ..self }
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.whole.len() / Self::BYTES + self.tail.len() / Self::BYTES
    }

    /// Whether a block may have logits that the row does not have: the last one, or a copy.
    #[inline(always)]
    pub fn is_filled_up(&self, block: usize) -> bool {
        block * Self::BYTES >= self.whole.len() || self.copy(block) != 0
    }

    /// The number of the copy that stands in a block's place, from 1, or 0.
    #[inline(always)]
    fn copy(&self, block: usize) -> usize {
        self.places.get(block).map_or(0, |&copy| copy as usize)
    }

    /// The logits of one block.
    #[inline(always)]
    pub fn get(&self, block: usize) -> &'a [u8] {
        let (from, block) = match self.copy(block) {
            0 => (self.whole, block),
            copy => (self.copies, copy - 1),
        };
        let at = block * Self::BYTES;
        from.get(at..at + Self::BYTES).unwrap_or(self.tail)
    }

    /// Every block of a range that only names blocks there are.
    #[inline(always)]
    pub fn range(
        &self,
        range: Range<usize>,
    ) -> impl Iterator<Item = (usize, &'a [u8])> + use<'a, E> {
        let this = *self;
        range.map(move |block| (block, this.get(block)))
    }
}

/// The vectors of widened logits in a block.
#[inline(always)]
pub fn widened<S: Simd, E: Element>(s: S, block: &[u8]) -> impl Iterator<Item = S::F> + '_ {
    let bytes = S::LANES * E::SIZE;
    // A count the compiler knows.
    (0..BLOCK / S::LANES).map(move |i| E::widen(s, &block[i * bytes..]))
}
