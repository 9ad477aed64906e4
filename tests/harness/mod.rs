//! What the tests of the server share: servers on free ports, requests, and what answers must be.

#![allow(dead_code)] // Each test binary uses its own part.

use bytes::Bytes;
use logitd::api::{Dtype, RowResult, SampleRequest, SamplingParams};
use logitd::backend::reference::Reference;
use logitd::backend::{Backend, DeviceError, DeviceInfo};
use logitd::batch::{self, Results, Row, RowStatus};
use logitd::client::Client;
use logitd::config::Config;
use logitd::engine::Engine;
use logitd::params::ParamsSpec;
use logitd::server::{Server, ServerError};
use std::time::Duration;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

/// A server of this process.
pub struct TestServer {
    pub targets: Vec<String>,
    pub metrics: Option<std::net::SocketAddr>,
    pub engine: Engine,
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
        let server = Server::bind(config).await.expect("bound");
        let (targets, metrics) = (server.targets(), server.metrics_address());
        let (stop, stopped) = oneshot::channel::<()>();
        let shutdown = async move {
            let _ = stopped.await;
        };
        let done = tokio::spawn(server.run(engine.clone(), shutdown));
        Self { targets, metrics, engine, stop, done }
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

    /// Asks it to stop.
    pub fn stop(self) -> JoinHandle<Result<(), ServerError>> {
        let _ = self.stop.send(());
        self.done
    }
}

/// Takes a fixed time a row, whatever the processor is busy with, and answers as `Reference` does.
pub struct Paced {
    pub row_time: Duration,
    pub inner: Reference,
}

impl Paced {
    pub fn boxed(row_time: Duration) -> Box<dyn Backend> {
        Box::new(Self { row_time, inner: Reference::default() })
    }
}

impl Backend for Paced {
    fn device(&self) -> &DeviceInfo {
        self.inner.device()
    }

    fn sample(&mut self, rows: &[Row<'_>], results: &mut Results) -> Result<(), DeviceError> {
        let result = self.inner.sample(rows, results);
        std::thread::sleep(self.row_time * rows.len() as u32);
        result
    }
}

/// Fails at once, as a device does that is gone.
pub struct Broken(pub Reference);

impl Backend for Broken {
    fn device(&self) -> &DeviceInfo {
        self.0.device()
    }

    fn sample(&mut self, _: &[Row<'_>], _: &mut Results) -> Result<(), DeviceError> {
        Err(DeviceError { device: "reference".into(), reason: "it is gone".into() })
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

/// What the rows of a valid f16 request must be answered with, computed here by `Reference`.
pub fn expected(request: &SampleRequest) -> Vec<RowResult> {
    let row_bytes = request.vocab_size as usize * 2;
    let params = |row: usize| {
        let given =
            if request.params.len() == 1 { &request.params[0] } else { &request.params[row] };
        let spec = ParamsSpec {
            temperature: given.temperature.unwrap_or(1.0),
            top_k: given.top_k,
            top_p: given.top_p.unwrap_or(1.0),
            min_p: given.min_p,
            seed: given.seed,
            position: given.position,
            draws: given.draws.unwrap_or(1),
        };
        spec.parse(|| panic!("tests give seeds")).expect("valid")
    };
    let rows: Vec<Row<'_>> = request
        .logits
        .chunks(row_bytes)
        .enumerate()
        .map(|(i, logits)| Row::new(batch::Dtype::F16, logits, params(i)).expect("a row"))
        .collect();
    let mut results = Results::default();
    Reference::default().sample(&rows, &mut results).expect("the oracle does not fail");
    results.iter().zip(&rows).map(|(result, row)| row_result(result, row)).collect()
}

fn row_result(result: batch::RowResult<'_>, row: &Row<'_>) -> RowResult {
    let status = match result.outcome.status {
        RowStatus::Ok => logitd::api::RowStatus::Ok,
        RowStatus::Nan => logitd::api::RowStatus::Nan,
        RowStatus::PositiveInfinity => logitd::api::RowStatus::PositiveInfinity,
        RowStatus::NoCandidate => logitd::api::RowStatus::NoCandidate,
    };
    let draw = |d: &batch::Draw| logitd::api::Draw { token: d.token, logprob: d.logprob };
    RowResult {
        status: status.into(),
        token: result.draws.first().map(|d| d.token),
        logprob: result.draws.first().map(|d| d.logprob),
        kept: result.outcome.kept,
        kept_mass: result.outcome.kept_mass,
        seed: row.params().seed(),
        draws: if row.params().draws() > 1 {
            result.draws.iter().map(draw).collect()
        } else {
            vec![]
        },
    }
}
