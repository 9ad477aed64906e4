//! How far the logits of a row lie apart: top-n-sigma's two sums.
//!
//! ```text
//! for each logit above -inf: its z, their number, the sum of z and of z * z
//! ```
//!
//! 1. Where no logit of the row is 32 or more away from a centre, z less the centre's has 16 bits: with 1.5 * 2^23 added it is the
//!    lower half of a float's bits. Two vectors of halves are one of pairs, and one instruction squares and adds these; sums of
//!    two of them fit 32 bits. Of one block so does the sum of z.
//! 2. Elsewhere, and in a block that is filled up, the squares take lanes of 64, and the compiler makes vectors of the loop.
//!
//! Floor of 64 tokens in AVX-512, near the centre: 8 instructions to widen, 4 to scale and round, 4 to add, 7 to pair, square and add, and 5 to
//! add that up in 64 bits: 28. A logit further away costs twice as much. Measured over 128,256 f16
//! in AVX-512: 7 us, and 18 further away.

use super::blocks::{BLOCK, Blocks};
use super::element::Element;
use super::passes::ScannedRow;
use super::simd::{Kernel, Simd};
use crate::arithmetic::deviation::{Deviation, UNITS, z};
use crate::arithmetic::mass::{ROUND, ROUND_BITS};
use std::ops::Range;
use std::sync::Mutex;

/// Blocks that are worth a thread's while.
const SPREAD_BLOCKS_MIN: usize = 128;

/// How far a z may be from the centre's: it has 16 bits, and two pairs of squares have a sum of 32.
const NEAR: i32 = 32_767;
/// Logits whose z need not be clamped, and has a float of its own when 1.5 * 2^23 is added.
const UNCLAMPED: f32 = 2000.0;
/// Vectors that are summed at once.
const VECTORS: usize = 4;

/// The sums over a row.
pub fn spread<S: Simd, E: Element>(row: &ScannedRow<'_, S, E>) -> Deviation {
    let ScannedRow { s, team, blocks, weights, .. } = *row;
    let centre = centre(weights.min, weights.max);
    let all = Mutex::new(Deviation::default());
    team.each(team.runs(blocks.len(), SPREAD_BLOCKS_MIN), |range| {
        let part = s.run(Spread { blocks, range, centre });
        let mut all = all.lock().expect("no other thread panicked");
        *all = all.and(part);
    });
    all.into_inner().expect("no thread panicked")
}

struct Spread<'a, E> {
    blocks: Blocks<'a, E>,
    range: Range<usize>,
    /// An even z that those of all logits of the row are [`NEAR`].
    centre: Option<i32>,
}

/// The centre of logits between two.
fn centre(min: f32, max: f32) -> Option<i32> {
    if min < -UNCLAMPED || max > UNCLAMPED {
        return None;
    }
    // Even, so that what is halfway between two is rounded to the same.
    let centre = z(min).midpoint(z(max)) & !1;
    (z(max) - centre <= NEAR && centre - z(min) <= NEAR).then_some(centre)
}

impl<S: Simd, E: Element> Kernel<S> for Spread<'_, E> {
    type Output = Deviation;

    #[inline(always)]
    fn call(self, s: S) -> Deviation {
        let Self { blocks, range, centre } = self;
        let mut all = Deviation::default();
        for (i, block) in blocks.range(range) {
            all = all.and(match centre {
                Some(centre) if !blocks.is_filled_up(i) => near::<S, E>(s, block, centre),
                _ => any::<S, E>(s, block),
            });
        }
        all
    }
}

/// The sums over a block whose logits are near a centre.
#[inline(always)]
fn near<S: Simd, E: Element>(s: S, block: &[u8], centre: i32) -> Deviation {
    let (units, round) = (s.splat(UNITS), s.splat(ROUND - centre as f32));
    let bytes = S::LANES * E::SIZE;
    let (mut sum, mut squares) = (s.splat_u32(0), s.no_sum());
    for vectors in block.chunks_exact(VECTORS * bytes) {
        // Products are exact: rounded once or twice is the same.
        let z = |i: usize| s.as_ints(s.fma(E::widen(s, &vectors[i * bytes..]), units, round));
        let [a, b, c, d] = [z(0), z(1), z(2), z(3)];
        sum = s.add(sum, s.add(s.add(a, b), s.add(c, d)));
        let (ab, cd) = (s.lower_halves(a, b), s.lower_halves(c, d));
        squares = s.widen_add(squares, s.add(s.square_pairs(ab), s.square_pairs(cd)));
    }
    let rounds = (BLOCK as u32).wrapping_mul(ROUND_BITS);
    let sum = s.total(s.widen_add(s.no_sum(), sum)) as u32;
    let sum = i64::from(sum.wrapping_sub(rounds) as i32);
    let (count, centre) = (BLOCK as i64, i64::from(centre));
    // Of z = centre + y: the squares are those of y, and 2 * centre * y, and the centre's.
    let squares = s.total(squares) as i64 + centre * (2 * sum + count * centre);
    Deviation { count: count as u64, sum: sum + count * centre, squares: squares as u64 }
}

/// The sums over any block.
#[inline(always)]
fn any<S: Simd, E: Element>(s: S, block: &[u8]) -> Deviation {
    let mut x = [0.0; BLOCK];
    let logits = block.chunks_exact(S::LANES * E::SIZE);
    for (logits, x) in logits.zip(x.chunks_exact_mut(S::LANES)) {
        s.store(E::widen(s, logits), x);
    }
    let (mut count, mut sum, mut squares) = (0u32, 0i32, 0u64);
    for &x in &x {
        let is_there = x > f32::NEG_INFINITY;
        let z = if is_there { z(x) } else { 0 };
        count += u32::from(is_there);
        sum += z;
        squares += (i64::from(z) * i64::from(z)) as u64;
    }
    Deviation { count: count.into(), sum: sum.into(), squares }
}

#[cfg(test)]
mod tests {
    use super::super::blocks::Filler;
    use super::super::element::{Bf16, F16, F32};
    use super::super::portable::Portable;
    use super::*;
    #[cfg(target_arch = "x86_64")]
    use crate::backend::skipped::skipped;

    fn expect<S: Simd, E: Element>(s: S, x: &[f32]) {
        let mut logits = vec![0; x.len() * E::SIZE];
        for (x, to) in x.iter().zip(logits.chunks_exact_mut(E::SIZE)) {
            E::write(E::key(*x), to);
        }
        let x: Vec<f32> = logits.chunks_exact(E::SIZE).map(E::read).collect();
        let expected = x.iter().fold(Deviation::default(), |sums, &x| sums.with(x, 1));
        let mut tail = [0; BLOCK * 4];
        let blocks = Blocks::<E>::new(&logits, &mut tail, Filler::NegativeInfinity);
        let [least, greatest] = [f32::min, f32::max].map(|of| x.iter().copied().reduce(of));
        let near = centre(least.expect("tokens"), greatest.expect("tokens"));
        assert!(near.is_some(), "all are near");
        for centre in [near, None] {
            let range = 0..blocks.len();
            assert_eq!(s.run(Spread { blocks, range, centre }), expected, "{centre:?}");
        }
    }

    fn expect_all<S: Simd>(s: S) {
        let spread = |i: usize| ((i * 7919) % 5000) as f32 / 2500.0 - 1.0;
        for (scale, tokens) in [(31.5, 5000), (1.0, 1536), (1e-3, 600), (1e-6, 1), (0.0, 512)] {
            for middle in [0.0, -30.25, 500.0] {
                let x: Vec<f32> = (0..tokens).map(|i| middle + spread(i) * scale).collect();
                // Of 8 bits, numbers about 500 are 2 apart.
                if middle < 100.0 {
                    expect::<S, Bf16>(s, &x);
                }
                expect::<S, F16>(s, &x);
                expect::<S, F32>(s, &x);
            }
        }
        // As far apart as is near, in the first place and in all; and zeros.
        let far = |i: usize| if i == 0 { -1969.0 } else { -1969.0 + 65_532.0 / 1024.0 };
        for x in [(0..1024).map(far).collect(), vec![-1999.9; 1024], vec![-0.0; 1024]] {
            expect::<S, F32>(s, &x);
        }
    }

    #[test]
    fn what_is_far_apart_has_no_centre() {
        assert_eq!(centre(-39.25, 3.5), Some(-18_304));
        assert_eq!(centre(-32.0, 32.0), None);
        assert_eq!(centre(f32::NEG_INFINITY, 0.0), None);
        assert_eq!(centre(2001.0, 2001.0), None);
    }

    #[test]
    fn sums_near_a_centre_are_those_of_the_definition() {
        expect_all(Portable);
        #[cfg(target_arch = "x86_64")]
        {
            let missing = |name| skipped(name, "this machine does not have it");
            match super::super::avx2::Avx2::new() {
                Some(s) => expect_all(s),
                None => missing("spreads of AVX2"),
            }
            match super::super::avx512::Avx512::new() {
                Some(s) => expect_all(s),
                None => missing("spreads of AVX-512"),
            }
        }
    }
}
