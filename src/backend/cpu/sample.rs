//! A sample of a row, from which the place of a cut is guessed.
//!
//! A sample decides how fast a cut is found, never where it is: the pass around a guess says whether
//! it was right. So masses are f32 here.

use super::blocks::{BLOCK, Blocks};
use super::element::Element;
use super::list::{bisect, lowest};
use super::mass::{Weigher, Weights};
use super::simd::{Kernel, Simd};

/// Tokens sampled in a block: whole vectors of every instruction set.
const SAMPLED: usize = 16;
/// Half the width of a guess, in standard deviations.
const DEVIATIONS: f64 = 2.5;
/// The share of the mass that block maxima may have in a row that a sample describes.
const HEAVY_SHARE: f64 = 0.1;

/// As many tokens from each block, at places that follow no pattern of the vocabulary.
#[derive(Debug, Default)]
pub struct Sample {
    /// Logits.
    x: Vec<f32>,
    /// Their masses, rounded.
    mass: Vec<f32>,
    /// The sum of the squares of their masses.
    squares: f64,
}

/// Two logits with a cut between them, or at one of them.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Span {
    /// -inf where nothing is known.
    pub low: f32,
    /// `None` where nothing is known.
    pub high: Option<f32>,
}

impl Sample {
    /// Takes and weighs a sample.
    pub fn take<S: Simd, E: Element>(&mut self, s: S, blocks: Blocks<'_, E>, weights: Weights) {
        let len = blocks.len() * SAMPLED;
        self.x.resize(len, 0.0);
        self.mass.resize(len, 0.0);
        self.squares = s.run(Take { blocks, weights, sample: self });
    }

    /// The share of the row's tokens from a logit on.
    pub fn share<S: Simd>(&self, s: S, least: f32) -> f64 {
        self.count(s, least) / self.x.len() as f64
    }

    /// A span that most likely has the `k`th largest logit, where the row has `vocab_size`.
    pub fn guess_count<S: Simd, E: Element>(
        &self,
        s: S,
        k: u64,
        vocab_size: u32,
        max: f32,
    ) -> Span {
        let expected = k as f64 * self.x.len() as f64 / f64::from(vocab_size);
        let margin = DEVIATIONS * expected.sqrt() + 2.0;
        let near = |want| near::<E>(want, margin / 4.0, lowest::<E>(), max, |x| self.count(s, x));
        Span {
            low: near(expected + margin).unwrap_or(f32::NEG_INFINITY),
            high: near(expected - margin),
        }
    }

    /// A span that most likely has the border of the nucleus `p`, before any sum is known. `None` if
    /// that cannot be told well: where few tokens have much of the mass (`maxima` are those of the
    /// blocks), or if more than `share_max` of all tokens are in it.
    ///
    /// What the sample estimates is the share of the mass below the border. Its variance has two
    /// parts: which of the tokens below are sampled, each with at most the border's mass; and
    /// how much mass was sampled at all.
    pub fn guess_flat_nucleus<S: Simd, E: Element>(
        &self,
        s: S,
        p: f32,
        maxima: &[f32],
        weights: Weights,
        share_max: f64,
    ) -> Option<Span> {
        let total = self.mass(s, f32::NEG_INFINITY);
        // Heavy tokens escape a sample; the maxima of the blocks have the heaviest.
        let heavy = s.run(Heavy { maxima, weights });
        if heavy * SAMPLED as f64 > HEAVY_SHARE * total * BLOCK as f64 {
            return None;
        }
        let (p, rest) = (f64::from(p), 1.0 - f64::from(p));
        let variance = |each: f64| rest * each * total + rest * rest * self.squares;
        let span = self.guess::<S, E>(s, p * total, variance, weights)?;
        let within = self.share(s, span.low) - self.share(s, span.high.unwrap_or(f32::INFINITY));
        (within <= share_max).then_some(span)
    }

    /// A span that most likely has the border of the nucleus with `spare` mass below it.
    ///
    /// The tokens below are many and light, so what is sampled of them tells their mass well,
    /// wherever the rest of the row's mass is.
    pub fn guess_nucleus<S: Simd, E: Element>(&self, s: S, spare: u64, weights: Weights) -> Span {
        let total = self.mass(s, f32::NEG_INFINITY);
        let below = spare as f64 * SAMPLED as f64 / BLOCK as f64;
        let span = self.guess::<S, E>(s, total - below, |each| below * each, weights);
        span.unwrap_or(Span { low: f32::NEG_INFINITY, high: None })
    }

    /// A logit below the border of the nucleus with `spare` mass below it, most likely, and not far
    /// below. `least` is certainly below.
    pub fn guess_nucleus_bound<S: Simd, E: Element>(
        &self,
        s: S,
        spare: u64,
        least: f32,
        weights: Weights,
    ) -> f32 {
        let total = self.mass(s, f32::NEG_INFINITY);
        let below = spare as f64 * SAMPLED as f64 / BLOCK as f64;
        let spared = |x| {
            let each = weights.mass(x) as f64;
            total - self.mass(s, x) + DEVIATIONS * (below * each).sqrt() + each <= below
        };
        bisect::<E>(least, weights.max, spared).unwrap_or(least)
    }

    /// A span around the logit from which on the sample has `want` mass. `variance` is that of the
    /// mass, given that of a token at the border.
    fn guess<S: Simd, E: Element>(
        &self,
        s: S,
        want: f64,
        variance: impl Fn(f64) -> f64,
        weights: Weights,
    ) -> Option<Span> {
        let mass = |x| self.mass(s, x);
        let (total, want) = (mass(f32::NEG_INFINITY), want.max(1.0));
        let rough = (total - want) / 4.0;
        let middle = near::<E>(want, rough, lowest::<E>(), weights.max, mass)?;
        let each = weights.mass(middle) as f64;
        let margin = DEVIATIONS * variance(each).sqrt() + each;
        let near = |want| near::<E>(want, margin / 4.0, lowest::<E>(), weights.max, mass);
        Some(Span {
            low: near(want + margin).unwrap_or(f32::NEG_INFINITY),
            high: near(want - margin),
        })
    }

    fn count<S: Simd>(&self, s: S, least: f32) -> f64 {
        s.run(CountFrom { x: &self.x, least })
    }

    fn mass<S: Simd>(&self, s: S, least: f32) -> f64 {
        s.run(MassFrom { sample: self, least })
    }
}

/// A logit between two from which on there is `want`, or up to `tolerance` more; or the greatest
/// from which on there is `want`, if there is much of it. `None` if there is not so much.
fn near<E: Element>(
    want: f64,
    tolerance: f64,
    low: f32,
    high: f32,
    measure: impl Fn(f32) -> f64,
) -> Option<f32> {
    let (mut below, mut above) = (E::key(low), E::key(high) + 1);
    let (mut from_below, mut from_above) = (measure(low), 0.0);
    if want <= 0.0 || from_below < want {
        return None;
    }
    while below + 1 < above && from_below - from_above > tolerance {
        let middle = below.midpoint(above);
        let from_middle = measure(E::value(middle));
        if from_middle >= want {
            (below, from_below) = (middle, from_middle);
        } else {
            (above, from_above) = (middle, from_middle);
        }
    }
    // Adding +0.0 makes a zero positive.
    Some(E::value(below) + 0.0)
}

/// Copies and weighs some tokens of every block.
struct Take<'a, E> {
    blocks: Blocks<'a, E>,
    weights: Weights,
    sample: &'a mut Sample,
}

impl<S: Simd, E: Element> Kernel<S> for Take<'_, E> {
    /// The sum of the squares of the masses.
    type Output = f64;

    #[inline(always)]
    fn call(self, s: S) -> f64 {
        let weigher = Weigher::for_small(s, self.weights);
        let mut squares = s.splat(0.0);
        let Sample { x, mass, .. } = self.sample;
        let outputs = x.chunks_exact_mut(SAMPLED).zip(mass.chunks_exact_mut(SAMPLED));
        for ((i, block), (x, mass)) in self.blocks.range(0..self.blocks.len()).zip(outputs) {
            // The upper bits of a multiple of the golden ratio.
            let place = ((i as u32).wrapping_mul(0x9e37_79b1) >> 16) as usize % (BLOCK / SAMPLED);
            for part in (0..SAMPLED).step_by(S::LANES) {
                let logits = E::widen(s, &block[(place * SAMPLED + part) * E::SIZE..]);
                let masses = weigher.power::<true>(s, logits);
                squares = s.fma(masses, masses, squares);
                s.store(logits, &mut x[part..]);
                s.store(masses, &mut mass[part..]);
            }
        }
        sum_lanes(s, squares)
    }
}

/// Counts the logits of a sample from one on.
struct CountFrom<'a> {
    x: &'a [f32],
    least: f32,
}

impl<S: Simd> Kernel<S> for CountFrom<'_> {
    type Output = f64;

    #[inline(always)]
    fn call(self, s: S) -> f64 {
        let least = s.splat(self.least);
        let mut count = 0;
        for x in self.x.chunks_exact(S::LANES) {
            count += s.bits(s.ge(s.load(x), least)).count_ones();
        }
        f64::from(count)
    }
}

/// Sums the masses of a sample from one logit on.
struct MassFrom<'a> {
    sample: &'a Sample,
    least: f32,
}

impl<S: Simd> Kernel<S> for MassFrom<'_> {
    type Output = f64;

    #[inline(always)]
    fn call(self, s: S) -> f64 {
        let least = s.splat(self.least);
        let zero = s.splat(0.0);
        let mut sums = [zero; 4];
        let Sample { x, mass, .. } = self.sample;
        for (x, mass) in x.chunks_exact(SAMPLED * 4).zip(mass.chunks_exact(SAMPLED * 4)) {
            for i in (0..SAMPLED * 4).step_by(S::LANES) {
                let kept = s.keep_floats(s.ge(s.load(&x[i..]), least), s.load(&mass[i..]));
                let sum = &mut sums[i / S::LANES % 4];
                *sum = s.add_floats(*sum, kept);
            }
        }
        let rest = x.len() / (SAMPLED * 4) * (SAMPLED * 4);
        for i in (rest..x.len()).step_by(S::LANES) {
            let kept = s.keep_floats(s.ge(s.load(&x[i..]), least), s.load(&mass[i..]));
            sums[0] = s.add_floats(sums[0], kept);
        }
        let [a, b, c, d] = sums;
        sum_lanes(s, s.add_floats(s.add_floats(a, b), s.add_floats(c, d)))
    }
}

/// Sums the masses of the block maxima.
struct Heavy<'a> {
    maxima: &'a [f32],
    weights: Weights,
}

impl<S: Simd> Kernel<S> for Heavy<'_> {
    type Output = f64;

    #[inline(always)]
    fn call(self, s: S) -> f64 {
        let weigher = Weigher::for_small(s, self.weights);
        let mut sum = s.splat(0.0);
        let vectors = self.maxima.chunks_exact(S::LANES);
        let mut rest = [f32::NEG_INFINITY; 16];
        rest[..vectors.remainder().len()].copy_from_slice(vectors.remainder());
        for x in vectors {
            sum = s.add_floats(sum, weigher.power::<true>(s, s.load(x)));
        }
        sum = s.add_floats(sum, weigher.power::<true>(s, s.load(&rest)));
        sum_lanes(s, sum)
    }
}

#[inline(always)]
fn sum_lanes<S: Simd>(s: S, x: S::F) -> f64 {
    let mut lanes = [0.0; 16];
    s.store(x, &mut lanes);
    lanes.into_iter().map(f64::from).sum()
}
