//! What a run has measured: counts and histograms.
//!
//! Tasks write into shards, so that they seldom meet; the run drains the shards at every tick, and adds
//! what it finds to the window and to the whole. A shard keeps times as they come: histograms are tables of
//! megabytes, and whoever sends requests would wait while they are added up.

use super::message::Response;
use super::target::{Code, Failure};
use hdrhistogram::Histogram;
use logitd_proto::Timings;
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;
use tokio::time::Instant;

/// The name under which requests count that were not answered in time.
pub const NO_ANSWER: &str = "NO_ANSWER";

/// The three moments of a request.
#[derive(Clone, Copy, Debug)]
pub struct Moments {
    /// When it should have been sent: by the schedule, or, in a closed loop, when its worker was free.
    pub due: Instant,
    /// When it was sent.
    pub sent: Instant,
    /// When its answer, or what came instead, was there.
    pub answered: Instant,
}

/// What was counted and timed over some time.
#[derive(Clone, Debug, Default)]
pub struct Tally {
    /// How many.
    pub counts: Counts,
    /// How long.
    pub times: Times,
}

/// How many requests came to which end.
#[derive(Clone, Debug, Default)]
pub struct Counts {
    /// Requests that were answered with results.
    pub answered: u64,
    /// Their rows.
    pub rows: u64,
    /// The bytes of their logits, and of candidates' tokens.
    pub bytes: u64,
    /// Rows among them that have no token, because of their logits.
    pub rows_without_token: u64,
    /// Requests that the server had no room for (RESOURCE_EXHAUSTED).
    pub refused: u64,
    /// Everything else that came instead of an answer, by code; [`NO_ANSWER`] is our own timeout.
    pub errors: BTreeMap<&'static str, u64>,
    /// The first message of each code, refusals too.
    pub messages: BTreeMap<&'static str, String>,
    /// Requests that were due but never sent, because too many were unanswered.
    pub overflow: u64,
    /// Answers by the device and the plane that they name.
    pub devices: BTreeMap<String, u64>,
    /// When the last good answer came.
    pub last_answer: Option<Instant>,
}

impl Counts {
    /// Requests that are accounted for in any way.
    pub fn requests(&self) -> u64 {
        self.answered + self.refused + self.errors_total() + self.overflow
    }

    /// Requests that failed, refusals and overflow apart.
    pub fn errors_total(&self) -> u64 {
        self.errors.values().sum()
    }

    fn add(&mut self, other: &Self) {
        self.answered += other.answered;
        self.rows += other.rows;
        self.bytes += other.bytes;
        self.rows_without_token += other.rows_without_token;
        self.refused += other.refused;
        self.overflow += other.overflow;
        other.errors.iter().for_each(|(name, n)| *self.errors.entry(name).or_default() += n);
        for (name, message) in &other.messages {
            self.messages.entry(name).or_insert_with(|| message.clone());
        }
        for (device, n) in &other.devices {
            *self.devices.entry(device.clone()).or_default() += n;
        }
        self.last_answer = self.last_answer.max(other.last_answer);
    }

    /// The name is looked up before it is made: an answer then costs no allocation.
    fn add_device(&mut self, answer: &Response) {
        let plane = answer.plane().as_str_name().trim_start_matches("PLANE_");
        let known = self.devices.iter_mut().find(|(name, _)| {
            name.split_once(" via ").is_some_and(|(d, p)| d == answer.device() && p == plane)
        });
        match known {
            Some((_, n)) => *n += 1,
            None => {
                self.devices.insert(format!("{} via {plane}", answer.device()), 1);
            }
        }
    }
}

/// How long requests took. In nanoseconds, but what the server says is in microseconds.
#[derive(Clone, Debug)]
pub struct Times {
    /// From sending to the answer.
    pub service: Histogram<u64>,
    /// From when it was due to the answer.
    pub response: Histogram<u64>,
    /// From when it was due to sending: how late the generator itself was.
    pub lag: Histogram<u64>,
    /// From when it was due to the refusal.
    pub refusal: Histogram<u64>,
    /// Waiting for a batch, as the server says.
    pub queue_us: Histogram<u64>,
    /// Copying to the device, as the server says.
    pub copy_us: Histogram<u64>,
    /// Computing, as the server says.
    pub compute_us: Histogram<u64>,
}

impl Default for Times {
    fn default() -> Self {
        let microseconds = || histogram(HOUR_NS / 1000, 2);
        Self {
            service: nanoseconds(),
            response: nanoseconds(),
            lag: nanoseconds(),
            refusal: nanoseconds(),
            queue_us: microseconds(),
            copy_us: microseconds(),
            compute_us: microseconds(),
        }
    }
}

impl Tally {
    fn add(&mut self, shard: &Shard) {
        self.counts.add(&shard.counts);
        let times = &mut self.times;
        for Measured { moments, timings } in &shard.answers {
            let Moments { due, sent, answered } = *moments;
            record(&mut times.service, answered - sent);
            record(&mut times.response, answered - due);
            record(&mut times.lag, sent - due);
            let Timings { queue_us, copy_us, compute_us } = *timings;
            times.queue_us.saturating_record(queue_us);
            times.copy_us.saturating_record(copy_us);
            times.compute_us.saturating_record(compute_us);
        }
        shard.refusals.iter().for_each(|time| record(&mut times.refusal, *time));
    }
}

/// What came lately.
#[derive(Clone, Debug)]
pub struct Recent {
    /// How many.
    pub counts: Counts,
    /// Response times.
    pub response: Histogram<u64>,
}

impl Default for Recent {
    fn default() -> Self {
        Self { counts: Counts::default(), response: nanoseconds() }
    }
}

impl Recent {
    fn add(&mut self, shard: &Shard) {
        self.counts.add(&shard.counts);
        for Measured { moments, .. } in &shard.answers {
            record(&mut self.response, moments.answered - moments.due);
        }
    }

    /// Adds what came at another time.
    pub fn merge(&mut self, other: &Self) {
        self.counts.add(&other.counts);
        self.response.add(&other.response).expect("the same bounds");
    }

    /// Forgets everything but keeps the memory.
    pub fn clear(&mut self) {
        self.counts = Counts::default();
        self.response.reset();
    }
}

/// Where tasks write.
#[derive(Debug, Default)]
pub(super) struct Shard {
    counts: Counts,
    answers: Vec<Measured>,
    /// From when a request was due to its refusal.
    refusals: Vec<Duration>,
}

#[derive(Debug)]
struct Measured {
    moments: Moments,
    timings: Timings,
}

impl Shard {
    /// Counts an answer to a request of so many rows and `bytes` of logits.
    pub fn answer(&mut self, moments: Moments, rows: usize, bytes: usize, answer: &Response) {
        let counts = &mut self.counts;
        counts.answered += 1;
        counts.rows += rows as u64;
        counts.bytes += bytes as u64;
        counts.rows_without_token += answer.failed() as u64;
        counts.add_device(answer);
        counts.last_answer = counts.last_answer.max(Some(moments.answered));
        self.answers.push(Measured { moments, timings: answer.timings().unwrap_or_default() });
    }

    /// Counts what came instead of an answer.
    pub fn failure(&mut self, moments: Moments, failure: Failure) {
        let name = failure.code.name();
        if failure.code == Code::RESOURCE_EXHAUSTED {
            self.counts.refused += 1;
            self.refusals.push(moments.answered - moments.due);
        } else {
            *self.counts.errors.entry(name).or_default() += 1;
        }
        self.counts.messages.entry(name).or_insert(failure.message);
    }

    /// Counts a request that was not answered within `timeout`.
    pub fn timeout(&mut self, timeout: Duration) {
        *self.counts.errors.entry(NO_ANSWER).or_default() += 1;
        let message = || format!("no answer within {timeout:?} (--timeout)");
        self.counts.messages.entry(NO_ANSWER).or_insert_with(message);
    }

    /// Counts a request that was due but not sent.
    pub fn overflow(&mut self) {
        self.counts.overflow += 1;
    }

    fn clear(&mut self) {
        self.counts = Counts::default();
        self.answers.clear();
        self.refusals.clear();
    }
}

/// Shards that many tasks write to.
#[derive(Debug)]
pub(super) struct Meter {
    shards: Box<[Mutex<Shard>]>,
    next: AtomicUsize,
}

impl Meter {
    pub(super) fn new(shards: usize) -> Self {
        let shards = (0..shards).map(|_| Mutex::default()).collect();
        Self { shards, next: AtomicUsize::new(0) }
    }

    /// Lets `write` count in one of the shards.
    pub(super) fn count(&self, write: impl FnOnce(&mut Shard)) {
        let at = self.next.fetch_add(1, Ordering::Relaxed) % self.shards.len();
        write(&mut self.shards[at].lock().unwrap_or_else(PoisonError::into_inner));
    }

    /// Moves what the shards hold to the whole and to both of what is recent. Nobody who counts waits for
    /// that: each shard is exchanged for `spare`, an empty one, first.
    pub(super) fn drain(&self, spare: &mut Shard, total: &mut Tally, recent: [&mut Recent; 2]) {
        let [a, b] = recent;
        for shard in &self.shards {
            std::mem::swap(&mut *shard.lock().unwrap_or_else(PoisonError::into_inner), spare);
            total.add(spare);
            a.add(spare);
            b.add(spare);
            spare.clear();
        }
    }
}

/// Longer times count as an hour.
const HOUR_NS: u64 = 3_600_000_000_000;

fn nanoseconds() -> Histogram<u64> {
    histogram(HOUR_NS, 3)
}

fn histogram(high: u64, digits: u8) -> Histogram<u64> {
    Histogram::new_with_bounds(1, high, digits).expect("valid bounds")
}

fn record(histogram: &mut Histogram<u64>, time: Duration) {
    histogram.saturating_record(u64::try_from(time.as_nanos()).unwrap_or(u64::MAX));
}

#[cfg(test)]
mod tests {
    use super::*;
    use logitd_proto::{Plane, RowResult, RowStatus, SampleResponse};

    fn moments(due_ms: u64, sent_ms: u64, answered_ms: u64) -> Moments {
        let start = Instant::now();
        let at = |ms| start + Duration::from_millis(ms);
        Moments { due: at(due_ms), sent: at(sent_ms), answered: at(answered_ms) }
    }

    fn answer(statuses: &[RowStatus]) -> Response {
        let row = |&status: &RowStatus| RowResult { status: status.into(), ..Default::default() };
        Response::Sample(SampleResponse {
            rows: statuses.iter().map(row).collect(),
            device: "cpu".into(),
            plane: Plane::Inline.into(),
            timings: Some(Timings { queue_us: 3, copy_us: 0, compute_us: 40 }),
            ..Default::default()
        })
    }

    #[test]
    fn every_end_is_counted_once_and_draining_loses_nothing() {
        let meter = Meter::new(3);
        for _ in 0..10 {
            meter.count(|t| {
                t.answer(moments(0, 5, 25), 2, 100, &answer(&[RowStatus::Ok, RowStatus::Nan]));
            });
            let refusal = Failure::new(Code::RESOURCE_EXHAUSTED, "queue_rows_max");
            meter.count(|t| t.failure(moments(0, 1, 2), refusal));
            meter.count(|t| t.failure(moments(0, 1, 2), Failure::new(Code::UNAVAILABLE, "gone")));
            meter.count(|t| t.timeout(Duration::from_secs(1)));
            meter.count(Shard::overflow);
        }
        let (mut tally, mut spare) = (Tally::default(), Shard::default());
        let (mut window, mut latest) = (Recent::default(), Recent::default());
        for _ in 0..2 {
            latest.clear();
            meter.drain(&mut spare, &mut tally, [&mut window, &mut latest]);
        }
        assert_eq!((window.counts.requests(), window.response.len()), (50, 10));
        assert_eq!((latest.counts.requests(), latest.response.len()), (0, 0));
        latest.merge(&window);
        assert_eq!(latest.response.max(), tally.times.response.max());

        let counts = &tally.counts;
        assert_eq!((counts.answered, counts.refused, counts.overflow), (10, 10, 10));
        assert_eq!((counts.rows, counts.rows_without_token, counts.bytes), (20, 10, 1000));
        assert_eq!(counts.errors, BTreeMap::from([("UNAVAILABLE", 10), (NO_ANSWER, 10)]));
        assert_eq!(counts.messages["RESOURCE_EXHAUSTED"], "queue_rows_max");
        assert_eq!(counts.devices, BTreeMap::from([("cpu via INLINE".into(), 10)]));
        assert_eq!((counts.requests(), counts.errors_total()), (50, 20));

        let times = &tally.times;
        let close = |histogram: &Histogram<u64>, ms: u64| {
            histogram.len() == 10 && histogram.max().abs_diff(ms * 1_000_000) < ms * 1000
        };
        assert!(close(&times.service, 20) && close(&times.response, 25) && close(&times.lag, 5));
        assert!(close(&times.refusal, 2));
        assert_eq!((times.queue_us.max(), times.compute_us.max()), (3, 40));
    }
}
