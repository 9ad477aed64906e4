//! When requests are due: the arrival schedules of an open loop.

use super::random::{bits, unit};
use std::time::Duration;

/// How arrivals are spread over time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Arrivals {
    /// Independent of each other, as many callers are: exponential gaps.
    Poisson,
    /// One every 1/rate seconds.
    Constant,
}

/// Times at which requests are due, counted from the start, never falling and without end.
///
/// A schedule knows nothing of answers: that is what keeps a slow server from slowing it down.
#[derive(Clone, Debug)]
pub struct Schedule {
    arrivals: Arrivals,
    rate: f64,
    seed: u64,
    index: u64,
    /// Of the arrival before, in seconds. The gaps of a constant schedule are not summed: n / rate is
    /// exact, and n sums are not.
    last_s: f64,
}

impl Schedule {
    /// Arrivals at `rate` a second (above 0). The same seed gives the same times on every machine.
    pub fn new(arrivals: Arrivals, rate: f64, seed: u64) -> Self {
        assert!(rate > 0.0 && rate.is_finite(), "a rate of {rate}");
        Self { arrivals, rate, seed, index: 0, last_s: 0.0 }
    }
}

impl Iterator for Schedule {
    type Item = Duration;

    fn next(&mut self) -> Option<Duration> {
        let at_s = match self.arrivals {
            Arrivals::Constant => self.index as f64 / self.rate,
            Arrivals::Poisson => {
                // libm's, and not the platform's: the same times everywhere.
                let gap = -libm::log(unit(bits(self.seed, self.index, GAP))) / self.rate;
                self.last_s + gap
            }
        };
        self.index += 1;
        self.last_s = at_s;
        Some(Duration::try_from_secs_f64(at_s).unwrap_or(Duration::MAX))
    }
}

/// Which of a request's random numbers is the gap before it. Rows use those below.
const GAP: u32 = u32::MAX;

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn seconds(arrivals: Arrivals, rate: f64, seed: u64, n: usize) -> Vec<f64> {
        Schedule::new(arrivals, rate, seed).take(n).map(|at| at.as_secs_f64()).collect()
    }

    proptest! {
        #[test]
        fn constant_arrivals_are_exactly_a_period_apart(rate in 0.01f64..1e6, n in 1usize..2000) {
            let times = seconds(Arrivals::Constant, rate, 0, n);
            for (i, at) in times.iter().enumerate() {
                // A duration is whole nanoseconds.
                prop_assert!((at - i as f64 / rate).abs() <= 1e-9 + at * 1e-12, "{} {}", i, at);
            }
        }

        #[test]
        fn times_never_fall_and_depend_on_the_seed_alone(rate in 0.01f64..1e6, seed: u64) {
            let times = seconds(Arrivals::Poisson, rate, seed, 500);
            prop_assert!(times.windows(2).all(|pair| pair[0] <= pair[1]));
            prop_assert!(times == seconds(Arrivals::Poisson, rate, seed, 500));
            prop_assert!(times != seconds(Arrivals::Poisson, rate, seed ^ 1, 500));
        }

        /// The gaps are exponential: their mean and their deviation are both 1 / rate, and the share
        /// above the mean is 1 / e. The margins are at least six standard deviations of 20,000 gaps.
        #[test]
        fn poisson_gaps_are_exponential(rate in 0.1f64..1e5, seed: u64) {
            let n = 20_000;
            let times = seconds(Arrivals::Poisson, rate, seed, n);
            let gaps: Vec<f64> = std::iter::once(times[0])
                .chain(times.windows(2).map(|pair| pair[1] - pair[0]))
                .map(|gap| gap * rate)
                .collect();
            let mean = gaps.iter().sum::<f64>() / n as f64;
            let variance = gaps.iter().map(|gap| (gap - mean).powi(2)).sum::<f64>() / n as f64;
            let above = gaps.iter().filter(|gap| **gap > 1.0).count() as f64 / n as f64;
            prop_assert!((mean - 1.0).abs() < 0.05, "mean {}", mean);
            prop_assert!((variance - 1.0).abs() < 0.15, "variance {}", variance);
            prop_assert!((above - (-1f64).exp()).abs() < 0.025, "above {}", above);
        }
    }

    #[test]
    fn a_rate_beyond_time_does_not_overflow() {
        let last = Schedule::new(Arrivals::Poisson, f64::MIN_POSITIVE, 1).nth(3).unwrap();
        assert_eq!(last, Duration::MAX);
    }
}
