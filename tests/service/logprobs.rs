//! Logprobs and kept ids over the API: every way to the server tells them, and what is wrong with a wish is named.

use crate::harness::{OnThisHost, TestServer, cpu, expected, request};
use logitd_client::Region;
use logitd_core::backend::reference::Reference;
use logitd_proto::{
    Adjustments, Candidates, Logprobs, LogprobsOf, Plane, RowResult, RowStatus, SampleRequest,
    SamplingParams,
};
use prost::Message;
use tonic::Code;

const RAW: LogprobsOf = LogprobsOf::Raw;
const ADJUSTED: LogprobsOf = LogprobsOf::Adjusted;
const SAMPLED: LogprobsOf = LogprobsOf::Sampled;

fn asked(of: &[LogprobsOf], top: u32, ids: &[u32]) -> Option<Logprobs> {
    let of = of.iter().map(|&of| of.into()).collect();
    Some(Logprobs { of, top, ids: ids.to_vec() })
}

/// Rows of which different things are asked, and of some nothing.
fn inspected(rows: usize, vocab_size: usize, salt: u64) -> SampleRequest {
    let mut request = request(rows, vocab_size, salt);
    let last = vocab_size as u32 - 1;
    for (row, params) in request.params.iter_mut().enumerate() {
        params.logprobs = match row % 5 {
            0 => asked(&[SAMPLED, RAW, ADJUSTED], 20, &[last, 0, last]),
            1 => asked(&[RAW], 1024, &[]),
            2 => asked(&[ADJUSTED, SAMPLED], 0, &[1, 2, 3]),
            _ => None,
        };
        params.return_kept = row % 3 == 0;
        params.draws = Some([1, 3][row % 2]);
        params.repetition_penalty = Some(1.5);
        params.temperature = [Some(0.8), Some(0.0), None][row / 2 % 3];
        params.top_p = [Some(0.9), None][row % 2];
    }
    let history =
        Adjustments { output: vec![0, 1, last], banned_ids: vec![2], ..Default::default() };
    request.adjustments = vec![history];
    request
}

/// What of a row is told beside its tokens.
fn told(row: &RowResult) -> bool {
    !row.logprobs.is_empty() || !row.kept_ids.is_empty() || !row.kept_bitmask.is_empty()
}

/// The rows without it.
fn bare(mut request: SampleRequest) -> SampleRequest {
    for params in &mut request.params {
        (params.logprobs, params.return_kept) = (None, false);
    }
    request
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_asked_of_a_row_is_told_and_changes_no_token() {
    let servers = [TestServer::start(&[]).await, TestServer::with(&[], vec![cpu()]).await];
    for server in &servers {
        let client = server.client().await;
        for (rows, vocab_size) in [(1, 50), (16, 257), (17, 3000), (6, 70_000)] {
            let mut request = inspected(rows, vocab_size, rows as u64);
            let own = client.sample(request.clone()).await.unwrap().rows;
            assert_eq!(own, expected(&request), "one a row");
            assert_eq!(own.iter().filter(|row| told(row)).count(), asking(&request));
            let plain = client.sample(bare(request.clone())).await.unwrap().rows;
            for (own, plain) in own.iter().zip(plain) {
                assert!(!told(&plain));
                let tokens = (plain.token, plain.logprob, plain.kept, plain.draws);
                assert_eq!((own.token, own.logprob, own.kept, own.draws.clone()), tokens);
            }
            request.params.truncate(1);
            request.params[0].seed = Some(3);
            let shared = client.sample(request.clone()).await.unwrap().rows;
            assert_eq!(shared, expected(&request), "one for all");
        }
    }
}

fn asking(request: &SampleRequest) -> usize {
    request.params.iter().filter(|one| one.logprobs.is_some() || one.return_kept).count()
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_told_is_what_the_words_say() {
    let server = TestServer::with(&["--kept-ids-max=2"], vec![cpu()]).await;
    let client = server.client().await;
    let logits = [1.0f32, 3.0, f32::NEG_INFINITY, 3.0, 2.0].into_iter();
    let params = |top_k, logprobs| SamplingParams {
        top_k,
        seed: Some(1),
        return_kept: true,
        logprobs,
        ..Default::default()
    };
    let all = asked(&[RAW, ADJUSTED, SAMPLED], 2, &[2, 4]);
    let request = SampleRequest {
        dtype: logitd_proto::Dtype::F32.into(),
        vocab_size: 5,
        logits: logits.clone().chain(logits).flat_map(f32::to_le_bytes).collect(),
        params: vec![params(2, all), params(3, None)],
        ..Default::default()
    };
    let rows = client.sample(request).await.unwrap().rows;
    let (of, [raw, _, sampled]) = (|i: usize| rows[0].logprobs[i].of(), [0, 1, 2]);
    assert_eq!([of(0), of(1), of(2)], [RAW, ADJUSTED, SAMPLED], "whatever their order was");
    let found = |of: usize| rows[0].logprobs[of].clone();
    let top = found(raw).top.unwrap();
    assert_eq!((top.tokens, top.ranks), (vec![1, 3], vec![1, 2]), "ties by lower id");
    let ids = found(raw).ids.unwrap();
    assert_eq!((ids.tokens, ids.ranks), (vec![2, 4], vec![0, 3]), "-inf is no token of it");
    assert_eq!(ids.logprobs[0], f32::NEG_INFINITY);
    assert_eq!(found(sampled).ids.unwrap().ranks, [0, 0], "neither was kept");
    assert_eq!(found(sampled).top.unwrap().logprobs, [0.5f32.ln(); 2]);
    assert!((found(sampled).entropy - 2f32.ln()).abs() < 1e-6, "{}", found(sampled).entropy);
    assert_eq!(found(sampled).drawn.unwrap().tokens, [rows[0].token.unwrap()]);
    assert_eq!((&rows[0].kept_ids[..], &*rows[0].kept_bitmask), (&[1, 3][..], &[][..]));
    let mask = [0b11010, 0, 0, 0];
    assert_eq!((&rows[1].kept_ids[..], &*rows[1].kept_bitmask), (&[][..], &mask[..]));
}

#[tokio::test(flavor = "multi_thread")]
async fn streams_and_chunks_tell_it() {
    let server = TestServer::with(&["--message-bytes-max=64KiB"], vec![cpu()]).await;
    let client = server.client().await;
    let request = inspected(40, 3000, 5);
    let expected = expected(&request);
    let mut info = client.info().await.unwrap();
    assert_eq!(client.sample_all(request.clone()).await.unwrap(), expected);
    info.chunk_bytes = 20_000;
    let chunked = client.sample_chunked(request, &info).await.unwrap();
    assert_eq!(chunked.rows, expected);
    let limits = info.limits.unwrap();
    assert_eq!((limits.top_logprobs_max, limits.kept_ids_max), (1024, 4096));
    for control in ["logprobs", "return_kept"] {
        assert!(info.controls.iter().any(|name| name == control), "{control}");
    }
}

#[cfg(unix)]
#[tokio::test(flavor = "multi_thread")]
async fn slots_and_direct_calls_tell_it() {
    let host = OnThisHost::start(&[]).await;
    let client = &host.client;
    let mut region = Region::register(&host.control, 2 << 20, 1).unwrap();
    let inline = inspected(6, 9000, 2);
    let logits = inline.logits.clone();
    let mut by_slot = SampleRequest { logits: bytes::Bytes::new(), ..inline.clone() };
    region.slot_mut(0)[..logits.len()].copy_from_slice(&logits);
    by_slot.slot = Some(region.commit(0, logits.len()));
    let response = client.sample(by_slot.clone()).await.unwrap();
    assert_eq!((response.rows, response.plane), (expected(&inline), Plane::SharedMemory.into()));
    by_slot.slot = Some(region.commit(0, logits.len()));
    let mut calls = client.direct().await.unwrap();
    assert_eq!(calls.sample(&by_slot).await.unwrap().rows, expected(&inline));
}

/// What is asked for, and what is said of it.
type Wrong = (fn(&mut Logprobs), &'static [(&'static str, &'static str)]);

const WRONG: &[Wrong] = &[
    (
        |l| (l.of, l.top) = (vec![], 1),
        &[(
            "params[1].logprobs.of",
            "of is empty; allowed: raw, adjusted and sampled, at least one",
        )],
    ),
    (
        |l| l.of = vec![3, 1, 3],
        &[("params[1].logprobs.of", "of names sampled twice; allowed: each distribution once")],
    ),
    (
        |l| l.of = vec![1, 0],
        &[("params[1].logprobs.of[1]", "of[1] is 0; allowed: LOGPROBS_OF_RAW")],
    ),
    (|l| l.of = vec![4], &[("params[1].logprobs.of[0]", "of[0] is 4; allowed: LOGPROBS_OF_RAW")]),
    (
        |l| (l.top, l.ids) = (11, vec![0, 100]),
        &[
            ("params[1].logprobs.top", "top is 11; allowed: 0 to 10 (top_logprobs_max); ask"),
            ("params[1].logprobs.ids[1]", "ids[1] is token 100; allowed: below 100 (vocab_size)"),
        ],
    ),
    (
        |l| l.ids = vec![5; 1025],
        &[("params[1].logprobs.ids", "ids has 1025 tokens; allowed: up to 1024")],
    ),
];

#[tokio::test(flavor = "multi_thread")]
async fn a_wrong_wish_is_named() {
    let server = TestServer::start(&["--top-logprobs-max=10"]).await;
    let client = server.client().await;
    let mut good = request(3, 100, 1);
    good.params[1].logprobs = asked(&[RAW, SAMPLED], 10, &[99, 0]);
    assert_eq!(client.sample(good.clone()).await.unwrap().rows, expected(&good));
    for (i, (spoil, wanted)) in WRONG.iter().enumerate() {
        let mut request = good.clone();
        spoil(request.params[1].logprobs.as_mut().unwrap());
        let error = client.sample(request).await.unwrap_err();
        assert_eq!(error.code(), Some(Code::InvalidArgument), "case {i}: {error}");
        let found = error.violations();
        assert_eq!(found.len(), wanted.len(), "case {i}: {found:?}");
        for ((path, description), (field, words)) in found.iter().zip(*wanted) {
            assert_eq!(path, field, "case {i}");
            assert!(description.starts_with(words), "case {i}: {description}");
        }
    }
    // It is told with what else is wrong.
    let mut request = good.clone();
    request.params[1].logprobs.as_mut().unwrap().top = 11;
    request.params[2].top_p = Some(2.0);
    assert_eq!(client.sample(request).await.unwrap_err().violations().len(), 2);
    server.idle().await;
    assert_eq!(client.sample(good.clone()).await.unwrap().rows, expected(&good));
}

/// A row of a hundred, and the same by its first tokens, in no order.
fn sparse(count: usize) -> (SampleRequest, SampleRequest) {
    let params = SamplingParams { top_k: 3, seed: Some(5), draws: Some(9), ..Default::default() };
    let whole = SampleRequest { params: vec![params], ..request(1, 100, 4) };
    let x = |token: u32| {
        let at = token as usize * 2;
        half::f16::from_le_bytes([whole.logits[at], whole.logits[at + 1]]).to_f32()
    };
    let mut order: Vec<u32> = (0..100).collect();
    order.sort_by(|&a, &b| x(b).total_cmp(&x(a)).then(a.cmp(&b)));
    order.truncate(count);
    order.reverse();
    let le = |words: &[u32]| words.iter().flat_map(|word| word.to_le_bytes()).collect();
    let bytes = |token: &u32| whole.logits[*token as usize * 2..][..2].to_vec();
    let candidates = Candidates { counts: le(&[order.len() as u32]), tokens: le(&order) };
    let logits = order.iter().flat_map(bytes).collect();
    let sparse = SampleRequest { logits, candidates: Some(candidates), ..whole.clone() };
    (whole, sparse)
}

#[tokio::test(flavor = "multi_thread")]
async fn candidates_tell_what_is_exact_by_the_ids_of_tokens() {
    for flags in [&[][..], &["--kept-ids-max=1"]] {
        let server = TestServer::with(flags, vec![cpu()]).await;
        let client = server.client().await;
        let (whole, few) = sparse(5);
        let all = sparse(100).1;
        let with = |request: &SampleRequest, of: &[LogprobsOf]| {
            let mut request = request.clone();
            request.params[0].logprobs = asked(of, 2, &[(0..100).collect::<Vec<u32>>()].concat());
            request.params[0].return_kept = true;
            request
        };
        let rows = client.sample(with(&whole, &[SAMPLED])).await.unwrap().rows;
        assert_eq!(client.sample(with(&few, &[SAMPLED])).await.unwrap().rows, rows);
        assert_eq!(rows[0].logprobs[0].ids.as_ref().unwrap().tokens.len(), 100);
        assert_eq!(rows[0].kept_bitmask.len(), if flags.is_empty() { 0 } else { 16 });
        for (of, name) in [(RAW, "raw"), (ADJUSTED, "adjusted")] {
            let error = client.sample(with(&few, &[SAMPLED, of])).await.unwrap_err();
            let (field, said) = error.violations().remove(0);
            assert_eq!(field, "params[0].logprobs.of");
            assert!(
                said.starts_with(&format!("of names {name}, and the row has 5 candidates")),
                "{said}"
            );
        }
        // With every token as a candidate there is nothing that was left out.
        let of = [RAW, ADJUSTED, SAMPLED];
        let rows = client.sample(with(&whole, &of)).await.unwrap().rows;
        assert_eq!(client.sample(with(&all, &of)).await.unwrap().rows, rows);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_distribution_has_a_status_of_its_own() {
    let server = TestServer::with(&[], vec![cpu()]).await;
    let client = server.client().await;
    let nan = half::f16::NAN.to_le_bytes();
    let mut request = request(2, 64, 1);
    let mut logits = request.logits.to_vec();
    logits[10..12].copy_from_slice(&nan);
    request.logits = logits.into();
    for params in &mut request.params {
        params.logprobs = asked(&[RAW, ADJUSTED], 1, &[0]);
    }
    request.adjustments = vec![
        Adjustments { banned_ids: vec![5], ..Default::default() },
        Adjustments { banned_ids: (0..64).collect(), ..Default::default() },
    ];
    let rows = client.sample(request.clone()).await.unwrap().rows;
    assert_eq!(rows, expected(&request));
    let statuses = |row: &RowResult| {
        let of: Vec<_> = row.logprobs.iter().map(|found| found.status()).collect();
        (row.status(), of)
    };
    let (ok, none) = (RowStatus::Ok, RowStatus::NoCandidate);
    assert_eq!(statuses(&rows[0]), (ok, vec![RowStatus::Nan, ok]));
    assert_eq!(statuses(&rows[1]), (none, vec![ok, none]));
    assert_eq!((&rows[0].logprobs[0].top, &rows[0].logprobs[0].ids), (&None, &None));
    assert_eq!((&rows[1].logprobs[0].drawn, rows[1].logprobs[0].top.is_some()), (&None, true));
}

/// Room for the answer is taken before anything is sampled, and it is no less than the answer has.
#[tokio::test(flavor = "multi_thread")]
async fn room_is_taken_for_all_that_is_told() {
    let mut large = request(8, 5000, 1);
    for params in &mut large.params {
        *params = SamplingParams {
            seed: Some(1),
            draws: Some(100),
            logprobs: asked(&[RAW, ADJUSTED, SAMPLED], 1024, &[7; 1024]),
            return_kept: true,
            ..Default::default()
        };
    }
    let answer = expected(&large).iter().map(Message::encoded_len).sum::<usize>();
    println!("an answer of {answer} bytes");
    assert!(answer > 600 << 10);
    for (room, is_enough) in [(answer, false), (answer * 5 / 2, true)] {
        let flag = format!("--answer-bytes-max={room}");
        let server = TestServer::with(&[&flag], vec![Box::<Reference>::default()]).await;
        let client = server.client().await;
        let answered = client.sample(large.clone()).await;
        let answered = answered.map(|answer| assert_eq!(answer.rows, expected(&large)));
        match (&answered, is_enough) {
            (Ok(()), true) => {}
            (Err(error), false) => {
                assert!(error.to_string().contains("--answer-bytes-max"), "{error}");
            }
            _ => panic!("{room}: {answered:?}"),
        }
        server.idle().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn lists_are_bounded_before_they_are_decoded() {
    let server = TestServer::start(&["--request-rows-max=100"]).await;
    let client = server.client().await;
    let ids: Vec<u32> = (0..1024).map(|i| i % 100).collect();
    let mut full = request(100, 100, 1);
    for params in &mut full.params {
        params.logprobs = asked(&[RAW], 0, &ids);
    }
    assert_eq!(client.sample(full.clone()).await.unwrap().rows, expected(&full));
    full.params.truncate(1);
    full.params[0].logprobs = asked(&[RAW], 0, &vec![1; 1 << 20]);
    let error = client.sample(full).await.unwrap_err();
    assert_eq!(error.code(), Some(Code::InvalidArgument), "{error}");
    assert!(error.to_string().contains("params.logprobs.ids"), "{error}");
    server.idle().await;
}
