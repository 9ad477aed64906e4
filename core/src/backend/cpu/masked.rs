//! Rows under a mask: scanned as if the tokens that a mask leaves out had -inf, or copied with -inf in their place.
//!
//! ```text
//! for each vector: the logit where the mask has a 1, -inf elsewhere: into the maximum of its block, and into the copy
//! ```
//!
//! Per vector a blend (and a store) beside what a scan does, so the row and its mask are read once. Masks of
//! grammars have runs of zeros and ones, but a branch for each word costs more, where it is not foretold, than it saves.

use super::blocks::BLOCK;
use super::element::Element;
use super::scan::{AHEAD, Pass, Scanned};
use super::simd::{Kernel, Simd};
use std::marker::PhantomData;

/// Tokens of a word of a mask.
pub const WORD_TOKENS: usize = 32;
/// The pass over whole blocks: copies them under a mask, and looks at the copy.
pub struct MaskScan<'a, E> {
    pub from: &'a [u8],
    /// From the first token on.
    pub mask: &'a [u32],
    pub copy: &'a mut [u8],
    pub maxima: &'a mut [u8],
    pub element: PhantomData<E>,
}

impl<S: Simd, E: Element> Kernel<S> for MaskScan<'_, E> {
    type Output = Scanned;

    #[inline(always)]
    fn call(self, s: S) -> Scanned {
        let vector = S::LANES * 4;
        let mut pass = Pass::<S, E>::new(s);
        let blocks = self
            .from
            .chunks_exact(BLOCK * E::SIZE)
            .zip(self.copy.chunks_exact_mut(BLOCK * E::SIZE))
            .zip(self.mask.chunks_exact(BLOCK / WORD_TOKENS));
        let outputs = self.maxima.chunks_exact_mut(E::SIZE);
        for (((from, copy), mask), output) in blocks.zip(outputs) {
            pass.block(s, output, |i| {
                let (from, copy) = (&from[i * vector..], &mut copy[i * vector..]);
                s.prefetch(from, AHEAD);
                E::copy_masked(s, bits(mask, i * E::raw_lanes::<S>()), from, copy)
            });
        }
        pass.end(s)
    }
}

/// The pass over whole blocks under a mask, which writes nothing but their maxima.
pub struct MaskedScan<'a, E> {
    pub from: &'a [u8],
    /// From the first token on.
    pub mask: &'a [u32],
    pub maxima: &'a mut [u8],
    pub element: PhantomData<E>,
}

impl<S: Simd, E: Element> Kernel<S> for MaskedScan<'_, E> {
    type Output = Scanned;

    #[inline(always)]
    fn call(self, s: S) -> Scanned {
        let vector = S::LANES * 4;
        let mut pass = Pass::<S, E>::new(s);
        let blocks = self.from.chunks_exact(BLOCK * E::SIZE);
        let blocks = blocks.zip(self.mask.chunks_exact(BLOCK / WORD_TOKENS));
        for ((from, mask), output) in blocks.zip(self.maxima.chunks_exact_mut(E::SIZE)) {
            pass.block(s, output, |i| {
                let from = &from[i * vector..];
                s.prefetch(from, AHEAD);
                E::masked(s, bits(mask, i * E::raw_lanes::<S>()), from)
            });
        }
        pass.end(s)
    }
}

/// Whether a mask has a token.
pub fn has(mask: &[u32], token: u32) -> bool {
    let token = token as usize;
    mask[token / WORD_TOKENS] >> (token % WORD_TOKENS) & 1 == 1
}

/// The bits from a token on that are in its word.
#[inline(always)]
fn bits(mask: &[u32], token: usize) -> u32 {
    mask[token / WORD_TOKENS] >> (token % WORD_TOKENS)
}

/// Puts -inf in place of what a mask leaves out, token by token.
pub fn leave_out<E: Element>(logits: &mut [u8], mask: &[u32]) {
    for (token, logit) in logits.chunks_exact_mut(E::SIZE).enumerate() {
        if mask[token / WORD_TOKENS] >> (token % WORD_TOKENS) & 1 == 0 {
            logit.copy_from_slice(&E::NEGATIVE_INFINITY.to_le_bytes()[..E::SIZE]);
        }
    }
}

/// Widens whole blocks, as [`MaskScan`] copies them, without a look at them.
pub struct WidenMasked<'a, E> {
    pub from: &'a [u8],
    /// From the first token on.
    pub mask: &'a [u32],
    pub wide: &'a mut [u8],
    pub element: PhantomData<E>,
}

impl<S: Simd, E: Element> Kernel<S> for WidenMasked<'_, E> {
    type Output = ();

    #[inline(always)]
    fn call(self, s: S) {
        let lowest = s.splat(f32::NEG_INFINITY);
        let vectors = self.from.chunks_exact(S::LANES * E::SIZE);
        let wide = self.wide.chunks_exact_mut(S::LANES * 4);
        for (i, (from, wide)) in vectors.zip(wide).enumerate() {
            let kept = s.mask(bits(self.mask, i * S::LANES));
            s.store_f32(s.blend(kept, E::widen(s, from), lowest), wide);
        }
    }
}
