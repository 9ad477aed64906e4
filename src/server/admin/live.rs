//! The last minutes of the server: its metrics, looked at every other second, as what a page draws.
//!
//! What counts is counted once, in [`metrics`]; here its text is read, as Prometheus would, and what has
//! changed since the last look is a point.

use super::super::metrics;
use crate::engine::{DeviceState, Engine};
use serde::Serialize;
use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use tokio::time::{Instant, MissedTickBehavior, interval};

/// How often metrics are looked at.
const INTERVAL: Duration = Duration::from_secs(2);
/// Points that are kept: ten minutes.
const POINTS_MAX: usize = 300;
/// The shares of requests whose latency is told.
const QUANTILES: [f64; 3] = [0.5, 0.9, 0.99];

/// What happened between two looks.
#[derive(Debug, Serialize)]
struct Point {
    /// In milliseconds since 1970.
    at: u64,
    /// Answered a second.
    requests: f64,
    /// Not answered a second, by code.
    refused: BTreeMap<String, f64>,
    /// Sampled a second.
    rows: f64,
    /// Bytes of logits a second, by plane.
    bytes: BTreeMap<String, f64>,
    /// Seconds that these shares of the requests took at most; nothing where there was no request.
    latency: Option<[f64; 3]>,
    /// Rows that wait.
    queue: f64,
    /// Open ones.
    connections: f64,
}

/// What a page is told.
#[derive(Serialize)]
struct Told<'a> {
    interval_ms: u128,
    draining: bool,
    uptime_s: u64,
    devices: Vec<DeviceTold<'a>>,
    /// The number of the last point, which the next question names.
    last: u64,
    points: Vec<&'a Point>,
}

#[derive(Serialize)]
struct DeviceTold<'a> {
    id: &'a str,
    name: &'a str,
    isa: &'a str,
    threads: usize,
    up: bool,
    rows: f64,
}

/// The last minutes.
pub struct Live {
    engine: Engine,
    begun: Instant,
    seen: Mutex<History>,
}

#[derive(Default)]
struct History {
    /// The number of the last point.
    last: u64,
    points: VecDeque<Point>,
    /// Rows of each device since the start.
    rows: HashMap<String, f64>,
}

impl Live {
    /// Nothing yet.
    pub fn new(engine: Engine) -> Self {
        Self { engine, begun: Instant::now(), seen: Mutex::default() }
    }

    /// Looks at the metrics every other second, until dropped.
    pub async fn watch(&self) {
        let mut ticks = interval(INTERVAL);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut before: Option<(Instant, Metrics)> = None;
        loop {
            ticks.tick().await;
            let (now, found) = (Instant::now(), Metrics::read(&metrics::install().render()));
            if let Some((then, old)) = &before {
                let point = found.since(old, (now - *then).as_secs_f64());
                let mut seen = self.lock();
                seen.last += 1;
                seen.points.push_back(point);
                if seen.points.len() > POINTS_MAX {
                    seen.points.pop_front();
                }
                seen.rows = found.by("logitd_rows_total", "device").into_iter().collect();
            }
            before = Some((now, found));
        }
    }

    /// All that has come after a point, as JSON.
    pub fn told(&self, since: u64, draining: bool) -> String {
        let devices = self.engine.devices();
        let seen = self.lock();
        let new = seen.last.saturating_sub(since).min(seen.points.len() as u64) as usize;
        let told = Told {
            interval_ms: INTERVAL.as_millis(),
            draining,
            uptime_s: self.begun.elapsed().as_secs(),
            devices: devices.iter().map(|device| seen.device(device)).collect(),
            last: seen.last,
            points: seen.points.iter().skip(seen.points.len() - new).collect(),
        };
        serde_json::to_string(&told).expect("numbers and strings")
    }

    fn lock(&self) -> MutexGuard<'_, History> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl History {
    fn device<'a>(&self, state: &'a DeviceState) -> DeviceTold<'a> {
        let info = &state.info;
        let rows = self.rows.get(&info.id).copied().unwrap_or(0.0);
        let (id, name, isa) = (&info.id, &info.name, &info.isa);
        DeviceTold { id, name, isa, threads: info.threads, up: state.up, rows }
    }
}

/// Metrics as they are written: name, labels and value of each line.
struct Metrics(Vec<(String, HashMap<String, String>, f64)>);

impl Metrics {
    fn read(text: &str) -> Self {
        let lines = text.lines().filter(|line| !line.starts_with('#'));
        Self(lines.filter_map(read_line).collect())
    }

    fn of<'a>(&'a self, name: &'a str) -> impl Iterator<Item = (&'a HashMap<String, String>, f64)> {
        self.0.iter().filter(move |line| line.0 == name).map(|(_, labels, value)| (labels, *value))
    }

    fn sum(&self, name: &str) -> f64 {
        self.of(name).map(|(_, value)| value).sum()
    }

    /// The sums by one label.
    fn by(&self, name: &str, label: &str) -> BTreeMap<String, f64> {
        let mut sums = BTreeMap::new();
        for (labels, value) in self.of(name) {
            let key = labels.get(label).cloned().unwrap_or_default();
            *sums.entry(key).or_default() += value;
        }
        sums
    }

    fn since(&self, old: &Self, seconds: f64) -> Point {
        let rates = |name: &str, label: &str| {
            let before = old.by(name, label);
            let rate = |(key, now): (String, f64)| {
                let then = before.get(&key).copied().unwrap_or(0.0);
                let rate = (now - then).max(0.0) / seconds;
                (key, rate)
            };
            self.by(name, label).into_iter().map(rate).collect::<BTreeMap<_, _>>()
        };
        let mut refused = rates("logitd_requests_total", "code");
        let requests = refused.remove("OK").unwrap_or(0.0);
        let rows = "logitd_rows_total";
        Point {
            at: SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_millis() as u64,
            requests,
            refused,
            rows: (self.sum(rows) - old.sum(rows)).max(0.0) / seconds,
            bytes: rates("logitd_bytes_total", "plane"),
            latency: self.latency(old),
            queue: self.sum("logitd_queue_rows"),
            connections: self.sum("logitd_connections"),
        }
    }

    /// From the buckets of the histogram: within one, as if requests were spread evenly.
    fn latency(&self, old: &Self) -> Option<[f64; 3]> {
        let name = "logitd_request_seconds_bucket";
        let before = old.by(name, "le");
        let mut buckets: Vec<(f64, f64)> = self
            .by(name, "le")
            .into_iter()
            .filter_map(|(le, count)| {
                let end = if le == "+Inf" { f64::INFINITY } else { le.parse().ok()? };
                Some((end, count - before.get(&le).copied().unwrap_or(0.0)))
            })
            .collect();
        buckets.sort_by(|a, b| a.0.total_cmp(&b.0));
        let all = buckets.last().map(|(_, count)| *count).filter(|count| *count > 0.0)?;
        Some(QUANTILES.map(|share| {
            let wanted = share * all;
            let (mut begin, mut below) = (0.0, 0.0);
            for &(end, count) in &buckets {
                if count >= wanted {
                    let width = if end.is_finite() { end - begin } else { 0.0 };
                    return begin + width * (wanted - below) / (count - below);
                }
                (begin, below) = (end, count);
            }
            begin
        }))
    }
}

/// `name{key="value"} 1`. Names of devices and codes have no quotes in them.
fn read_line(line: &str) -> Option<(String, HashMap<String, String>, f64)> {
    let (series, value) = line.rsplit_once(' ')?;
    let (name, labels) = match series.split_once('{') {
        Some((name, labels)) => (name, labels.strip_suffix('}')?),
        None => (series, ""),
    };
    let label = |pair: &str| {
        let (key, value) = pair.split_once('=')?;
        Some((key.trim().to_owned(), value.trim_matches('"').to_owned()))
    };
    Some((name.to_owned(), labels.split(',').filter_map(label).collect(), value.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_looks_make_a_point() {
        let text = |ok, bad, rows, fast, slow| {
            format!(
                "# TYPE logitd_requests_total counter\nlogitd_requests_total{{code=\"OK\"}} {ok}\n\
                 logitd_requests_total{{code=\"RESOURCE_EXHAUSTED\"}} {bad}\n\
                 logitd_rows_total{{status=\"OK\",device=\"cpu\"}} {rows}\n\
                 logitd_rows_total{{status=\"NAN\",device=\"cpu\"}} 2\nlogitd_queue_rows 7\n\
                 logitd_request_seconds_bucket{{le=\"0.001\"}} {fast}\n\
                 logitd_request_seconds_bucket{{le=\"0.002\"}} {slow}\n\
                 logitd_request_seconds_bucket{{le=\"+Inf\"}} {slow}\n"
            )
        };
        let (old, new) = (text(10, 0, 40, 10, 10), text(30, 4, 120, 20, 30));
        let point = Metrics::read(&new).since(&Metrics::read(&old), 2.0);
        assert_eq!((point.requests, point.rows, point.queue), (10.0, 40.0, 7.0));
        assert_eq!(point.refused["RESOURCE_EXHAUSTED"], 2.0);
        let [half, most, all] = point.latency.unwrap();
        assert_eq!(half, 0.001);
        assert!((most - 0.0018).abs() < 1e-9 && (all - 0.00198).abs() < 1e-9, "{most} {all}");
        assert!(Metrics::read(&old).since(&Metrics::read(&old), 2.0).latency.is_none());
        assert_eq!(Metrics::read(&new).by("logitd_rows_total", "device")["cpu"], 122.0);
    }
}
