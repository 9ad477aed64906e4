//! Masses and surprisals of a few thousand logits, one by one.
//!
//! ```text
//! for each logit: its mass, its surprisal, its term
//! ```
//!
//! The formula is the scalar one: compiled with the instructions turned on, its fused operations are instructions instead of
//! calls, and the compiler makes vectors of the loop. Elsewhere ([`intervals`](super::intervals)) sums alone are wanted, and
//! lanes of 32 bits are enough for most of them; here each mass is kept, so that lanes are of 64 bits.

use super::simd::{Kernel, Simd};
use crate::arithmetic::mass::Scale;
use crate::arithmetic::surprisal::{Surprisal, surprisal};

/// Where [`Surprisal`]s go, field by field.
#[derive(Debug)]
pub struct SurprisalSlices<'a> {
    /// Masses.
    pub mass: &'a mut [u64],
    /// Surprisals.
    pub g: &'a mut [u32],
    /// Terms.
    pub term: &'a mut [u64],
}

pub struct Surprisals<'a> {
    pub x: &'a [f32],
    pub max: f32,
    pub scale: Scale,
    pub to: SurprisalSlices<'a>,
}

impl<S: Simd> Kernel<S> for Surprisals<'_> {
    type Output = ();

    #[inline(always)]
    fn call(self, _: S) {
        let Self { x, max, scale, to: SurprisalSlices { mass, g, term } } = self;
        let count = x.len();
        assert!(mass.len() == count && g.len() == count && term.len() == count, "a place a logit");
        for i in 0..count {
            let found: Surprisal = surprisal(x[i], max, scale);
            (mass[i], g[i], term[i]) = (found.mass, found.g, found.term);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Isa, surprisals};
    use super::*;

    #[test]
    fn every_instruction_set_says_what_the_definition_says() {
        let x: Vec<f32> = (0..0x7c00u16).map(|bits| -half::f16::from_bits(bits).to_f32()).collect();
        for isa in Isa::supported() {
            for temperature in [1e-30, 0.05, 0.7, 1.0, 1e4] {
                let scale = Scale::new(temperature);
                let (mut mass, mut term) = (vec![1; x.len()], vec![1; x.len()]);
                let mut g = vec![1; x.len()];
                let to = SurprisalSlices { mass: &mut mass, g: &mut g, term: &mut term };
                surprisals(isa, &x, 0.0, scale, to);
                for (i, &x) in x.iter().enumerate() {
                    let found = Surprisal { mass: mass[i], g: g[i], term: term[i] };
                    assert_eq!(found, surprisal(x, 0.0, scale), "{isa}: {x} at {temperature}");
                }
            }
        }
    }
}
