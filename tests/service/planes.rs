//! The planes that come as bytes: rows by their candidates, and batches in chunks. Each gives the bits
//! that the same rows give in one whole message, or says why not.

use crate::harness::backends::{Gated, Paced};
use crate::harness::raw::{self, Raw, announced, framed};
use crate::harness::{TestServer, expected, request, until};
use http_body_util::BodyExt;
use logitd::tools::generate::{self, Random};
use logitd_client::{Client, Error};
use logitd_core::backend::Backend;
use logitd_core::backend::cpu::{Cpu, CpuOptions};
use logitd_core::batch;
use logitd_core::candidates;
use logitd_proto::sample_stream_response::Result as Outcome;
use logitd_proto::{
    Candidates, DrawRule, Dtype, Plane, RowResult, RowStatus, SampleRequest, SampleStreamRequest,
    SampleStreamResponse, SamplingParams,
};
use prost::Message;
use std::time::{Duration, Instant};
use tonic::Code;

// Candidates.

fn le(words: &[u32]) -> bytes::Bytes {
    words.iter().flat_map(|word| word.to_le_bytes()).collect()
}

/// A row's tokens in the total order, by its definition; NaN first.
fn in_order(row: &batch::Row<'_>) -> Vec<u32> {
    let mut order: Vec<u32> = (0..row.vocab_size()).collect();
    let descending = |a: &u32, b: &u32| {
        let (x, y) = (row.logit(*a), row.logit(*b));
        match (x.is_nan(), y.is_nan()) {
            (true, true) => a.cmp(b),
            (nan, other) if nan != other => other.cmp(&nan),
            _ => y.partial_cmp(&x).expect("no NaN").then(a.cmp(b)),
        }
    };
    order.sort_by(descending);
    order
}

/// One row of candidates: these tokens, in this order.
#[derive(Clone)]
struct Sparse {
    tokens: Vec<u32>,
    logits: Vec<u8>,
}

impl Sparse {
    fn of(row: &batch::Row<'_>, tokens: Vec<u32>) -> Self {
        let size = row.dtype().size_bytes();
        let logit = |&token: &u32| &row.logits()[token as usize * size..][..size];
        let logits = tokens.iter().flat_map(logit).copied().collect();
        Self { tokens, logits }
    }
}

fn proto_dtype(dtype: batch::Dtype) -> Dtype {
    match dtype {
        batch::Dtype::F16 => Dtype::F16,
        batch::Dtype::Bf16 => Dtype::Bf16,
        batch::Dtype::F32 => Dtype::F32,
    }
}

/// A request of whole rows with these rows' candidates in their place.
fn sparse(mut whole: SampleRequest, rows: &[Sparse]) -> SampleRequest {
    let counts: Vec<u32> = rows.iter().map(|row| row.tokens.len() as u32).collect();
    let tokens: Vec<u32> = rows.iter().flat_map(|row| row.tokens.clone()).collect();
    whole.logits = rows.iter().flat_map(|row| row.logits.clone()).collect();
    whole.candidates = Some(Candidates { counts: le(&counts), tokens: le(&tokens) });
    whole
}

fn shuffle(random: &mut Random, tokens: &mut [u32]) {
    for i in (1..tokens.len()).rev() {
        tokens.swap(i, random.below(i as u64 + 1) as usize);
    }
}

/// A generated row three times, whole and by its candidates, with parameters that make them enough:
/// the first N, the first top_k and others, and a greedy one.
fn case(index: u64) -> (SampleRequest, SampleRequest) {
    let case = generate::case(61, index, 5000);
    let row = case.row();
    let vocab_size = u64::from(row.vocab_size());
    let mut random = Random::new(62, index);
    let order = in_order(&row);
    let mut params = SamplingParams {
        temperature: Some(row.params().temperature()),
        top_k: row.params().top_k().unwrap_or(0),
        top_p: Some(row.params().top_p().unwrap_or(1.0)),
        min_p: row.params().min_p().unwrap_or(0.0),
        seed: Some(row.params().seed()),
        position: row.params().position(),
        draws: Some(row.params().draws().max(50)),
        draw_rule: DrawRule::Cumulative.into(),
        ..Default::default()
    };
    let mut sets = Vec::new();
    let mut rows = Vec::new();

    // The row's own cut where it has one, or another; exactly the first N, a tie at the border or not.
    if params.top_k == 0 || u64::from(params.top_k) > vocab_size {
        params.top_k = 1 + random.below(vocab_size) as u32;
    }
    let more = random.below(vocab_size - u64::from(params.top_k) + 1) as usize;
    let n = params.top_k as usize + if random.below(2) == 0 { 0 } else { more };
    sets.push(params.clone());
    rows.push(order[..n].to_vec());
    // The first top_k, and others from anywhere behind them.
    let (first, behind) = order.split_at(params.top_k as usize);
    let others = behind.iter().copied().filter(|_| random.below(3) == 0).collect();
    sets.push(SamplingParams { seed: Some(random.bits()), position: 9, ..params.clone() });
    rows.push([first.to_vec(), others].concat());
    sets.push(SamplingParams {
        temperature: Some(0.0),
        top_k: random.below(9) as u32,
        ..params.clone()
    });
    rows.push(order[..1 + random.below(vocab_size.min(9)) as usize].to_vec());
    // All of them: no cut needs to be there.
    sets.push(SamplingParams { top_k: 0, ..params });
    rows.push(order);
    // By race: the noise belongs to the tokens, wherever they stand among the candidates.
    for i in 0..sets.len() {
        sets.push(SamplingParams { draw_rule: DrawRule::Race.into(), ..sets[i].clone() });
        rows.push(rows[i].clone());
    }

    let whole = SampleRequest {
        dtype: proto_dtype(case.dtype).into(),
        vocab_size: row.vocab_size(),
        logits: case.logits.repeat(rows.len()).into(),
        params: sets,
        ..Default::default()
    };
    let rows: Vec<Sparse> = rows
        .into_iter()
        .map(|mut tokens| {
            shuffle(&mut random, &mut tokens);
            Sparse::of(&row, tokens)
        })
        .collect();
    (whole.clone(), sparse(whole, &rows))
}

fn cpu() -> Vec<Box<dyn Backend>> {
    vec![Box::new(Cpu::new(CpuOptions::default()).expect("every machine has the portable path"))]
}

#[tokio::test(flavor = "multi_thread")]
async fn candidates_give_the_bits_of_the_whole_row() {
    let servers = [TestServer::start(&[]).await, TestServer::with(&[], cpu()).await];
    let clients = [servers[0].client().await, servers[1].client().await];
    let mut statuses = std::collections::HashSet::new();
    for index in 0..600 {
        let (whole, sparse) = case(index);
        let expected = expected(&whole);
        for client in &clients {
            let response = client.sample(sparse.clone()).await;
            let response = response.unwrap_or_else(|error| panic!("case {index}: {error}"));
            assert_eq!(response.rows, expected, "case {index}, {}", response.device);
            assert_eq!(response.plane(), Plane::Candidates);
        }
        statuses.extend(expected.iter().map(RowResult::status));
    }
    assert_eq!(statuses.len(), 4, "every status came up: {statuses:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn candidates_of_large_rows_are_sampled_in_any_order() {
    let server = TestServer::with(&[], cpu()).await;
    let client = server.client().await;
    let mut whole = request(3, 100_000, 8);
    for params in &mut whole.params {
        (params.top_k, params.draws) = (1000, Some(100));
    }
    let rows: Vec<Sparse> = (0..3)
        .map(|i| {
            let logits = &whole.logits[i * 200_000..][..200_000];
            let params = logitd_core::params::ParamsSpec::default().parse(|| 0).unwrap();
            let row = batch::Row::new(batch::Dtype::F16, logits, params).unwrap();
            let n = [1000, 20_000, 100_000][i];
            let mut tokens = in_order(&row)[..n].to_vec();
            shuffle(&mut Random::new(3, i as u64), &mut tokens);
            Sparse::of(&row, tokens)
        })
        .collect();
    let response = client.sample(sparse(whole.clone(), &rows)).await.unwrap();
    assert_eq!(response.rows, expected(&whole));
    server.idle().await;
}

/// What the crate's own selection finds is what the server wants.
#[tokio::test(flavor = "multi_thread")]
async fn the_first_tokens_of_a_row_are_enough_for_it() {
    let server = TestServer::start(&[]).await;
    let client = server.client().await;
    for index in 0..200 {
        let case = generate::case(63, index, 3000);
        let row = case.row();
        let n = 1 + Random::new(64, index).below(row.vocab_size().into()) as usize;
        let (tokens, logits) = candidates::top(case.dtype, &case.logits, n);
        let params = SamplingParams {
            top_k: n as u32,
            top_p: Some(row.params().top_p().unwrap_or(1.0)),
            seed: Some(index),
            draws: Some(20),
            ..Default::default()
        };
        let whole = SampleRequest {
            dtype: proto_dtype(case.dtype).into(),
            vocab_size: row.vocab_size(),
            logits: case.logits.clone().into(),
            params: vec![params],
            ..Default::default()
        };
        let mut sparse = SampleRequest { logits: logits.into(), ..whole.clone() };
        let counts = le(&[n as u32]);
        sparse.candidates = Some(Candidates { counts, tokens: tokens.into() });
        assert_eq!(client.sample(sparse).await.unwrap().rows, expected(&whole), "case {index}");
    }
}

/// -0.0 ties with +0.0, the lower id goes first, and the border may stand between the two.
#[tokio::test(flavor = "multi_thread")]
async fn zeros_of_both_signs_tie_at_the_border() {
    let server = TestServer::start(&[]).await;
    let client = server.client().await;
    let values = [-1.0f32, 0.0, -0.0, 0.0, -0.0, -3.0];
    for top_k in 1..=4 {
        let params =
            SamplingParams { top_k, seed: Some(4), draws: Some(1000), ..Default::default() };
        let whole = SampleRequest {
            dtype: Dtype::F32.into(),
            vocab_size: 6,
            logits: values.iter().flat_map(|x| x.to_le_bytes()).collect(),
            params: vec![params],
            ..Default::default()
        };
        let tokens: Vec<u32> = (1..=top_k).rev().collect();
        let logits = tokens.iter().flat_map(|&t| values[t as usize].to_le_bytes()).collect();
        let rows = [Sparse { tokens, logits }];
        let response = client.sample(sparse(whole.clone(), &rows)).await.unwrap();
        assert_eq!(response.rows, expected(&whole));
        assert_eq!(response.rows[0].kept, top_k);
    }
}

/// A row with fewer tokens above -inf than were asked for.
#[tokio::test(flavor = "multi_thread")]
async fn a_row_with_few_finite_logits_is_filled_up() {
    let server = TestServer::start(&[]).await;
    let low = f32::NEG_INFINITY;
    let whole = SampleRequest {
        dtype: Dtype::F32.into(),
        vocab_size: 6,
        logits: [low, 2.0, low, low, 1.0, low].iter().flat_map(|x| x.to_le_bytes()).collect(),
        params: vec![SamplingParams { top_k: 4, seed: Some(1), ..Default::default() }],
        ..Default::default()
    };
    let logits = [1.0, low, 2.0, low].iter().flat_map(|x| x.to_le_bytes()).collect();
    let rows = [Sparse { tokens: vec![4, 0, 1, 2], logits }];
    let response = server.client().await.sample(sparse(whole.clone(), &rows)).await.unwrap();
    assert_eq!(response.rows, expected(&whole));
    assert_eq!(response.rows[0].kept, 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn one_row_s_wrong_logits_are_its_own_status() {
    let server = TestServer::start(&[]).await;
    let row = |values: [f32; 2]| Sparse {
        tokens: vec![7, 3],
        logits: values.iter().flat_map(|x| x.to_le_bytes()).collect(),
    };
    let whole = SampleRequest {
        dtype: Dtype::F32.into(),
        vocab_size: 10,
        params: vec![SamplingParams { top_k: 2, ..Default::default() }],
        ..Default::default()
    };
    let rows = [
        row([0.0, 1.0]),
        row([f32::NAN, f32::INFINITY]),
        row([f32::INFINITY, 0.0]),
        row([f32::NEG_INFINITY; 2]),
    ];
    let response = server.client().await.sample(sparse(whole, &rows)).await.unwrap();
    let statuses: Vec<_> = response.rows.iter().map(|row| row.status()).collect();
    let wanted =
        [RowStatus::Ok, RowStatus::Nan, RowStatus::PositiveInfinity, RowStatus::NoCandidate];
    assert_eq!(statuses, wanted);
    assert!(response.rows[0].token.is_some_and(|token| [3, 7].contains(&token)));
}

/// Two rows of three candidates of 100 tokens, spoilt, and what is said of it.
type Wrong = (fn(&mut SampleRequest, &mut Candidates), &'static [(&'static str, &'static str)]);

const WRONG: &[Wrong] = &[
    (|_, c| c.counts = le(&[]), &[("candidates.counts", "at least one row")]),
    (
        |_, c| c.counts = c.counts.slice(1..),
        &[("candidates.counts", "has 7 bytes; allowed: 4 a row")],
    ),
    (
        |_, c| c.counts = le(&[6, 0]),
        &[("candidates.counts", "row 1 has 0 candidates; allowed: 1 to 100")],
    ),
    (
        |r, c| (r.vocab_size, c.counts) = (2, le(&[3, 3])),
        &[
            ("candidates.counts", "row 0 has 3 candidates; allowed: 1 to 2 (vocab_size)"),
            ("candidates.counts", "row 1 has 3 candidates"),
        ],
    ),
    (
        |_, c| c.counts = le(&[3, 4]),
        &[
            ("candidates.tokens", "has 24 bytes; allowed: 28"),
            ("logits", "has 12 bytes; allowed: 14"),
        ],
    ),
    (
        |r, _| r.logits = r.logits.slice(2..),
        &[("logits", "has 10 bytes; allowed: 12, 2 for each of 6")],
    ),
    (|_, c| c.tokens = c.tokens.slice(..20), &[("candidates.tokens", "has 20 bytes; allowed: 24")]),
    (
        |_, c| c.tokens = le(&[1, 2, 3, 5, 100, 6]),
        &[("candidates.tokens", "row 1 has token 100; allowed: 0 to 99 (vocab_size 100)")],
    ),
    (
        |_, c| c.tokens = le(&[1, 2, 1, 9, 8, 9]),
        &[
            ("candidates.tokens", "row 0 has token 1 twice; allowed: each once"),
            ("candidates.tokens", "row 1 has token 9 twice"),
        ],
    ),
    (
        |r, _| r.params[1].top_k = 4,
        &[("params[1].top_k", "top_k is 4, and row 1 has 3 candidates of 100 tokens")],
    ),
    (|r, _| r.params[0].top_k = 0, &[("params[0].top_k", "allowed: 1 to 3, or temperature 0")]),
    (|r, _| r.params.clear(), &[("params[0].top_k", "top_k is 0, and row 0 has 3 candidates")]),
    (
        |r, _| (r.params.truncate(1), r.params[0].top_k = 9).1,
        &[("params[0].top_k", "top_k is 9, and row 0")],
    ),
    (|r, _| r.params.push(r.params[0].clone()), &[("params", "3 for 2 rows")]),
    (|r, _| r.slot = Some(logitd_proto::SlotRef::default()), &[("logits", "beside a slot")]),
    (
        |r, _| (r.slot, r.logits) = (Some(logitd_proto::SlotRef::default()), bytes::Bytes::new()),
        &[("candidates", "beside a slot")],
    ),
];

#[tokio::test(flavor = "multi_thread")]
async fn what_is_wrong_with_candidates_is_named_with_row_value_and_limit() {
    let server = TestServer::start(&[]).await;
    let client = server.client().await;
    let params = |seed| SamplingParams { top_k: 3, seed: Some(seed), ..Default::default() };
    let good = SampleRequest {
        dtype: Dtype::F16.into(),
        vocab_size: 100,
        logits: crate::harness::logits(1, 6, 1),
        params: vec![params(1), params(2)],
        candidates: Some(Candidates { counts: le(&[3, 3]), tokens: le(&[5, 1, 99, 7, 8, 2]) }),
        ..Default::default()
    };
    assert!(client.sample(good.clone()).await.is_ok());
    for (i, (spoil, expected)) in WRONG.iter().enumerate() {
        let mut request = good.clone();
        let mut given = request.candidates.take().unwrap();
        spoil(&mut request, &mut given);
        request.candidates = Some(given);
        let error = client.sample(request).await.unwrap_err();
        assert_eq!(error.code(), Some(Code::InvalidArgument), "case {i}: {error}");
        let found = error.violations();
        assert_eq!(found.len(), expected.len(), "case {i}: {found:?}");
        for ((field, description), (wanted, words)) in found.iter().zip(*expected) {
            assert_eq!(field, wanted, "case {i}");
            assert!(description.contains(words), "case {i}: {description}");
            assert!(description.contains("allowed: "), "case {i}: {description}");
        }
    }
    server.idle().await;
    assert!(client.sample(good).await.is_ok());
}

#[tokio::test(flavor = "multi_thread")]
async fn counts_are_no_way_around_the_limits() {
    let server = TestServer::start(&["--request-rows-max=3"]).await;
    let whole = SampleRequest {
        dtype: Dtype::F16.into(),
        vocab_size: 9,
        params: vec![SamplingParams { temperature: Some(0.0), ..Default::default() }],
        ..Default::default()
    };
    let row = Sparse { tokens: vec![1], logits: vec![0, 0] };
    let client = server.client().await;
    let error = client.sample(sparse(whole.clone(), &vec![row.clone(); 4])).await.unwrap_err();
    assert_eq!(error.code(), Some(Code::OutOfRange), "{error}");
    // The client cuts such a batch, candidates and all.
    let rows = client.sample_all(sparse(whole, &vec![row; 10])).await.unwrap();
    assert_eq!(rows.iter().map(|row| row.token).collect::<Vec<_>>(), [Some(1); 10]);
}

// Chunks.

/// A batch of `rows` rows, and the same in chunks of so many rows each, with their first rows.
fn chunks(rows: usize, each: usize, salt: u64) -> (SampleRequest, Vec<(u64, SampleRequest)>) {
    let whole = request(rows, 300, salt);
    let chunk = |start: usize| {
        let end = (start + each).min(rows);
        let request = SampleRequest {
            logits: whole.logits.slice(start * 600..end * 600),
            params: whole.params[start..end].to_vec(),
            ..whole.clone()
        };
        (start as u64, request)
    };
    let chunks = (0..rows).step_by(each).map(chunk).collect();
    (whole, chunks)
}

#[tokio::test(flavor = "multi_thread")]
async fn the_first_answers_leave_before_the_last_row_has_come() {
    let server = TestServer::start(&[]).await;
    let mut stream = server.client().await.stream().await.unwrap();
    let (whole, mut chunks) = chunks(20, 3, 1);
    let expected = expected(&whole);
    let (last_row, last) = chunks.pop().unwrap();
    let mut first_rows = Vec::new();
    for (first_row, chunk) in chunks {
        first_rows.push(first_row);
        stream.send_chunk(first_row, chunk).await.unwrap();
    }
    // The last two rows are still here, and the others are answered.
    for _ in 0..first_rows.len() {
        let (id, response) = stream.receive().await.unwrap().unwrap();
        let (response, at) = (response.unwrap(), first_rows[id as usize] as usize);
        assert_eq!(response.rows, expected[at..at + 3]);
        assert_eq!(response.plane(), Plane::Chunked);
    }
    stream.send_chunk(last_row, last).await.unwrap();
    let (_, response) = stream.receive().await.unwrap().unwrap();
    assert_eq!(response.unwrap().rows, expected[18..]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_batch_in_chunks_is_the_batch_to_the_bit() {
    let server =
        TestServer::with(&["--message-bytes-max=64KiB", "--stream-requests-max=3"], cpu()).await;
    let client = server.client().await;
    let info = client.info().await.unwrap();
    assert_eq!(info.chunk_bytes, 64 << 10);
    for (rows, vocab_size) in [(1, 1000), (700, 1000), (64, 16_000), (3000, 5)] {
        let whole = request(rows, vocab_size, rows as u64);
        let response = client.sample_chunked(whole.clone(), &info).await.unwrap();
        assert_eq!(response.rows, expected(&whole), "{rows} rows of {vocab_size}");
        assert_eq!(response.plane(), Plane::Chunked);
        assert!(response.timings.is_some());
        assert_eq!(client.sample_all(whole.clone()).await.unwrap(), response.rows);
    }
    server.idle().await;
}

/// Raw messages, so that what the server echoes is seen as it is.
async fn answers(raw: &Raw, messages: &[SampleStreamRequest]) -> Vec<SampleStreamResponse> {
    let body: Vec<u8> = messages.iter().flat_map(framed).collect();
    let reply = raw.call("SampleStream", &[], body).await;
    reply.assert_code(Code::Ok, &[]);
    let mut answers: Vec<_> =
        reply.messages.iter().map(|m| SampleStreamResponse::decode(m.clone()).unwrap()).collect();
    answers.sort_by_key(|answer| answer.first_row);
    answers
}

fn code(answer: &SampleStreamResponse) -> Code {
    match answer.result.as_ref().unwrap() {
        Outcome::Response(_) => Code::Ok,
        Outcome::Error(error) => Code::from(error.code),
    }
}

/// Chunks share an id here: their first rows tell them apart, also that of one which was never kept.
#[tokio::test(flavor = "multi_thread")]
async fn a_chunk_that_is_wrong_is_refused_by_itself() {
    let server = TestServer::start(&["--message-bytes-max=64KiB"]).await;
    let raw = Raw::connect(server.address()).await;
    let (whole, chunks) = chunks(12, 3, 2);
    let mut messages: Vec<_> = chunks
        .into_iter()
        .map(|(first_row, request)| SampleStreamRequest {
            id: 8,
            request: Some(request),
            first_row: Some(first_row),
        })
        .collect();
    messages[1].request.as_mut().unwrap().params[2].top_p = Some(7.0);
    messages[2].request = Some(request(1, 60_000, 1));
    messages.swap(0, 3);
    let answers = answers(&raw, &messages).await;
    let found: Vec<_> = answers.iter().map(|a| (a.id, a.first_row.unwrap(), code(a))).collect();
    let wanted = [
        (8, 0, Code::Ok),
        (8, 3, Code::InvalidArgument),
        (8, 6, Code::OutOfRange),
        (8, 9, Code::Ok),
    ];
    assert_eq!(found, wanted);
    let Some(Outcome::Response(last)) = &answers[3].result else { panic!("{:?}", answers[3]) };
    assert_eq!(last.rows, expected(&whole)[9..]);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_client_says_which_rows_failed_and_lets_go_of_the_rest() {
    let (backend, log) = Paced::boxed(Duration::from_millis(2));
    let flags = ["--request-rows-max=2", "--batch-rows-max=2", "--stream-requests-max=4"];
    let server = TestServer::with(&flags, vec![backend]).await;
    let client = server.client().await;
    let mut whole = request(400, 300, 3);
    whole.params[7].min_p = 2.0;
    let error = client.sample_all(whole).await.unwrap_err();
    let Error::Chunk { first_row: 6, rows: 2, .. } = &error else { panic!("{error:?}") };
    assert_eq!(error.code(), Some(Code::InvalidArgument));
    assert_eq!(error.violations()[0].0, "params[1].min_p");
    assert!(error.to_string().contains("rows 6 to 7: "), "{error}");
    server.idle().await;
    assert!(log.read().rows < 100, "{} rows were sampled for nobody", log.read().rows);
}

#[tokio::test(flavor = "multi_thread")]
async fn more_chunks_than_the_server_has_room_for_come_again() {
    let (backend, gate) = Gated::boxed();
    let flags = ["--queue-rows-max=8", "--request-rows-max=2", "--retry-after-max=5ms"];
    let server = TestServer::with(&flags, vec![backend]).await;
    let whole = request(60, 300, 4);
    let refused = server.client().await.sample_all(whole.clone()).await.unwrap_err();
    let patient = Client::builder(server.target()).retries_max(10_000).connect().await.unwrap();
    assert_eq!(refused.code(), Some(Code::ResourceExhausted), "{refused}");
    assert!(refused.retry_after().is_some() && refused.to_string().contains("queue_rows_max"));
    let sampled = tokio::spawn({
        let whole = whole.clone();
        async move { patient.sample_all(whole).await }
    });
    // Time enough to be refused over and over.
    tokio::time::sleep(Duration::from_millis(100)).await;
    assert!(!sampled.is_finished());
    gate.open();
    assert_eq!(sampled.await.unwrap().unwrap(), expected(&whole));
    server.idle().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_time_for_a_batch_is_for_all_of_its_chunks() {
    let (backend, _) = Paced::boxed(Duration::from_millis(20));
    let server = TestServer::with(&["--request-rows-max=1"], vec![backend]).await;
    let client = Client::builder(server.target())
        .timeout(Duration::from_millis(200))
        .connect()
        .await
        .unwrap();
    let begun = Instant::now();
    let error = client.sample_all(request(400, 10, 5)).await.unwrap_err();
    assert_eq!(error.code(), Some(Code::DeadlineExceeded), "{error}");
    assert!(begun.elapsed() < Duration::from_secs(5), "{:?}", begun.elapsed());
    server.idle().await;
}

/// The client says nothing more, neither a message nor an end: the deadline of the call ends it.
#[tokio::test(flavor = "multi_thread")]
async fn a_stream_ends_at_its_deadline() {
    let server = TestServer::start(&[]).await;
    let raw = Raw::connect(server.address()).await;
    let (pieces, answer) = raw.open("SampleStream", &[("grpc-timeout", "300m")]);
    let (whole, mut chunks) = chunks(6, 3, 6);
    let (first_row, request) = chunks.remove(0);
    let first = SampleStreamRequest { id: 0, request: Some(request), first_row: Some(first_row) };
    pieces.send(framed(&first)).await.unwrap();
    let reply = raw::reply(answer.await.unwrap()).await;
    reply.assert_code(Code::DeadlineExceeded, &["the deadline of the stream"]);
    let answer = SampleStreamResponse::decode(reply.messages[0].clone()).unwrap();
    let Some(Outcome::Response(response)) = &answer.result else { panic!("{answer:?}") };
    assert_eq!(response.rows, expected(&whole)[..3]);
    drop(pieces);
}

/// A chunk that stops half way holds its room for a bounded time; those before it are answered.
#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_stalls_in_a_chunk_has_the_answers_to_those_before() {
    let server = TestServer::start(&["--receive-timeout=200ms"]).await;
    let raw = Raw::connect(server.address()).await;
    let (pieces, answer) = raw.open("SampleStream", &[]);
    let mut answers = answer.await.unwrap();
    let (whole, chunks) = chunks(6, 3, 7);
    for (n, (first_row, request)) in chunks.into_iter().enumerate() {
        let message =
            SampleStreamRequest { id: 0, request: Some(request), first_row: Some(first_row) };
        let bytes = framed(&message);
        pieces.send(if n == 0 { bytes } else { bytes.slice(..bytes.len() / 2) }).await.unwrap();
    }
    let frame = answers.body_mut().frame().await.unwrap().unwrap().into_data().unwrap();
    let answer = SampleStreamResponse::decode(frame.slice(5..)).unwrap();
    let Some(Outcome::Response(response)) = &answer.result else { panic!("{answer:?}") };
    assert_eq!(response.rows, expected(&whole)[..3], "while the second is on its way");
    raw::reply(answers).await.assert_code(Code::DeadlineExceeded, &["--receive-timeout"]);
    server.idle().await;
}

/// A client that sends chunks and reads no answer is stopped, and then ended.
#[tokio::test(flavor = "multi_thread")]
async fn chunks_whose_answers_nobody_reads_are_bounded() {
    let (backend, log) = Paced::boxed(Duration::ZERO);
    let flags = ["--stream-requests-max=4", "--stream-stall-timeout=300ms"];
    let server = TestServer::with(&flags, vec![backend]).await;
    let raw = Raw::with_window(server.address(), 200).await;
    let (pieces, answer) = raw.open("SampleStream", &[]);
    let response = answer.await.unwrap();
    let (_, chunks) = chunks(300, 3, 8);
    // More than the windows hold: it waits for a server that does not read either.
    tokio::spawn(async move {
        for (first_row, request) in chunks {
            let message =
                SampleStreamRequest { id: 1, request: Some(request), first_row: Some(first_row) };
            if pieces.send(framed(&message)).await.is_err() {
                return;
            }
        }
    });
    until("some are sampled", || log.read().rows > 0).await;
    tokio::time::sleep(Duration::from_millis(1500)).await;
    assert!(log.read().rows <= 3 * 12, "{} rows of 300 were sampled", log.read().rows);
    server.idle().await;
    assert!(response.into_body().collect().await.is_err(), "what nobody reads is cut off");
}

/// Half a message, and another that announces more than any may have: the first row is not known, and
/// the stream says so by its end.
#[tokio::test(flavor = "multi_thread")]
async fn a_chunk_that_is_no_message_ends_the_stream_after_those_before() {
    let server = TestServer::start(&[]).await;
    let raw = Raw::connect(server.address()).await;
    let (whole, mut chunks) = chunks(6, 3, 9);
    let (first_row, request) = chunks.remove(0);
    let good = SampleStreamRequest { id: 0, request: Some(request), first_row: Some(first_row) };
    let body = [framed(&good), announced(3, &[0xff; 3])].concat();
    let reply = raw.call("SampleStream", &[], body).await;
    reply.assert_code(Code::InvalidArgument, &["malformed"]);
    let answer = SampleStreamResponse::decode(reply.messages[0].clone()).unwrap();
    let Some(Outcome::Response(response)) = &answer.result else { panic!("{answer:?}") };
    assert_eq!((answer.first_row, &response.rows[..]), (Some(0), &expected(&whole)[..3]));
}

// Both.

#[tokio::test(flavor = "multi_thread")]
async fn every_plane_is_offered_answered_and_counted_by_its_name() {
    let server = TestServer::start(&["--metrics-listen=127.0.0.1:0"]).await;
    let client = server.client().await;
    let info = client.info().await.unwrap();
    let offered = [Plane::Inline, Plane::Chunked, Plane::Candidates].map(i32::from);
    assert_eq!(info.planes, offered);
    assert_eq!(info.chunk_bytes, 1 << 20);

    let mut stream = client.stream().await.unwrap();
    stream.send(request(1, 50, 1)).await.unwrap();
    let (_, response) = stream.receive().await.unwrap().unwrap();
    assert_eq!(
        response.unwrap().plane(),
        Plane::Inline,
        "a stream of batches is no batch in chunks"
    );

    let params = SamplingParams { top_k: 1, ..Default::default() };
    let whole = SampleRequest { params: vec![params], ..request(1, 50, 1) };
    let rows = [Sparse { tokens: vec![4], logits: vec![0, 0] }];
    stream.send_chunk(3, sparse(whole.clone(), &rows)).await.unwrap();
    let (_, response) = stream.receive().await.unwrap().unwrap();
    assert_eq!(response.unwrap().plane(), Plane::Candidates, "how its logits came");
    client.sample_chunked(whole, &info).await.unwrap();

    let url = format!("{}", server.metrics.unwrap());
    let text = crate::harness::daemon::scrape(&url).await;
    for (plane, least) in [("inline", 100.0), ("candidates", 6.0), ("chunked", 100.0)] {
        let name = format!("logitd_bytes_total{{plane=\"{plane}\"}}");
        // Servers of one process share the numbers.
        assert!(crate::harness::daemon::value(&text, &name) >= least, "{plane}:\n{text}");
    }
}
