//! What sums over rows come to as means.

use logitd_core::evaluate::sums::SetSums;
use std::f64::consts::LN_2;

/// 2^-32: a unit of a sum.
const UNIT: f64 = 1.0 / 4_294_967_296.0;

/// What is measured of a set.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Metric {
    /// Nats a token that the set gives to the text; a token that is cut costs what a miss costs.
    Nll,
    /// The expected squared distance between the distribution and the token that came.
    Brier,
    /// The share of tokens of the text that are kept.
    Coverage,
    /// The share of draws that fall on tokens the model holds for very unlikely.
    Tail,
    /// Nats of choice a step.
    Entropy,
    /// How many equally likely tokens would be drawn twice in a row as often.
    Choices,
    /// Nats that the model is surprised by what is drawn.
    Surprise,
    /// Kept tokens.
    Kept,
}

impl Metric {
    /// Every one.
    pub const ALL: [Self; 8] = [
        Self::Nll,
        Self::Brier,
        Self::Coverage,
        Self::Tail,
        Self::Entropy,
        Self::Choices,
        Self::Surprise,
        Self::Kept,
    ];

    /// The name used by flags and files.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Nll => "nll",
            Self::Brier => "brier",
            Self::Coverage => "coverage",
            Self::Tail => "tail",
            Self::Entropy => "entropy",
            Self::Choices => "choices",
            Self::Surprise => "surprise",
            Self::Kept => "mean_kept",
        }
    }

    /// The metric of that name.
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|metric| metric.name() == name)
    }
}

/// What sums are made means by.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Measure {
    /// What a token that is cut costs, in nats.
    pub miss_nats: f64,
}

impl Measure {
    /// A mean over rows; 0 over none.
    pub fn mean(&self, metric: Metric, rows: u64, sums: &SetSums) -> f64 {
        self.ratio(metric, rows, sums).quotient()
    }

    /// What the mean is a quotient of: two sums, each of which adds up over rows.
    pub fn ratio(&self, metric: Metric, rows: u64, sums: &SetSums) -> Ratio {
        let q32 = |sum: u64| sum as f64 * UNIT;
        let sum = match metric {
            Metric::Nll => {
                let missed = (rows - sums.hits) as f64;
                missed * self.miss_nats - sums.logprob_q32 as f64 * UNIT
            }
            Metric::Brier => {
                rows as f64 - 2.0 * q32(sums.probability_q32) + q32(sums.collision_q32)
            }
            Metric::Coverage => sums.hits as f64,
            Metric::Tail => q32(sums.tail_q32),
            Metric::Entropy => q32(sums.entropy_q32) * LN_2,
            Metric::Choices => {
                return Ratio { sum: rows as f64, of: q32(sums.collision_q32) };
            }
            Metric::Surprise => q32(sums.surprise_q32) * LN_2,
            Metric::Kept => sums.kept as f64,
        };
        Ratio { sum, of: rows as f64 }
    }
}

/// Two sums over the same rows, of which a mean is the quotient.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Ratio {
    /// What is divided.
    pub sum: f64,
    /// What it is divided by: the rows, of most metrics.
    pub of: f64,
}

impl Ratio {
    /// The mean; 0 over nothing.
    pub fn quotient(&self) -> f64 {
        if self.of > 0.0 { self.sum / self.of } else { 0.0 }
    }

    /// What some of the rows are away from their share of the quotient, as a part of all of `all`.
    pub fn away(&self, all: &Self) -> f64 {
        if all.of > 0.0 { (self.sum - all.quotient() * self.of) / all.of } else { 0.0 }
    }
}

impl std::ops::Add for Ratio {
    type Output = Self;

    fn add(self, other: Self) -> Self {
        Self { sum: self.sum + other.sum, of: self.of + other.of }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn means_are_those_of_the_definitions() {
        const ONE: u64 = 1 << 32;
        let sums = SetSums {
            hits: 3,
            kept: 40,
            logprob_q32: -(6 << 32),
            probability_q32: ONE,
            entropy_q32: 8 * ONE,
            surprise_q32: 12 * ONE,
            collision_q32: 2 * ONE,
            tail_q32: ONE / 2,
        };
        let measure = Measure { miss_nats: 10.0 };
        let mean = |metric| measure.mean(metric, 4, &sums);
        assert_eq!(
            Metric::ALL.map(mean),
            [4.0, 1.0, 0.75, 0.125, 2.0 * LN_2, 2.0, 3.0 * LN_2, 10.0]
        );
        assert!(Metric::ALL.iter().all(|metric| Metric::named(metric.name()) == Some(*metric)));
        assert_eq!(measure.mean(Metric::Nll, 0, &SetSums::default()), 0.0);
    }
}
