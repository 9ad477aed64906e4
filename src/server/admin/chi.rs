//! Whether counts are those of a distribution: Pearson's chi-square.

use serde::Serialize;

/// A bin of the comparison is expected to have so many at least.
const EXPECTED_MIN: f64 = 5.0;

/// What a comparison comes to.
#[derive(Clone, Debug, Serialize)]
pub struct Chi {
    /// The sum of squared differences, each by what was expected.
    pub statistic: f64,
    /// Degrees of freedom: one less than there are bins.
    pub degrees: usize,
    /// How often draws from the distribution differ from it as much, or more.
    pub p: f64,
    /// The same in words.
    pub words: String,
}

/// Compares the counts of `draws` draws with probabilities: of the first tokens, falling, each with how often it was
/// drawn. Those that are expected too seldom are one bin. `None` where a single bin is left.
pub fn compare(first: impl Iterator<Item = (f64, u32)>, draws: u32) -> Option<Chi> {
    let all = f64::from(draws);
    let (mut rest_expected, mut rest_count) = (all, draws);
    let mut bins = Vec::new();
    for (probability, count) in first.take_while(|(p, _)| p * all >= EXPECTED_MIN) {
        bins.push((probability * all, count));
        rest_expected -= probability * all;
        rest_count -= count;
    }
    if rest_expected >= EXPECTED_MIN {
        bins.push((rest_expected, rest_count));
    } else if let Some((expected, count)) = bins.last_mut() {
        *expected += rest_expected.max(0.0);
        *count += rest_count;
    }
    let degrees = bins.len().checked_sub(1).filter(|&degrees| degrees > 0)?;
    let statistic: f64 = bins
        .iter()
        .map(|&(expected, count)| (f64::from(count) - expected).powi(2) / expected)
        .sum();
    let p = upper_gamma(degrees as f64 / 2.0, statistic / 2.0);
    Some(Chi { statistic, degrees, p, words: words(draws, p) })
}

fn words(draws: u32, p: f64) -> String {
    let often = match p {
        ..0.001 => "less than once in 1000 times".into(),
        0.1.. => format!("{:.0} times in 100", 100.0 * p),
        _ => format!("{:.1} times in 100", 100.0 * p),
    };
    let verdict = match p {
        ..0.001 => "That is rare: look at another seed before you call it chance",
        ..0.05 => "That is seldom, and no more than chance",
        _ => "The counts are those of the distribution, as far as chance goes",
    };
    format!(
        "{draws} true draws differ from the exact probabilities this much or more {often}. {verdict}."
    )
}

/// The upper regularised incomplete gamma function Q(a, x).
fn upper_gamma(a: f64, x: f64) -> f64 {
    if x <= 0.0 {
        return 1.0;
    }
    let scale = (a * x.ln() - x - libm::lgamma(a)).exp();
    let steps = 0..10_000;
    if x < a + 1.0 {
        // The series of the lower function.
        let (mut term, mut sum) = (1.0 / a, 1.0 / a);
        for n in steps {
            term *= x / (a + 1.0 + f64::from(n));
            sum += term;
            if term < sum * 1e-15 {
                break;
            }
        }
        return (1.0 - scale * sum).clamp(0.0, 1.0);
    }
    // The continued fraction of the upper one, from its front.
    let tiny = f64::MIN_POSITIVE * 1e30;
    let mut b = x + 1.0 - a;
    let mut c = 1.0 / tiny;
    let mut d = 1.0 / b;
    let mut fraction = d;
    for n in steps {
        let n = f64::from(n) + 1.0;
        let numerator = n * (a - n);
        b += 2.0;
        let from_zero = |x: f64| if x.abs() < tiny { tiny } else { x };
        d = 1.0 / from_zero(numerator * d + b);
        c = from_zero(b + numerator / c);
        fraction *= d * c;
        if (d * c - 1.0).abs() < 1e-15 {
            break;
        }
    }
    (scale * fraction).clamp(0.0, 1.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_gamma_function_has_the_values_of_tables() {
        // Statistics that a twentieth, and a thousandth, of all exceed.
        for (degrees, statistic, p) in [
            (1.0, 3.841_458_820_694_124, 0.05),
            (10.0, 18.307_038_053_275_146, 0.05),
            (100.0, 124.342_113_404_004_07, 0.05),
            (5.0, 20.515_005_652_432_873, 0.001),
            (2.0, 0.020_100_671_707_002_873, 0.99),
        ] {
            let found = upper_gamma(degrees / 2.0, statistic / 2.0);
            assert!((found - p).abs() < 1e-9, "{degrees} {statistic}: {found}");
        }
        assert_eq!(upper_gamma(1.0, 0.0), 1.0);
    }

    #[test]
    fn bins_that_are_expected_too_seldom_are_one() {
        // Two of their own, and 10 expected of all others.
        let chi = compare([(0.6, 60), (0.3, 25), (0.04, 9), (0.03, 1)].into_iter(), 100).unwrap();
        assert_eq!(chi.degrees, 2);
        assert!((chi.statistic - (25.0 / 30.0 + 25.0 / 10.0)).abs() < 1e-9, "{chi:?}");
        // What is left is too little for a bin, and goes to the last.
        let chi = compare([(0.6, 60), (0.38, 38), (0.02, 2)].into_iter(), 100).unwrap();
        assert_eq!((chi.degrees, chi.statistic), (1, 0.0));
        assert!(chi.words.contains("100 times in 100"), "{}", chi.words);
        assert!(compare([(1.0, 100)].into_iter(), 100).is_none());
        assert!(compare([(0.5, 1), (0.5, 0)].into_iter(), 1).is_none());
        let far = compare([(0.5, 100), (0.5, 0)].into_iter(), 100).unwrap();
        assert!(far.p < 1e-9 && far.words.contains("less than once in 1000"), "{far:?}");
    }
}
