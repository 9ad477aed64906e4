//! The one pass that reads a row from memory: the maximum of every block, and what forbids sampling.
//!
//! ```text
//! for each block: maximum of its logits
//! note NaN, +inf, -inf
//! ```
//!
//! 1. Per vector one load and three integer instructions on the bits as they are: the signed
//!    maximum, the unsigned minimum (the maximum, where all are negative) and the unsigned maximum.
//! 2. The signed maximum of a row with +inf or a positive NaN is at least +inf's bits; the unsigned
//!    maximum of one with a negative NaN is above -inf's. So no logit is tested by itself.
//!
//! 128,256 f16 are 4,008 vectors of AVX-512: 12,000 instructions on two ports and 4,000 loads, about
//! 2 us beside the 9 that the memory needs.

use super::blocks::{BLOCK, Blocks};
use super::element::Element;
use super::simd::{Kernel, Simd};
use std::marker::PhantomData;
use std::ops::Range;
use std::sync::atomic::{AtomicU8, Ordering, compiler_fence};

/// The pass. `maxima` gets one logit for each block of `range`, in the row's own format.
pub struct Scan<'a, E> {
    pub blocks: Blocks<'a, E>,
    pub range: Range<usize>,
    pub maxima: &'a mut [u8],
}

/// How far ahead memory is asked for. The processor's own prefetching stops at each 4 KiB page. Measured in pairs out
/// of cache, in reads of the row: 1.41 with 2 KiB, 1.22 with 8, 1.26 with 16, which costs rows in cache.
pub const AHEAD: usize = 8192;

/// What the pass found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Scanned {
    /// The key of the greatest logit.
    pub first_key: i32,
    /// The greatest bits as unsigned integer: those of the most negative logit, if one is negative.
    pub max_unsigned: u32,
}

impl Scanned {
    /// Of no token.
    pub const NOTHING: Self = Self { first_key: i32::MIN, max_unsigned: 0 };

    /// A lower bound of the logits.
    pub fn least<E: Element>(self) -> f32 {
        let sign = 1 << (E::SIZE * 8 - 1);
        let magnitude = self.max_unsigned & (sign - 1);
        if self.max_unsigned < sign { 0.0 } else { E::value(-(magnitude as i32) - 1) }
    }

    /// Of two parts of a row.
    pub fn and(self, other: Self) -> Self {
        Self {
            first_key: self.first_key.max(other.first_key),
            max_unsigned: self.max_unsigned.max(other.max_unsigned),
        }
    }
}

impl<S: Simd, E: Element> Kernel<S> for Scan<'_, E> {
    type Output = Scanned;

    #[inline(always)]
    fn call(self, s: S) -> Scanned {
        let vector = S::LANES * 4;
        let mut pass = Pass::<S, E>::new(s);
        let outputs = self.maxima.chunks_exact_mut(E::SIZE);
        for ((_, block), output) in self.blocks.range(self.range).zip(outputs) {
            pass.block(s, output, |i| {
                s.prefetch(&block[i * vector..], AHEAD);
                E::raw(s, &block[i * vector..])
            });
        }
        pass.end(s)
    }
}

/// The pass over whole blocks of a row on loan: copies every vector and looks at the copy. So the memory is read once,
/// and what its owner writes meanwhile changes nothing that was looked at.
pub struct CopyScan<'a, E> {
    pub from: &'a [AtomicU8],
    pub copy: &'a mut [u8],
    pub maxima: &'a mut [u8],
    pub element: PhantomData<E>,
}

impl<S: Simd, E: Element> Kernel<S> for CopyScan<'_, E> {
    type Output = Scanned;

    #[inline(always)]
    fn call(self, s: S) -> Scanned {
        let vector = S::LANES * 4;
        let mut pass = Pass::<S, E>::new(s);
        let blocks = self
            .from
            .chunks_exact(BLOCK * E::SIZE)
            .zip(self.copy.chunks_exact_mut(BLOCK * E::SIZE));
        for ((from, copy), output) in blocks.zip(self.maxima.chunks_exact_mut(E::SIZE)) {
            pass.block(s, output, |i| {
                let (from, copy) = (&from[i * vector..], &mut copy[i * vector..]);
                s.prefetch(from, AHEAD);
                s.copy_shared(from, copy);
                // Nothing is read from there a second time.
                compiler_fence(Ordering::SeqCst);
                E::raw(s, copy)
            });
        }
        pass.end(s)
    }
}

/// What is known of the blocks so far.
pub struct Pass<S: Simd, E: Element> {
    first_key: i32,
    max_unsigned: E::Raw<S>,
}

impl<S: Simd, E: Element> Pass<S, E> {
    #[inline(always)]
    pub fn new(s: S) -> Self {
        Self { first_key: i32::MIN, max_unsigned: E::raw_splat(s, 0) }
    }

    /// Takes a block, vector by vector, and writes its maximum.
    #[inline(always)]
    pub fn block(&mut self, s: S, output: &mut [u8], mut raw: impl FnMut(usize) -> E::Raw<S>) {
        let mut max_signed = E::raw_splat(s, 1 << (E::SIZE * 8 - 1));
        let mut min_unsigned = E::raw_splat(s, u32::MAX);
        for i in 0..BLOCK / E::raw_lanes::<S>() {
            let raw = raw(i);
            max_signed = E::max_signed(s, max_signed, raw);
            min_unsigned = E::min_unsigned(s, min_unsigned, raw);
            self.max_unsigned = E::max_unsigned(s, self.max_unsigned, raw);
        }
        let key = E::first_key(s, max_signed, min_unsigned);
        E::write(key, output);
        self.first_key = self.first_key.max(key);
    }

    #[inline(always)]
    pub fn end(self, s: S) -> Scanned {
        let max_unsigned = E::reduce_max_unsigned(s, self.max_unsigned);
        Scanned { first_key: self.first_key, max_unsigned }
    }
}

/// Reads bytes once and does next to nothing with them: the floor that benchmarks compare with.
pub struct Read<'a>(pub &'a [u8]);

impl<S: Simd> Kernel<S> for Read<'_> {
    /// Something that depends on every byte but the last few, which fill no four vectors.
    type Output = u32;

    #[inline(always)]
    fn call(self, s: S) -> u32 {
        let mut sums = [s.splat_u32(0); 4];
        for vectors in self.0.chunks_exact(16 * S::LANES) {
            for (i, sum) in sums.iter_mut().enumerate() {
                *sum = s.add(*sum, s.load_bits32(&vectors[i * S::LANES * 4..]));
            }
        }
        let [a, b, c, d] = sums;
        s.reduce_max_u32(s.add(s.add(a, b), s.add(c, d)))
    }
}
