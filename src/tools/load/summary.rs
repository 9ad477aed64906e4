//! What a run comes to: the figures of its report.

use super::meter::{Counts, Tally};
use super::run::{Measured, Pace, Plan, Window};
use super::schedule::Arrivals;
use hdrhistogram::Histogram;
use serde::Serialize;
use std::collections::BTreeMap;

/// One run, summed up. Times are in the unit that their names end with.
#[derive(Clone, Debug, Serialize)]
pub struct Summary {
    /// How requests were sent.
    pub pace: PaceSummary,
    /// Sent, but not measured.
    pub warmup_s: f64,
    /// From the end of the warm-up to the last answer, or to the end of sending if that was later.
    pub elapsed_s: f64,
    /// Requests that were due: answered, refused, failed or not sent.
    pub requests: u64,
    /// Requests with results.
    pub answered: u64,
    /// Requests that the server had no room for (RESOURCE_EXHAUSTED).
    pub refused: u64,
    /// Requests that failed otherwise, timeouts included.
    pub errors: u64,
    /// Requests that were due but not sent, because too many were unanswered.
    pub overflow: u64,
    /// Rows with results.
    pub rows: u64,
    /// Rows among them without a token, because of their logits.
    pub rows_without_token: u64,
    /// Bytes of the logits of answered requests.
    pub logits_bytes: u64,
    /// Answered requests a second.
    pub requests_per_s: f64,
    /// Their rows a second.
    pub rows_per_s: f64,
    /// 10^9 bytes of their logits a second.
    pub gb_per_s: f64,
    /// From sending to the answer.
    pub service: Latency,
    /// From when it was due to the answer.
    pub response: Latency,
    /// From when it was due to sending: how late the generator itself was.
    pub lag: Latency,
    /// From when it was due to the refusal.
    pub refusal: Latency,
    /// What the server says of the answered requests.
    pub server: ServerTimes,
    /// What came instead of answers, by code; NO_ANSWER is the generator's own timeout.
    pub failures: BTreeMap<String, FailureSummary>,
    /// Answers by the device and the plane that they name.
    pub devices: BTreeMap<String, u64>,
    /// How it went over time.
    pub windows: Vec<Window>,
    /// Response times by quantile: `[quantile, us]`, denser towards 1.
    pub response_quantiles: Vec<(f64, f64)>,
    /// Service times by quantile.
    pub service_quantiles: Vec<(f64, f64)>,
    /// What a reader of these figures has to know.
    pub warnings: Vec<String>,
}

/// How requests were sent.
#[derive(Clone, Copy, Debug, Serialize)]
#[serde(tag = "loop", rename_all = "snake_case")]
pub enum PaceSummary {
    /// By a schedule.
    Open {
        /// Requests a second that were asked for.
        rate: f64,
        /// How they were spread.
        arrivals: Arrivals,
    },
    /// As they were recorded.
    Recorded {
        /// How much faster.
        speed: f64,
    },
    /// When the request before was answered.
    Closed {
        /// Workers.
        concurrency: usize,
    },
}

/// Times of some requests, in microseconds; all 0 where there were none.
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub struct Latency {
    /// How many.
    pub count: u64,
    /// The shortest.
    pub min_us: f64,
    /// The mean.
    pub mean_us: f64,
    /// Half were no longer.
    pub p50_us: f64,
    /// 90% were no longer, and so on.
    pub p90_us: f64,
    /// 99%.
    pub p99_us: f64,
    /// 99.9%.
    pub p99_9_us: f64,
    /// 99.99%.
    pub p99_99_us: f64,
    /// The longest.
    pub max_us: f64,
}

impl Latency {
    /// The figures by their names. A percentile that so few requests do not have (p99.99 of less than
    /// 10,000) is `None`: it would be their maximum.
    pub fn figures(&self) -> [(&'static str, Option<f64>); 7] {
        let of = |least: u64, value: f64| (self.count >= least).then_some(value);
        [
            ("mean", Some(self.mean_us)),
            ("p50", Some(self.p50_us)),
            ("p90", of(10, self.p90_us)),
            ("p99", of(100, self.p99_us)),
            ("p99.9", of(1000, self.p99_9_us)),
            ("p99.99", of(10_000, self.p99_99_us)),
            ("max", Some(self.max_us)),
        ]
    }
}

/// What a server says of its requests.
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub struct ServerTimes {
    /// Waiting for a batch.
    pub queue: Latency,
    /// Copying to the device.
    pub copy: Latency,
    /// Computing.
    pub compute: Latency,
}

/// One kind of failure.
#[derive(Clone, Debug, Serialize)]
pub struct FailureSummary {
    /// How many.
    pub count: u64,
    /// What the first one said.
    pub message: String,
}

impl Summary {
    /// Sums up a run of this plan.
    pub fn new(plan: &Plan, measured: Measured) -> Self {
        let Measured { elapsed, total: Tally { counts, times }, windows } = measured;
        let elapsed_s = elapsed.as_secs_f64();
        let per_s = |n: u64| if elapsed_s > 0.0 { n as f64 / elapsed_s } else { 0.0 };
        let mut summary = Self {
            pace: PaceSummary::new(plan.pace),
            warmup_s: plan.warmup.as_secs_f64(),
            elapsed_s,
            requests: counts.requests(),
            answered: counts.answered,
            refused: counts.refused,
            errors: counts.errors_total(),
            overflow: counts.overflow,
            rows: counts.rows,
            rows_without_token: counts.rows_without_token,
            logits_bytes: counts.bytes,
            requests_per_s: per_s(counts.answered),
            rows_per_s: per_s(counts.rows),
            gb_per_s: per_s(counts.bytes) / 1e9,
            service: Latency::new(&times.service, 1000.0),
            response: Latency::new(&times.response, 1000.0),
            lag: Latency::new(&times.lag, 1000.0),
            refusal: Latency::new(&times.refusal, 1000.0),
            server: ServerTimes {
                queue: Latency::new(&times.queue_us, 1.0),
                copy: Latency::new(&times.copy_us, 1.0),
                compute: Latency::new(&times.compute_us, 1.0),
            },
            failures: failures(&counts),
            devices: counts.devices,
            windows,
            response_quantiles: quantiles(&times.response),
            service_quantiles: quantiles(&times.service),
            warnings: Vec::new(),
        };
        summary.warnings = summary.warnings(plan);
        summary
    }

    /// Requests that got no answer: refused, failed or never sent.
    pub fn unanswered(&self) -> u64 {
        self.refused + self.errors + self.overflow
    }

    /// What these figures do not show by themselves.
    fn warnings(&self, plan: &Plan) -> Vec<String> {
        let mut warnings = Vec::new();
        let unanswered = self.refused + self.errors;
        if self.answered == 0 {
            warnings.push("no request was answered".into());
            return warnings;
        }
        if self.overflow > 0 {
            warnings.push(format!(
                "{} requests were due but not sent, as {} were unanswered (--outstanding-max); the times \
                 leave them out: this is more than the server can do",
                self.overflow, plan.outstanding_max
            ));
        }
        if unanswered > 0 {
            warnings.push(format!(
                "{unanswered} requests were refused or failed; the times are those of the others"
            ));
        }
        let lag_us = self.lag.p99_us;
        if lag_us > LAG_US_MAX && lag_us > self.response.p99_us / 10.0 {
            warnings.push(format!(
                "the generator itself was late (p99 {lag_us:.0} us): it lacks processor time, and response \
                 times have that in them; run it on another machine, or at a lower rate"
            ));
        }
        if let Pace::Open { rate, .. } = plan.pace
            && self.requests_per_s < 0.95 * rate
            && self.requests >= 100
        {
            warnings.push(format!(
                "{:.0} requests a second were answered, of {rate:.0} asked for",
                self.requests_per_s
            ));
        }
        warnings
    }
}

/// A generator that is later than this in 1% of its requests is worth a word.
const LAG_US_MAX: f64 = 1000.0;

impl PaceSummary {
    fn new(pace: Pace) -> Self {
        match pace {
            Pace::Open { rate, arrivals, .. } => Self::Open { rate, arrivals },
            Pace::Recorded { speed } => Self::Recorded { speed },
            Pace::Closed { concurrency } => Self::Closed { concurrency },
        }
    }

    /// Its number on the axis of a sweep: requests a second, speed, or workers.
    pub fn value(&self) -> f64 {
        match *self {
            Self::Open { rate, .. } => rate,
            Self::Recorded { speed } => speed,
            Self::Closed { concurrency } => concurrency as f64,
        }
    }

    /// In few characters: where it stands in a sweep.
    pub fn short(&self) -> String {
        match self {
            Self::Open { rate, .. } => format!("{rate}/s"),
            Self::Recorded { speed } => format!("{speed}x"),
            Self::Closed { concurrency } => format!("{concurrency} at once"),
        }
    }

    /// Of one loop or another, for people.
    pub fn describe(&self) -> String {
        match self {
            Self::Open { rate, arrivals: Arrivals::Poisson } => {
                format!("open loop, {rate} requests/s, Poisson arrivals")
            }
            Self::Open { rate, arrivals: Arrivals::Constant } => {
                format!("open loop, {rate} requests/s, constant arrivals")
            }
            Self::Recorded { speed } if *speed == 1.0 => "as recorded".into(),
            Self::Recorded { speed } => format!("as recorded, {speed} times as fast"),
            Self::Closed { concurrency } => format!("closed loop, {concurrency} at once"),
        }
    }
}

impl Latency {
    /// Of a histogram with so many units a microsecond.
    fn new(histogram: &Histogram<u64>, units: f64) -> Self {
        if histogram.is_empty() {
            return Self::default();
        }
        let at = |quantile| histogram.value_at_quantile(quantile) as f64 / units;
        Self {
            count: histogram.len(),
            min_us: histogram.min() as f64 / units,
            mean_us: histogram.mean() / units,
            p50_us: at(0.5),
            p90_us: at(0.9),
            p99_us: at(0.99),
            p99_9_us: at(0.999),
            p99_99_us: at(0.9999),
            max_us: histogram.max() as f64 / units,
        }
    }
}

/// Points of a curve that is denser towards 1, up to the last value.
fn quantiles(histogram: &Histogram<u64>) -> Vec<(f64, f64)> {
    let mut points: Vec<_> = histogram
        .iter_quantiles(8)
        .map(|step| (step.quantile_iterated_to(), step.value_iterated_to() as f64 / 1000.0))
        .collect();
    points.dedup();
    points
}

fn failures(counts: &Counts) -> BTreeMap<String, FailureSummary> {
    let refused = (counts.refused > 0).then_some(("RESOURCE_EXHAUSTED", counts.refused));
    let others = counts.errors.iter().map(|(name, count)| (*name, *count));
    others
        .chain(refused)
        .map(|(name, count)| {
            let message = counts.messages.get(name).cloned().unwrap_or_default();
            (name.to_owned(), FailureSummary { count, message })
        })
        .collect()
}
