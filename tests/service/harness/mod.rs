//! What the tests of the server share: servers on free ports, requests, and what answers must be.

#![allow(dead_code)] // Each of the test binaries uses its own part.

pub mod backends;
pub mod daemon;
pub mod frames;
pub mod raw;
pub mod usage;

use bytes::Bytes;
use logitd::config::Config;
use logitd::engine::Engine;
use logitd::server::{Reloader, Server, ServerError};
use logitd::wire;
use logitd_client::Client;
use logitd_core::adjustments::{self, Adjustments};
use logitd_core::backend::Backend;
use logitd_core::backend::cpu::{Cpu, CpuOptions};
use logitd_core::backend::reference::Reference;
use logitd_core::batch::{self, Results, Row};
use logitd_core::inspection::Inspect;
use logitd_proto::{Dtype, Limits, RowResult, SampleRequest, SamplingParams};
use std::time::{Duration, Instant};
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

/// A server of this process.
pub struct TestServer {
    pub targets: Vec<String>,
    pub metrics: Option<std::net::SocketAddr>,
    pub engine: Engine,
    pub limits: Limits,
    pub reloader: Reloader,
    stop: oneshot::Sender<()>,
    done: JoinHandle<Result<(), ServerError>>,
}

impl TestServer {
    /// With these flags, on a free port unless they say where, sampling with `Reference`.
    pub async fn start(flags: &[&str]) -> Self {
        Self::with(flags, vec![Box::<Reference>::default()]).await
    }

    pub async fn with(flags: &[&str], backends: Vec<Box<dyn Backend>>) -> Self {
        let mut args = vec!["serve"];
        if !flags.iter().any(|flag| flag.starts_with("--listen")) {
            args.push("--listen=127.0.0.1:0");
        }
        args.extend(flags);
        let config = Config::from_args(args).expect("valid flags");
        logitd::server::metrics::install();
        let engine = Engine::start(config.engine(), backends);
        let limits = logitd::server::convert::limits(&config);
        let server = Server::bind(config).await.expect("bound");
        let (targets, metrics) = (server.targets(), server.metrics_address());
        let reloader = server.reloader();
        let (stop, stopped) = oneshot::channel::<()>();
        let shutdown = async move {
            let _ = stopped.await;
        };
        let done = tokio::spawn(server.run(engine.clone(), shutdown));
        Self { targets, metrics, engine, limits, reloader, stop, done }
    }

    pub fn target(&self) -> &str {
        &self.targets[0]
    }

    /// Host and port.
    pub fn address(&self) -> &str {
        self.target().split_once("://").expect("a TCP target").1
    }

    pub async fn client(&self) -> Client {
        Client::connect(self.target()).await.expect("connected")
    }

    /// Waits until nothing is accepted and unanswered.
    pub async fn idle(&self) {
        let (rows, bytes) = (self.limits.queue_rows_max, self.limits.queue_bytes_max);
        let free = || self.engine.reserve(rows as usize, bytes as usize).is_ok();
        until("every permit is back", free).await;
    }

    /// Asks it to stop.
    pub fn stop(self) -> JoinHandle<Result<(), ServerError>> {
        let _ = self.stop.send(());
        self.done
    }
}

/// A server on Unix sockets, with memory to share, and a client of it.
#[cfg(unix)]
pub struct OnThisHost {
    pub server: TestServer,
    pub client: Client,
    /// Where memory is handed over.
    pub control: String,
    _directory: tempfile::TempDir,
}

#[cfg(unix)]
impl OnThisHost {
    /// With these flags beside those that say where it is, sampling on the processor.
    pub async fn start(flags: &[&str]) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let path = |name: &str| format!("unix:{}", directory.path().join(name).display());
        let (calls, control) = (path("logitd.sock"), path("shm.sock"));
        let (listen, shm) = (format!("--listen={calls}"), format!("--shm={control}"));
        let flags = [&[&*listen, &*shm], flags].concat();
        let server = TestServer::with(&flags, vec![cpu()]).await;
        let client = Client::connect(calls).await.unwrap();
        Self { server, client, control, _directory: directory }
    }
}

/// The processor as a device.
pub fn cpu() -> Box<dyn Backend> {
    Box::new(Cpu::new(CpuOptions::default()).expect("every machine has the portable path"))
}

/// Waits for something that must come to be so.
#[track_caller]
pub fn until(what: &str, so: impl Fn() -> bool) -> impl Future<Output = ()> {
    let place = std::panic::Location::caller();
    async move {
        let patience = Instant::now() + Duration::from_secs(20);
        while !so() {
            assert!(Instant::now() < patience, "{place}: waited in vain until {what}");
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }
}

/// Rows of f16 logits made from `salt`: spread out, with ties.
pub fn logits(rows: usize, vocab_size: usize, salt: u64) -> Bytes {
    let mut state = salt.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        half::f16::from_f32((state % 4001) as f32 / 200.0 - 10.0)
    };
    (0..rows * vocab_size).flat_map(|_| next().to_le_bytes()).collect()
}

/// A request of such rows, one set of parameters a row, seeds given.
pub fn request(rows: usize, vocab_size: usize, salt: u64) -> SampleRequest {
    let params = |row: usize| SamplingParams {
        temperature: Some(0.8),
        top_k: (row as u32 * 7) % 50,
        top_p: Some(0.9),
        seed: Some(salt * 1000 + row as u64),
        position: 3,
        ..Default::default()
    };
    SampleRequest {
        dtype: Dtype::F16.into(),
        vocab_size: vocab_size as u32,
        logits: logits(rows, vocab_size, salt),
        params: (0..rows).map(params).collect(),
        ..Default::default()
    }
}

/// The adjustments of a row of a valid request: its own, or those of all rows.
fn adjustments(request: &SampleRequest, row: usize) -> Option<Adjustments> {
    let of_row = |count: usize| row.min(count.saturating_sub(1));
    let message = request.adjustments.get(of_row(request.adjustments.len()))?.clone();
    let mut spec = wire::adjustments::spec(message).expect("valid");
    let params = request.params.get(of_row(request.params.len()));
    let breakers = params.and_then(|params| params.dry.as_ref()).map(|dry| &dry.breakers);
    spec.breakers = breakers.into_iter().flatten().map(|one| one.tokens.clone()).collect();
    Some(spec.parse(request.vocab_size, adjustments::Limits::default()).expect("valid"))
}

/// What a row of a valid request is asked for, with the limits that servers have unless they are told others.
fn inspect(request: &SampleRequest, row: usize) -> Option<Inspect> {
    let params = request.params.get(row.min(request.params.len().saturating_sub(1)))?;
    let limits = wire::inspection::Limits { top_logprobs_max: 1024, kept_ids_max: 4096 };
    let spec = wire::inspection::spec(params).expect("known names");
    spec.parse(request.vocab_size, limits).expect("valid")
}

/// What the rows of a valid request must be answered with, computed here by `Reference`.
pub fn expected(request: &SampleRequest) -> Vec<RowResult> {
    let dtype = wire::row::dtype(request.dtype).expect("tests name a dtype");
    let row_bytes = request.vocab_size as usize * dtype.size_bytes();
    let params = |row: usize| {
        let given =
            if request.params.len() == 1 { &request.params[0] } else { &request.params[row] };
        wire::params::spec(given)
            .expect("known names")
            .parse(|| panic!("tests give seeds"))
            .expect("valid")
    };
    let adjusted: Vec<Option<Adjustments>> =
        (0..request.logits.len() / row_bytes).map(|row| adjustments(request, row)).collect();
    let inspected: Vec<Option<Inspect>> =
        (0..adjusted.len()).map(|row| inspect(request, row)).collect();
    let rows: Vec<Row<'_>> = request
        .logits
        .chunks(row_bytes)
        .zip(adjusted.iter().zip(&inspected))
        .enumerate()
        .map(|(i, (logits, (adjusted, inspect)))| {
            let row = Row::new(dtype, logits, params(i)).expect("a row");
            row.with_adjustments(adjusted.as_ref()).with_inspect(inspect.as_ref())
        })
        .collect();
    let mut results = Results::default();
    Reference::default().sample(&rows, &mut results).expect("the oracle does not fail");
    let message = |(result, row): (batch::RowResult<'_>, &Row<'_>)| {
        wire::row::result_message(result, row.params().seed(), None)
    };
    results.iter().zip(&rows).map(message).collect()
}
