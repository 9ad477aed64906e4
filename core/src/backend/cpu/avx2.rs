//! The operations in AVX2, FMA and F16C: 256-bit vectors.
#![allow(unsafe_code)] // vector instructions, and loads and stores of whole vectors

use super::isa::Isa;
use super::simd::{Kernel, Simd};
use std::arch::x86_64::*;
use std::sync::atomic::AtomicU8;

const LANES: usize = 8;

/// Proof that this machine has AVX2, FMA and F16C.
#[derive(Clone, Copy, Debug)]
pub struct Avx2(());

impl Avx2 {
    /// The proof, if this machine has the instructions.
    pub fn new() -> Option<Self> {
        Isa::Avx2.is_supported().then_some(Self(()))
    }
}

/// Calls intrinsics. SAFETY, of every use: `self` exists only where [`Avx2::new`] has detected the
/// instructions, and the intrinsics within touch no memory.
macro_rules! simd {
    ($($body:tt)*) => {
        // SAFETY: see the macro.
        unsafe { $($body)* }
    };
}

impl Simd for Avx2 {
    const LANES: usize = LANES;

    type F = __m256;
    type I = __m256i;
    type H = __m256i;
    type M = __m256;
    type W = __m256i;

    #[inline(always)]
    fn run<K: Kernel<Self>>(self, kernel: K) -> K::Output {
        #[target_feature(enable = "avx2,fma,f16c,popcnt,bmi1,bmi2")]
        fn with_features<K: Kernel<Avx2>>(s: Avx2, kernel: K) -> K::Output {
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
        let from: &[AtomicU8; 32] = from.first_chunk().expect("a whole vector");
        let to: &mut [u8; 32] = to.first_chunk_mut().expect("a whole vector");
        // SAFETY: both arrays have 32 bytes; alignment is not needed. Whatever is being written there, a vector of
        // some bytes is read, and any bytes are a vector.
        unsafe {
            _mm256_storeu_si256(to.as_mut_ptr().cast(), _mm256_loadu_si256(from.as_ptr().cast()))
        }
    }

    #[inline(always)]
    fn splat(self, x: f32) -> __m256 {
        simd!(_mm256_set1_ps(x))
    }

    #[inline(always)]
    fn load(self, from: &[f32]) -> __m256 {
        let from: &[f32; LANES] = from.first_chunk().expect("a whole vector");
        // SAFETY: the array has 32 bytes; alignment is not needed.
        unsafe { _mm256_loadu_ps(from.as_ptr()) }
    }

    #[inline(always)]
    fn load_f16(self, from: &[u8]) -> __m256 {
        let from: &[u8; 16] = from.first_chunk().expect("a whole vector");
        // SAFETY: the array has 16 bytes; alignment is not needed.
        unsafe { _mm256_cvtph_ps(_mm_loadu_si128(from.as_ptr().cast())) }
    }

    #[inline(always)]
    fn load_bf16(self, from: &[u8]) -> __m256 {
        let from: &[u8; 16] = from.first_chunk().expect("a whole vector");
        // SAFETY: the array has 16 bytes; alignment is not needed.
        unsafe {
            let low = _mm256_cvtepu16_epi32(_mm_loadu_si128(from.as_ptr().cast()));
            _mm256_castsi256_ps(_mm256_slli_epi32::<16>(low))
        }
    }

    #[inline(always)]
    fn load_f32(self, from: &[u8]) -> __m256 {
        self.as_floats(self.load_bits32(from))
    }

    #[inline(always)]
    fn store(self, x: __m256, to: &mut [f32]) {
        let to: &mut [f32; LANES] = to.first_chunk_mut().expect("a whole vector");
        // SAFETY: the array has 32 bytes; alignment is not needed.
        unsafe { _mm256_storeu_ps(to.as_mut_ptr(), x) }
    }

    #[inline(always)]
    fn add_floats(self, a: Self::F, b: Self::F) -> Self::F {
        simd!(_mm256_add_ps(a, b))
    }

    #[inline(always)]
    fn sub(self, a: __m256, b: __m256) -> __m256 {
        simd!(_mm256_sub_ps(a, b))
    }

    #[inline(always)]
    fn mul(self, a: __m256, b: __m256) -> __m256 {
        simd!(_mm256_mul_ps(a, b))
    }

    #[inline(always)]
    fn max(self, a: __m256, b: __m256) -> __m256 {
        simd!(_mm256_max_ps(a, b))
    }

    #[inline(always)]
    fn fma(self, a: __m256, b: __m256, c: __m256) -> __m256 {
        simd!(_mm256_fmadd_ps(a, b, c))
    }

    #[inline(always)]
    fn fms(self, a: __m256, b: __m256, c: __m256) -> __m256 {
        simd!(_mm256_fmsub_ps(a, b, c))
    }

    #[inline(always)]
    fn scale(self, p: __m256, t: __m256) -> __m256 {
        simd!({
            let exponent = _mm256_slli_epi32::<23>(_mm256_castps_si256(t));
            _mm256_castsi256_ps(_mm256_add_epi32(_mm256_castps_si256(p), exponent))
        })
    }

    #[inline(always)]
    fn truncate(self, x: __m256) -> __m256i {
        simd!(_mm256_cvttps_epi32(x))
    }

    #[inline(always)]
    fn float(self, i: __m256i) -> __m256 {
        simd!(_mm256_cvtepi32_ps(i))
    }

    #[inline(always)]
    fn ge(self, a: __m256, b: __m256) -> __m256 {
        simd!(_mm256_cmp_ps::<_CMP_GE_OQ>(a, b))
    }

    #[inline(always)]
    fn mask(self, bits: u32) -> Self::M {
        simd!({
            let each = _mm256_setr_epi32(1, 2, 4, 8, 16, 32, 64, 128);
            let set = _mm256_and_si256(_mm256_set1_epi32(bits as i32), each);
            _mm256_castsi256_ps(_mm256_cmpeq_epi32(set, each))
        })
    }

    #[inline(always)]
    fn bits(self, m: __m256) -> u32 {
        simd!(_mm256_movemask_ps(m) as u32)
    }

    #[inline(always)]
    fn keep(self, m: __m256, i: __m256i) -> __m256i {
        simd!(_mm256_and_si256(_mm256_castps_si256(m), i))
    }

    #[inline(always)]
    fn keep_floats(self, m: Self::M, x: Self::F) -> Self::F {
        simd!(_mm256_and_ps(m, x))
    }

    #[inline(always)]
    fn blend(self, m: Self::M, a: Self::F, b: Self::F) -> Self::F {
        simd!(_mm256_blendv_ps(b, a, m))
    }

    #[inline(always)]
    fn store_f32(self, x: Self::F, to: &mut [u8]) {
        self.store_bits(simd!(_mm256_castps_si256(x)), to);
    }

    #[inline(always)]
    fn splat_u32(self, x: u32) -> __m256i {
        simd!(_mm256_set1_epi32(x as i32))
    }

    #[inline(always)]
    fn iota(self) -> Self::I {
        self.load_u32(&std::array::from_fn::<u32, LANES, _>(|i| i as u32))
    }

    #[inline(always)]
    fn load_u32(self, from: &[u32]) -> __m256i {
        let from: &[u32; LANES] = from.first_chunk().expect("a whole vector");
        // SAFETY: the array has 32 bytes; alignment is not needed.
        unsafe { _mm256_loadu_si256(from.as_ptr().cast()) }
    }

    #[inline(always)]
    fn load_bits32(self, from: &[u8]) -> __m256i {
        let from: &[u8; 32] = from.first_chunk().expect("a whole vector");
        // SAFETY: the array has 32 bytes; alignment is not needed.
        unsafe { _mm256_loadu_si256(from.as_ptr().cast()) }
    }

    #[inline(always)]
    fn as_floats(self, i: __m256i) -> __m256 {
        simd!(_mm256_castsi256_ps(i))
    }

    #[inline(always)]
    fn as_ints(self, x: __m256) -> __m256i {
        simd!(_mm256_castps_si256(x))
    }

    #[inline(always)]
    fn store_u32(self, i: __m256i, to: &mut [u32]) {
        let to: &mut [u32; LANES] = to.first_chunk_mut().expect("a whole vector");
        // SAFETY: the array has 32 bytes; alignment is not needed.
        unsafe { _mm256_storeu_si256(to.as_mut_ptr().cast(), i) }
    }

    #[inline(always)]
    fn add(self, a: __m256i, b: __m256i) -> __m256i {
        simd!(_mm256_add_epi32(a, b))
    }

    #[inline(always)]
    fn sub_u32(self, a: __m256i, b: __m256i) -> __m256i {
        simd!(_mm256_sub_epi32(a, b))
    }

    #[inline(always)]
    fn xor(self, a: __m256i, b: __m256i) -> __m256i {
        simd!(_mm256_xor_si256(a, b))
    }

    #[inline(always)]
    fn and(self, a: __m256i, b: __m256i) -> __m256i {
        simd!(_mm256_and_si256(a, b))
    }

    #[inline(always)]
    fn shift_right<const N: u32>(self, i: __m256i) -> __m256i {
        simd!(_mm256_srl_epi32(i, _mm_cvtsi32_si128(N as i32)))
    }

    #[inline(always)]
    fn shift_left<const N: u32>(self, i: __m256i) -> __m256i {
        simd!(_mm256_sll_epi32(i, _mm_cvtsi32_si128(N as i32)))
    }

    #[inline(always)]
    fn mul_even(self, a: __m256i, b: __m256i) -> __m256i {
        simd!(_mm256_mul_epu32(a, b))
    }

    #[inline(always)]
    fn odd_lanes(self, a: __m256i) -> __m256i {
        simd!(_mm256_srli_epi64::<32>(a))
    }

    #[inline(always)]
    fn join_even(self, a: __m256i, b: __m256i) -> __m256i {
        simd!(_mm256_blend_epi32::<0xaa>(a, _mm256_slli_epi64::<32>(b)))
    }

    #[inline(always)]
    fn interleave(self, a: __m256i, b: __m256i) -> (__m256i, __m256i) {
        simd!({
            let (low, high) = (_mm256_unpacklo_epi32(a, b), _mm256_unpackhi_epi32(a, b));
            let first = _mm256_permute2x128_si256::<0x20>(low, high);
            (first, _mm256_permute2x128_si256::<0x31>(low, high))
        })
    }

    #[inline(always)]
    fn max_i32(self, a: __m256i, b: __m256i) -> __m256i {
        simd!(_mm256_max_epi32(a, b))
    }

    #[inline(always)]
    fn min_u32(self, a: __m256i, b: __m256i) -> __m256i {
        simd!(_mm256_min_epu32(a, b))
    }

    #[inline(always)]
    fn at_most_u32(self, a: __m256i, b: __m256i) -> u32 {
        self.bits(simd!(_mm256_castsi256_ps(_mm256_cmpeq_epi32(_mm256_min_epu32(a, b), a))))
    }

    #[inline(always)]
    fn max_u32(self, a: __m256i, b: __m256i) -> __m256i {
        simd!(_mm256_max_epu32(a, b))
    }

    #[inline(always)]
    fn first_key32(self, max_signed: __m256i, min_unsigned: __m256i) -> i32 {
        let (mut max, mut min) = ([0; LANES], [0; LANES]);
        self.store_u32(max_signed, &mut max);
        self.store_u32(min_unsigned, &mut min);
        let max = max.into_iter().fold(i32::MIN, |max, i| max.max(i as i32));
        let min = min.into_iter().fold(u32::MAX, u32::min);
        if max < 0 { (min ^ 0x7fff_ffff) as i32 } else { max }
    }

    #[inline(always)]
    fn reduce_max_u32(self, i: __m256i) -> u32 {
        let mut lanes = [0; LANES];
        self.store_u32(i, &mut lanes);
        lanes.into_iter().fold(0, u32::max)
    }

    #[inline(always)]
    fn load_bits16(self, from: &[u8]) -> __m256i {
        self.load_bits32(from)
    }

    #[inline(always)]
    fn splat_u16(self, x: u16) -> __m256i {
        simd!(_mm256_set1_epi16(x as i16))
    }

    #[inline(always)]
    fn blend16(self, bits: u32, a: __m256i, b: __m256i) -> __m256i {
        simd!({
            let each = _mm256_setr_epi16(
                1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024, 2048, 4096, 8192, 16384, -32768,
            );
            let set = _mm256_and_si256(_mm256_set1_epi16(bits as i16), each);
            _mm256_blendv_epi8(b, a, _mm256_cmpeq_epi16(set, each))
        })
    }

    #[inline(always)]
    fn store16(self, h: __m256i, to: &mut [u8]) {
        self.store_bits(h, to);
    }

    #[inline(always)]
    fn lower_halves(self, a: __m256i, b: __m256i) -> __m256i {
        simd!(_mm256_blend_epi16::<0xaa>(a, _mm256_slli_epi32::<16>(b)))
    }

    #[inline(always)]
    fn add_pairs(self, sum: __m256i, h: __m256i) -> __m256i {
        simd!(_mm256_add_epi32(sum, _mm256_madd_epi16(h, _mm256_set1_epi16(1))))
    }

    #[inline(always)]
    fn add_squares(self, sum: __m256i, h: __m256i) -> __m256i {
        simd!(_mm256_add_epi32(sum, _mm256_madd_epi16(h, h)))
    }

    #[inline(always)]
    fn max_i16(self, a: __m256i, b: __m256i) -> __m256i {
        simd!(_mm256_max_epi16(a, b))
    }

    #[inline(always)]
    fn min_u16(self, a: __m256i, b: __m256i) -> __m256i {
        simd!(_mm256_min_epu16(a, b))
    }

    #[inline(always)]
    fn max_u16(self, a: __m256i, b: __m256i) -> __m256i {
        simd!(_mm256_max_epu16(a, b))
    }

    #[inline(always)]
    fn first_key16(self, max_signed: __m256i, min_unsigned: __m256i) -> i16 {
        simd!({
            let negative = _mm256_srai_epi16::<15>(max_signed);
            let flip = _mm256_set1_epi16(0x7fff);
            let turned =
                _mm256_blendv_epi8(_mm256_xor_si256(max_signed, flip), min_unsigned, negative);
            // The one horizontal instruction finds an unsigned minimum: the order is turned round.
            (self.min_of_u16(turned) ^ 0x7fff) as i16
        })
    }

    #[inline(always)]
    fn reduce_max_u16(self, h: __m256i) -> u16 {
        !self.min_of_u16(simd!(_mm256_xor_si256(h, _mm256_set1_epi16(-1))))
    }

    #[inline(always)]
    fn gt_i16(self, h: __m256i, flip: __m256i, bound: __m256i) -> u32 {
        simd!({
            let greater = _mm256_cmpgt_epi16(_mm256_xor_si256(h, flip), bound);
            let bytes = _mm_packs_epi16(
                _mm256_castsi256_si128(greater),
                _mm256_extracti128_si256::<1>(greater),
            );
            _mm_movemask_epi8(bytes) as u32
        })
    }

    #[inline(always)]
    fn no_sum(self) -> __m256i {
        simd!(_mm256_setzero_si256())
    }

    #[inline(always)]
    fn widen_add(self, w: __m256i, i: __m256i) -> __m256i {
        simd!({
            let even = _mm256_and_si256(i, _mm256_set1_epi64x(0xffff_ffff));
            let odd = _mm256_srli_epi64::<32>(i);
            _mm256_add_epi64(w, _mm256_add_epi64(even, odd))
        })
    }

    #[inline(always)]
    fn add_products(self, w: __m256i, a: __m256i, b: __m256i, shift: __m256i) -> __m256i {
        simd!({
            let low = _mm256_set1_epi64x(0xffff_ffff);
            let even = _mm256_srlv_epi64(_mm256_mul_epu32(a, b), _mm256_and_si256(shift, low));
            let product = _mm256_mul_epu32(_mm256_srli_epi64::<32>(a), _mm256_srli_epi64::<32>(b));
            let odd = _mm256_srlv_epi64(product, _mm256_srli_epi64::<32>(shift));
            _mm256_add_epi64(w, _mm256_add_epi64(even, odd))
        })
    }

    #[inline(always)]
    fn total(self, w: __m256i) -> u64 {
        simd!({
            let pair = _mm_add_epi64(_mm256_castsi256_si128(w), _mm256_extracti128_si256::<1>(w));
            let sum = _mm_add_epi64(pair, _mm_unpackhi_epi64(pair, pair));
            _mm_cvtsi128_si64(sum) as u64
        })
    }

    #[inline(always)]
    fn compress(self, bits: u32, x: __m256, to: &mut [f32]) {
        let order = self.load_u32(&ORDER[bits as usize & 255]);
        self.store(simd!(_mm256_permutevar8x32_ps(x, order)), to);
    }

    #[inline(always)]
    fn compress_u32(self, bits: u32, i: __m256i, to: &mut [u32]) {
        let order = self.load_u32(&ORDER[bits as usize & 255]);
        self.store_u32(simd!(_mm256_permutevar8x32_epi32(i, order)), to);
    }

    #[inline(always)]
    fn compress_bits16(self, bits: u32, h: __m256i, to: &mut [u8]) {
        let halves = simd!([_mm256_castsi256_si128(h), _mm256_extracti128_si256::<1>(h)]);
        let mut at = 0;
        for (half, bits) in halves.into_iter().zip([bits & 255, bits >> 8 & 255]) {
            let order = &BYTE_ORDER[bits as usize];
            let to: &mut [u8; 16] = to[at..].first_chunk_mut().expect("half a vector");
            // SAFETY: both arrays have 16 bytes; alignment is not needed.
            unsafe {
                let order = _mm_loadu_si128(order.as_ptr().cast());
                _mm_storeu_si128(to.as_mut_ptr().cast(), _mm_shuffle_epi8(half, order));
            }
            at += 2 * bits.count_ones() as usize;
        }
    }

    #[inline(always)]
    fn compress_bits32(self, bits: u32, i: __m256i, to: &mut [u8]) {
        let order = self.load_u32(&ORDER[bits as usize & 255]);
        self.store_bits(simd!(_mm256_permutevar8x32_epi32(i, order)), to);
    }
}

impl Avx2 {
    #[inline(always)]
    fn store_bits(self, i: __m256i, to: &mut [u8]) {
        let to: &mut [u8; 32] = to.first_chunk_mut().expect("a whole vector");
        // SAFETY: the array has 32 bytes; alignment is not needed.
        unsafe { _mm256_storeu_si256(to.as_mut_ptr().cast(), i) }
    }

    #[inline(always)]
    fn min_of_u16(self, h: __m256i) -> u16 {
        simd!({
            let half = _mm_min_epu16(_mm256_castsi256_si128(h), _mm256_extracti128_si256::<1>(h));
            _mm_extract_epi16::<0>(_mm_minpos_epu16(half)) as u16
        })
    }
}

/// For each set of lanes: their numbers in order, then zeros.
static ORDER: [[u32; LANES]; 256] = {
    let mut table = [[0; LANES]; 256];
    let mut bits = 0;
    while bits < 256 {
        let (mut lane, mut n) = (0, 0);
        while lane < LANES {
            if bits >> lane & 1 == 1 {
                table[bits][n] = lane as u32;
                n += 1;
            }
            lane += 1;
        }
        bits += 1;
    }
    table
};

/// [`ORDER`] for 16-bit lanes, as bytes.
static BYTE_ORDER: [[u8; 16]; 256] = {
    let mut table = [[0; 16]; 256];
    let mut bits = 0;
    while bits < 256 {
        let mut n = 0;
        while n < LANES {
            table[bits][2 * n] = 2 * ORDER[bits][n] as u8;
            table[bits][2 * n + 1] = 2 * ORDER[bits][n] as u8 + 1;
            n += 1;
        }
        bits += 1;
    }
    table
};
