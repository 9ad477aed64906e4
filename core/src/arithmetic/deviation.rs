//! Top-n-sigma: how far the logits of a row lie apart, from two integer sums.

use super::mass::{ROUND, ROUND_BITS};

/// Logits count in units of 2^-10.
pub const UNITS: f32 = 1024.0;
/// And within 2^11 of 0.
const FAR: f32 = 2048.0;

/// The sums over some tokens.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Deviation {
    /// How many there are.
    pub count: u64,
    /// The sum of their logits.
    pub sum: i64,
    /// The sum of these squared: at most 2^62.
    pub squares: u64,
}

/// A logit above -inf, in units of 2^-10, to the nearest even.
#[inline]
pub fn z(x: f32) -> i32 {
    // At most 2^21, so that the sum has the whole number in its low bits.
    let rounded = x.clamp(-FAR, FAR) * UNITS + ROUND;
    rounded.to_bits().wrapping_sub(ROUND_BITS) as i32
}

impl Deviation {
    /// With so many more tokens of a logit.
    #[inline]
    pub fn with(self, x: f32, count: u32) -> Self {
        let (z, count) = (i64::from(z(x)), u64::from(count));
        Self {
            count: self.count + count,
            sum: self.sum + z * count as i64,
            squares: self.squares + (z * z) as u64 * count,
        }
    }

    /// With the sums over others.
    pub fn and(self, other: Self) -> Self {
        Self {
            count: self.count + other.count,
            sum: self.sum + other.sum,
            squares: self.squares + other.squares,
        }
    }

    /// The least `x - M` within so many standard deviations: 0 or below.
    pub fn distance(self, s: f32) -> f32 {
        let (n, sum) = (u128::from(self.count), u128::from(self.sum.unsigned_abs()));
        let spread = n * u128::from(self.squares) - sum * sum;
        let sigma = (spread as f64).sqrt() / self.count as f64 / f64::from(UNITS);
        -(f64::from(s) * sigma) as f32
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(x: &[f32]) -> Deviation {
        x.iter().fold(Deviation::default(), |sums, &x| sums.with(x, 1))
    }

    #[test]
    fn is_that_of_the_textbook() {
        // Mean 5, squares of the distances 9 1 1 1 0 0 4 16: 32 / 8.
        let row = [2.0, 4.0, 4.0, 4.0, 5.0, 5.0, 7.0, 9.0];
        assert_eq!(of(&row).distance(1.0), -2.0);
        assert_eq!(of(&row).distance(1.5), -3.0);
        assert_eq!(Deviation::default().with(4.0, 3).with(5.0, 2), of(&[4.0, 4.0, 4.0, 5.0, 5.0]));
        let row: Vec<f32> = (0..1000).map(|i| (i as f32).sin() * 7.0).collect();
        let mean = row.iter().map(|&x| f64::from(x)).sum::<f64>() / 1000.0;
        let squares: f64 = row.iter().map(|&x| (f64::from(x) - mean).powi(2)).sum();
        let exact = -(squares / 1000.0).sqrt();
        let got = f64::from(of(&row).distance(1.0));
        assert!((got - exact).abs() < 1e-4, "{got} {exact}");
    }

    #[test]
    fn what_is_far_is_near_and_what_is_equal_has_none() {
        for i in -70_000..70_000 {
            let x = i as f32 / 4096.0;
            assert_eq!(z(x), (x * 1024.0).round_ties_even() as i32, "{x}");
        }
        assert_eq!(
            (z(1e30), z(-1e30), z(0.5 / 1024.0), z(1.5 / 1024.0)),
            (1 << 21, -(1 << 21), 0, 2)
        );
        assert_eq!(of(&[3.25; 9]).distance(100.0), 0.0);
        // The largest row there is.
        let half = 1 << 19;
        let far = Deviation::default().with(f32::MAX, half).with(f32::MIN, half);
        assert_eq!((far.squares, far.distance(1.0)), (1 << 62, -2048.0));
    }
}
