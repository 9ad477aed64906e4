//! How far the logits of a row lie apart: top-n-sigma's two sums.
//!
//! ```text
//! for each logit above -inf: its z, their number, the sum of z and of z * z
//! ```
//!
//! Of one block the sums of `z` fit 32 bits; those of its squares take lanes of 64, and the compiler makes vectors of
//! the loop.

use super::blocks::{BLOCK, Blocks};
use super::element::Element;
use super::simd::{Kernel, Simd};
use super::team::Team;
use crate::arithmetic::deviation::{Deviation, z};
use std::ops::Range;
use std::sync::Mutex;

/// Blocks that are worth a thread's while.
const SPREAD_BLOCKS_MIN: usize = 128;

/// The sums over a row.
pub fn spread<S: Simd, E: Element>(s: S, team: &Team, blocks: Blocks<'_, E>) -> Deviation {
    let all = Mutex::new(Deviation::default());
    team.each(team.runs(blocks.len(), SPREAD_BLOCKS_MIN), |range| {
        let part = s.run(Spread { blocks, range });
        let mut all = all.lock().expect("no other thread panicked");
        *all = all.and(part);
    });
    all.into_inner().expect("no thread panicked")
}

struct Spread<'a, E> {
    blocks: Blocks<'a, E>,
    range: Range<usize>,
}

impl<S: Simd, E: Element> Kernel<S> for Spread<'_, E> {
    type Output = Deviation;

    #[inline(always)]
    fn call(self, s: S) -> Deviation {
        let mut all = Deviation::default();
        let mut x = [0.0; BLOCK];
        for block in self.range {
            let logits = self.blocks.get(block).chunks_exact(S::LANES * E::SIZE);
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
            all = all.and(Deviation { count: count.into(), sum: sum.into(), squares });
        }
        all
    }
}
