//! The operations in plain Rust, over arrays that the compiler vectorises for the target's baseline.

use super::simd::{Kernel, Simd};
use std::array::from_fn;
use std::sync::atomic::{AtomicU8, Ordering::Relaxed};

const LANES: usize = 8;

/// Plain Rust: every machine has it.
#[derive(Clone, Copy, Debug)]
pub struct Portable;

impl Simd for Portable {
    const LANES: usize = LANES;

    type F = [f32; LANES];
    type I = [u32; LANES];
    type H = [u16; 2 * LANES];
    type M = [u32; LANES];
    type W = [u64; LANES];

    #[inline(always)]
    fn run<K: Kernel<Self>>(self, kernel: K) -> K::Output {
        kernel.call(self)
    }

    #[inline(always)]
    fn prefetch_far(self, at: &[u8]) {
        let _ = at;
    }

    #[inline(always)]
    fn prefetch<T>(self, at: &[T], ahead: usize) {
        let _ = (at, ahead);
    }

    #[inline(always)]
    fn copy_shared(self, from: &[AtomicU8], to: &mut [u8]) {
        for (from, to) in from[..4 * LANES].iter().zip(to) {
            *to = from.load(Relaxed);
        }
    }

    #[inline(always)]
    fn splat(self, x: f32) -> Self::F {
        [x; LANES]
    }

    #[inline(always)]
    fn load(self, from: &[f32]) -> Self::F {
        *from.first_chunk().expect("a whole vector")
    }

    #[inline(always)]
    fn load_f16(self, from: &[u8]) -> Self::F {
        let from: &[u8; 2 * LANES] = from.first_chunk().expect("a whole vector");
        from_fn(|i| widen_f16(u16::from_le_bytes([from[2 * i], from[2 * i + 1]])))
    }

    #[inline(always)]
    fn load_bf16(self, from: &[u8]) -> Self::F {
        let from: &[u8; 2 * LANES] = from.first_chunk().expect("a whole vector");
        from_fn(|i| f32::from_bits(u32::from_le_bytes([0, 0, from[2 * i], from[2 * i + 1]])))
    }

    #[inline(always)]
    fn load_f32(self, from: &[u8]) -> Self::F {
        self.load_bits32(from).map(f32::from_bits)
    }

    #[inline(always)]
    fn store(self, x: Self::F, to: &mut [f32]) {
        to[..LANES].copy_from_slice(&x);
    }

    #[inline(always)]
    fn add_floats(self, a: Self::F, b: Self::F) -> Self::F {
        from_fn(|i| a[i] + b[i])
    }

    #[inline(always)]
    fn sub(self, a: Self::F, b: Self::F) -> Self::F {
        from_fn(|i| a[i] - b[i])
    }

    #[inline(always)]
    fn mul(self, a: Self::F, b: Self::F) -> Self::F {
        from_fn(|i| a[i] * b[i])
    }

    #[inline(always)]
    fn max(self, a: Self::F, b: Self::F) -> Self::F {
        from_fn(|i| if a[i] > b[i] { a[i] } else { b[i] })
    }

    #[inline(always)]
    fn fma(self, a: Self::F, b: Self::F, c: Self::F) -> Self::F {
        fma(a, b, c)
    }

    #[inline(always)]
    fn fms(self, a: Self::F, b: Self::F, c: Self::F) -> Self::F {
        fma(a, b, c.map(|c| -c))
    }

    #[inline(always)]
    fn scale(self, p: Self::F, t: Self::F) -> Self::F {
        from_fn(|i| f32::from_bits(p[i].to_bits().wrapping_add(t[i].to_bits() << 23)))
    }

    #[inline(always)]
    fn truncate(self, x: Self::F) -> Self::I {
        // By shifting: a cast would add checks for values that cannot occur.
        from_fn(|i| {
            let bits = x[i].to_bits();
            let exponent = bits >> 23;
            let mantissa = bits & 0x7f_ffff | 0x80_0000;
            let down = 150u32.wrapping_sub(exponent);
            let up = exponent.wrapping_sub(150);
            let shifted = if down < 32 { mantissa >> (down & 31) } else { mantissa << (up & 31) };
            if exponent < 127 { 0 } else { shifted }
        })
    }

    #[inline(always)]
    fn float(self, i: Self::I) -> Self::F {
        i.map(|i| i as i32 as f32)
    }

    #[inline(always)]
    fn ge(self, a: Self::F, b: Self::F) -> Self::M {
        from_fn(|i| if a[i] >= b[i] { u32::MAX } else { 0 })
    }

    #[inline(always)]
    fn mask(self, bits: u32) -> Self::M {
        from_fn(|i| (bits >> i & 1).wrapping_neg())
    }

    #[inline(always)]
    fn bits(self, m: Self::M) -> u32 {
        (0..LANES).fold(0, |bits, i| bits | (m[i] & 1) << i)
    }

    #[inline(always)]
    fn keep(self, m: Self::M, i: Self::I) -> Self::I {
        from_fn(|n| m[n] & i[n])
    }

    #[inline(always)]
    fn keep_floats(self, m: Self::M, x: Self::F) -> Self::F {
        from_fn(|i| f32::from_bits(m[i] & x[i].to_bits()))
    }

    #[inline(always)]
    fn blend(self, m: Self::M, a: Self::F, b: Self::F) -> Self::F {
        from_fn(|i| f32::from_bits(m[i] & a[i].to_bits() | !m[i] & b[i].to_bits()))
    }

    #[inline(always)]
    fn store_f32(self, x: Self::F, to: &mut [u8]) {
        let to: &mut [u8; 4 * LANES] = to.first_chunk_mut().expect("a whole vector");
        for (to, x) in to.as_chunks_mut().0.iter_mut().zip(x) {
            *to = x.to_le_bytes();
        }
    }

    #[inline(always)]
    fn splat_u32(self, x: u32) -> Self::I {
        [x; LANES]
    }

    #[inline(always)]
    fn iota(self) -> Self::I {
        from_fn(|i| i as u32)
    }

    #[inline(always)]
    fn load_u32(self, from: &[u32]) -> Self::I {
        *from.first_chunk().expect("a whole vector")
    }

    #[inline(always)]
    fn load_bits32(self, from: &[u8]) -> Self::I {
        let from: &[u8; 4 * LANES] = from.first_chunk().expect("a whole vector");
        from_fn(|i| {
            u32::from_le_bytes([from[4 * i], from[4 * i + 1], from[4 * i + 2], from[4 * i + 3]])
        })
    }

    #[inline(always)]
    fn as_floats(self, i: Self::I) -> Self::F {
        i.map(f32::from_bits)
    }

    #[inline(always)]
    fn as_ints(self, x: Self::F) -> Self::I {
        x.map(f32::to_bits)
    }

    #[inline(always)]
    fn store_u32(self, i: Self::I, to: &mut [u32]) {
        to[..LANES].copy_from_slice(&i);
    }

    #[inline(always)]
    fn add(self, a: Self::I, b: Self::I) -> Self::I {
        from_fn(|i| a[i].wrapping_add(b[i]))
    }

    #[inline(always)]
    fn sub_u32(self, a: Self::I, b: Self::I) -> Self::I {
        from_fn(|i| a[i].wrapping_sub(b[i]))
    }

    #[inline(always)]
    fn xor(self, a: Self::I, b: Self::I) -> Self::I {
        from_fn(|i| a[i] ^ b[i])
    }

    #[inline(always)]
    fn and(self, a: Self::I, b: Self::I) -> Self::I {
        from_fn(|i| a[i] & b[i])
    }

    #[inline(always)]
    fn shift_right<const N: u32>(self, i: Self::I) -> Self::I {
        i.map(|i| i >> N)
    }

    #[inline(always)]
    fn shift_left<const N: u32>(self, i: Self::I) -> Self::I {
        i.map(|i| i << N)
    }

    #[inline(always)]
    fn mul_even(self, a: Self::I, b: Self::I) -> Self::I {
        from_fn(|i| {
            let product = u64::from(a[i & !1]) * u64::from(b[i & !1]);
            (product >> (32 * (i & 1))) as u32
        })
    }

    #[inline(always)]
    fn odd_lanes(self, a: Self::I) -> Self::I {
        from_fn(|i| if i & 1 == 0 { a[i + 1] } else { 0 })
    }

    #[inline(always)]
    fn join_even(self, a: Self::I, b: Self::I) -> Self::I {
        from_fn(|i| if i & 1 == 0 { a[i] } else { b[i - 1] })
    }

    #[inline(always)]
    fn interleave(self, a: Self::I, b: Self::I) -> (Self::I, Self::I) {
        let at = |i: usize| if i.is_multiple_of(2) { a[i / 2] } else { b[i / 2] };
        (from_fn(at), from_fn(|i| at(LANES + i)))
    }

    #[inline(always)]
    fn max_i32(self, a: Self::I, b: Self::I) -> Self::I {
        from_fn(|i| (a[i] as i32).max(b[i] as i32) as u32)
    }

    #[inline(always)]
    fn min_u32(self, a: Self::I, b: Self::I) -> Self::I {
        from_fn(|i| a[i].min(b[i]))
    }

    #[inline(always)]
    fn at_most_u32(self, a: Self::I, b: Self::I) -> u32 {
        (0..LANES).map(|i| u32::from(a[i] <= b[i]) << i).sum()
    }

    #[inline(always)]
    fn max_u32(self, a: Self::I, b: Self::I) -> Self::I {
        from_fn(|i| a[i].max(b[i]))
    }

    #[inline(always)]
    fn first_key32(self, max_signed: Self::I, min_unsigned: Self::I) -> i32 {
        let max = max_signed.into_iter().fold(i32::MIN, |max, i| max.max(i as i32));
        let min = min_unsigned.into_iter().fold(u32::MAX, u32::min);
        if max < 0 { (min ^ 0x7fff_ffff) as i32 } else { max }
    }

    #[inline(always)]
    fn reduce_max_u32(self, i: Self::I) -> u32 {
        i.into_iter().fold(0, u32::max)
    }

    #[inline(always)]
    fn load_bits16(self, from: &[u8]) -> Self::H {
        let from: &[u8; 4 * LANES] = from.first_chunk().expect("a whole vector");
        from_fn(|i| u16::from_le_bytes([from[2 * i], from[2 * i + 1]]))
    }

    #[inline(always)]
    fn splat_u16(self, x: u16) -> Self::H {
        [x; 2 * LANES]
    }

    #[inline(always)]
    fn blend16(self, bits: u32, a: Self::H, b: Self::H) -> Self::H {
        from_fn(|i| if bits >> i & 1 == 1 { a[i] } else { b[i] })
    }

    #[inline(always)]
    fn store16(self, h: Self::H, to: &mut [u8]) {
        let to: &mut [u8; 4 * LANES] = to.first_chunk_mut().expect("a whole vector");
        for (to, h) in to.as_chunks_mut().0.iter_mut().zip(h) {
            *to = h.to_le_bytes();
        }
    }

    #[inline(always)]
    fn lower_halves(self, a: Self::I, b: Self::I) -> Self::H {
        from_fn(|i| if i % 2 == 0 { a[i / 2] as u16 } else { b[i / 2] as u16 })
    }

    #[inline(always)]
    fn add_pairs(self, sum: Self::I, h: Self::H) -> Self::I {
        let int = |h: u16| i32::from(h as i16) as u32;
        from_fn(|i| sum[i].wrapping_add(int(h[2 * i])).wrapping_add(int(h[2 * i + 1])))
    }

    #[inline(always)]
    fn add_squares(self, sum: Self::I, h: Self::H) -> Self::I {
        let square = |h: u16| (i32::from(h as i16) * i32::from(h as i16)) as u32;
        from_fn(|i| sum[i].wrapping_add(square(h[2 * i])).wrapping_add(square(h[2 * i + 1])))
    }

    #[inline(always)]
    fn max_i16(self, a: Self::H, b: Self::H) -> Self::H {
        from_fn(|i| (a[i] as i16).max(b[i] as i16) as u16)
    }

    #[inline(always)]
    fn min_u16(self, a: Self::H, b: Self::H) -> Self::H {
        from_fn(|i| a[i].min(b[i]))
    }

    #[inline(always)]
    fn max_u16(self, a: Self::H, b: Self::H) -> Self::H {
        from_fn(|i| a[i].max(b[i]))
    }

    #[inline(always)]
    fn first_key16(self, max_signed: Self::H, min_unsigned: Self::H) -> i16 {
        let max = max_signed.into_iter().fold(i16::MIN, |max, i| max.max(i as i16));
        let min = min_unsigned.into_iter().fold(u16::MAX, u16::min);
        if max < 0 { (min ^ 0x7fff) as i16 } else { max }
    }

    #[inline(always)]
    fn reduce_max_u16(self, h: Self::H) -> u16 {
        h.into_iter().fold(0, u16::max)
    }

    #[inline(always)]
    fn gt_i16(self, h: Self::H, flip: Self::H, bound: Self::H) -> u32 {
        (0..2 * LANES)
            .fold(0, |bits, i| bits | u32::from((h[i] ^ flip[i]) as i16 > bound[i] as i16) << i)
    }

    #[inline(always)]
    fn no_sum(self) -> Self::W {
        [0; LANES]
    }

    #[inline(always)]
    fn widen_add(self, w: Self::W, i: Self::I) -> Self::W {
        from_fn(|n| w[n] + u64::from(i[n]))
    }

    #[inline(always)]
    fn add_products(self, w: Self::W, a: Self::I, b: Self::I, shift: Self::I) -> Self::W {
        from_fn(|i| {
            let product = u64::from(a[i]) * u64::from(b[i]);
            w[i].wrapping_add(product >> (shift[i] & 63))
        })
    }

    #[inline(always)]
    fn total(self, w: Self::W) -> u64 {
        w.into_iter().fold(0, u64::wrapping_add)
    }

    #[inline(always)]
    fn compress(self, bits: u32, x: Self::F, to: &mut [f32]) {
        let to: &mut [f32; LANES] = to.first_chunk_mut().expect("a whole vector");
        let mut n = 0;
        for (i, x) in x.into_iter().enumerate() {
            to[n & (LANES - 1)] = x;
            n += (bits >> i & 1) as usize;
        }
    }

    #[inline(always)]
    fn compress_u32(self, bits: u32, i: Self::I, to: &mut [u32]) {
        let to: &mut [u32; LANES] = to.first_chunk_mut().expect("a whole vector");
        let mut n = 0;
        for (lane, i) in i.into_iter().enumerate() {
            to[n & (LANES - 1)] = i;
            n += (bits >> lane & 1) as usize;
        }
    }

    #[inline(always)]
    fn compress_bits16(self, bits: u32, h: Self::H, to: &mut [u8]) {
        let to: &mut [u8; 4 * LANES] = to.first_chunk_mut().expect("a whole vector");
        let mut n = 0;
        for (lane, h) in h.into_iter().enumerate() {
            let at = 2 * (n & (2 * LANES - 1));
            to[at..at + 2].copy_from_slice(&h.to_le_bytes());
            n += (bits >> lane & 1) as usize;
        }
    }

    #[inline(always)]
    fn compress_bits32(self, bits: u32, i: Self::I, to: &mut [u8]) {
        let to: &mut [u8; 4 * LANES] = to.first_chunk_mut().expect("a whole vector");
        let mut n = 0;
        for (lane, i) in i.into_iter().enumerate() {
            let at = 4 * (n & (LANES - 1));
            to[at..at + 4].copy_from_slice(&i.to_le_bytes());
            n += (bits >> lane & 1) as usize;
        }
    }
}

/// f16 to f32 without a branch or a lookup. NaN stays NaN.
#[inline(always)]
fn widen_f16(bits: u16) -> f32 {
    const BIAS: u32 = 112 << 23; // of f32 less that of f16
    let magnitude = u32::from(bits & 0x7fff) << 13;
    let sign = u32::from(bits & 0x8000) << 16;
    let normal = magnitude + BIAS;
    // A subnormal is its mantissa in units of 2^-24: borrow the exponent of 2^-14, and give it back.
    let least = f32::from_bits(BIAS + (1 << 23));
    let subnormal = (f32::from_bits(magnitude + BIAS + (1 << 23)) - least).to_bits();
    let special = magnitude | 0x7f80_0000;
    let wide = if magnitude < 1 << 23 { subnormal } else { normal };
    f32::from_bits(sign | if magnitude >= 31 << 23 { special } else { wide })
}

/// `a * b + c`, rounded once.
#[cfg(any(target_feature = "fma", target_arch = "aarch64"))]
#[inline(always)]
fn fma(a: [f32; LANES], b: [f32; LANES], c: [f32; LANES]) -> [f32; LANES] {
    from_fn(|i| a[i].mul_add(b[i], c[i]))
}

/// `a * b + c`, rounded once, on a target whose baseline has no such instruction.
///
/// The product is exact in f64, and the sum is rounded to 53 bits and then to 24. Rounding twice goes
/// wrong only where the first rounding lands exactly between two f32; there, about once in 2^29
/// times, the library's slow function decides. (Results below the least normal f32 may differ from
/// the fused operation's. In the masses only `f` can be that small, and everything below 2^-26 in
/// its place gives a polynomial of exactly 1.)
#[cfg(not(any(target_feature = "fma", target_arch = "aarch64")))]
#[inline(always)]
fn fma(a: [f32; LANES], b: [f32; LANES], c: [f32; LANES]) -> [f32; LANES] {
    const BELOW_F32: u64 = (1 << 29) - 1;
    let wide: [f64; LANES] = from_fn(|i| f64::from(a[i]) * f64::from(b[i]) + f64::from(c[i]));
    let between = (0..LANES).fold(false, |any, i| any | (wide[i].to_bits() & BELOW_F32 == 1 << 28));
    if between {
        return from_fn(|i| a[i].mul_add(b[i], c[i]));
    }
    wide.map(|wide| wide as f32)
}
