//! How logits of each dtype are loaded, ordered and compared.
//!
//! A *key* here is a signed integer that orders as the logit does: the bits themselves for positive
//! values, with the magnitude flipped for negative ones. +0.0 has key 0 and -0.0 has -1: adjacent,
//! with nothing between, so comparisons widen a bound by one where it is a zero. (This is
//! [`arithmetic::key`](crate::arithmetic::key) less 2^15 or 2^31, before its zeros are joined.)

use super::simd::Simd;
use half::{bf16, f16};

/// A dtype of logits.
pub trait Element: Copy + Send + Sync + 'static {
    /// Bytes a logit.
    const SIZE: usize;
    /// The key of +inf; NaN lies beyond it, and beyond -inf's on the other side.
    const INFINITY: i32;
    /// The bits of -inf.
    const NEGATIVE_INFINITY: u32 = Self::INFINITY as u32 | 1 << (Self::SIZE * 8 - 1);
    /// As many logits as fill a vector, as they are stored.
    type Raw<S: Simd>: Copy;

    /// The value with a key.
    fn value(key: i32) -> f32;
    /// The key of a value that the dtype can represent.
    fn key(x: f32) -> i32;
    /// One stored logit, widened.
    fn read(from: &[u8]) -> f32;
    /// Writes the bits of the value with a key, little-endian.
    fn write(key: i32, to: &mut [u8]);

    /// `LANES` logits, widened.
    fn widen<S: Simd>(s: S, from: &[u8]) -> S::F;
    /// A vector full of logits: [`raw_lanes`](Self::raw_lanes) of them.
    fn raw<S: Simd>(s: S, from: &[u8]) -> Self::Raw<S>;
    /// How many logits fill a vector.
    fn raw_lanes<S: Simd>() -> usize {
        S::LANES * 4 / Self::SIZE
    }
    /// The same bits in every lane (the low ones, where a logit is shorter).
    fn raw_splat<S: Simd>(s: S, bits: u32) -> Self::Raw<S>;
    /// The greater as signed integers.
    fn max_signed<S: Simd>(s: S, a: Self::Raw<S>, b: Self::Raw<S>) -> Self::Raw<S>;
    /// The lesser as unsigned integers.
    fn min_unsigned<S: Simd>(s: S, a: Self::Raw<S>, b: Self::Raw<S>) -> Self::Raw<S>;
    /// The greater as unsigned integers.
    fn max_unsigned<S: Simd>(s: S, a: Self::Raw<S>, b: Self::Raw<S>) -> Self::Raw<S>;
    /// The greatest key among logits, of which `max_signed` and `min_unsigned` have been taken.
    ///
    /// As signed integers, the greatest bits are the greatest logit's if one is positive. If all are
    /// negative, the greatest logit has the least magnitude: the least bits as unsigned integers.
    fn first_key<S: Simd>(s: S, max_signed: Self::Raw<S>, min_unsigned: Self::Raw<S>) -> i32;
    /// The greatest lane as unsigned integer: the most negative logit's bits if one is negative.
    fn reduce_max_unsigned<S: Simd>(s: S, raw: Self::Raw<S>) -> u32;
    /// Writes the logits whose bit is set next to each other; what follows them in a vector's bytes
    /// is left undefined.
    fn compress<S: Simd>(s: S, bits: u32, raw: Self::Raw<S>, to: &mut [u8]);
    /// A vector of logits, with -inf where a bit is 0: one bit a logit.
    fn masked<S: Simd>(s: S, bits: u32, from: &[u8]) -> Self::Raw<S>;
    /// The same, and writes it. Returns what was written.
    fn copy_masked<S: Simd>(s: S, bits: u32, from: &[u8], to: &mut [u8]) -> Self::Raw<S>;
    /// Prepares a comparison with [`at_least`](Self::at_least).
    fn bound<S: Simd>(s: S, least: f32) -> Bound<S, Self>;
    /// One bit a logit of a full vector: whether it is `least` or more. None is NaN.
    fn at_least<S: Simd>(s: S, raw: Self::Raw<S>, bound: Bound<S, Self>) -> u32;
}

/// What logits are compared with.
///
/// For 16-bit logits: `key > bound` is `bits > bound` for a positive bound, and
/// `bits ^ 0x7fff > bound` for a negative one, because the wrong order among the values on the
/// other side of zero does not matter. One operation less than making the keys.
#[derive(Clone, Copy)]
pub struct Bound<S: Simd, E: Element> {
    flip: E::Raw<S>,
    bound: E::Raw<S>,
    least: S::F,
}

macro_rules! sixteen_bits {
    ($name:ident, $doc:literal, $infinity:literal, $value:ty, $load:ident) => {
        #[doc = $doc]
        #[derive(Clone, Copy, Debug)]
        pub struct $name;

        impl Element for $name {
            const SIZE: usize = 2;
            const INFINITY: i32 = $infinity;
            type Raw<S: Simd> = S::H;

            #[inline(always)]
            fn value(key: i32) -> f32 {
                <$value>::from_bits(bits16(key)).to_f32()
            }

            #[inline(always)]
            fn key(x: f32) -> i32 {
                let bits = <$value>::from_f32(x).to_bits() as i16;
                i32::from(bits ^ (bits >> 15 & 0x7fff))
            }

            #[inline(always)]
            fn read(from: &[u8]) -> f32 {
                <$value>::from_le_bytes([from[0], from[1]]).to_f32()
            }

            #[inline(always)]
            fn write(key: i32, to: &mut [u8]) {
                to[..2].copy_from_slice(&bits16(key).to_le_bytes());
            }

            #[inline(always)]
            fn widen<S: Simd>(s: S, from: &[u8]) -> S::F {
                s.$load(from)
            }

            #[inline(always)]
            fn raw<S: Simd>(s: S, from: &[u8]) -> S::H {
                s.load_bits16(from)
            }

            #[inline(always)]
            fn raw_splat<S: Simd>(s: S, bits: u32) -> S::H {
                s.splat_u16(bits as u16)
            }

            #[inline(always)]
            fn max_signed<S: Simd>(s: S, a: S::H, b: S::H) -> S::H {
                s.max_i16(a, b)
            }

            #[inline(always)]
            fn min_unsigned<S: Simd>(s: S, a: S::H, b: S::H) -> S::H {
                s.min_u16(a, b)
            }

            #[inline(always)]
            fn max_unsigned<S: Simd>(s: S, a: S::H, b: S::H) -> S::H {
                s.max_u16(a, b)
            }

            #[inline(always)]
            fn first_key<S: Simd>(s: S, max_signed: S::H, min_unsigned: S::H) -> i32 {
                i32::from(s.first_key16(max_signed, min_unsigned))
            }

            #[inline(always)]
            fn reduce_max_unsigned<S: Simd>(s: S, raw: S::H) -> u32 {
                u32::from(s.reduce_max_u16(raw))
            }

            #[inline(always)]
            fn compress<S: Simd>(s: S, bits: u32, raw: S::H, to: &mut [u8]) {
                s.compress_bits16(bits, raw, to);
            }

            #[inline(always)]
            fn masked<S: Simd>(s: S, bits: u32, from: &[u8]) -> S::H {
                let lowest = s.splat_u16(Self::NEGATIVE_INFINITY as u16);
                s.blend16(bits, s.load_bits16(from), lowest)
            }

            #[inline(always)]
            fn copy_masked<S: Simd>(s: S, bits: u32, from: &[u8], to: &mut [u8]) -> S::H {
                let copy = Self::masked(s, bits, from);
                s.store16(copy, to);
                copy
            }

            #[inline(always)]
            fn bound<S: Simd>(s: S, least: f32) -> Bound<S, Self> {
                let key = if least == 0.0 { -1 } else { Self::key(least) };
                let bound = key - 1;
                let flip = if bound < 0 { 0x7fff } else { 0 };
                Bound {
                    flip: s.splat_u16(flip),
                    bound: s.splat_u16(bound as u16),
                    least: s.splat(least),
                }
            }

            #[inline(always)]
            fn at_least<S: Simd>(s: S, raw: S::H, bound: Bound<S, Self>) -> u32 {
                s.gt_i16(raw, bound.flip, bound.bound)
            }
        }
    };
}

sixteen_bits!(F16, "IEEE binary16.", 0x7c00, f16, load_f16);
sixteen_bits!(Bf16, "The upper half of a binary32.", 0x7f80, bf16, load_bf16);

#[inline(always)]
fn bits16(key: i32) -> u16 {
    let key = key as i16;
    (key ^ (key >> 15 & 0x7fff)) as u16
}

/// IEEE binary32.
#[derive(Clone, Copy, Debug)]
pub struct F32;

impl Element for F32 {
    const SIZE: usize = 4;
    const INFINITY: i32 = 0x7f80_0000;
    type Raw<S: Simd> = S::I;

    #[inline(always)]
    fn value(key: i32) -> f32 {
        f32::from_bits((key ^ (key >> 31 & 0x7fff_ffff)) as u32)
    }

    #[inline(always)]
    fn key(x: f32) -> i32 {
        let bits = x.to_bits() as i32;
        bits ^ (bits >> 31 & 0x7fff_ffff)
    }

    #[inline(always)]
    fn read(from: &[u8]) -> f32 {
        f32::from_le_bytes([from[0], from[1], from[2], from[3]])
    }

    #[inline(always)]
    fn write(key: i32, to: &mut [u8]) {
        to[..4].copy_from_slice(&Self::value(key).to_le_bytes());
    }

    #[inline(always)]
    fn widen<S: Simd>(s: S, from: &[u8]) -> S::F {
        s.load_f32(from)
    }

    #[inline(always)]
    fn raw<S: Simd>(s: S, from: &[u8]) -> S::I {
        s.load_bits32(from)
    }

    #[inline(always)]
    fn raw_splat<S: Simd>(s: S, bits: u32) -> S::I {
        s.splat_u32(bits)
    }

    #[inline(always)]
    fn max_signed<S: Simd>(s: S, a: S::I, b: S::I) -> S::I {
        s.max_i32(a, b)
    }

    #[inline(always)]
    fn min_unsigned<S: Simd>(s: S, a: S::I, b: S::I) -> S::I {
        s.min_u32(a, b)
    }

    #[inline(always)]
    fn max_unsigned<S: Simd>(s: S, a: S::I, b: S::I) -> S::I {
        s.max_u32(a, b)
    }

    #[inline(always)]
    fn first_key<S: Simd>(s: S, max_signed: S::I, min_unsigned: S::I) -> i32 {
        s.first_key32(max_signed, min_unsigned)
    }

    #[inline(always)]
    fn reduce_max_unsigned<S: Simd>(s: S, raw: S::I) -> u32 {
        s.reduce_max_u32(raw)
    }

    #[inline(always)]
    fn compress<S: Simd>(s: S, bits: u32, raw: S::I, to: &mut [u8]) {
        s.compress_bits32(bits, raw, to);
    }

    #[inline(always)]
    fn masked<S: Simd>(s: S, bits: u32, from: &[u8]) -> S::I {
        let lowest = s.keep(s.mask(!bits), s.splat_u32(Self::NEGATIVE_INFINITY));
        // One of the two is 0 in every lane.
        s.max_u32(s.keep(s.mask(bits), s.load_bits32(from)), lowest)
    }

    #[inline(always)]
    fn copy_masked<S: Simd>(s: S, bits: u32, from: &[u8], to: &mut [u8]) -> S::I {
        let lowest = s.splat(f32::NEG_INFINITY);
        s.store_f32(s.blend(s.mask(bits), s.load_f32(from), lowest), to);
        s.load_bits32(to)
    }

    #[inline(always)]
    fn bound<S: Simd>(s: S, least: f32) -> Bound<S, Self> {
        Bound { flip: s.splat_u32(0), bound: s.splat_u32(0), least: s.splat(least) }
    }

    #[inline(always)]
    fn at_least<S: Simd>(s: S, raw: S::I, bound: Bound<S, Self>) -> u32 {
        s.bits(s.ge(s.as_floats(raw), bound.least))
    }
}
