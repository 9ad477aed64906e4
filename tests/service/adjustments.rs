//! Adjustments over the API: every way to the server takes them, and what is wrong with them is named.

use crate::harness::backends::Gated;
use crate::harness::{OnThisHost, TestServer, cpu, expected, request};
use logitd_client::Region;
use logitd_proto::{
    Adjustments, Candidates, Dry, History, Plane, SampleRequest, SamplingParams, SlotRef,
    TokenBias, TokenSequence,
};
use tonic::Code;

fn sequence(tokens: &[u32]) -> TokenSequence {
    TokenSequence { tokens: tokens.to_vec() }
}

fn bias(token: u32, bias: f32) -> TokenBias {
    TokenBias { token, bias }
}

/// Rows with all adjustments there are, of several kinds.
fn adjusted(rows: usize, vocab_size: usize, salt: u64) -> SampleRequest {
    let mut request = request(rows, vocab_size, salt);
    let dry = Dry {
        multiplier: 0.8,
        allowed_length: Some(1),
        breakers: vec![sequence(&[7]), sequence(&[1, 2])],
        ..Default::default()
    };
    for (row, params) in request.params.iter_mut().enumerate() {
        params.repetition_penalty = [None, Some(1.3), Some(0.7)][row % 3];
        params.frequency_penalty = 0.2;
        params.presence_penalty = -0.1;
        params.no_repeat_ngram = [0, 3][row % 2];
        params.min_tokens = 9;
        params.dry = (row % 4 > 0).then(|| dry.clone());
    }
    let token = |n: usize| (n * 7919 % vocab_size) as u32;
    let of_row = |row: usize| Adjustments {
        allowed_bitmask: match row % 2 {
            0 => vec![0xb7; vocab_size.div_ceil(32) * 4].into(),
            _ => bytes::Bytes::new(),
        },
        banned_ids: vec![token(row), token(row + 1)],
        bad_words: vec![sequence(&[token(3)]), sequence(&[1, 2, 3])],
        stop_ids: vec![token(5), 1 << 30],
        logit_bias: vec![bias(token(8), 2.5), bias(token(9), f32::NEG_INFINITY)],
        prompt: vec![1, 2, 3, 1, 2, vocab_size as u32],
        output: vec![token(1), token(2), 1, 2],
        ..Default::default()
    };
    request.adjustments = (0..rows).map(of_row).collect();
    request
}

#[tokio::test(flavor = "multi_thread")]
async fn rows_with_adjustments_are_answered_as_the_reference_answers_them() {
    let servers = [TestServer::start(&[]).await, TestServer::with(&[], vec![cpu()]).await];
    for server in &servers {
        let client = server.client().await;
        for (rows, vocab_size) in [(1, 50), (6, 257), (17, 1000), (3, 70_000)] {
            let mut request = adjusted(rows, vocab_size, rows as u64);
            let plain = expected(&SampleRequest { adjustments: vec![], ..request.clone() });
            let own = client.sample(request.clone()).await.unwrap().rows;
            assert_eq!(own, expected(&request), "one a row");
            assert_ne!(own, plain, "they are not without effect");
            request.adjustments.truncate(1);
            let shared = client.sample(request.clone()).await.unwrap().rows;
            assert_eq!(shared, expected(&request), "one for all");
            request.params.truncate(1);
            request.params[0].seed = Some(3);
            let shared = client.sample(request.clone()).await.unwrap().rows;
            assert_eq!(shared, expected(&request), "with one set of parameters");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn streams_and_chunks_take_adjustments() {
    let server = TestServer::with(&["--message-bytes-max=64KiB"], vec![cpu()]).await;
    let client = server.client().await;
    let request = adjusted(40, 3000, 5);
    let expected = expected(&request);
    let mut info = client.info().await.unwrap();
    assert_eq!(client.sample_all(request.clone()).await.unwrap(), expected);
    info.chunk_bytes = 20_000;
    let chunked = client.sample_chunked(request, &info).await.unwrap();
    assert_eq!(chunked.rows, expected);
    let limits = info.limits.unwrap();
    assert_eq!((limits.adjusted_tokens_max, limits.history_tokens_max), (1 << 16, 1 << 20));
    for control in ["allowed_bitmask", "counts", "dry", "no_repeat_ngram"] {
        assert!(info.controls.iter().any(|name| name == control), "{control}");
    }
}

#[cfg(unix)]
#[tokio::test(flavor = "multi_thread")]
async fn slots_and_direct_calls_take_adjustments_and_no_memory_is_changed() {
    let host = OnThisHost::start(&[]).await;
    let client = &host.client;
    let mut region = Region::register(&host.control, 2 << 20, 1).unwrap();
    let inline = adjusted(5, 9000, 2);
    let logits = inline.logits.clone();
    let mut by_slot = SampleRequest { logits: bytes::Bytes::new(), ..inline.clone() };
    region.slot_mut(0)[..logits.len()].copy_from_slice(&logits);
    by_slot.slot = Some(region.commit(0, logits.len()));
    let response = client.sample(by_slot.clone()).await.unwrap();
    assert_eq!((response.rows, response.plane), (expected(&inline), Plane::SharedMemory.into()));
    assert!(region.slot_mut(0)[..logits.len()] == logits[..], "what is lent is not written to");
    by_slot.slot = Some(region.commit(0, logits.len()));
    let mut calls = client.direct().await.unwrap();
    assert_eq!(calls.sample(&by_slot).await.unwrap().rows, expected(&inline));
}

/// Writes a history into a slot and names it.
#[cfg(unix)]
fn written(region: &mut Region, slot: u32, prompt: &[u32], output: &[u32]) -> History {
    let bytes: Vec<u8> =
        prompt.iter().chain(output).flat_map(|token| token.to_le_bytes()).collect();
    region.slot_mut(slot)[..bytes.len()].copy_from_slice(&bytes);
    let prompt_tokens = prompt.len() as u32;
    History { slot: Some(region.commit(slot, bytes.len())), prompt_tokens }
}

#[cfg(unix)]
#[tokio::test(flavor = "multi_thread")]
async fn a_history_in_shared_memory_is_a_history_in_the_request() {
    let host = OnThisHost::start(&["--history-tokens-max=200000"]).await;
    let client = &host.client;
    let info = client.info().await.unwrap();
    assert!(info.controls.iter().any(|control| control == "history"));
    let mut logits = Region::register(&host.control, 1 << 20, 1).unwrap();
    let mut histories = Region::register(&host.control, 800_000, 3).unwrap();
    let mut inline = adjusted(3, 5000, 9);
    // One of them is too long to be copied where the call is handled.
    inline.adjustments[2].prompt = (0..190_000).map(|i| i % 4001).collect();
    let mut calls = client.direct().await.unwrap();
    for step in 0..3 {
        let mut named = inline.clone();
        for (slot, adjustments) in named.adjustments.iter_mut().enumerate() {
            let (prompt, output) = (&adjustments.prompt, &adjustments.output);
            adjustments.history = Some(written(&mut histories, slot as u32, prompt, output));
            (adjustments.prompt, adjustments.output) = (vec![], vec![]);
        }
        let rows = match step {
            0 => client.sample(named).await.unwrap().rows,
            1 => calls.sample(&named).await.unwrap().rows,
            _ => {
                let bytes = named.logits.len();
                logits.slot_mut(0)[..bytes].copy_from_slice(&named.logits);
                named.slot = Some(logits.commit(0, bytes));
                named.logits = bytes::Bytes::new();
                calls.sample(&named).await.unwrap().rows
            }
        };
        assert_eq!(rows, expected(&inline), "step {step}");
        // What was drawn is appended.
        for (row, adjustments) in rows.iter().zip(&mut inline.adjustments) {
            adjustments.output.push(row.token.unwrap());
        }
    }
    host.server.idle().await;
}

#[cfg(unix)]
#[tokio::test(flavor = "multi_thread")]
async fn a_history_that_cannot_be_read_is_refused_by_name() {
    let host = OnThisHost::start(&["--history-tokens-max=8"]).await;
    let client = &host.client;
    let mut region = Region::register(&host.control, 4096, 1).unwrap();
    let good = written(&mut region, 0, &[1, 2], &[3]);
    let slot = good.slot.clone().unwrap();
    let with = |change: &dyn Fn(&mut History, &mut Adjustments)| {
        let (mut history, mut adjustments) = (good.clone(), Adjustments::default());
        change(&mut history, &mut adjustments);
        adjustments.history = Some(history);
        SampleRequest { adjustments: vec![adjustments], ..request(1, 50, 1) }
    };
    let sized = |length_bytes| Some(SlotRef { length_bytes, ..slot.clone() });
    for (request, field, words) in [
        (with(&|_, a| a.output = vec![1]), "history", "beside prompt and output; allowed: one or"),
        (with(&|h, _| h.slot = None), "history.slot", "history.slot is missing"),
        (
            with(&|h, _| h.slot = sized(11)),
            "history.slot.length_bytes",
            "is 11; allowed: 4 a token",
        ),
        (with(&|h, _| h.slot = sized(36)), "history.slot.length_bytes", "of up to 8 tokens"),
        (with(&|h, _| h.prompt_tokens = 4), "history.prompt_tokens", "is 4; allowed: up to 3"),
    ] {
        let error = client.sample(request).await.unwrap_err();
        let (path, description) = error.violations().remove(0);
        assert_eq!(path, format!("adjustments[0].{field}"));
        assert!(description.contains(words), "{description}");
    }
    let rewritten = Some(SlotRef { generation: slot.generation + 1, ..slot.clone() });
    let error = client.sample(with(&|h, _| h.slot = rewritten.clone())).await.unwrap_err();
    assert_eq!(error.code(), Some(Code::FailedPrecondition), "{error}");
    client.sample(with(&|_, _| ())).await.unwrap();
    // Over TCP there is nobody whose memory it could be.
    let elsewhere = TestServer::start(&[]).await;
    let error = elsewhere.client().await.sample(with(&|_, _| ())).await.unwrap_err();
    assert_eq!(error.code(), Some(Code::FailedPrecondition), "{error}");
    host.server.idle().await;
}

#[cfg(unix)]
#[tokio::test(flavor = "multi_thread")]
async fn a_history_in_shared_memory_takes_the_room_of_its_connection() {
    let host =
        OnThisHost::start(&["--message-bytes-max=64KiB", "--connection-bytes-max=128KiB"]).await;
    let client = &host.client;
    let mut region = Region::register(&host.control, 1 << 20, 1).unwrap();
    for (tokens, fits) in [(20_000, true), (40_000, false)] {
        let history = Some(written(&mut region, 0, &vec![1; tokens], &[]));
        let adjustments = vec![Adjustments { history, ..Default::default() }];
        let answer = client.sample(SampleRequest { adjustments, ..request(1, 50, 1) }).await;
        match answer {
            Ok(_) => assert!(fits, "{tokens}"),
            Err(error) => {
                assert_eq!((fits, error.code()), (false, Some(Code::OutOfRange)), "{error}");
                assert!(error.to_string().contains("--connection-bytes-max"), "{error}");
            }
        }
    }
    host.server.idle().await;
}

/// What is spoiled, and what is said of it.
type Wrong = (fn(&mut SampleRequest), &'static [(&'static str, &'static str)]);

const WRONG: &[Wrong] = &[
    (|r| r.adjustments.truncate(2), &[("adjustments", "has 2 sets for 3 rows; allowed: none, 1")]),
    (
        |r| r.adjustments[1].allowed_bitmask = vec![1; 5].into(),
        &[("adjustments[1].allowed_bitmask", "has 5 bytes; allowed: whole words of 4")],
    ),
    (
        |r| {
            r.adjustments[0].banned_ids = vec![7, 100];
            r.adjustments[2].logit_bias = vec![bias(1, 1e5)];
            r.params[1].dry = Some(Dry { breakers: vec![sequence(&[])], ..Default::default() });
        },
        &[
            ("params[1].dry.breakers[0]", "breakers[0] has 0 tokens; allowed: 1 to 16"),
            ("adjustments[0].banned_ids[1]", "banned_ids[1] is token 100; allowed: below"),
            ("adjustments[2].logit_bias[0]", "is 100000; allowed: -10000 to 10000, or -inf"),
        ],
    ),
    (
        |r| {
            r.params[0].repetition_penalty = Some(0.0);
            r.params[2].dry = Some(Dry { base: Some(17.0), ..Default::default() });
            r.adjustments[0].counts = vec![1];
        },
        &[
            ("params[0].repetition_penalty", "repetition_penalty is 0; allowed: 0.01 to 100"),
            ("params[2].dry.base", "is 17; allowed: 1 to 16"),
            ("adjustments[0].counts", "has 1 numbers; allowed: pairs"),
        ],
    ),
    (
        |r| {
            r.params[1].no_repeat_ngram = 2;
            r.adjustments[1] = Adjustments { counts: vec![1, 1], ..Default::default() };
        },
        &[("adjustments[1].counts", "no_repeat_ngram needs the order of its tokens; give prompt")],
    ),
    (
        |r| r.adjustments[0].output = vec![1; 33],
        &[("adjustments[0].prompt", "and output have 33 tokens; allowed: 32 (history_tokens_max)")],
    ),
    (
        |r| r.adjustments[0].counts = (0..9).flat_map(|token| [token, 0]).collect(),
        &[("adjustments[0].counts", "has 9; allowed: up to 8 tokens (adjusted_tokens_max)")],
    ),
];

#[tokio::test(flavor = "multi_thread")]
async fn what_is_wrong_with_adjustments_is_named_all_at_once() {
    let flags = ["--history-tokens-max=32", "--adjusted-tokens-max=8"];
    let server = TestServer::start(&flags).await;
    let client = server.client().await;
    let good = SampleRequest { adjustments: vec![Adjustments::default(); 3], ..request(3, 100, 1) };
    assert_eq!(client.sample(good.clone()).await.unwrap().rows, expected(&good));
    for (i, (spoil, wanted)) in WRONG.iter().enumerate() {
        let mut request = good.clone();
        spoil(&mut request);
        let error = client.sample(request).await.unwrap_err();
        assert_eq!(error.code(), Some(Code::InvalidArgument), "case {i}: {error}");
        let found = error.violations();
        assert_eq!(found.len(), wanted.len(), "case {i}: {found:?}");
        for (field, words) in *wanted {
            let said = found.iter().find(|(path, _)| path == field);
            let (_, description) = said.unwrap_or_else(|| panic!("case {i}: {found:?}"));
            assert!(description.contains(words), "case {i}: {description}");
        }
    }
    server.idle().await;
    assert_eq!(client.sample(good.clone()).await.unwrap().rows, expected(&good));
}

/// The first three tokens of a row of a hundred, and all of them.
fn sparse(all: bool) -> (SampleRequest, SampleRequest) {
    let whole = SampleRequest { params: vec![params()], ..request(1, 100, 4) };
    let x = |token: u32| {
        let at = token as usize * 2;
        half::f16::from_le_bytes([whole.logits[at], whole.logits[at + 1]]).to_f32()
    };
    let mut order: Vec<u32> = (0..100).collect();
    order.sort_by(|&a, &b| x(b).total_cmp(&x(a)).then(a.cmp(&b)));
    order.truncate(if all { 100 } else { 3 });
    order.reverse();
    let le = |words: &[u32]| words.iter().flat_map(|word| word.to_le_bytes()).collect();
    let bytes = |token: &u32| whole.logits[*token as usize * 2..][..2].to_vec();
    let candidates = Candidates { counts: le(&[order.len() as u32]), tokens: le(&order) };
    let sparse = SampleRequest {
        logits: order.iter().flat_map(bytes).collect(),
        candidates: Some(candidates),
        ..whole.clone()
    };
    (whole, sparse)
}

fn params() -> SamplingParams {
    SamplingParams { top_k: 3, seed: Some(5), draws: Some(40), ..Default::default() }
}

#[tokio::test(flavor = "multi_thread")]
async fn candidates_take_what_is_exact_and_refuse_the_rest_by_name() {
    let server = TestServer::with(&[], vec![cpu()]).await;
    let client = server.client().await;
    let (whole, few) = sparse(false);
    let first =
        u32::from_le_bytes(few.candidates.as_ref().unwrap().tokens[..4].try_into().unwrap());
    let with = |request: &SampleRequest, adjustments: &Adjustments| SampleRequest {
        adjustments: vec![adjustments.clone()],
        ..request.clone()
    };
    let raised = Adjustments { logit_bias: vec![bias(first, 2.25)], ..Default::default() };
    let expected_rows = expected(&with(&whole, &raised));
    assert_eq!(client.sample(with(&few, &raised)).await.unwrap().rows, expected_rows);
    assert_ne!(expected_rows, expected(&whole), "the bias matters");

    type Change = fn(&mut Adjustments, &mut SamplingParams);
    let refused: [(Change, &str); 6] = [
        (|a, _| a.allowed_bitmask = vec![255; 16].into(), "allowed_bitmask"),
        (|a, _| a.banned_ids = vec![1], "banned_ids"),
        (|a, _| a.logit_bias[0].bias = -0.5, "logit_bias[0]"),
        (|a, _| a.logit_bias.push(bias(100 - 1, 0.5)), "logit_bias[1]"),
        (|a, p| (a.output, p.repetition_penalty) = (vec![1], Some(1.1)), "prompt and output"),
        (|a, p| (a.stop_ids, p.min_tokens) = (vec![1], 1), "stop_ids"),
    ];
    let tokens = few.candidates.as_ref().unwrap().tokens.clone();
    assert!(!tokens.chunks(4).any(|token| token == 99u32.to_le_bytes()), "99 is no candidate");
    let (whole, all) = sparse(true);
    for (change, field) in refused {
        let (mut adjustments, mut params) = (raised.clone(), params());
        change(&mut adjustments, &mut params);
        let request = |request: &SampleRequest| SampleRequest {
            params: vec![params.clone()],
            ..with(request, &adjustments)
        };
        let error = client.sample(request(&few)).await.unwrap_err();
        assert_eq!(error.code(), Some(Code::InvalidArgument), "{field}: {error}");
        assert_eq!(error.violations()[0].0, format!("adjustments[0].{field}"));
        // With every token there is nothing that could be let in.
        let rows = client.sample(request(&all)).await.unwrap().rows;
        assert_eq!(rows, expected(&request(&whole)), "{field}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn bytes_of_adjustments_are_held_until_the_answer() {
    const ROOM: usize = 1 << 20;
    const HISTORY: usize = 100_000;
    let (backend, gate) = Gated::boxed();
    let flags = ["--queue-bytes-max=1MiB", "--batch-bytes-max=1MiB", "--message-bytes-max=1MiB"];
    let server = TestServer::with(&flags, vec![backend]).await;
    let mut large = request(2, 100, 1);
    large.adjustments = vec![Adjustments { prompt: vec![1; HISTORY], ..Default::default() }];
    let held = tokio::spawn({
        let (client, large) = (server.client().await, large.clone());
        async move { client.sample(large).await }
    });
    gate.reached().await;
    // The lists of both rows are the same, and counted once.
    let left = ROOM - large.logits.len() - HISTORY * 4;
    assert!(server.engine.reserve(0, left + 1).is_err());
    assert!(server.engine.reserve(0, left).is_ok());
    gate.open();
    assert_eq!(held.await.unwrap().unwrap().rows, expected(&large));
    server.idle().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn many_sets_in_few_bytes_are_refused_before_they_are_decoded() {
    let server = TestServer::start(&["--request-rows-max=100"]).await;
    let client = server.client().await;
    let empty = Adjustments { bad_words: vec![sequence(&[]); 1 << 18], ..Default::default() };
    let words = SampleRequest { adjustments: vec![empty], ..request(1, 100, 1) };
    let error = client.sample(words).await.unwrap_err();
    assert_eq!(error.code(), Some(Code::InvalidArgument), "{error}");
    assert!(error.to_string().contains("adjustments.bad_words: 262144 in one message"), "{error}");
    let one = Adjustments { output_length: Some(1), ..Default::default() };
    let sets = SampleRequest { adjustments: vec![one; 101], ..request(1, 100, 1) };
    let error = client.sample(sets).await.unwrap_err();
    assert!(error.to_string().contains("sets"), "{error}");
}
