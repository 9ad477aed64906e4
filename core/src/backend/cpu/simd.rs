//! The vector instructions that the kernels are written in.
//!
//! A kernel is an ordinary safe loop over a [`Simd`]; each instruction set implements the same few
//! operations, and nothing else differs between them. A value of a `Simd` type is the proof that
//! this machine has its instructions: it can only be made where they were detected, so its methods
//! are safe to call.
//!
//! [`Simd::run`] compiles a whole [`Kernel`] with the instructions turned on. Operations are
//! inlined into it; called from anywhere else they would be correct but slow.

use std::sync::atomic::AtomicU8;

/// A loop over vectors, compiled once for each instruction set.
pub trait Kernel<S: Simd> {
    /// What it computes.
    type Output;

    /// The loop. Implementations are `#[inline(always)]`.
    fn call(self, s: S) -> Self::Output;
}

/// One instruction set. `LANES` is the number of 32-bit lanes of a vector.
///
/// Slices given to loads and stores must be at least as long as what is moved; longer ones are used
/// from their start. They panic otherwise, and never touch memory outside the slice.
pub trait Simd: Copy + Send + Sync + 'static {
    /// 32-bit lanes of a vector: 8 or 16.
    const LANES: usize;

    /// `LANES` f32.
    type F: Copy;
    /// `LANES` u32.
    type I: Copy;
    /// `2 * LANES` u16.
    type H: Copy;
    /// A truth value for each of `LANES`.
    type M: Copy;
    /// Sums of u32 lanes, as u64.
    type W: Copy;

    /// Runs a kernel, compiled with these instructions.
    fn run<K: Kernel<Self>>(self, kernel: K) -> K::Output;

    /// Asks for the cache line at the start of `at`, to be used after thousands of others.
    fn prefetch_far(self, at: &[u8]);
    /// Asks for the cache line `ahead` bytes after the start of `at`, which need not exist.
    fn prefetch<T>(self, at: &[T], ahead: usize);

    /// Copies `4 * LANES` bytes that somebody else may be writing.
    fn copy_shared(self, from: &[AtomicU8], to: &mut [u8]);

    /// The same value in every lane.
    fn splat(self, x: f32) -> Self::F;
    /// The first `LANES` values.
    fn load(self, from: &[f32]) -> Self::F;
    /// `LANES` f16, little-endian at any alignment, widened exactly.
    fn load_f16(self, from: &[u8]) -> Self::F;
    /// `LANES` bf16, likewise.
    fn load_bf16(self, from: &[u8]) -> Self::F;
    /// `LANES` f32, likewise.
    fn load_f32(self, from: &[u8]) -> Self::F;
    /// Writes `LANES` values.
    fn store(self, x: Self::F, to: &mut [f32]);
    /// `a + b`.
    fn add_floats(self, a: Self::F, b: Self::F) -> Self::F;
    /// `a - b`.
    fn sub(self, a: Self::F, b: Self::F) -> Self::F;
    /// `a * b`.
    fn mul(self, a: Self::F, b: Self::F) -> Self::F;
    /// The greater; neither is NaN.
    fn max(self, a: Self::F, b: Self::F) -> Self::F;
    /// `a * b + c`, rounded once.
    fn fma(self, a: Self::F, b: Self::F, c: Self::F) -> Self::F;
    /// `a * b - c`, rounded once.
    fn fms(self, a: Self::F, b: Self::F, c: Self::F) -> Self::F;
    /// Multiplies `p` by two to the power of the integer in the low bits of `t`, by adding it to
    /// the exponent: `bits(p) + (bits(t) << 23)`.
    fn scale(self, p: Self::F, t: Self::F) -> Self::F;
    /// To integers below 2^31, truncating. No value is negative.
    fn truncate(self, x: Self::F) -> Self::I;
    /// From integers up to 2^24.
    fn float(self, i: Self::I) -> Self::F;
    /// Where `a >= b`. False for NaN.
    fn ge(self, a: Self::F, b: Self::F) -> Self::M;

    /// From one bit a lane, the first lane in bit 0. Higher bits are ignored.
    fn mask(self, bits: u32) -> Self::M;
    /// One bit a lane, the first lane in bit 0.
    fn bits(self, m: Self::M) -> u32;
    /// The lanes where `m`, and 0 elsewhere.
    fn keep(self, m: Self::M, i: Self::I) -> Self::I;

    /// The same for floats.
    fn keep_floats(self, m: Self::M, x: Self::F) -> Self::F;

    /// The first where `m`, and the second elsewhere.
    fn blend(self, m: Self::M, a: Self::F, b: Self::F) -> Self::F;
    /// Writes `LANES` values, little-endian, to `4 * LANES` bytes.
    fn store_f32(self, x: Self::F, to: &mut [u8]);

    /// The same value in every lane.
    fn splat_u32(self, x: u32) -> Self::I;
    /// 0, 1, 2, ..
    fn iota(self) -> Self::I;
    /// The first `LANES` values.
    fn load_u32(self, from: &[u32]) -> Self::I;
    /// `LANES` little-endian values at any alignment.
    fn load_bits32(self, from: &[u8]) -> Self::I;
    /// The same bits, as f32.
    fn as_floats(self, i: Self::I) -> Self::F;
    /// The bits, as u32.
    fn as_ints(self, x: Self::F) -> Self::I;
    /// Writes `LANES` values.
    fn store_u32(self, i: Self::I, to: &mut [u32]);
    /// Sums, modulo 2^32.
    fn add(self, a: Self::I, b: Self::I) -> Self::I;
    /// Differences, modulo 2^32.
    fn sub_u32(self, a: Self::I, b: Self::I) -> Self::I;
    /// Exclusive or.
    fn xor(self, a: Self::I, b: Self::I) -> Self::I;
    /// And.
    fn and(self, a: Self::I, b: Self::I) -> Self::I;
    /// `i >> N`, filled up with zeros.
    fn shift_right<const N: u32>(self, i: Self::I) -> Self::I;
    /// `i << N`.
    fn shift_left<const N: u32>(self, i: Self::I) -> Self::I;
    /// Products of 64 bits of the even lanes: their lower halves there, their upper ones in the odd lanes.
    fn mul_even(self, a: Self::I, b: Self::I) -> Self::I;
    /// `a1, 0, a3, 0, ..`.
    fn odd_lanes(self, a: Self::I) -> Self::I;
    /// `a0, b0, a2, b2, ..`.
    fn join_even(self, a: Self::I, b: Self::I) -> Self::I;
    /// `a0, b0, a1, b1, ..`.
    fn interleave(self, a: Self::I, b: Self::I) -> (Self::I, Self::I);
    /// The greater as signed integers.
    fn max_i32(self, a: Self::I, b: Self::I) -> Self::I;
    /// The lesser as unsigned integers.
    fn min_u32(self, a: Self::I, b: Self::I) -> Self::I;
    /// One bit a lane: `a <= b` as unsigned integers.
    fn at_most_u32(self, a: Self::I, b: Self::I) -> u32;
    /// The greater as unsigned integers.
    fn max_u32(self, a: Self::I, b: Self::I) -> Self::I;
    /// See [`Element::first_key`](super::element::Element::first_key).
    fn first_key32(self, max_signed: Self::I, min_unsigned: Self::I) -> i32;
    /// The greatest lane as an unsigned integer.
    fn reduce_max_u32(self, i: Self::I) -> u32;

    /// `2 * LANES` little-endian values at any alignment.
    fn load_bits16(self, from: &[u8]) -> Self::H;
    /// The same value in every lane.
    fn splat_u16(self, x: u16) -> Self::H;
    /// The first where the bit of a lane is set, and the second elsewhere.
    fn blend16(self, bits: u32, a: Self::H, b: Self::H) -> Self::H;
    /// Writes `2 * LANES` values, little-endian, to `4 * LANES` bytes.
    fn store16(self, h: Self::H, to: &mut [u8]);
    /// The lower halves of lanes: `a0, b0, a1, b1, ..`.
    fn lower_halves(self, a: Self::I, b: Self::I) -> Self::H;
    /// Adds `h0 + h1, h2 + h3, ..` of signed integers, modulo 2^32.
    fn add_pairs(self, sum: Self::I, h: Self::H) -> Self::I;
    /// Adds `h0 * h0 + h1 * h1, h2 * h2 + h3 * h3, ..` of signed integers, modulo 2^32.
    fn add_squares(self, sum: Self::I, h: Self::H) -> Self::I;
    /// The greater as signed integers.
    fn max_i16(self, a: Self::H, b: Self::H) -> Self::H;
    /// The lesser as unsigned integers.
    fn min_u16(self, a: Self::H, b: Self::H) -> Self::H;
    /// The greater as unsigned integers.
    fn max_u16(self, a: Self::H, b: Self::H) -> Self::H;
    /// See [`Element::first_key`](super::element::Element::first_key).
    fn first_key16(self, max_signed: Self::H, min_unsigned: Self::H) -> i16;
    /// The greatest lane as an unsigned integer.
    fn reduce_max_u16(self, h: Self::H) -> u16;
    /// One bit a lane: `(h ^ flip) > bound` as signed integers.
    fn gt_i16(self, h: Self::H, flip: Self::H, bound: Self::H) -> u32;

    /// No sum yet.
    fn no_sum(self) -> Self::W;
    /// Adds every lane, as u64.
    fn widen_add(self, w: Self::W, i: Self::I) -> Self::W;
    /// Adds `(a * b) >> shift` of every lane, the product of 64 bits. No shift is more than 63.
    fn add_products(self, w: Self::W, a: Self::I, b: Self::I, shift: Self::I) -> Self::W;
    /// The sum of everything added.
    fn total(self, w: Self::W) -> u64;

    /// Writes the lanes whose bit is set, next to each other, to the start of `to`. What follows
    /// them in `to[..LANES]` is left undefined, but written nowhere else.
    fn compress(self, bits: u32, x: Self::F, to: &mut [f32]);
    /// The same for integers.
    fn compress_u32(self, bits: u32, i: Self::I, to: &mut [u32]);
    /// The same for 16-bit lanes, to `4 * LANES` bytes, little-endian.
    fn compress_bits16(self, bits: u32, h: Self::H, to: &mut [u8]);
    /// The same for 32-bit lanes.
    fn compress_bits32(self, bits: u32, i: Self::I, to: &mut [u8]);
}
