//! A running server as a sampler, and the flags that lead to it.

use super::answer::RowAnswer;
use super::drafted::{Origin, Sequence, Taken};
use super::sampler::{RowsOfOne, Sampler};
use crate::files::params::Set;
use crate::files::vectors::StoredRow;
use crate::wire;
use bytes::Bytes;
use logitd_client::{self, Client};
use logitd_core::adjustments::AdjustmentsSpec;
use logitd_core::backend::dual;
use logitd_core::batch::{Dtype, Row, RowError};
use logitd_core::beams::{Step, StepSpec, Stepped};
use logitd_core::candidates;
use logitd_core::params::ParamsSpec;
use logitd_proto::draft_distribution::Kind;
use logitd_proto::{
    self as api, BeamGroup, BeamStepRequest, Candidates, DraftDistribution, DraftedSequence,
    GetInfoResponse, SampleRequest, VerifyRequest,
};
use std::error::Error;
use std::path::{Path, PathBuf};
use tokio::runtime::Runtime;

/// Bytes of logits read from a file at a time; they are sent in chunks of the size that the server
/// likes.
const READ_BYTES_MAX: usize = 64 << 20;
/// Rows read at a time.
const READ_ROWS_MAX: usize = 4096;
/// How often a server that has no room is asked again, each time after as long as it says.
const RETRIES_MAX: u32 = 100;

/// Which server, and what it asks for.
#[derive(Clone, Debug, clap::Args)]
pub struct TargetArgs {
    /// A running server: http://HOST:PORT, https://HOST:PORT (with --tls-ca), HOST (port 50051) or unix:PATH
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
    pub fn builder(&self, target: &str) -> Result<logitd_client::Builder, Box<dyn Error>> {
        let is_https = target.starts_with("https://");
        if is_https && self.tls_ca.is_none() {
            return Err(format!(
                "--target {target} needs --tls-ca FILE, the certificates (PEM) to know that server by"
            )
            .into());
        }
        if !is_https && (self.tls_ca.is_some() || self.tls_cert.is_some()) {
            return Err(format!(
                "--tls-ca and --tls-cert are for targets of https://, and --target is {target}"
            )
            .into());
        }
        let mut builder = Client::builder(target);
        if let Some(path) = &self.tls_ca {
            builder = builder.tls_roots(read(path)?);
        }
        if let (Some(cert), Some(key)) = (&self.tls_cert, &self.tls_key) {
            builder = builder.tls_identity(read(cert)?, read(key)?);
        }
        if let Some(path) = &self.token_file {
            let text = String::from_utf8(read(path)?)
                .map_err(|_| format!("{}: is not UTF-8 text", path.display()))?;
            builder = builder.token(text.trim_start_matches('\u{feff}').trim());
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
    /// Of each row, only so many of its first tokens are sent.
    candidates: Option<u32>,
}

impl Remote {
    /// Connects, and asks the server what it is.
    pub fn connect(target: &str, builder: logitd_client::Builder) -> Result<Self, Box<dyn Error>> {
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
        let (client, info) = runtime.block_on(async {
            let client = builder.connect().await?;
            let info = client.info().await?;
            Ok::<_, logitd_client::Error>((client, info))
        })?;
        let (ours, theirs) = (logitd_core::arithmetic::VERSION, info.arithmetic_version);
        // A server of version 1 gives the same bits for what it knows; the client refuses to ask it for more.
        if !logitd_core::arithmetic::replays(theirs) {
            return Err(format!(
                "{target} samples with arithmetic version {theirs}, this program knows {ours}; use the \
                 same release on both sides"
            )
            .into());
        }
        Ok(Self { target: target.into(), runtime, client, info, candidates: None })
    }

    /// Sends only each row's first tokens, so many of them; `None` sends whole rows.
    pub fn with_candidates(self, candidates: Option<u32>) -> Self {
        Self { candidates, ..self }
    }

    /// Whether the server tells which tokens were kept.
    pub fn tells_kept(&self) -> bool {
        self.info.controls.iter().any(|name| name == "return_kept")
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

    fn sample(&mut self, batch: RowsOfOne<'_>) -> Result<Vec<RowAnswer>, Box<dyn Error>> {
        if self.info.controls.is_empty() && batch.params.iter().any(Set::adjusts) {
            return Err(format!(
                "{} samples with logitd {}, which knows no adjustments and would not notice any; use a later one",
                self.target, self.info.version
            )
            .into());
        }
        let request = SampleRequest {
            dtype: wire::row::dtype_message(batch.dtype).into(),
            vocab_size: batch.vocab_size,
            rows: Some(batch.params.len() as u32),
            logits: batch.logits,
            params: batch.params.iter().map(params_message).collect(),
            adjustments: adjustments(batch.params),
            ..Default::default()
        };
        let request = match self.candidates {
            Some(count) => with_candidates(request, batch.dtype, count),
            None => request,
        };
        let sampled = self.client.sample_chunked(request, &self.info);
        let rows = self.runtime.block_on(sampled)?.rows;
        rows.into_iter().map(answer).collect()
    }

    fn step(
        &mut self,
        rows: &[StoredRow],
        sets: &[Set],
        step: &Step,
    ) -> Result<Stepped, Box<dyn Error>> {
        let (dtype, vocab_size, logits) = together(rows)?;
        let StepSpec { scores, beams, eos_ids, temperature, normaliser } = step.spec().clone();
        let params = |set: &Set| {
            // Greedy is what a step asks for by itself, and nothing is drawn with a seed.
            let temperature = ParamsSpec::DEFAULT.temperature;
            let params = ParamsSpec { temperature, seed: None, ..set.params };
            params_message(&Set { params, ..set.clone() })
        };
        let group = BeamGroup {
            rows: Some(rows.len() as u32),
            scores,
            beams,
            eos_ids,
            temperature: Some(temperature),
            normaliser: wire::beam::normaliser_message(normaliser).into(),
            params: sets.iter().map(params).collect(),
            adjustments: adjustments(sets),
            ..Default::default()
        };
        let request = BeamStepRequest {
            dtype: wire::row::dtype_message(dtype).into(),
            vocab_size,
            logits,
            groups: vec![group],
            ..Default::default()
        };
        let mut response = self.runtime.block_on(self.client.beam_step(request))?;
        let group = response.groups.pop().ok_or("the answer has no group")?;
        Ok(wire::beam::stepped(&group)?)
    }

    fn verify(&mut self, sequence: &Sequence) -> Result<Taken, Box<dyn Error>> {
        let request = verify_request(sequence)?;
        let mut response = self.runtime.block_on(self.client.verify(request))?;
        let sequence = response.sequences.pop().ok_or("the answer has no sequence")?;
        taken(sequence)
    }
}

/// The rows of a sequence, and behind them those that its drafts were drawn from.
fn verify_request(sequence: &Sequence) -> Result<VerifyRequest, RowError> {
    let mut rows = sequence.rows.clone();
    let mut named = vec![];
    for origin in &sequence.origins {
        named.push(rows.len() as u32);
        if let Origin::Row(row, _) = origin {
            rows.push(row.clone());
        }
    }
    let (dtype, vocab_size, logits) = together(&rows)?;
    let origins = sequence.origins.iter().zip(named);
    let drafted = DraftedSequence {
        rows: Some(sequence.rows.len() as u32),
        mode: wire::verify::mode_message(sequence.mode).into(),
        drafts: sequence.drafts.clone(),
        parents: sequence.parents.clone().unwrap_or_default(),
        params: Some(params_message(&sequence.set)),
        adjustments: Some(wire::adjustments::message(&sequence.set.adjustments)),
        distributions: origins.map(|(origin, row)| distribution(origin, row, vocab_size)).collect(),
        typical_epsilon: sequence.typical.map(|typical| typical.epsilon),
        typical_delta: sequence.typical.map(|typical| typical.delta),
        ..Default::default()
    };
    Ok(VerifyRequest {
        dtype: wire::row::dtype_message(dtype).into(),
        vocab_size,
        logits,
        sequences: vec![drafted],
        ..Default::default()
    })
}

/// What a draft was drawn from; `row` is the place of its row, if it has one.
fn distribution(origin: &Origin, row: u32, vocab_size: u32) -> DraftDistribution {
    let kind = match origin {
        Origin::Point => None,
        Origin::Row(_, set) => Some(Kind::Logits(Box::new(api::LogitsDraft {
            row,
            params: Some(params_message(set)),
            adjustments: Some(wire::adjustments::message(&set.adjustments)),
        }))),
        Origin::Sparse(weights) => {
            let (tokens, weights) = weights.iter().copied().unzip();
            Some(Kind::Sparse(api::SparseDraft { tokens, weights }))
        }
        Origin::Dense(given) => {
            let mut probabilities = given.clone();
            // Tokens that rows are padded with have none.
            probabilities.resize(given.len().max(vocab_size as usize), 0.0);
            Some(Kind::Dense(api::DenseDraft { probabilities }))
        }
    };
    DraftDistribution { kind }
}

fn taken(sequence: api::VerifiedSequence) -> Result<Taken, Box<dyn Error>> {
    let number = sequence.status;
    let status = wire::row::status(number)
        .ok_or_else(|| format!("the answer has the row status {number}; is the server newer?"))?;
    let api::VerifiedSequence { accepted, tokens, logprobs, path, .. } = sequence;
    Ok(Taken { status, accepted: accepted as usize, path, tokens, logprobs })
}

/// Rows as those of one request. Where they differ, all are widened to f32, and shorter ones have tokens of -inf behind
/// theirs: neither changes a row.
fn together(rows: &[StoredRow]) -> Result<(Dtype, u32, Bytes), RowError> {
    let vocab_size = rows.iter().map(StoredRow::vocab_size).max().unwrap_or(0);
    let alike = |row: &StoredRow| (row.dtype, row.vocab_size()) == (rows[0].dtype, vocab_size);
    if rows.iter().all(alike) {
        let dtype = rows.first().map_or(Dtype::F32, |row| row.dtype);
        return Ok((dtype, vocab_size, rows.iter().flat_map(|row| row.logits.clone()).collect()));
    }
    let params = ParamsSpec::DEFAULT.parse(|| 0).expect("the defaults are valid");
    let mut logits = Vec::with_capacity(rows.len() * vocab_size as usize * size_of::<f32>());
    for row in rows {
        let own = Row::new(row.dtype, &row.logits, params)?;
        let padding = vocab_size - row.vocab_size();
        let widened = (0..row.vocab_size()).map(|token| own.logit(token));
        let padded = widened.chain((0..padding).map(|_| f32::NEG_INFINITY));
        logits.extend(padded.flat_map(f32::to_le_bytes));
    }
    Ok((Dtype::F32, vocab_size, logits.into()))
}

fn params_message(set: &Set) -> api::SamplingParams {
    let mut message = wire::params::message(&set.params);
    if !set.adjustments.breakers.is_empty() {
        let breakers = wire::adjustments::sequences(&set.adjustments.breakers);
        message.dry.get_or_insert_default().breakers = breakers;
    }
    wire::inspection::ask(&set.inspect, &mut message);
    message
}

/// One a row, or none where no row has any.
fn adjustments(sets: &[Set]) -> Vec<api::Adjustments> {
    if sets.iter().all(|set| set.adjustments == AdjustmentsSpec::default()) {
        return vec![];
    }
    sets.iter().map(|set| wire::adjustments::message(&set.adjustments)).collect()
}

/// The same rows by the first `count` of their tokens (all, where they have fewer).
fn with_candidates(mut request: SampleRequest, dtype: Dtype, count: u32) -> SampleRequest {
    let count = count.clamp(1, request.vocab_size);
    let row_bytes = request.vocab_size as usize * dtype.size_bytes();
    let (mut counts, mut tokens, mut logits) = (Vec::new(), Vec::new(), Vec::new());
    for row in request.logits.chunks_exact(row_bytes) {
        let first = candidates::top(dtype, row, count as usize);
        counts.extend(count.to_le_bytes());
        tokens.extend(first.0);
        logits.extend(first.1);
    }
    request.logits = logits.into();
    request.candidates = Some(Candidates { counts: counts.into(), tokens: tokens.into() });
    request
}

fn answer(row: api::RowResult) -> Result<RowAnswer, Box<dyn Error>> {
    let dual::OwnedResult { outcome, draws, inspection, state, .. } = wire::row::result(&row)?;
    let inspection = inspection.unwrap_or_default();
    Ok(RowAnswer { outcome, draws, inspection, state, seed: row.seed })
}

fn read(path: &Path) -> Result<Vec<u8>, Box<dyn Error>> {
    Ok(std::fs::read(path).map_err(|error| format!("{}: {error}", path.display()))?)
}
