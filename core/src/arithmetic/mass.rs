//! Temperature, and the mass of a token: `2^40 * 2^((x - M) / (T ln 2))`, truncated to an integer.
//!
//! The power is split into an exponent (an integer shift) and a fraction in [-0.5, 0.5], whose
//! power of two is a degree-6 polynomial. The mass of the row's maximum is exactly [`UNIT`]; a mass
//! is 0 once the exponent falls below about -40; a whole row sums to at most 2^60.

use core::f64::consts::LOG2_E;

/// The mass of the first token of every row, 2^40.
pub const UNIT: u64 = 1 << 40;

/// Adding this to a small f32 leaves its value, rounded to the nearest even integer, in the low bits.
pub const ROUND: f32 = 12_582_912.0; // 0x1.8p23
/// The bits of [`ROUND`].
pub const ROUND_BITS: u32 = 0x4b40_0000;

/// Coefficients of the polynomial for `2^f`, from `C1` to `C6`; the constant term is 1.
pub const C: [f32; 6] = [
    f32::from_bits(0x3f31_7218),
    f32::from_bits(0x3e75_fdee),
    f32::from_bits(0x3d63_5774),
    f32::from_bits(0x3c1d_96a6),
    f32::from_bits(0x3aaf_9f2a),
    f32::from_bits(0x3920_fdde),
];

/// A temperature as the masses use it. Computed once a row, on the host.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Scale {
    /// `log2(e) / T`, rounded once to f32.
    pub c: f32,
    /// The distance below the maximum at which the exponent is clamped; every mass there is 0.
    pub dmin: f32,
}

impl Scale {
    /// The scale of a temperature above 0.
    #[inline]
    pub fn new(temperature: f32) -> Self {
        let c = (LOG2_E / f64::from(temperature)) as f32;
        Self { c, dmin: -62.0 / c }
    }
}

/// The mass of a token with logit `x` in a row whose maximum is `max`.
///
/// Neither may be NaN, `max` must be finite, and `x <= max`.
#[inline]
pub fn mass(x: f32, max: f32, scale: Scale) -> u64 {
    let (n, f) = split(x, max, scale);
    power(n, f).truncated()
}

/// `(x - M) / (T ln 2)`, not below about -62, as a whole number `n <= 0` and a fraction `f` in [-0.5, 0.5].
#[inline]
pub(super) fn split(x: f32, max: f32, scale: Scale) -> (i32, f32) {
    let d = (x - max).max(scale.dmin);
    let t = d.mul_add(scale.c, ROUND);
    let n = t - ROUND;
    let f = d.mul_add(scale.c, -n);
    (t.to_bits().wrapping_sub(ROUND_BITS) as i32, f)
}

/// A power of two, before it is cut off to units of a mass.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Power {
    /// 24 bits, the first of them 1.
    pub mantissa: u64,
    /// At most 0; the power is `mantissa * 2^(exponent - 23)`.
    pub exponent: i32,
}

impl Power {
    /// In units of a mass, truncated.
    #[inline]
    pub fn truncated(self) -> u64 {
        (self.mantissa << 17) >> -self.exponent
    }
}

/// `2^(n + f)`, at most 1.
#[inline]
pub(super) fn power(n: i32, f: f32) -> Power {
    let mut p = C[5];
    p = p.mul_add(f, C[4]);
    p = p.mul_add(f, C[3]);
    p = p.mul_add(f, C[2]);
    p = p.mul_add(f, C[1]);
    p = p.mul_add(f, C[0]);
    p = p.mul_add(f, 1.0);
    let bits = p.to_bits();
    Power {
        mantissa: u64::from(bits & 0x7f_ffff | 0x80_0000),
        exponent: (bits >> 23) as i32 - 127 + n,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_maximum_has_the_unit_and_minus_infinity_has_nothing() {
        for t in [1e-30, 1e-7, 1e-4, 0.1, 0.8, 1.0, 3.7, 1e4] {
            let scale = Scale::new(t);
            for m in [-7.5, -0.0, 0.0, 65504.0, f32::MAX] {
                assert_eq!(mass(m, m, scale), UNIT);
                assert_eq!(mass(f32::NEG_INFINITY, m, scale), 0);
            }
        }
    }

    #[test]
    fn close_to_the_exact_power() {
        let scale = Scale::new(0.8);
        for i in 0..40_000 {
            let d = -(i as f32) / 2048.0;
            let exact = (f64::from(d) * f64::from(scale.c)).exp2() * UNIT as f64;
            let got = mass(d, 0.0, scale) as f64;
            assert!((got - exact).abs() <= exact * 1e-7 + 1.0, "{d}: {got} {exact}");
        }
    }

    #[test]
    fn the_scale_of_every_temperature_is_finite_and_normal() {
        for t in [1e-30f32, 1e-30f32.next_up(), 1e-20, 1e-7, 1e-4, 1.0, 1e4] {
            let Scale { c, dmin } = Scale::new(t);
            assert!(c.is_normal() && dmin.is_normal() && dmin < 0.0, "{t:e}: {c:e} {dmin:e}");
            let clamped = f64::from(dmin) * f64::from(c);
            assert!((clamped + 62.0).abs() < 1e-5, "{t:e}: {clamped}");
        }
    }

    #[test]
    fn at_a_tiny_temperature_what_is_not_a_tie_has_nothing() {
        for t in [1e-30, 1e-20, 1e-7] {
            let scale = Scale::new(t);
            for m in [-65504.0, -1.0, 1.0, 40.0, f32::MAX] {
                assert_eq!(mass(m, m, scale), UNIT);
                let next = if t < 1e-9 || m.abs() > 30.0 { m.next_down() } else { m - 1e-4 };
                assert_eq!(mass(next, m, scale), 0, "{t:e}: {next} below {m}");
            }
        }
    }

    #[test]
    fn never_rises_as_the_logit_falls() {
        for t in [1e-30, 1e-7, 0.05, 0.7, 1.0, 2.0] {
            let scale = Scale::new(t);
            let mut last = UNIT;
            for key in 0..0x7c00u16 {
                let x = -half::f16::from_bits(key).to_f32();
                let m = mass(x, 0.0, scale);
                assert!(m <= last, "T {t}: {x} has {m}, the token before {last}");
                last = m;
            }
        }
    }
}
