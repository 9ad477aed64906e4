//! How far the logits of a row lie apart: top-n-sigma's two sums.
//!
//! ```text
//! for each logit above -inf: its z, their number, the sum of z and of z * z
//! ```
//!
//! 1. Where no logit of the row is 32 or more away from a centre, z less the centre's has 16 bits: with 1.5 * 2^23 added it is the
//!    lower half of a float's bits. Two vectors of halves are one of pairs, and one instruction each adds these, and their squares; sums
//!    of two pairs' squares fit 32 bits, and sums of four where all logits are within 22.6 of the centre. Of one block so does the sum of z.
//! 2. Sums of blocks are added up vector by vector: what a vector's lanes are together is asked once a run.
//! 3. Elsewhere, and in a block that is filled up, the squares take lanes of 64, and the compiler makes vectors of the loop.
//!
//! Floor of 64 tokens in AVX-512, near the centre: 8 instructions to widen, 4 to scale and round, 4 to pair, 4 to add the pairs and their
//! squares, and 2 to 4 to add these up in 64 bits: 22 to 24, of which 4 run at once. Measured of 128,256 f16 in cache: 3.1 us, of which
//! widening alone takes 1.7, and 18 further away.

use super::blocks::{BLOCK, Blocks};
use super::element::Element;
use super::passes::ScannedRow;
use super::simd::{Kernel, Simd};
use crate::arithmetic::deviation::{Deviation, UNITS, z};
use crate::arithmetic::mass::ROUND;
use std::ops::Range;
use std::sync::Mutex;

/// Blocks that are worth a thread's while.
const SPREAD_BLOCKS_MIN: usize = 128;

/// How far a z may be from the centre's: it has 16 bits, and two pairs of squares have a sum of 32.
const NEAR: i32 = 32_767;
/// How far a z may be from the centre's for four pairs of squares to have a sum of 32 bits: 8 * 23,170^2 is less than 2^32.
const CLOSE: i32 = 23_170;
/// More than z less the centre's comes to in a lane over a block: 32 or 64 of [`NEAR`].
const LANE_MAX: u32 = 1 << 22;
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
    centre: Option<Centre>,
}

/// What the logits of a row lie around.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Centre {
    /// An even z that those of all logits are [`NEAR`].
    z: i32,
    /// Whether they are [`CLOSE`].
    is_close: bool,
}

/// The centre of logits between two.
fn centre(min: f32, max: f32) -> Option<Centre> {
    if min < -UNCLAMPED || max > UNCLAMPED {
        return None;
    }
    // Even, so that what is halfway between two is rounded to the same.
    let centre = z(min).midpoint(z(max)) & !1;
    let far = (z(max) - centre).max(centre - z(min));
    (far <= NEAR).then_some(Centre { z: centre, is_close: far <= CLOSE })
}

impl<S: Simd, E: Element> Kernel<S> for Spread<'_, E> {
    type Output = Deviation;

    #[inline(always)]
    fn call(self, s: S) -> Deviation {
        let Self { blocks, range, centre } = self;
        let mut all = Deviation::default();
        let mut near = Near::new(s, centre.map_or(0, |centre| centre.z));
        for (i, block) in blocks.range(range) {
            match centre {
                Some(centre) if !blocks.is_filled_up(i) => match centre.is_close {
                    true => near.add::<E, 2>(s, block),
                    false => near.add::<E, 1>(s, block),
                },
                _ => all = all.and(any::<S, E>(s, block)),
            }
        }
        all.and(near.sums(s))
    }
}

/// The sums over blocks whose logits are near a centre, of y: of z = centre + y.
struct Near<S: Simd> {
    centre: i32,
    blocks: u64,
    /// And [`LANE_MAX`] more a block, in every lane of 32 bits.
    sum: S::W,
    squares: S::W,
}

impl<S: Simd> Near<S> {
    #[inline(always)]
    fn new(s: S, centre: i32) -> Self {
        Self { centre, blocks: 0, sum: s.no_sum(), squares: s.no_sum() }
    }

    /// Adds a block. The squares of so many vectors, times [`VECTORS`], have a sum of 32 bits.
    #[inline(always)]
    fn add<E: Element, const TIMES: usize>(&mut self, s: S, block: &[u8]) {
        let (units, round) = (s.splat(UNITS), s.splat(ROUND - self.centre as f32));
        let bytes = S::LANES * E::SIZE;
        // Two sums, since one would have to wait for itself.
        let mut sums = [s.splat_u32(LANE_MAX), s.splat_u32(0)];
        for vectors in block.chunks_exact(TIMES * VECTORS * bytes) {
            let mut squares = s.splat_u32(0);
            for vectors in vectors.chunks_exact(VECTORS * bytes) {
                // Products are exact: rounded once or twice is the same.
                let y =
                    |i: usize| s.as_ints(s.fma(E::widen(s, &vectors[i * bytes..]), units, round));
                for (i, sum) in sums.iter_mut().enumerate() {
                    let pairs = s.lower_halves(y(2 * i), y(2 * i + 1));
                    *sum = s.add_pairs(*sum, pairs);
                    squares = s.add_squares(squares, pairs);
                }
            }
            self.squares = s.widen_add(self.squares, squares);
        }
        let sum = s.add(sums[0], sums[1]);
        self.sum = s.widen_add(self.sum, sum);
        self.blocks += 1;
    }

    #[inline(always)]
    fn sums(self, s: S) -> Deviation {
        let centre = i128::from(self.centre);
        let count = self.blocks * BLOCK as u64;
        let more = self.blocks * S::LANES as u64 * u64::from(LANE_MAX);
        let sum = s.total(self.sum).wrapping_sub(more) as i64;
        // The squares are those of y, and 2 * centre * y, and the centre's.
        let cross = centre * (2 * i128::from(sum) + i128::from(count) * centre);
        let squares = i128::from(s.total(self.squares)) + cross;
        Deviation { count, sum: sum + count as i64 * centre as i64, squares: squares as u64 }
    }
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
        let wide = near.map(|near| Centre { is_close: false, ..near });
        for centre in [near, wide, None] {
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
        // As far apart as is near or close, in the first place and in all; half of them at either end; and zeros.
        let far = |i: usize| if i == 0 { -1969.0 } else { -1969.0 + 65_532.0 / 1024.0 };
        let close = |i: usize| [-1969.0, -1969.0 + 46_340.0 / 1024.0][i / 300 % 2];
        let halves = |i: usize| [-31.999, 31.998][i / 700 % 2];
        for x in [
            (0..1024).map(far).collect(),
            (0..2048).map(close).collect(),
            (0..2048).map(halves).collect(),
            vec![-1999.9; 1024],
            vec![-0.0; 1024],
        ] {
            expect::<S, F32>(s, &x);
        }
    }

    #[test]
    fn what_is_far_apart_has_no_centre() {
        assert_eq!(centre(-39.25, 3.5), Some(Centre { z: -18_304, is_close: true }));
        let [close, near] = [22.627, 22.628].map(|x| centre(-x, x).expect("not far"));
        assert!(close.is_close && !near.is_close);
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
