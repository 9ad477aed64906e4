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
//!    below 1.42 * 2^27, sixteen of them add up in a lane ([`Weights::size_of`] says which).
//!    Elsewhere a mass is split, exactly, in `high * 2^16 + low`: five instructions more.
//!
//! The passes that sum masses up are in [`weigh`](super::weigh).

use super::element::Element;
use super::simd::Simd;
use crate::arithmetic::mass::{C, ROUND, Scale};

/// Weighs the tokens of one row.
#[derive(Clone, Copy, Debug)]
pub struct Weights {
    /// The row's greatest logit.
    pub max: f32,
    /// Its temperature.
    pub scale: Scale,
}

/// Where `d * c` is less, `n` is at most -41, and the mass is 0.
const NOTHING_BELOW: f32 = -40.75;

/// What is known of the masses of a block from the greatest logit among them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Size {
    /// All are 0.
    Nothing,
    /// All are below 1.42 * 2^27.
    Small,
    /// Up to 2^40.
    Any,
}

impl Weights {
    /// The mass of one token.
    pub fn mass(&self, x: f32) -> u64 {
        crate::arithmetic::mass::mass(x, self.max, self.scale)
    }

    /// A logit such that everything below it has no mass.
    pub fn least_with_mass<E: Element>(&self) -> f32 {
        let lowest = E::value(-E::INFINITY);
        let x = self.max + (NOTHING_BELOW - 0.25) / self.scale.c;
        let x = if x > lowest { E::value(E::key(x)) } else { lowest };
        // Rounding to the dtype may have gone up, far from zero by more than the quarter.
        if self.size_of(x) == Size::Nothing { x } else { lowest }
    }

    /// How large masses can be where no logit exceeds `max_of_block`.
    ///
    /// A mass is below `1.42 * 2^(40 + n)`, where `n` is `d * c` rounded; all roundings are monotone.
    #[inline(always)]
    pub fn size_of(&self, max_of_block: f32) -> Size {
        let exponent = (max_of_block - self.max) * self.scale.c;
        match exponent {
            e if e < NOTHING_BELOW => Size::Nothing,
            e if e < -13.5 => Size::Small,
            _ => Size::Any,
        }
    }
}

/// A mass in two lanes: `high * 2^16 + low`.
#[derive(Clone, Copy)]
pub struct Split<S: Simd> {
    /// Up to 2^24.
    pub high: S::I,
    /// Below 2^16.
    pub low: S::I,
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

    /// For [`split`](Self::split) masses.
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
    pub fn small(&self, s: S, x: S::F) -> S::I {
        s.truncate(self.power(s, x))
    }

    /// Masses of any size.
    #[inline(always)]
    pub fn split(&self, s: S, x: S::F) -> Split<S> {
        let power = self.power(s, x);
        let high = s.truncate(power);
        // Exact: both have the ulp of `power` at most, and their difference is below 1.
        let rest = s.sub(power, s.float(high));
        Split { high, low: s.truncate(s.mul(rest, self.two_to_16)) }
    }

    /// The mass (or 2^-16 of it) before it is truncated.
    #[inline(always)]
    pub fn power(&self, s: S, x: S::F) -> S::F {
        let d = s.max(s.sub(x, self.max), self.dmin);
        let t = s.fma(d, self.c, self.round);
        let n = s.sub(t, self.round);
        let f = s.fms(d, self.c, n);
        let [c0, c1, c2, c3, c4, c5, c6] = self.polynomial;
        let mut p = c6;
        for c in [c5, c4, c3, c2, c1, c0] {
            p = s.fma(p, f, c);
        }
        s.scale(p, t)
    }
}

/// A sum of masses in vectors.
#[derive(Clone, Copy)]
pub struct Sum<S: Simd> {
    high: S::I,
    low: S::I,
}

impl<S: Simd> Sum<S> {
    /// No mass.
    #[inline(always)]
    pub fn new(s: S) -> Self {
        Self { high: s.splat_u32(0), low: s.splat_u32(0) }
    }

    /// Adds a mass to each lane; at most 128 before [`total`](Self::total).
    #[inline(always)]
    pub fn add(&mut self, s: S, mass: Split<S>) {
        self.high = s.add(self.high, mass.high);
        self.low = s.add(self.low, mass.low);
    }

    /// The same, only where `m`.
    #[inline(always)]
    pub fn add_where(&mut self, s: S, m: S::M, mass: Split<S>) {
        self.add(s, Split { high: s.keep(m, mass.high), low: s.keep(m, mass.low) });
    }

    /// Everything added.
    #[inline(always)]
    pub fn total(self, s: S) -> u64 {
        let high = s.total(s.widen_add(s.no_sum(), self.high));
        let low = s.total(s.widen_add(s.no_sum(), self.low));
        (high << 16) + low
    }
}
