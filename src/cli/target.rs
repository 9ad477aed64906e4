//! A running server as a sampler, and the flags that lead to it.

use super::answer::Answer;
use super::sampler::{Batch, Sampler};
use crate::api::{self, GetInfoResponse, SampleRequest, SamplingParams};
use crate::batch::{Draw, Dtype, RowStatus};
use crate::client::{self, Client};
use crate::params::ParamsSpec;
use std::error::Error;
use std::path::{Path, PathBuf};
use tokio::runtime::Runtime;

/// Bytes of logits read from a file at a time; they are sent in requests as large as the server takes.
const READ_BYTES_MAX: usize = 64 << 20;
/// Rows read at a time.
const READ_ROWS_MAX: usize = 4096;
/// Requests on their way at once.
const IN_FLIGHT: usize = 4;
/// How often a server that has no room is asked again, each time after as long as it says.
const RETRIES_MAX: u32 = 100;

/// Which server, and what it asks for.
#[derive(Clone, Debug, clap::Args)]
pub struct TargetArgs {
    /// A running server: http://HOST:PORT, https://HOST:PORT or unix:PATH
    #[arg(long, value_name = "ADDR")]
    pub target: Option<String>,

    #[command(flatten)]
    servers: ServerArgs,
}

/// How to reach a server that asks who calls.
#[derive(Clone, Debug, clap::Args)]
pub struct ServerArgs {
    /// PEM file of certificates to know an https:// server by
    #[arg(long, value_name = "FILE", requires = "target")]
    tls_ca: Option<PathBuf>,

    /// PEM file of this client's certificate chain, for a server that wants one
    #[arg(long, value_name = "FILE", requires_all = ["target", "tls_key"])]
    tls_cert: Option<PathBuf>,

    /// PEM file of its key
    #[arg(long, value_name = "FILE", requires_all = ["target", "tls_cert"])]
    tls_key: Option<PathBuf>,

    /// File with a bearer token
    #[arg(long, value_name = "FILE", requires = "target")]
    token_file: Option<PathBuf>,
}

impl TargetArgs {
    /// The server, if one is named.
    pub fn connect(&self) -> Result<Option<Remote>, Box<dyn Error>> {
        let Some(target) = &self.target else { return Ok(None) };
        let builder = self.servers.builder(target)?.retries_max(RETRIES_MAX);
        Remote::connect(target, builder).map(Some)
    }
}

impl ServerArgs {
    /// A connection to be made, with what these flags say.
    pub fn builder(&self, target: &str) -> Result<client::Builder, Box<dyn Error>> {
        let mut builder = Client::builder(target);
        if let Some(path) = &self.tls_ca {
            builder = builder.tls_roots(read(path)?);
        }
        if let (Some(cert), Some(key)) = (&self.tls_cert, &self.tls_key) {
            builder = builder.tls_identity(read(cert)?, read(key)?);
        }
        if let Some(path) = &self.token_file {
            builder = builder.token(String::from_utf8(read(path)?)?.trim());
        }
        Ok(builder)
    }
}

/// A running server.
pub struct Remote {
    target: String,
    runtime: Runtime,
    client: Client,
    info: GetInfoResponse,
}

impl Remote {
    /// Connects, and asks the server what it is.
    pub fn connect(target: &str, builder: client::Builder) -> Result<Self, Box<dyn Error>> {
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
        let (client, info) = runtime.block_on(async {
            let client = builder.connect().await?;
            let info = client.info().await?;
            Ok::<_, client::Error>((client, info))
        })?;
        let (ours, theirs) = (crate::arithmetic::VERSION, info.arithmetic_version);
        if ours != theirs {
            return Err(format!(
                "{target} samples with arithmetic version {theirs}, this program knows {ours}; use the \
                 same release on both sides"
            )
            .into());
        }
        Ok(Self { target: target.into(), runtime, client, info })
    }

    /// What the server says about itself.
    pub fn info(&self) -> &GetInfoResponse {
        &self.info
    }
}

impl Sampler for Remote {
    fn name(&self) -> String {
        let devices: Vec<String> = self
            .info
            .devices
            .iter()
            .map(|device| match device.threads {
                0 => format!("{} ({})", device.id, device.isa),
                1 => format!("{} ({}, 1 thread)", device.id, device.isa),
                threads => format!("{} ({}, {threads} threads)", device.id, device.isa),
            })
            .collect();
        format!("{} on {}", devices.join(", "), self.target)
    }

    fn rows_max(&self, row_bytes: usize) -> usize {
        (READ_BYTES_MAX / row_bytes).clamp(1, READ_ROWS_MAX)
    }

    fn sample(&mut self, batch: Batch<'_>) -> Result<Vec<Answer>, Box<dyn Error>> {
        let request = SampleRequest {
            dtype: dtype(batch.dtype).into(),
            vocab_size: batch.vocab_size,
            logits: batch.logits,
            params: batch.params.iter().map(proto_params).collect(),
            ..Default::default()
        };
        let limits = self.info.limits.unwrap_or_default();
        let requests = client::split(request, &limits);
        let client = &self.client;
        let rows = self.runtime.block_on(async {
            let mut rows = Vec::with_capacity(batch.params.len());
            for requests in requests.chunks(IN_FLIGHT) {
                let calls: Vec<_> = requests
                    .iter()
                    .map(|request| {
                        let (client, request) = (client.clone(), request.clone());
                        tokio::spawn(async move { client.sample(request).await })
                    })
                    .collect();
                for call in calls {
                    rows.extend(call.await??.rows);
                }
            }
            Ok::<_, Box<dyn Error>>(rows)
        })?;
        rows.into_iter().map(answer).collect()
    }
}

fn dtype(dtype: Dtype) -> api::Dtype {
    match dtype {
        Dtype::F16 => api::Dtype::F16,
        Dtype::Bf16 => api::Dtype::Bf16,
        Dtype::F32 => api::Dtype::F32,
    }
}

fn proto_params(spec: &ParamsSpec) -> SamplingParams {
    SamplingParams {
        temperature: Some(spec.temperature),
        top_k: spec.top_k,
        top_p: Some(spec.top_p),
        min_p: spec.min_p,
        seed: spec.seed,
        position: spec.position,
        draws: Some(spec.draws),
    }
}

fn answer(row: api::RowResult) -> Result<Answer, Box<dyn Error>> {
    let status = match row.status() {
        api::RowStatus::Ok => RowStatus::Ok,
        api::RowStatus::Nan => RowStatus::Nan,
        api::RowStatus::PositiveInfinity => RowStatus::PositiveInfinity,
        api::RowStatus::NoCandidate => RowStatus::NoCandidate,
        api::RowStatus::Unspecified => {
            return Err(
                format!("the server sent the row status {}; is it newer?", row.status).into()
            );
        }
    };
    let draws = match (row.token, row.logprob) {
        (Some(token), Some(logprob)) if row.draws.is_empty() => vec![Draw { token, logprob }],
        _ => row.draws.iter().map(|d| Draw { token: d.token, logprob: d.logprob }).collect(),
    };
    Ok(Answer { status, draws, kept: row.kept, kept_mass: row.kept_mass, seed: row.seed })
}

fn read(path: &Path) -> Result<Vec<u8>, Box<dyn Error>> {
    Ok(std::fs::read(path).map_err(|error| format!("{}: {error}", path.display()))?)
}
