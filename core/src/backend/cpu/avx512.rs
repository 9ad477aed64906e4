//! The operations in AVX-512: 512-bit vectors and mask registers.
#![allow(unsafe_code)] // vector instructions, and loads and stores of whole vectors

use super::isa::Isa;
use super::simd::{Kernel, Simd};
use std::arch::asm;
use std::arch::x86_64::*;
use std::sync::atomic::AtomicU8;

const LANES: usize = 16;

/// Proof that this machine has AVX-512 F, BW, DQ, VL, VBMI2 and VNNI.
#[derive(Clone, Copy, Debug)]
pub struct Avx512(());

impl Avx512 {
    /// The proof, if this machine has the instructions.
    pub fn new() -> Option<Self> {
        Isa::Avx512.is_supported().then_some(Self(()))
    }
}

/// Calls intrinsics. SAFETY, of every use: `self` exists only where [`Avx512::new`] has detected
/// the instructions, and the intrinsics within touch no memory.
macro_rules! simd {
    ($($body:tt)*) => {
        // SAFETY: see the macro.
        unsafe { $($body)* }
    };
}

/// `sum + a0 * b0 + a1 * b1, ..`. The intrinsic would be compiled to a multiplication and an addition, one instruction more.
#[target_feature(enable = "avx512f,avx512vnni")]
#[inline]
fn dot_pairs(mut sum: __m512i, a: __m512i, b: __m512i) -> __m512i {
    // SAFETY: who calls this has AVX-512 VNNI, whose instruction touches registers only.
    unsafe {
        asm!(
            "vpdpwssd {sum}, {a}, {b}",
            sum = inout(zmm_reg) sum,
            a = in(zmm_reg) a,
            b = in(zmm_reg) b,
            options(pure, nomem, nostack, preserves_flags)
        );
    }
    sum
}

impl Simd for Avx512 {
    const LANES: usize = LANES;

    type F = __m512;
    type I = __m512i;
    type H = __m512i;
    type M = __mmask16;
    type W = __m512i;

    #[inline(always)]
    fn run<K: Kernel<Self>>(self, kernel: K) -> K::Output {
        #[target_feature(
            enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vbmi2,avx512vnni,fma,f16c,popcnt,bmi1,bmi2"
        )]
        fn with_features<K: Kernel<Avx512>>(s: Avx512, kernel: K) -> K::Output {
            kernel.call(s)
        }
        // SAFETY: `self` exists only where the instructions were detected.
        unsafe { with_features(self, kernel) }
    }

    #[inline(always)]
    fn prefetch_far(self, at: &[u8]) {
        simd!(_mm_prefetch::<_MM_HINT_T1>(at.as_ptr().cast()))
    }

    #[inline(always)]
    fn prefetch<T>(self, at: &[T], ahead: usize) {
        simd!(_mm_prefetch::<_MM_HINT_T0>(at.as_ptr().wrapping_byte_add(ahead).cast()))
    }

    #[inline(always)]
    fn copy_shared(self, from: &[AtomicU8], to: &mut [u8]) {
        let from: &[AtomicU8; 64] = from.first_chunk().expect("a whole vector");
        let to: &mut [u8; 64] = to.first_chunk_mut().expect("a whole vector");
        // SAFETY: both arrays have 64 bytes; alignment is not needed. Whatever is being written there, a vector of
        // some bytes is read, and any bytes are a vector.
        unsafe {
            _mm512_storeu_si512(to.as_mut_ptr().cast(), _mm512_loadu_si512(from.as_ptr().cast()))
        }
    }

    #[inline(always)]
    fn splat(self, x: f32) -> __m512 {
        simd!(_mm512_set1_ps(x))
    }

    #[inline(always)]
    fn load(self, from: &[f32]) -> __m512 {
        let from: &[f32; LANES] = from.first_chunk().expect("a whole vector");
        // SAFETY: the array has 64 bytes; alignment is not needed.
        unsafe { _mm512_loadu_ps(from.as_ptr()) }
    }

    #[inline(always)]
    fn load_f16(self, from: &[u8]) -> __m512 {
        let from: &[u8; 32] = from.first_chunk().expect("a whole vector");
        // SAFETY: the array has 32 bytes; alignment is not needed.
        unsafe { _mm512_cvtph_ps(_mm256_loadu_si256(from.as_ptr().cast())) }
    }

    #[inline(always)]
    fn load_bf16(self, from: &[u8]) -> __m512 {
        let from: &[u8; 32] = from.first_chunk().expect("a whole vector");
        // SAFETY: the array has 32 bytes; alignment is not needed.
        unsafe {
            let low = _mm512_cvtepu16_epi32(_mm256_loadu_si256(from.as_ptr().cast()));
            _mm512_castsi512_ps(_mm512_slli_epi32::<16>(low))
        }
    }

    #[inline(always)]
    fn load_f32(self, from: &[u8]) -> __m512 {
        self.as_floats(self.load_bits32(from))
    }

    #[inline(always)]
    fn store(self, x: __m512, to: &mut [f32]) {
        let to: &mut [f32; LANES] = to.first_chunk_mut().expect("a whole vector");
        // SAFETY: the array has 64 bytes; alignment is not needed.
        unsafe { _mm512_storeu_ps(to.as_mut_ptr(), x) }
    }

    #[inline(always)]
    fn add_floats(self, a: Self::F, b: Self::F) -> Self::F {
        simd!(_mm512_add_ps(a, b))
    }

    #[inline(always)]
    fn sub(self, a: __m512, b: __m512) -> __m512 {
        simd!(_mm512_sub_ps(a, b))
    }

    #[inline(always)]
    fn mul(self, a: __m512, b: __m512) -> __m512 {
        simd!(_mm512_mul_ps(a, b))
    }

    #[inline(always)]
    fn max(self, a: __m512, b: __m512) -> __m512 {
        simd!(_mm512_max_ps(a, b))
    }

    #[inline(always)]
    fn fma(self, a: __m512, b: __m512, c: __m512) -> __m512 {
        simd!(_mm512_fmadd_ps(a, b, c))
    }

    #[inline(always)]
    fn fms(self, a: __m512, b: __m512, c: __m512) -> __m512 {
        simd!(_mm512_fmsub_ps(a, b, c))
    }

    #[inline(always)]
    fn scale(self, p: __m512, t: __m512) -> __m512 {
        simd!({
            let exponent = _mm512_slli_epi32::<23>(_mm512_castps_si512(t));
            _mm512_castsi512_ps(_mm512_add_epi32(_mm512_castps_si512(p), exponent))
        })
    }

    #[inline(always)]
    fn truncate(self, x: __m512) -> __m512i {
        simd!(_mm512_cvttps_epi32(x))
    }

    #[inline(always)]
    fn float(self, i: __m512i) -> __m512 {
        simd!(_mm512_cvtepi32_ps(i))
    }

    #[inline(always)]
    fn ge(self, a: __m512, b: __m512) -> __mmask16 {
        simd!(_mm512_cmp_ps_mask::<_CMP_GE_OQ>(a, b))
    }

    #[inline(always)]
    fn mask(self, bits: u32) -> Self::M {
        bits as __mmask16
    }

    #[inline(always)]
    fn bits(self, m: __mmask16) -> u32 {
        u32::from(m)
    }

    #[inline(always)]
    fn keep(self, m: __mmask16, i: __m512i) -> __m512i {
        simd!(_mm512_maskz_mov_epi32(m, i))
    }

    #[inline(always)]
    fn keep_floats(self, m: Self::M, x: Self::F) -> Self::F {
        simd!(_mm512_maskz_mov_ps(m, x))
    }

    #[inline(always)]
    fn blend(self, m: Self::M, a: Self::F, b: Self::F) -> Self::F {
        simd!(_mm512_mask_blend_ps(m, b, a))
    }

    #[inline(always)]
    fn store_f32(self, x: Self::F, to: &mut [u8]) {
        self.store_bits(simd!(_mm512_castps_si512(x)), to);
    }

    #[inline(always)]
    fn splat_u32(self, x: u32) -> __m512i {
        simd!(_mm512_set1_epi32(x as i32))
    }

    #[inline(always)]
    fn iota(self) -> Self::I {
        self.load_u32(&std::array::from_fn::<u32, LANES, _>(|i| i as u32))
    }

    #[inline(always)]
    fn load_u32(self, from: &[u32]) -> __m512i {
        let from: &[u32; LANES] = from.first_chunk().expect("a whole vector");
        // SAFETY: the array has 64 bytes; alignment is not needed.
        unsafe { _mm512_loadu_si512(from.as_ptr().cast()) }
    }

    #[inline(always)]
    fn load_bits32(self, from: &[u8]) -> __m512i {
        let from: &[u8; 64] = from.first_chunk().expect("a whole vector");
        // SAFETY: the array has 64 bytes; alignment is not needed.
        unsafe { _mm512_loadu_si512(from.as_ptr().cast()) }
    }

    #[inline(always)]
    fn as_floats(self, i: __m512i) -> __m512 {
        simd!(_mm512_castsi512_ps(i))
    }

    #[inline(always)]
    fn as_ints(self, x: __m512) -> __m512i {
        simd!(_mm512_castps_si512(x))
    }

    #[inline(always)]
    fn store_u32(self, i: __m512i, to: &mut [u32]) {
        let to: &mut [u32; LANES] = to.first_chunk_mut().expect("a whole vector");
        // SAFETY: the array has 64 bytes; alignment is not needed.
        unsafe { _mm512_storeu_si512(to.as_mut_ptr().cast(), i) }
    }

    #[inline(always)]
    fn add(self, a: __m512i, b: __m512i) -> __m512i {
        simd!(_mm512_add_epi32(a, b))
    }

    #[inline(always)]
    fn sub_u32(self, a: __m512i, b: __m512i) -> __m512i {
        simd!(_mm512_sub_epi32(a, b))
    }

    #[inline(always)]
    fn xor(self, a: __m512i, b: __m512i) -> __m512i {
        simd!(_mm512_xor_si512(a, b))
    }

    #[inline(always)]
    fn and(self, a: __m512i, b: __m512i) -> __m512i {
        simd!(_mm512_and_si512(a, b))
    }

    #[inline(always)]
    fn shift_right<const N: u32>(self, i: __m512i) -> __m512i {
        simd!(_mm512_srli_epi32::<N>(i))
    }

    #[inline(always)]
    fn shift_left<const N: u32>(self, i: __m512i) -> __m512i {
        simd!(_mm512_slli_epi32::<N>(i))
    }

    #[inline(always)]
    fn mul_even(self, a: __m512i, b: __m512i) -> __m512i {
        simd!(_mm512_mul_epu32(a, b))
    }

    #[inline(always)]
    fn odd_lanes(self, a: __m512i) -> __m512i {
        simd!(_mm512_srli_epi64::<32>(a))
    }

    #[inline(always)]
    fn join_even(self, a: __m512i, b: __m512i) -> __m512i {
        simd!(_mm512_mask_blend_epi32(0xaaaa, a, _mm512_slli_epi64::<32>(b)))
    }

    #[inline(always)]
    fn interleave(self, a: __m512i, b: __m512i) -> (__m512i, __m512i) {
        let places = |first: u32| -> [u32; LANES] {
            std::array::from_fn(|i| first + i as u32 / 2 + LANES as u32 * (i as u32 % 2))
        };
        let (first, second) = (self.load_u32(&places(0)), self.load_u32(&places(8)));
        simd!((_mm512_permutex2var_epi32(a, first, b), _mm512_permutex2var_epi32(a, second, b)))
    }

    #[inline(always)]
    fn max_i32(self, a: __m512i, b: __m512i) -> __m512i {
        simd!(_mm512_max_epi32(a, b))
    }

    #[inline(always)]
    fn min_u32(self, a: __m512i, b: __m512i) -> __m512i {
        simd!(_mm512_min_epu32(a, b))
    }

    #[inline(always)]
    fn at_most_u32(self, a: __m512i, b: __m512i) -> u32 {
        simd!(u32::from(_mm512_cmple_epu32_mask(a, b)))
    }

    #[inline(always)]
    fn max_u32(self, a: __m512i, b: __m512i) -> __m512i {
        simd!(_mm512_max_epu32(a, b))
    }

    #[inline(always)]
    fn first_key32(self, max_signed: __m512i, min_unsigned: __m512i) -> i32 {
        simd!({
            let negative = _mm512_movepi32_mask(max_signed);
            let flip = _mm512_set1_epi32(0x7fff_ffff);
            let keys = _mm512_mask_xor_epi32(max_signed, negative, min_unsigned, flip);
            _mm512_reduce_max_epi32(keys)
        })
    }

    #[inline(always)]
    fn reduce_max_u32(self, i: __m512i) -> u32 {
        simd!(_mm512_reduce_max_epu32(i))
    }

    #[inline(always)]
    fn load_bits16(self, from: &[u8]) -> __m512i {
        self.load_bits32(from)
    }

    #[inline(always)]
    fn splat_u16(self, x: u16) -> __m512i {
        simd!(_mm512_set1_epi16(x as i16))
    }

    #[inline(always)]
    fn blend16(self, bits: u32, a: __m512i, b: __m512i) -> __m512i {
        simd!(_mm512_mask_blend_epi16(bits, b, a))
    }

    #[inline(always)]
    fn store16(self, h: __m512i, to: &mut [u8]) {
        self.store_bits(h, to);
    }

    #[inline(always)]
    fn lower_halves(self, a: __m512i, b: __m512i) -> __m512i {
        simd!(_mm512_mask_blend_epi16(0xaaaa_aaaa, a, _mm512_slli_epi32::<16>(b)))
    }

    #[inline(always)]
    fn add_pairs(self, sum: __m512i, h: __m512i) -> __m512i {
        simd!(dot_pairs(sum, h, _mm512_set1_epi16(1)))
    }

    #[inline(always)]
    fn add_squares(self, sum: __m512i, h: __m512i) -> __m512i {
        simd!(dot_pairs(sum, h, h))
    }

    #[inline(always)]
    fn max_i16(self, a: __m512i, b: __m512i) -> __m512i {
        simd!(_mm512_max_epi16(a, b))
    }

    #[inline(always)]
    fn min_u16(self, a: __m512i, b: __m512i) -> __m512i {
        simd!(_mm512_min_epu16(a, b))
    }

    #[inline(always)]
    fn max_u16(self, a: __m512i, b: __m512i) -> __m512i {
        simd!(_mm512_max_epu16(a, b))
    }

    #[inline(always)]
    fn first_key16(self, max_signed: __m512i, min_unsigned: __m512i) -> i16 {
        simd!({
            let negative = _mm512_movepi16_mask(max_signed);
            let flip = _mm512_set1_epi16(0x7fff);
            let keys =
                _mm512_mask_mov_epi16(max_signed, negative, _mm512_xor_si512(min_unsigned, flip));
            // The one horizontal instruction finds an unsigned minimum: turn the order round.
            let turned = _mm512_xor_si512(keys, flip);
            (self.min_of_u16(turned) ^ 0x7fff) as i16
        })
    }

    #[inline(always)]
    fn reduce_max_u16(self, h: __m512i) -> u16 {
        !self.min_of_u16(simd!(_mm512_xor_si512(h, _mm512_set1_epi16(-1))))
    }

    #[inline(always)]
    fn gt_i16(self, h: __m512i, flip: __m512i, bound: __m512i) -> u32 {
        simd!(_mm512_cmpgt_epi16_mask(_mm512_xor_si512(h, flip), bound))
    }

    #[inline(always)]
    fn no_sum(self) -> __m512i {
        simd!(_mm512_setzero_si512())
    }

    #[inline(always)]
    fn widen_add(self, w: __m512i, i: __m512i) -> __m512i {
        simd!({
            let even = _mm512_and_si512(i, _mm512_set1_epi64(0xffff_ffff));
            let odd = _mm512_srli_epi64::<32>(i);
            _mm512_add_epi64(w, _mm512_add_epi64(even, odd))
        })
    }

    #[inline(always)]
    fn add_products(self, w: __m512i, a: __m512i, b: __m512i, shift: __m512i) -> __m512i {
        simd!({
            let low = _mm512_set1_epi64(0xffff_ffff);
            let even = _mm512_srlv_epi64(_mm512_mul_epu32(a, b), _mm512_and_si512(shift, low));
            let product = _mm512_mul_epu32(_mm512_srli_epi64::<32>(a), _mm512_srli_epi64::<32>(b));
            let odd = _mm512_srlv_epi64(product, _mm512_srli_epi64::<32>(shift));
            _mm512_add_epi64(w, _mm512_add_epi64(even, odd))
        })
    }

    #[inline(always)]
    fn total(self, w: __m512i) -> u64 {
        simd!(_mm512_reduce_add_epi64(w) as u64)
    }

    #[inline(always)]
    fn compress(self, bits: u32, x: __m512, to: &mut [f32]) {
        self.store(simd!(_mm512_maskz_compress_ps(bits as __mmask16, x)), to);
    }

    #[inline(always)]
    fn compress_u32(self, bits: u32, i: __m512i, to: &mut [u32]) {
        self.store_u32(simd!(_mm512_maskz_compress_epi32(bits as __mmask16, i)), to);
    }

    #[inline(always)]
    fn compress_bits16(self, bits: u32, h: __m512i, to: &mut [u8]) {
        self.store_bits(simd!(_mm512_maskz_compress_epi16(bits, h)), to);
    }

    #[inline(always)]
    fn compress_bits32(self, bits: u32, i: __m512i, to: &mut [u8]) {
        self.store_bits(simd!(_mm512_maskz_compress_epi32(bits as __mmask16, i)), to);
    }
}

impl Avx512 {
    #[inline(always)]
    fn store_bits(self, i: __m512i, to: &mut [u8]) {
        let to: &mut [u8; 64] = to.first_chunk_mut().expect("a whole vector");
        // SAFETY: the array has 64 bytes; alignment is not needed.
        unsafe { _mm512_storeu_si512(to.as_mut_ptr().cast(), i) }
    }

    #[inline(always)]
    fn min_of_u16(self, h: __m512i) -> u16 {
        simd!({
            let half =
                _mm256_min_epu16(_mm512_castsi512_si256(h), _mm512_extracti64x4_epi64::<1>(h));
            let quarter =
                _mm_min_epu16(_mm256_castsi256_si128(half), _mm256_extracti128_si256::<1>(half));
            _mm_extract_epi16::<0>(_mm_minpos_epu16(quarter)) as u16
        })
    }
}
