//! An estimate of where a cut is, from a sample of the row's tokens.
//!
//! An estimate decides how fast a cut is found, never where the cut is: the pass around a guess says
//! whether the guess was right. So masses are f32 here.

use super::blocks::{BLOCK, Blocks};
use super::element::Element;
use super::list::{bisect, lowest};
use super::mass::{Weigher, Weights};
use super::simd::{Kernel, Simd};

/// Tokens sampled in a block: whole vectors of every instruction set.
const SAMPLED: usize = 16;
/// The share of the row that is sampled.
const ROW_SHARE: f64 = SAMPLED as f64 / BLOCK as f64;
/// How sure a guess is to be right.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Certainty {
    /// Wrong once in a hundred times.
    Likely,
    /// For when a likely guess was wrong.
    AlmostCertain,
}

impl Certainty {
    /// Half the width of a guess, in standard deviations.
    fn deviations(self) -> f64 {
        match self {
            Self::Likely => 2.5,
            Self::AlmostCertain => 8.0,
        }
    }

    /// The least half width of a guess, in tokens of the sample: neighbours may be alike, so the tokens sampled in
    /// one block may all be on the same side of a cut.
    fn tokens(self) -> f64 {
        self.deviations() * 0.6 * SAMPLED as f64
    }
}

/// A sample of a row: [`SAMPLED`] tokens from each block, at places that follow no pattern of the vocabulary.
#[derive(Debug, Default)]
pub struct Estimate {
    /// Logits.
    x: Vec<f32>,
    /// The tokens' masses, rounded; 0 for tokens that were left out.
    mass: Vec<f32>,
    /// The tokens that were left out because their mass is known.
    heavy: Option<Heavy>,
}

/// The heaviest tokens of a row, which escape a sample.
#[derive(Clone, Copy, Debug)]
pub struct Heavy {
    /// The least logit among them.
    pub least: f32,
    /// Their mass.
    pub mass: u64,
}

/// Two logits with a cut between them, or at one of them.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Span {
    /// -inf where nothing is known.
    pub low: f32,
    /// `None` where nothing is known.
    pub high: Option<f32>,
}

impl Span {
    /// Where nothing is known.
    pub const ANYWHERE: Self = Self { low: f32::NEG_INFINITY, high: None };

    /// What this span and another have in common, or this span if that is nothing.
    pub fn within(self, other: Self) -> Self {
        let low = self.low.max(other.low);
        let high = self.high.into_iter().chain(other.high).reduce(f32::min);
        if high.is_none_or(|high| low < high) { Self { low, high } } else { self }
    }
}

impl Estimate {
    /// Takes and weighs a sample.
    pub fn take<S: Simd, E: Element>(&mut self, s: S, blocks: Blocks<'_, E>, weights: Weights) {
        let len = blocks.len() * SAMPLED;
        self.x.resize(len, 0.0);
        self.mass.resize(len, 0.0);
        self.heavy = None;
        s.run(Take { blocks, weights, estimate: self });
    }

    /// Leaves out the tokens below a logit: those that top-k drops.
    pub fn leave_out_below<S: Simd>(&mut self, s: S, least: f32) {
        s.run(LeaveOut { estimate: self, least, end: f32::INFINITY });
    }

    /// Replaces the heaviest tokens of the sample by the mass of the row's heaviest tokens.
    pub fn leave_out_heavy<S: Simd>(&mut self, s: S, heavy: Heavy) {
        s.run(LeaveOut { estimate: self, least: f32::NEG_INFINITY, end: heavy.least });
        self.heavy = Some(heavy);
    }

    /// The row's mass, most likely and roughly.
    pub fn row_mass<S: Simd>(&self, s: S) -> f64 {
        self.mass(s, f32::NEG_INFINITY) / ROW_SHARE
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
        certainty: Certainty,
    ) -> Span {
        let expected = k as f64 * self.x.len() as f64 / f64::from(vocab_size);
        let margin = (certainty.deviations() * expected.sqrt() + 2.0).max(certainty.tokens());
        let near = |want| near::<E>(want, margin / 4.0, lowest::<E>(), max, |x| self.count(s, x));
        Span {
            low: near(expected + margin).unwrap_or(f32::NEG_INFINITY),
            high: near(expected - margin),
        }
    }

    /// A span that may have the border of a nucleus with some share of the mass, before any sum is known. Nothing
    /// is known if the border is among the heaviest tokens.
    pub fn guess_flat_nucleus<S: Simd, E: Element>(
        &self,
        s: S,
        share: f64,
        weights: Weights,
        certainty: Certainty,
    ) -> Span {
        let total = self.mass(s, f32::NEG_INFINITY);
        if share * total <= self.heavy_mass() {
            return Span::ANYWHERE;
        }
        self.guess::<S, E>(s, share * total, 1.0 - share, weights, certainty)
    }

    /// The share of the row's tokens within a span.
    pub fn share_within<S: Simd>(&self, s: S, span: Span) -> f64 {
        self.share(s, span.low) - span.high.map_or(0.0, |high| self.share(s, high))
    }

    /// A span that most likely has the border of the nucleus with `spare` mass below it.
    ///
    /// The tokens below are many and light, so what is sampled of them tells their mass well,
    /// wherever the rest of the row's mass is.
    pub fn guess_nucleus<S: Simd, E: Element>(
        &self,
        s: S,
        spare: u64,
        weights: Weights,
        certainty: Certainty,
    ) -> Span {
        let total = self.mass(s, f32::NEG_INFINITY);
        self.guess::<S, E>(s, total - spare as f64 * ROW_SHARE, 0.0, weights, certainty)
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
        let below = spare as f64 * ROW_SHARE;
        let deviations = Certainty::Likely.deviations();
        let spared = |x| {
            let each = weights.mass(x) as f64;
            total - self.mass(s, x) + deviations * (below * each).sqrt() + each <= below
        };
        bisect::<E>(least, weights.max, spared).unwrap_or(least)
    }

    /// A span around the logit from which on the sample has `want` mass.
    ///
    /// What is estimated is the mass below the border, or, where the row's mass is estimated too, its
    /// share `rest` of that. The blocks are sampled independently, so the variance is the sum of
    /// `(below - rest * all)^2` over the blocks, less that of their mean.
    fn guess<S: Simd, E: Element>(
        &self,
        s: S,
        want: f64,
        rest: f64,
        weights: Weights,
        certainty: Certainty,
    ) -> Span {
        let mass = |x| self.mass(s, x);
        let (total, want) = (mass(f32::NEG_INFINITY), want.max(1.0));
        let end = self.heavy.map_or(weights.max, |heavy| heavy.least);
        let near = |want: f64, tolerance| {
            if want <= self.heavy_mass() {
                return Some(end);
            }
            near::<E>(want, tolerance, lowest::<E>(), end, mass)
        };
        let Some(middle) = near(want, (total - want) / 4.0) else {
            return Span::ANYWHERE;
        };
        let variance = s.run(Variance { estimate: self, least: middle, rest: rest as f32 });
        let each = weights.mass(middle) as f64;
        let margin =
            (certainty.deviations() * variance.sqrt() + each).max(certainty.tokens() * each);
        let high = (want - margin > self.heavy_mass()).then(|| near(want - margin, margin / 4.0));
        Span {
            low: near(want + margin, margin / 4.0).unwrap_or(f32::NEG_INFINITY),
            high: high.flatten(),
        }
    }

    /// The mass of the heaviest tokens, as a sample with its share of them would measure it.
    fn heavy_mass(&self) -> f64 {
        self.heavy.map_or(0.0, |heavy| heavy.mass as f64 * ROW_SHARE)
    }

    fn count<S: Simd>(&self, s: S, least: f32) -> f64 {
        s.run(CountFrom { x: &self.x, least })
    }

    fn mass<S: Simd>(&self, s: S, least: f32) -> f64 {
        self.heavy_mass() + s.run(MassFrom { estimate: self, least })
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
    estimate: &'a mut Estimate,
}

impl<S: Simd, E: Element> Kernel<S> for Take<'_, E> {
    type Output = ();

    #[inline(always)]
    fn call(self, s: S) {
        let weigher = Weigher::for_small(s, self.weights);
        let Estimate { x, mass, .. } = self.estimate;
        let outputs = x.chunks_exact_mut(SAMPLED).zip(mass.chunks_exact_mut(SAMPLED));
        for ((i, block), (x, mass)) in self.blocks.range(0..self.blocks.len()).zip(outputs) {
            // The upper bits of a multiple of the golden ratio.
            let place = ((i as u32).wrapping_mul(0x9e37_79b1) >> 16) as usize % (BLOCK / SAMPLED);
            for part in (0..SAMPLED).step_by(S::LANES) {
                let logits = E::widen(s, &block[(place * SAMPLED + part) * E::SIZE..]);
                let masses = weigher.power::<true>(s, logits);
                s.store(logits, &mut x[part..]);
                s.store(masses, &mut mass[part..]);
            }
        }
    }
}

/// Takes the masses of the tokens below `least` and from `end` on out of a sample.
struct LeaveOut<'a> {
    estimate: &'a mut Estimate,
    least: f32,
    end: f32,
}

impl<S: Simd> Kernel<S> for LeaveOut<'_> {
    type Output = ();

    #[inline(always)]
    fn call(self, s: S) {
        let (least, end) = (s.splat(self.least), s.splat(self.end));
        let Estimate { x, mass, .. } = self.estimate;
        for (x, mass) in x.chunks_exact(S::LANES).zip(mass.chunks_exact_mut(S::LANES)) {
            let x = s.load(x);
            let kept = s.bits(s.ge(x, least)) & !s.bits(s.ge(x, end));
            s.store(s.keep_floats(s.mask(kept), s.load(mass)), mass);
        }
    }
}

/// Estimates the variance of the sum, over the blocks, of `below - rest * all`, where `below` is the
/// mass of a block's sample below `least` and `all` that of all of it.
struct Variance<'a> {
    estimate: &'a Estimate,
    least: f32,
    rest: f32,
}

impl<S: Simd> Kernel<S> for Variance<'_> {
    type Output = f64;

    #[inline(always)]
    fn call(self, s: S) -> f64 {
        let least = s.splat(self.least);
        let Estimate { x, mass, .. } = self.estimate;
        let (mut sum, mut squares) = (0.0, 0.0);
        for (x, mass) in x.chunks_exact(SAMPLED).zip(mass.chunks_exact(SAMPLED)) {
            let (mut all, mut above) = (s.splat(0.0), s.splat(0.0));
            for i in (0..SAMPLED).step_by(S::LANES) {
                let masses = s.load(&mass[i..]);
                all = s.add_floats(all, masses);
                let kept = s.keep_floats(s.ge(s.load(&x[i..]), least), masses);
                above = s.add_floats(above, kept);
            }
            let below = s.sub(all, above);
            let rest = s.mul(all, s.splat(self.rest));
            let difference = sum_lanes(s, s.sub(below, rest));
            sum += difference;
            squares += difference * difference;
        }
        let blocks = (x.len() / SAMPLED) as f64;
        (squares - sum * sum / blocks).max(0.0)
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
    estimate: &'a Estimate,
    least: f32,
}

impl<S: Simd> Kernel<S> for MassFrom<'_> {
    type Output = f64;

    #[inline(always)]
    fn call(self, s: S) -> f64 {
        let least = s.splat(self.least);
        let zero = s.splat(0.0);
        let mut sums = [zero; 4];
        let Estimate { x, mass, .. } = self.estimate;
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

#[inline(always)]
fn sum_lanes<S: Simd>(s: S, x: S::F) -> f64 {
    let mut lanes = [0.0f32; 16];
    s.store(x, &mut lanes);
    for half in [8, 4, 2, 1] {
        for i in 0..half {
            lanes[i] += lanes[i + half];
        }
    }
    f64::from(lanes[0])
}
