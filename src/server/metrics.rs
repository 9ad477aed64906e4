//! Counters and histograms. [`scrape`](super::scrape) serves them.
//!
//! Every number is recorded where the fact is known: queue, batches and rows in the engine, calls and
//! bytes here. The recorder is one for the process; servers that share a process share the numbers.

use crate::wire;
use logitd_core::verify::Mode;
use logitd_proto::Plane;
use metrics::{
    Counter, Gauge, Histogram, Unit, counter, describe_counter, describe_gauge, describe_histogram,
    gauge, histogram,
};
use metrics_exporter_prometheus::{Matcher, PrometheusBuilder, PrometheusHandle};
use std::sync::OnceLock;
use std::time::{Duration, Instant};
use tonic::Code;

/// How often recorded values are folded into their histograms when nobody scrapes.
const UPKEEP_INTERVAL: Duration = Duration::from_secs(5);
/// 10 us to 10 s, three a decade.
const SECONDS: [f64; 19] = [
    1e-5, 2e-5, 5e-5, 1e-4, 2e-4, 5e-4, 1e-3, 2e-3, 5e-3, 1e-2, 2e-2, 5e-2, 0.1, 0.2, 0.5, 1.0,
    2.0, 5.0, 10.0,
];
/// Powers of two, up to the largest batch there is by default.
const ROWS: [f64; 11] = [1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0, 256.0, 512.0, 1024.0];

/// Codes of gRPC, from OK to UNAUTHENTICATED.
const CODES: usize = Code::Unauthenticated as usize + 1;

static RECORDER: OnceLock<PrometheusHandle> = OnceLock::new();

/// Installs the recorder of this process, the first time; before engines start and requests come, or they
/// miss it.
///
/// Something else that records `metrics` in this process is left in place, and then nothing is
/// rendered here.
pub fn install() -> &'static PrometheusHandle {
    RECORDER.get_or_init(|| {
        let recorder = PrometheusBuilder::new()
            .set_buckets(&SECONDS)
            .and_then(|builder| builder.set_buckets_for_metric(Matcher::Full("logitd_batch_rows".into()), &ROWS))
            .expect("the buckets are not empty")
            .build_recorder();
        let handle = recorder.handle();
        if metrics::set_global_recorder(recorder).is_err() {
            tracing::warn!("another metrics recorder is installed; /metrics stays empty");
        }
        describe();
        let upkeep = handle.clone();
        // A thread, not a task: it outlives whichever runtime asked first.
        let started = std::thread::Builder::new().name("logitd-metrics".into()).spawn(move || {
            loop {
                std::thread::sleep(UPKEEP_INTERVAL);
                upkeep.run_upkeep();
            }
        });
        if let Err(error) = started {
            tracing::warn!(%error, "no thread for metrics upkeep; histograms grow until they are scraped");
        }
        handle
    })
}

fn describe() {
    describe_counter!(
        "logitd_requests_total",
        "Requests by gRPC code, those of streams one by one."
    );
    describe_histogram!(
        "logitd_request_seconds",
        Unit::Seconds,
        "From a request's arrival to its answer; of evaluations, see logitd_evaluate_seconds."
    );
    describe_histogram!(
        "logitd_evaluate_seconds",
        Unit::Seconds,
        "From an evaluation's arrival to its answer."
    );
    describe_counter!(
        "logitd_verified_sequences_total",
        "Sequences with drafts that were verified, by mode (match, rejection, typical)."
    );
    describe_counter!(
        "logitd_drafts_total",
        "Tokens drafted for sequences that were verified, by mode."
    );
    describe_counter!("logitd_drafts_accepted_total", "Those of them that were taken, by mode.");
    describe_counter!("logitd_bytes_total", Unit::Bytes, "Bytes of logits received, by plane.");
    describe_counter!(
        "logitd_connections_refused_total",
        "Connections beyond --connections-max or --connections-per-address-max."
    );
    describe_gauge!("logitd_connections", "Open connections, by transport (tcp, unix).");
    describe_counter!(
        "logitd_connections_idle_total",
        "Connections that were asked to go: no call for --connection-idle-timeout."
    );
    describe_gauge!("logitd_shm_connections", "Open connections to the --shm socket.");
    describe_counter!(
        "logitd_shm_connections_refused_total",
        "Connections beyond --shm-connections-max or --shm-connections-per-peer-max."
    );
    describe_gauge!(
        "logitd_tls_certificate_expiry_timestamp_seconds",
        "When the first certificate of --tls-cert (server) and --tls-client-ca (client_ca) ends, since 1970."
    );
    describe_counter!(
        "logitd_reloads_total",
        "Times that certificates and tokens were read again (ok), or kept because a file was wrong (failed)."
    );
    for result in ["ok", "failed"] {
        counter!("logitd_reloads_total", "result" => result).increment(0);
    }
    for counted in ["logitd_connections_idle_total", "logitd_shm_connections_refused_total"] {
        counter!(counted).increment(0);
    }
    gauge!("logitd_shm_connections").increment(0.0);
    // There from the first scrape on, so that a rate does not miss its first event.
    counter!("logitd_connections_refused_total").increment(0);
    describe_counter!(
        "logitd_log_lines_dropped_total",
        "Log lines that were dropped because stderr was not read fast enough."
    );
    counter!("logitd_log_lines_dropped_total").increment(0);
    describe_gauge!(
        "logitd_answer_bytes",
        Unit::Bytes,
        "Bytes of answers that are awaited or have not been read (--answer-bytes-max)."
    );
    describe_counter!(
        "logitd_answers_cut_total",
        "Calls cut off because their answers were not read (--stream-stall-timeout, --drain-grace)."
    );
    counter!("logitd_answers_cut_total").increment(0);
    describe_gauge!(
        "logitd_kernel_tier",
        "1 for where each device's kernels come from: fatbin (built in), nvrtc (compiled at start), or cpu, \
         which has none."
    );
    describe_counter!(
        "logitd_recorded_total",
        "Requests that --record has written to its file, or dropped: no room, or a disk that fails."
    );
}

/// A request under way: it counts, and its time is taken, when it is done. One that is dropped before
/// that was cancelled.
#[derive(Debug)]
pub struct RequestWatch {
    begun: Instant,
    seconds: fn() -> &'static Histogram,
    /// Only failures count.
    quiet: bool,
    done: bool,
}

impl RequestWatch {
    /// Begins a request.
    pub fn begin() -> Self {
        Self::new(request_seconds, false)
    }

    /// Begins an evaluation, whose time is told apart: it takes many times that of a sample.
    pub fn begin_evaluation() -> Self {
        Self::new(evaluate_seconds, false)
    }

    /// Begins a call that is not itself a request, so that it counts only if it fails.
    pub fn begin_quiet() -> Self {
        Self::new(request_seconds, true)
    }

    fn new(seconds: fn() -> &'static Histogram, quiet: bool) -> Self {
        Self { begun: Instant::now(), seconds, quiet, done: false }
    }

    /// It ended like this.
    pub fn done(mut self, code: Code) {
        self.record(code);
    }

    fn record(&mut self, code: Code) {
        self.done = true;
        if self.quiet && code == Code::Ok {
            return;
        }
        requests(code).increment(1);
        (self.seconds)().record(self.begun.elapsed());
    }
}

impl Drop for RequestWatch {
    fn drop(&mut self) {
        if !self.done {
            self.record(Code::Cancelled);
        }
    }
}

/// Logits came in.
pub fn plane_bytes(plane: Plane, bytes: usize) {
    static BYTES: [OnceLock<Counter>; 5] = [const { OnceLock::new() }; 5];
    let (i, plane) = match plane {
        Plane::Inline | Plane::Unspecified => (0, "inline"),
        Plane::Chunked => (1, "chunked"),
        Plane::Candidates => (2, "candidates"),
        Plane::SharedMemory => (3, "shared_memory"),
        Plane::DeviceMemory => (4, "device_memory"),
    };
    let counter = BYTES[i].get_or_init(|| counter!("logitd_bytes_total", "plane" => plane));
    counter.increment(bytes as u64);
}

/// A sequence took so many of its drafts.
pub fn verified(mode: Mode, drafts: usize, accepted: usize) {
    static COUNTERS: [OnceLock<[Counter; 3]>; Mode::ALL.len()] =
        [const { OnceLock::new() }; Mode::ALL.len()];
    let name = mode.name();
    let [sequences, all, taken] = COUNTERS[mode as usize].get_or_init(|| {
        [
            counter!("logitd_verified_sequences_total", "mode" => name),
            counter!("logitd_drafts_total", "mode" => name),
            counter!("logitd_drafts_accepted_total", "mode" => name),
        ]
    });
    sequences.increment(1);
    all.increment(drafts as u64);
    taken.increment(accepted as u64);
}

// What every request counts is looked up once: a look takes longer than the counting. A label is there
// from its first event on.

fn requests(code: Code) -> &'static Counter {
    static REQUESTS: [OnceLock<Counter>; CODES] = [const { OnceLock::new() }; CODES];
    REQUESTS[code as usize]
        .get_or_init(|| counter!("logitd_requests_total", "code" => code_name(code)))
}

fn request_seconds() -> &'static Histogram {
    static SECONDS: OnceLock<Histogram> = OnceLock::new();
    SECONDS.get_or_init(|| histogram!("logitd_request_seconds"))
}

fn evaluate_seconds() -> &'static Histogram {
    static SECONDS: OnceLock<Histogram> = OnceLock::new();
    SECONDS.get_or_init(|| histogram!("logitd_evaluate_seconds"))
}

/// So many more requests are in the file that `--record` names, and so many were to be.
pub fn recorded(written: u64, dropped: u64) {
    counter!("logitd_recorded_total", "result" => "written").increment(written);
    counter!("logitd_recorded_total", "result" => "dropped").increment(dropped);
}

/// A log line found no room.
pub fn log_line_dropped() {
    counter!("logitd_log_lines_dropped_total").increment(1);
}

/// A connection came, and was given a place.
pub fn connection_opened(transport: &'static str) {
    connections(transport).increment(1.0);
}

/// It has gone.
pub fn connection_closed(transport: &'static str) {
    connections(transport).decrement(1.0);
}

fn connections(transport: &'static str) -> Gauge {
    gauge!("logitd_connections", "transport" => transport)
}

/// A connection was asked to go because it had no calls.
pub fn connection_idle() {
    counter!("logitd_connections_idle_total").increment(1);
}

/// When a certificate ends, in seconds since 1970.
pub fn certificate_expiry(certificate: &'static str, unix_seconds: u64) {
    let name = "logitd_tls_certificate_expiry_timestamp_seconds";
    gauge!(name, "certificate" => certificate).set(unix_seconds as f64);
}

/// Certificates and tokens were read again, or could not be.
pub fn reloaded(result: &'static str) {
    counter!("logitd_reloads_total", "result" => result).increment(1);
}

/// So many connections to the socket where memory is handed over.
pub fn shm_connections(change: f64) {
    gauge!("logitd_shm_connections").increment(change);
}

/// One more was refused there.
pub fn shm_connection_refused() {
    counter!("logitd_shm_connections_refused_total").increment(1);
}

/// There was no place for a connection.
pub fn connection_refused() {
    counter!("logitd_connections_refused_total").increment(1);
}

/// Bytes of answers that are awaited or unread.
pub fn answer_bytes() -> Gauge {
    gauge!("logitd_answer_bytes")
}

/// A call's answer was not read.
pub fn answer_cut() {
    counter!("logitd_answers_cut_total").increment(1);
}

/// Where a device's kernels come from.
pub fn kernel_tier(device: &str, tier: &'static str) {
    gauge!("logitd_kernel_tier", "device" => device.to_owned(), "tier" => tier).set(1.0);
}

/// A code as gRPC spells it.
pub fn code_name(code: Code) -> &'static str {
    wire::code::Code(code.into()).name()
}
