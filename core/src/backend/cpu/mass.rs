//! Masses, vector by vector.
//!
//! ```text
//! for each token: sum += mass(x)
//! ```
//!
//! 1. The mass is the integer part of `p * 2^(n + 40)`, where `p` is the polynomial and `n` an
//!    integer. Scaling by a power of two commutes with rounding, so the coefficients carry the
//!    2^40, `n` is added to the exponent of the result, and one conversion truncates it: three
//!    instructions instead of seven that take the float apart. Per vector of tokens: convert,
//!    subtract, clamp, three for the exponent and fraction, six for the polynomial, three for the
//!    power, one for the sum: 16.
//! 2. A mass has up to 41 bits, a lane 32. Where the block's maximum shows that all its masses stay
//!    below 2^28, sixteen of them add up in a lane ([`Weights::size_of`] says which).
//!    Elsewhere a mass is split, exactly, in `high * 2^16 + low`: five instructions more.
//!
//! The passes that sum masses up are in [`block_masses`](super::block_masses).

use super::element::Element;
use super::simd::Simd;
use crate::arithmetic::mass::{C, ROUND, Scale};

/// Weighs the tokens of one row.
#[derive(Clone, Copy, Debug)]
pub struct Weights {
    /// The row's greatest logit.
    pub max: f32,
    /// No logit is less.
    pub min: f32,
    /// Its temperature.
    pub scale: Scale,
}

/// More than what `d * c` and the logarithm of a power are off by, in octaves: 5e-6 down to -62.
const MARGIN: f32 = 1.0 / 1024.0;
/// Where `d * c` is less, the power is below 2^-40, a unit, and the mass is 0.
const NOTHING_BELOW: f32 = -40.0 - MARGIN;
/// Where `d * c` is less, masses are below 2^28.
const SMALL_BELOW: f32 = -12.0 - MARGIN;
/// Where `d * c` is less, the term is 0: the power times `-d * c` is below 2^-44, a unit of terms, by a hundredth, and more so further down.
const NO_TERM_BELOW: f32 = -49.65;

/// What is known of the masses of a block from the greatest logit among them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Size {
    /// All are 0.
    Nothing,
    /// All are below 2^28.
    Small,
    /// Up to 2^40.
    Any,
}

impl Weights {
    /// The mass of one token.
    pub fn mass(&self, x: f32) -> u64 {
        crate::arithmetic::mass::mass(x, self.max, self.scale)
    }

    /// A logit such that it and everything below have no mass, and it need not be clamped. `None`
    /// where the dtype has none.
    pub fn massless<E: Element>(&self) -> Option<f32> {
        // The dtype rounds it: the finer its logits are there, the less there is beyond what has no mass. The last attempt is in the
        // middle of what is neither too much nor too little.
        [-40.01, -40.05, -40.25, -41.0, -50.0].into_iter().find_map(|exponent| {
            let x = E::value(E::key(self.max + exponent / self.scale.c));
            let clamped = x - self.max < self.scale.dmin;
            (x.is_finite() && !clamped && self.size_of(x) == Size::Nothing).then_some(x)
        })
    }

    /// The same, and no term ([`surprisal`](crate::arithmetic::surprisal)) either.
    pub fn termless<E: Element>(&self) -> Option<f32> {
        [-49.66, -49.75, -50.0, -51.0, -56.0].into_iter().find_map(|exponent| {
            let x = E::value(E::key(self.max + exponent / self.scale.c));
            let d = x - self.max;
            let within = d >= self.scale.dmin && d * self.scale.c < NO_TERM_BELOW;
            (x.is_finite() && within).then_some(x)
        })
    }

    /// Whether every mass has all its 24 bits above the point: no exponent is below -17.
    pub fn all_are_large(&self) -> bool {
        (self.min - self.max) * self.scale.c >= -16.25
    }

    /// How large masses can be where no logit exceeds `max_of_block`.
    #[inline(always)]
    pub fn size_of(&self, max_of_block: f32) -> Size {
        let exponent = (max_of_block - self.max) * self.scale.c;
        match exponent {
            e if e < NOTHING_BELOW => Size::Nothing,
            e if e < SMALL_BELOW => Size::Small,
            _ => Size::Any,
        }
    }
}

/// [`Weights`] in vectors.
#[derive(Clone, Copy)]
pub struct Weigher<S: Simd> {
    max: S::F,
    dmin: S::F,
    c: S::F,
    round: S::F,
    /// The polynomial from its constant term up, times 2^40 or 2^24.
    polynomial: [S::F; 7],
    two_to_16: S::F,
}

impl<S: Simd> Weigher<S> {
    /// For [`small`](Self::small) masses.
    #[inline(always)]
    pub fn for_small(s: S, weights: Weights) -> Self {
        Self::new(s, weights, (1u64 << 40) as f32)
    }

    /// For split masses.
    #[inline(always)]
    pub fn for_any(s: S, weights: Weights) -> Self {
        Self::new(s, weights, (1u64 << 24) as f32)
    }

    #[inline(always)]
    fn new(s: S, weights: Weights, unit: f32) -> Self {
        Self {
            max: s.splat(weights.max),
            dmin: s.splat(weights.scale.dmin),
            c: s.splat(weights.scale.c),
            round: s.splat(ROUND),
            polynomial: [1.0, C[0], C[1], C[2], C[3], C[4], C[5]].map(|c| s.splat(c * unit)),
            two_to_16: s.splat(65_536.0),
        }
    }

    /// Masses below 2^31.
    #[inline(always)]
    pub fn small<const CLAMP: bool>(&self, s: S, x: S::F) -> S::I {
        s.truncate(self.power::<CLAMP>(s, x))
    }

    /// The mass (or 2^-16 of it) before it is truncated. Only where no `x - max` is below the
    /// scale's `dmin` it need not be clamped.
    #[inline(always)]
    pub fn power<const CLAMP: bool>(&self, s: S, x: S::F) -> S::F {
        let (t, f) = self.split::<CLAMP>(s, x);
        self.power_of(s, t, f)
    }

    /// The exponent, in the low bits of `t`, and the fraction of a power.
    #[inline(always)]
    pub fn split<const CLAMP: bool>(&self, s: S, x: S::F) -> (S::F, S::F) {
        let d = s.sub(x, self.max);
        let d = if CLAMP { s.max(d, self.dmin) } else { d };
        let t = s.fma(d, self.c, self.round);
        let n = s.sub(t, self.round);
        (t, s.fms(d, self.c, n))
    }

    /// The power of an exponent and a fraction.
    #[inline(always)]
    pub fn power_of(&self, s: S, t: S::F, f: S::F) -> S::F {
        let [c0, c1, c2, c3, c4, c5, c6] = self.polynomial;
        let mut p = c6;
        for c in [c5, c4, c3, c2, c1, c0] {
            p = s.fma(p, f, c);
        }
        s.scale(p, t)
    }
}

/// Masses of any size, or sums of them: at most 128 are added to one.
pub trait Parts<S: Simd>: Copy {
    /// No mass.
    fn none(s: S) -> Self;
    /// The masses of some logits, by [`Weigher::for_any`].
    fn weigh(s: S, weigher: &Weigher<S>, x: S::F) -> Self;
    /// The sum.
    fn plus(self, s: S, other: Self) -> Self;
    /// The lanes where `m`, and nothing elsewhere.
    fn only(self, s: S, m: S::M) -> Self;
    /// The sum of all lanes.
    fn total(self, s: S) -> u64;
}

/// `high * 2^16 + low`.
#[derive(Clone, Copy)]
pub struct Split<S: Simd> {
    /// Up to 2^24 for each mass.
    pub high: S::I,
    /// Below 2^16 for each mass.
    pub low: S::I,
}

impl<S: Simd> Split<S> {
    /// The mass of a power, by [`Weigher::for_any`].
    #[inline(always)]
    pub fn of(s: S, weigher: &Weigher<S>, power: S::F) -> Self {
        Self::of_power(s, power, weigher.two_to_16)
    }

    /// The mass of a power in units of 2^16.
    #[inline(always)]
    pub fn of_power(s: S, power: S::F, two_to_16: S::F) -> Self {
        let high = s.truncate(power);
        // Exact: `high` is the integer part of `power`.
        let rest = s.sub(power, s.float(high));
        Self { high, low: s.truncate(s.mul(rest, two_to_16)) }
    }
}

impl<S: Simd> Parts<S> for Split<S> {
    #[inline(always)]
    fn none(s: S) -> Self {
        Self { high: s.splat_u32(0), low: s.splat_u32(0) }
    }

    #[inline(always)]
    fn weigh(s: S, weigher: &Weigher<S>, x: S::F) -> Self {
        Self::of(s, weigher, weigher.power::<true>(s, x))
    }

    #[inline(always)]
    fn plus(self, s: S, other: Self) -> Self {
        Self { high: s.add(self.high, other.high), low: s.add(self.low, other.low) }
    }

    #[inline(always)]
    fn only(self, s: S, m: S::M) -> Self {
        Self { high: s.keep(m, self.high), low: s.keep(m, self.low) }
    }

    #[inline(always)]
    fn total(self, s: S) -> u64 {
        let high = s.total(s.widen_add(s.no_sum(), self.high));
        let low = s.total(s.widen_add(s.no_sum(), self.low));
        (high << 16) + low
    }
}

/// The same where [`Weights::all_are_large`]: every `power` is a whole number of 2^-16, so that the
/// parts below 1 are summed as they are, exactly, and nothing is clamped. Three instructions less.
#[derive(Clone, Copy)]
pub struct Large<S: Simd> {
    high: S::I,
    rest: S::F,
}

impl<S: Simd> Parts<S> for Large<S> {
    #[inline(always)]
    fn none(s: S) -> Self {
        Self { high: s.splat_u32(0), rest: s.splat(0.0) }
    }

    #[inline(always)]
    fn weigh(s: S, weigher: &Weigher<S>, x: S::F) -> Self {
        let power = weigher.power::<false>(s, x);
        let high = s.truncate(power);
        Self { high, rest: s.sub(power, s.float(high)) }
    }

    #[inline(always)]
    fn plus(self, s: S, other: Self) -> Self {
        // 128 numbers below 1 in units of 2^-16: 23 bits.
        Self { high: s.add(self.high, other.high), rest: s.add_floats(self.rest, other.rest) }
    }

    #[inline(always)]
    fn only(self, s: S, m: S::M) -> Self {
        Self { high: s.keep(m, self.high), rest: s.keep_floats(m, self.rest) }
    }

    #[inline(always)]
    fn total(self, s: S) -> u64 {
        let low = s.truncate(s.mul(self.rest, s.splat(65_536.0)));
        Split::<S> { high: self.high, low }.total(s)
    }
}

#[cfg(test)]
mod tests {
    use super::super::element::{Bf16, F16, F32};
    use super::*;
    use crate::arithmetic::surprisal::surprisal;

    /// Logits down from `max` to where no power is left, about as many in an octave at every temperature.
    fn logits_below(max: f32, scale: Scale) -> impl Iterator<Item = f32> {
        (0..64 * 4096).map(move |i| max - i as f32 / (4096.0 * scale.c))
    }

    #[test]
    fn sizes_and_bounds_are_those_of_the_definition() {
        for temperature in [0.05, 0.3, 0.8, 1.0, 7.0] {
            let scale = Scale::new(temperature);
            for max in [0.0, 27.1875, -3.3, 900.0] {
                let weights = Weights { max, min: f32::NEG_INFINITY, scale };
                let (mut sizes, mut last) = ([0; 3], None);
                for x in logits_below(max, scale) {
                    let mass = weights.mass(x);
                    let size = weights.size_of(x);
                    match size {
                        Size::Nothing => assert_eq!(mass, 0, "{temperature} {max} {x}"),
                        Size::Small => assert!(mass < 1 << 28, "{temperature} {max} {x}"),
                        Size::Any => {}
                    }
                    sizes[size as usize] += 1;
                    if mass > 0 {
                        last = Some(x);
                    }
                }
                // Nearly all that has no mass is known to have none.
                let octaves = sizes.map(|count| count as f32 / 4096.0);
                assert!((23.9..24.1).contains(&octaves[0]), "{temperature} {max}: {octaves:?}");
                assert!((11.9..12.1).contains(&octaves[2]), "{temperature} {max}: {octaves:?}");
                let last = last.expect("the first has one");
                for massless in [
                    weights.massless::<F16>(),
                    weights.massless::<Bf16>(),
                    weights.massless::<F32>(),
                ] {
                    assert!(massless.is_none_or(|x| x < last && weights.mass(x) == 0));
                }
                let termless = weights.termless::<F32>().expect("there is one");
                for x in logits_below(max, scale).filter(|&x| x <= termless) {
                    assert_eq!(surprisal(x, max, scale).term, 0, "{temperature} {max} {x}");
                }
            }
        }
    }
}
