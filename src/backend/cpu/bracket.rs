//! The pass for a nucleus whose border is known roughly: everything that is needed of the tokens
//! above, within and below a bracket of logits, from one read.

use super::blocks::{Blocks, widened};
use super::element::Element;
use super::list::List;
use super::mass::{Sum, Weigher, Weights};
use super::simd::{Kernel, Simd};
use std::ops::Range;

/// Weighs every block as a whole, and its tokens from `end` on by themselves; appends to `list` the
/// tokens with `least <= x < end`.
pub struct Bracket<'a, E> {
    pub blocks: Blocks<'a, E>,
    pub range: Range<usize>,
    pub weights: Weights,
    pub least: f32,
    pub end: f32,
    pub list: &'a mut List,
    /// The mass of each block of `range` from `end` on.
    pub above: &'a mut [u64],
}

/// What a [`Bracket`] pass finds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Bracketed {
    /// The mass of all tokens.
    pub mass: u64,
    /// The number of tokens from `end` on.
    pub count_above: u64,
}

impl<S: Simd, E: Element> Kernel<S> for Bracket<'_, E> {
    type Output = Bracketed;

    #[inline(always)]
    fn call(self, s: S) -> Bracketed {
        let weigher = Weigher::for_any(s, self.weights);
        let (least, end) = (s.splat(self.least), s.splat(self.end));
        let step = s.splat_u32(S::LANES as u32);
        let mut out = Bracketed::default();
        for ((i, block), mass_above) in self.blocks.range(self.range).zip(self.above) {
            let mut ids = s.add(s.iota(), s.splat_u32((i * super::blocks::BLOCK) as u32));
            let (mut all, mut above) = (Sum::new(s), Sum::new(s));
            for x in widened::<S, E>(s, block) {
                let mass = weigher.split(s, x);
                let from_end = s.ge(x, end);
                let beyond = s.bits(from_end);
                all.add(s, mass);
                above.add_where(s, from_end, mass);
                out.count_above += u64::from(beyond.count_ones());
                self.list.push(s, s.bits(s.ge(x, least)) & !beyond, x, ids);
                ids = s.add(ids, step);
            }
            out.mass += all.total(s);
            *mass_above = above.total(s);
        }
        out
    }
}
