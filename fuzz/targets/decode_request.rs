//! Any bytes as the body of a call, in pieces of any size: through the server's watch over messages,
//! the decoder, the validator and, where there is something to sample, the engine.
//!
//! Nothing may panic; whoever sends nonsense is told that it is the sender's doing (INTERNAL only for a
//! wrong compression flag, where gRPC asks for it); and when it is over, every permit is back.

#![no_main]

mod common;

use bytes::Bytes;
use libfuzzer_sys::fuzz_target;
use logitd_core::evaluate::row::RowEvaluator;
use logitd_core::evaluate::{Position, Question};
use logitd_proto::{
    self as api, BeamStepRequest, BeamStepResponse, Codec, EvaluateRequest, EvaluateResponse,
    SampleRequest, SampleResponse, SampleStreamRequest, VerifyRequest, VerifyResponse,
};
use logitd_core::backend::{Backend, reference::Reference};
use logitd::engine::{Completed, Engine, EngineConfig, Permit, Request, RequestRow};
use logitd_core::params::{ParamsSpec, SamplingParams};
use logitd::server::pool::Pool;
use logitd::server::envelope::Arity;
use logitd::server::frames::{Admissions, Admitted, Bounds, Gate, Messages};
use logitd::server::intake::{self, RequestFields};
use logitd::server::line::{Lane, Line};
use logitd::server::room::Rooms;
use logitd::server::unread::Patience;
use logitd::server::{Error, beam, by_row, convert, evaluate, verify};
use prost::Message;
use std::pin::Pin;
use std::sync::LazyLock;
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::runtime::{Builder, Runtime};
use tonic::codec::{Codec as _, Streaming};
use tonic::{Code, Status};

const ROWS_MAX: usize = 8;
const MESSAGE_BYTES_MAX: usize = 1200;
/// Less than a message may have, so that this refusal is met as well.
const QUEUE_BYTES_MAX: usize = 1000;

/// Small limits, so that small inputs meet them.
static LIMITS: api::Limits = api::Limits {
    vocab_size_max: logitd_core::batch::VOCAB_SIZE_MAX,
    draws_max: logitd_core::params::DRAWS_MAX,
    request_rows_max: 6,
    request_draws_max: 2048,
    message_bytes_max: MESSAGE_BYTES_MAX as u64,
    queue_rows_max: ROWS_MAX as u64,
    queue_bytes_max: QUEUE_BYTES_MAX as u64,
    batch_rows_max: ROWS_MAX as u32,
    batch_bytes_max: QUEUE_BYTES_MAX as u64,
    batch_draws_max: 1 << 14,
    stream_requests_max: 4,
    connection_streams_max: 4,
    answer_bytes_max: 1 << 20,
    connection_bytes_max: QUEUE_BYTES_MAX as u64,
    request_race_tokens_max: 1 << 12,
    adjusted_tokens_max: 16,
    history_tokens_max: 64,
    top_logprobs_max: 8,
    kept_ids_max: 4,
    evaluate_sets_max: 40,
    evaluate_sums_max: 60,
    drafts_max: 4,
    tree_nodes_max: 6,
    beams_max: 3,
};

static RUNTIME: LazyLock<Runtime> =
    LazyLock::new(|| Builder::new_current_thread().enable_time().build().expect("a runtime"));

static ENGINE: LazyLock<Engine> = LazyLock::new(|| {
    let config = EngineConfig {
        batch_rows_max: ROWS_MAX,
        batch_bytes_max: QUEUE_BYTES_MAX,
        queue_rows_max: ROWS_MAX,
        queue_bytes_max: QUEUE_BYTES_MAX,
        ..Default::default()
    };
    Engine::start(config, vec![Box::new(Reference::default()) as Box<dyn Backend>])
});

fuzz_target!(init: common::plant("decode_request", seeds()), |data: &[u8]| {
    let Some((&plan, wire)) = data.split_first() else { return };
    let piece = [1, 2, 7, 100, usize::MAX][usize::from(plan >> 1) % 5];
    RUNTIME.block_on(async {
        match plan & 0x71 {
            0 => unary(wire, piece).await,
            1 => stream(wire, piece).await,
            32 => verification(wire, piece).await,
            64 => beams(wire, piece).await,
            _ => evaluation(wire, piece).await,
        }
    });
    let all = ENGINE.reserve(ROWS_MAX, QUEUE_BYTES_MAX);
    assert!(all.is_ok(), "a permit was not given back: {:?}", all.err());
});

async fn unary(wire: &[u8], piece: usize) {
    let admissions = Admissions::default();
    let body = body(wire, piece, Arity::Unary, intake::SAMPLE, &admissions);
    let decoder = Codec::<SampleResponse, SampleRequest>::default().decoder();
    let mut messages = Streaming::new_request(decoder, body, None, Some(MESSAGE_BYTES_MAX));
    match messages.message().await {
        Ok(Some(request)) => {
            let admitted = admissions.next().expect("every message is admitted");
            if let Err(error) = sample(admitted, request).await {
                expect_told(&convert::status(&error));
            }
        }
        Ok(None) => (),
        Err(status) => expect_told(&status),
    }
}

async fn stream(wire: &[u8], piece: usize) {
    let admissions = Admissions::default();
    let body = body(wire, piece, Arity::Stream, intake::SAMPLE, &admissions);
    let decoder = Codec::<api::SampleStreamResponse, SampleStreamRequest>::default().decoder();
    let mut messages = Streaming::new_request(decoder, body, None, Some(MESSAGE_BYTES_MAX));
    loop {
        match messages.message().await {
            Ok(Some(message)) => {
                let admitted = admissions.next().expect("every message is admitted");
                let request = message.request.unwrap_or_default();
                if let Err(error) = sample(admitted, request).await {
                    let told = convert::stream_error(&error);
                    expect_told(&Status::new(Code::from(told.code), told.message));
                }
            }
            Ok(None) => return,
            Err(status) => return expect_told(&status),
        }
    }
}

async fn evaluation(wire: &[u8], piece: usize) {
    let admissions = Admissions::default();
    let body = body(wire, piece, Arity::Unary, intake::EVALUATE, &admissions);
    let decoder = Codec::<EvaluateResponse, EvaluateRequest>::default().decoder();
    let mut messages = Streaming::new_request(decoder, body, None, Some(MESSAGE_BYTES_MAX));
    match messages.message().await {
        Ok(Some(mut request)) => {
            let admitted = admissions.next().expect("every message is admitted");
            let checked = admitted.and_then(|admitted| {
                let _room = admitted.complete(&mut request.logits);
                evaluate::check(&request, None, &LIMITS)
            });
            match checked {
                Ok(checked) => check_evaluation(&checked, &request),
                Err(error) => expect_told(&convert::status(&error)),
            }
        }
        Ok(None) => (),
        Err(status) => expect_told(&status),
    }
}

async fn verification(wire: &[u8], piece: usize) {
    let admissions = Admissions::default();
    let body = body(wire, piece, Arity::Unary, intake::VERIFY, &admissions);
    let decoder = Codec::<VerifyResponse, VerifyRequest>::default().decoder();
    let mut messages = Streaming::new_request(decoder, body, None, Some(MESSAGE_BYTES_MAX));
    match messages.message().await {
        Ok(Some(request)) => {
            let admitted = admissions.next().expect("every message is admitted");
            if let Err(error) = verify_drafts(admitted, request).await {
                expect_told(&convert::status(&error));
            }
        }
        Ok(None) => (),
        Err(status) => expect_told(&status),
    }
}

/// What the server does with sequences and their drafts.
async fn verify_drafts(
    admitted: Result<Admitted, Error>,
    mut request: VerifyRequest,
) -> Result<(), Error> {
    let (permit, _shares) = admitted?.complete(&mut request.logits);
    let sent = request.sequences.clone();
    let batch = verify::batch(request, None, &LIMITS)?;
    let drafts: usize = sent.iter().map(|sequence| sequence.drafts.len() + 1).sum();
    assert_eq!((batch.rows.len(), batch.sequences.len()), (drafts, sent.len()));
    let answer_bytes = verify::answer_bytes(&batch.rows, &batch.sequences);
    let done = run(permit, batch.rows, batch.bytes).await?;
    let response = verify::response(&done, &batch.sequences, api::Plane::Inline);
    assert!(response.encoded_len() <= answer_bytes, "there was room for it");
    for (verified, sent) in response.sequences.iter().zip(&sent) {
        let accepted = verified.accepted as usize;
        let last = usize::from(verified.status() == api::RowStatus::Ok);
        assert!(accepted <= sent.drafts.len());
        assert_eq!(verified.tokens.len(), accepted + last);
        assert_eq!(verified.logprobs.len(), verified.tokens.len());
    }
    Ok(())
}

async fn beams(wire: &[u8], piece: usize) {
    let admissions = Admissions::default();
    let body = body(wire, piece, Arity::Unary, intake::BEAM_STEP, &admissions);
    let decoder = Codec::<BeamStepResponse, BeamStepRequest>::default().decoder();
    let mut messages = Streaming::new_request(decoder, body, None, Some(MESSAGE_BYTES_MAX));
    match messages.message().await {
        Ok(Some(request)) => {
            let admitted = admissions.next().expect("every message is admitted");
            if let Err(error) = step(admitted, request).await {
                expect_told(&convert::status(&error));
            }
        }
        Ok(None) => (),
        Err(status) => expect_told(&status),
    }
}

/// What the server does with groups of beams.
async fn step(
    admitted: Result<Admitted, Error>,
    mut request: BeamStepRequest,
) -> Result<(), Error> {
    let (permit, _shares) = admitted?.complete(&mut request.logits);
    let groups = request.groups.len();
    let batch = beam::batch(request, None, &LIMITS)?;
    let answer_bytes = beam::answer_bytes(&batch.steps);
    let done = run(permit, batch.rows, batch.bytes).await?;
    let response = beam::response(&done, &batch.steps, api::Plane::Inline);
    assert!(response.encoded_len() <= answer_bytes, "there was room for it");
    assert_eq!(response.groups.len(), groups);
    Ok(())
}

/// Has the engine sample rows, which with what stands beside them have so many bytes.
async fn run(
    mut permit: Permit,
    rows: Vec<RequestRow>,
    bytes: usize,
) -> Result<Completed, Error> {
    permit.resize(rows.len(), bytes)?;
    let in_rows: usize = rows.iter().map(RequestRow::bytes).sum();
    let _side_room = permit.split_off(bytes - in_rows);
    let priority = Default::default();
    let request = Request { rows, deadline: None, priority, source: Default::default() };
    Ok(ENGINE.submit(permit, request)?.await?)
}

/// What was accepted is within the limits, and can be evaluated.
fn check_evaluation(checked: &evaluate::Checked, sent: &EvaluateRequest) {
    let (rows, sets) = (&checked.rows, &checked.sets);
    assert_eq!(rows.len(), sent.references.len());
    assert!((1..=LIMITS.evaluate_sets_max as usize).contains(&sets.len()));
    assert!(checked.labels.len() * sets.len() <= LIMITS.evaluate_sums_max as usize);
    let question = Question { sets, tail: checked.tail, rows: checked.evaluations };
    for row in rows {
        let position = Position::new(row.row.as_row(), row.reference, checked.labels[row.group]);
        let mut seen = 0;
        RowEvaluator::new().evaluate(&position.expect("a token"), &question, |set, found, _| {
            assert!(set < sets.len() && found.hits <= 1 && found.kept >= 1);
            seen += 1;
        });
        assert!(seen == 0 || seen == sets.len());
    }
}

/// What the server does with a message.
async fn sample(
    admitted: Result<Admitted, Error>,
    mut request: SampleRequest,
) -> Result<(), Error> {
    let (mut permit, _shares) = admitted?.complete(&mut request.logits);
    let sent = request.clone();
    let batch = by_row::batch(request, None, &LIMITS)?;
    let bytes: usize = batch.rows.iter().map(|row| row.bytes()).sum();
    let padding = batch.padding_bytes;
    assert_eq!(bytes + padding, sent.logits.len(), "every byte belongs to a row or is padding");
    assert!(!batch.rows.is_empty());
    permit.resize(batch.rows.len(), batch.bytes() + batch.side_bytes())?;
    let _side_room = permit.split_off(batch.side_bytes());
    let answer_bytes = convert::answer_bytes(&batch);
    let priority = batch.priority.unwrap_or_default();
    let invalid = batch.invalid.clone();
    let (rows, told) = batch.split();
    let count = rows.len();
    for (_, row) in rows.iter().enumerate().filter(|(row, _)| !invalid.contains_key(row)) {
        check_params(row.params(), &sent);
    }
    let request = Request { rows, deadline: None, priority, source: Default::default() };
    let done = ENGINE.submit(permit, request)?.await?;
    let response = convert::response(&done, &told, logitd_proto::Plane::Inline);
    assert_eq!(response.rows.len(), count);
    let encoded = response.encode_to_vec();
    assert!(encoded.len() <= answer_bytes, "there was room for it");
    assert_eq!(SampleResponse::decode(&*encoded).as_ref(), Ok(&response));
    Ok(())
}

/// What was accepted is in range, and was sent.
fn check_params(params: &SamplingParams, sent: &SampleRequest) {
    let spec = ParamsSpec::from(*params);
    assert_eq!(spec.parse(|| 0).as_ref(), Ok(params));
    let position = |sent: &api::SamplingParams| sent.position == params.position();
    assert!(sent.params.is_empty() || sent.params.iter().any(position));
}

/// The sender's own doing, said in words.
fn expect_told(status: &Status) {
    let own = [Code::InvalidArgument, Code::OutOfRange, Code::ResourceExhausted];
    let flag = status.code() == Code::Internal && status.message().contains("compress");
    assert!(own.contains(&status.code()) || flag, "{status:?}");
    assert!(!status.message().is_empty(), "{status:?}");
}

fn body(
    wire: &[u8],
    piece: usize,
    shape: Arity,
    fields: &'static RequestFields,
    admissions: &Admissions,
) -> Messages<Pieces> {
    const LONG: Duration = Duration::from_secs(3600);
    let gate = Gate {
        rooms: Some(Rooms {
            engine: ENGINE.clone(),
            shares: [None, None],
            line: Line::new(QUEUE_BYTES_MAX, Duration::ZERO),
            lane: Lane::nowhere(),
        }),
        bounds: Bounds {
            message_bytes_max: MESSAGE_BYTES_MAX,
            request_rows_max: LIMITS.request_rows_max as usize,
            receive_timeout: LONG,
        },
        pool: Pool::new(MESSAGE_BYTES_MAX),
        deadline: None,
        patience: Patience::new(LONG, LONG),
    };
    let pieces = Pieces { rest: Bytes::copy_from_slice(wire), piece };
    Messages::new(pieces, gate, shape, fields, admissions.clone())
}

/// A body that comes in pieces of one size.
struct Pieces {
    rest: Bytes,
    piece: usize,
}

impl http_body::Body for Pieces {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<http_body::Frame<Bytes>, Status>>> {
        if self.rest.is_empty() {
            return Poll::Ready(None);
        }
        let size = self.piece.min(self.rest.len());
        Poll::Ready(Some(Ok(http_body::Frame::data(self.rest.split_to(size)))))
    }
}

/// Requests right and wrong, alone, two on a stream, cut short, and announced too large.
fn seeds() -> Vec<Vec<u8>> {
    let good = SampleRequest {
        dtype: api::Dtype::F16.into(),
        vocab_size: 4,
        logits: vec![0, 0x3c, 0, 0x40, 0, 0, 0, 0xfc].repeat(3).into(),
        params: vec![api::SamplingParams {
            temperature: Some(0.8),
            top_k: 3,
            top_p: Some(0.9),
            min_p: 0.05,
            seed: Some(7),
            position: 3,
            draws: Some(5),
            draw_rule: api::DrawRule::Race.into(),
            draft: true,
            repetition_penalty: Some(1.2),
            no_repeat_ngram: 2,
            dry: Some(api::Dry { multiplier: 0.8, ..Default::default() }),
            ..Default::default()
        }],
        priority: api::Priority::High.into(),
        slot: None,
        candidates: None,
        rows: Some(3),
        adjustments: vec![],
        row_stride: 0,
        on_invalid_row: 0,
        columns: None,
        return_columns: false,
    };
    let adjustments = api::Adjustments {
        allowed_bitmask: vec![0xfe, 0xff, 0xff, 0xff].into(),
        bad_words: vec![api::TokenSequence { tokens: vec![1, 2] }],
        logit_bias: vec![api::TokenBias { token: 3, bias: -0.5 }],
        prompt: vec![1, 2, 1, 99],
        output: vec![2, 1],
        ..Default::default()
    };
    let adjusted = |sets| {
        let adjustments = vec![adjustments.clone(); sets];
        SampleRequest { adjustments, ..good.clone() }
    };
    let inspected = |of: &[i32], top, ids: &[u32]| {
        let mut request = good.clone();
        let (of, ids) = (of.to_vec(), ids.to_vec());
        request.params[0].logprobs = Some(api::Logprobs { of, top, ids });
        request.params[0].return_kept = true;
        request
    };
    let le = |words: &[u32]| words.iter().flat_map(|word| word.to_le_bytes()).collect();
    let given = |counts, tokens| Some(api::Candidates { counts: le(counts), tokens: le(tokens) });
    let sparse = |candidates| SampleRequest { vocab_size: 1 << 20, candidates, ..good.clone() };
    let with = |change: fn(&mut SampleRequest)| {
        let mut request = good.clone();
        change(&mut request);
        request
    };
    let requests = [
        good.clone(),
        with(|r| r.params = vec![]),
        with(|r| r.params = vec![r.params[0].clone(); 3]),
        adjusted(1),
        adjusted(3),
        adjusted(2),
        inspected(&[1, 2, 3], 4, &[3, 0, 3]),
        inspected(&[3], 9, &[7]),
        SampleRequest { candidates: given(&[4, 4, 4], &[0, 1, 2, 3].repeat(3)), ..inspected(&[1], 2, &[3]) },
        with(|r| (r.vocab_size, r.row_stride) = (3, 4)),
        with(|r| {
            r.params = vec![r.params[0].clone(); 3];
            r.params[1].top_p = Some(2.0);
            r.on_invalid_row = api::OnInvalidRow::Status.into();
        }),
        with(|r| {
            r.params[0].typical_p = Some(0.9);
            r.params[0].xtc_probability = 1.0;
            r.params[0].top_n_sigma = 1.5;
            r.params[0].dynatemp_range = 0.5;
        }),
        with(|r| {
            r.params[0].draws = Some(1);
            r.params[0].mirostat_tau = 3.0;
            r.params[0].mirostat_mu = Some(-1.0);
        }),
        with(|r| {
            r.params[0].draws = Some(1);
            r.params[0].adaptive_target = Some(0.3);
            r.params[0].adaptive_sum = Some(f32::NAN);
        }),
        with(|r| {
            r.params[0].profile = api::Profile::Hf.into();
            r.params[0].top_h = 0.4;
            r.params[0].dry = None;
        }),
        with(|r| r.params[0].profile = 99),
        with(|r| r.params = vec![api::SamplingParams::default(); 2]),
        with(|r| r.dtype = api::Dtype::Bf16.into()),
        with(|r| (r.dtype, r.vocab_size) = (api::Dtype::F32.into(), 2)),
        with(|r| r.dtype = 99),
        with(|r| r.priority = -1),
        with(|r| r.rows = None),
        with(|r| r.rows = Some(4)),
        with(|r| r.rows = Some(u32::MAX)),
        with(|r| r.vocab_size = 0),
        with(|r| r.vocab_size = u32::MAX),
        with(|r| r.vocab_size = 1),
        with(|r| r.logits = vec![0; 7].into()),
        with(|r| r.logits = vec![0xff; 8].into()),
        with(|r| r.logits = vec![0; 1100].into()),
        with(|r| r.params[0].temperature = Some(f32::NAN)),
        with(|r| r.params[0].top_p = Some(0.0)),
        with(|r| r.params[0].min_p = 2.0),
        with(|r| r.params[0].draws = Some(1025)),
        sparse(given(&[4, 4, 4], &[9, 2, 1 << 19, 3, 0, 1, 2, 3, 4, 5, 6, 7])),
        sparse(given(&[12], &[0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11])),
        sparse(given(&[3, 9], &[0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 3])),
        sparse(given(&[2, 10], &[0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11])),
        sparse(given(&[u32::MAX, 0], &[1 << 20])),
        sparse(given(&[], &[])),
        SampleRequest::default(),
    ];
    let mut seeds = Vec::new();
    for (i, request) in requests.into_iter().enumerate() {
        let unary = framed(&request.encode_to_vec());
        let first_row = (i % 2 == 0).then_some(i as u64);
        let one = SampleStreamRequest { id: i as u64, request: Some(request), first_row };
        let two = framed(&one.encode_to_vec()).repeat(2);
        let pieces = (i % 5) as u8 * 2;
        seeds.push([&[pieces], &*unary].concat());
        seeds.push([&[pieces], &unary[..unary.len() - 1]].concat());
        seeds.push([&[pieces + 1], &*two].concat());
    }
    let evaluation = EvaluateRequest {
        dtype: api::Dtype::F16.into(),
        vocab_size: 4,
        logits: good.logits.clone(),
        references: vec![0, 3, 1],
        groups: vec![1, 0, 1],
        sets: vec![api::SamplingParams { top_p: Some(0.5), ..Default::default() }; 2],
        grid: Some(api::SetGrid {
            temperature: vec![0.0, 1.5],
            top_k: vec![0, 2],
            top_p: vec![0.9],
            min_p: vec![0.1, 0.2, 0.3],
        }),
        tail_share: Some(0.1),
        rows: true,
        ..Default::default()
    };
    let evaluations = [
        evaluation.clone(),
        EvaluateRequest { groups: vec![], grid: None, ..evaluation.clone() },
        EvaluateRequest { references: vec![0, 4, 1], tail_share: Some(2.0), ..evaluation.clone() },
        EvaluateRequest { sets: vec![], grid: Some(api::SetGrid::default()), ..evaluation },
    ];
    for request in evaluations {
        seeds.push([&[16], &*framed(&request.encode_to_vec())].concat());
    }
    for request in verifications(&good) {
        seeds.push([&[32], &*framed(&request.encode_to_vec())].concat());
    }
    for request in steps(&good) {
        seeds.push([&[64], &*framed(&request.encode_to_vec())].concat());
    }
    seeds.push(vec![0, 0, 0xff, 0xff, 0xff, 0xff, 1, 2, 3]);
    seeds.push(vec![1, 0, 0, 0, 8, 0, 1, 2, 3]);
    seeds.push(vec![0, 1, 0, 0, 0, 2, 8, 1]);
    seeds.push(vec![0, 7, 0, 0, 0, 0]);
    seeds
}

/// Sequences of every mode, a tree, and wrong ones, over the rows of a request.
fn verifications(good: &SampleRequest) -> Vec<VerifyRequest> {
    use api::draft_distribution::Kind;
    let logits = api::LogitsDraft { row: 2, params: Some(Default::default()), adjustments: None };
    let sparse = api::SparseDraft { tokens: vec![2, 0], weights: vec![1, 3] };
    let dense = api::DenseDraft { probabilities: vec![0.25; 4] };
    let of = |kind| api::DraftDistribution { kind };
    let plain = api::DraftedSequence {
        drafts: vec![1, 2],
        params: Some(api::SamplingParams { seed: Some(7), ..Default::default() }),
        adjustments: Some(api::Adjustments { output: vec![1], ..Default::default() }),
        ..Default::default()
    };
    let rejected = |kinds: [Option<Kind>; 2]| api::DraftedSequence {
        mode: api::VerifyMode::Rejection.into(),
        distributions: kinds.map(of).to_vec(),
        ..plain.clone()
    };
    let typical = api::VerifyMode::Typical.into();
    let sequences = [
        plain.clone(),
        api::DraftedSequence { parents: vec![0, 0], ..plain.clone() },
        api::DraftedSequence { parents: vec![0, 2], ..plain.clone() },
        api::DraftedSequence { mode: typical, typical_delta: Some(0.5), ..plain.clone() },
        api::DraftedSequence { rows: Some(3), first_row: Some(1), ..plain.clone() },
        api::DraftedSequence { row_adjustments: vec![Default::default(); 3], ..plain.clone() },
        rejected([Some(Kind::Logits(Box::new(logits))), None]),
        rejected([Some(Kind::Sparse(sparse)), Some(Kind::Dense(dense))]),
        rejected([Some(Kind::Sparse(Default::default())), None]),
    ];
    let request = |sequence| VerifyRequest {
        dtype: good.dtype,
        vocab_size: good.vocab_size,
        logits: good.logits.clone(),
        sequences: vec![sequence],
        ..Default::default()
    };
    sequences.map(request).to_vec()
}

/// Groups of beams, right and wrong, over the rows of a request.
fn steps(good: &SampleRequest) -> Vec<BeamStepRequest> {
    let plain = api::BeamGroup {
        scores: vec![0, -5, 7],
        beams: 3,
        eos_ids: vec![2],
        params: vec![api::SamplingParams { min_tokens: 2, ..Default::default() }],
        ..Default::default()
    };
    let groups = [
        plain.clone(),
        api::BeamGroup { normaliser: 2, temperature: Some(0.5), ..plain.clone() },
        api::BeamGroup { scores: vec![i64::MIN], ..plain.clone() },
        api::BeamGroup { eos_ids: vec![2, 2], first_row: Some(9), ..plain.clone() },
        api::BeamGroup { adjustments: vec![Default::default(); 3], ..plain },
    ];
    let request = |group| BeamStepRequest {
        dtype: good.dtype,
        vocab_size: good.vocab_size,
        logits: good.logits.clone(),
        groups: vec![group],
        ..Default::default()
    };
    groups.map(request).to_vec()
}

/// A message as it is on the wire: not compressed, its length, itself.
fn framed(message: &[u8]) -> Vec<u8> {
    let length = (message.len() as u32).to_be_bytes();
    [&[0], &length[..], message].concat()
}
