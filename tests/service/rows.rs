//! Rows over the API that are not as they might be: with padding between them, some of them wrong, or with a field that
//! the server does not know.

use crate::harness::backends::Gated;
use crate::harness::raw::{Raw, framed};
use crate::harness::{OnThisHost, TestServer, cpu, expected, request};
use bytes::Bytes;
use logitd::record::recheck::recheck;
use logitd_client::Region;
use logitd_core::backend::reference::Reference;
use logitd_core::batch::Results;
use logitd_proto::{
    Adjustments, Candidates, Dry, Dtype, OnInvalidRow, Plane, RowResult, RowStatus, SampleRequest,
    SamplingParams,
};
use serde_json::Value;
use tonic::Code;

/// The same rows with NaN behind each, `row_stride` logits from one to the next.
fn padded(request: &SampleRequest, row_stride: u32) -> SampleRequest {
    let padding = (row_stride - request.vocab_size) as usize;
    let nan = half::f16::NAN.to_le_bytes().repeat(padding);
    let rows = request.logits.chunks(request.vocab_size as usize * 2);
    let logits = rows.flat_map(|row| [row, &nan].concat()).collect();
    SampleRequest { logits, row_stride, ..request.clone() }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_in_the_padding_is_never_looked_at() {
    let text = include_str!("../cases/padded_vocabulary.json");
    let given: Value = serde_json::from_str(text).unwrap();
    let number = |value: &Value| u32::try_from(value.as_u64().unwrap()).unwrap();
    let wanted = given["expected_every_time"].as_array().unwrap();
    let server = TestServer::with(&[], vec![cpu()]).await;
    let client = server.client().await;
    for case in given["cases"].as_array().unwrap() {
        let rows = case["rows_f16_bits"].as_array().unwrap().iter();
        let bits = rows.flat_map(|row| row.as_array().unwrap().iter().map(number));
        let params = |seed| SamplingParams {
            temperature: Some(0.9),
            seed: Some(seed),
            ..Default::default()
        };
        let request = SampleRequest {
            dtype: Dtype::F16.into(),
            vocab_size: number(&given["tokens"]),
            row_stride: number(&given["columns"]),
            logits: bits.flat_map(|bits| (bits as u16).to_le_bytes()).collect(),
            params: (0..wanted.len() as u64).map(params).collect(),
            ..Default::default()
        };
        let rows = client.sample(request).await.unwrap().rows;
        assert_eq!(rows.len(), wanted.len());
        for (row, wanted) in rows.iter().zip(wanted) {
            assert_eq!(row.status(), RowStatus::Ok, "{}", case["padding"]);
            assert_eq!(row.token, Some(number(&wanted["token"])), "{}", case["padding"]);
            assert_eq!(row.kept, number(&wanted["kept"]));
            let logprob = f64::from(row.logprob.unwrap());
            assert!((logprob - wanted["logprob"].as_f64().unwrap()).abs() < 1e-5, "{logprob}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_way_to_the_server_takes_padding() {
    let flags = ["--message-bytes-max=64KiB"];
    let server = TestServer::with(&flags, vec![cpu()]).await;
    let client = server.client().await;
    for (rows, vocab_size, row_stride) in [(1, 50, 64), (7, 257, 257), (40, 3001, 3008)] {
        let plain = request(rows, vocab_size, 6);
        let wanted = expected(&plain);
        let mut request = padded(&plain, row_stride);
        request.rows = Some(rows as u32);
        assert_eq!(client.sample_all(request.clone()).await.unwrap(), wanted);
        let mut info = client.info().await.unwrap();
        info.chunk_bytes = 20_000;
        assert_eq!(client.sample_chunked(request.clone(), &info).await.unwrap().rows, wanted);
        // A view of a larger array ends with the last logit.
        let last = (row_stride as usize - vocab_size) * 2;
        request.logits.truncate(request.logits.len() - last);
        assert_eq!(client.sample_all(request.clone()).await.unwrap(), wanted);
    }
    server.idle().await;
}

#[cfg(unix)]
#[tokio::test(flavor = "multi_thread")]
async fn slots_and_direct_calls_take_padding() {
    let host = OnThisHost::start(&[]).await;
    let client = &host.client;
    let mut region = Region::register(&host.control, 2 << 20, 1).unwrap();
    let plain = request(5, 9001, 2);
    let inline = padded(&plain, 9024);
    let mut by_slot = SampleRequest { logits: Bytes::new(), ..inline.clone() };
    region.slot_mut(0)[..inline.logits.len()].copy_from_slice(&inline.logits);
    by_slot.slot = Some(region.commit(0, inline.logits.len()));
    let response = client.sample(by_slot.clone()).await.unwrap();
    assert_eq!((response.rows, response.plane), (expected(&plain), Plane::SharedMemory.into()));
    by_slot.slot = Some(region.commit(0, inline.logits.len()));
    let mut calls = client.direct().await.unwrap();
    assert_eq!(calls.sample(&by_slot).await.unwrap().rows, expected(&plain));
    // A wrong row of a slot.
    by_slot.params[3].top_p = Some(1.5);
    by_slot.on_invalid_row = OnInvalidRow::Status.into();
    by_slot.slot = Some(region.commit(0, inline.logits.len()));
    let rows = calls.sample(&by_slot).await.unwrap().rows;
    are_all_but(&[(3, "params.top_p", "top_p is 1.5")], &rows, &expected(&plain));
}

#[tokio::test(flavor = "multi_thread")]
async fn padding_that_cannot_be_is_refused() {
    let server = TestServer::with(&[], vec![cpu()]).await;
    let client = server.client().await;
    let plain = request(3, 100, 1);
    let of = |row_stride, bytes| SampleRequest {
        row_stride,
        logits: vec![0; bytes].into(),
        ..plain.clone()
    };
    for (request, field, words) in [
        (of(99, 600), "row_stride", "is 99; allowed: 0 (rows without padding), or vocab_size, 100"),
        (of(120, 700), "logits", "200 bytes (100 f16 logits), 240 bytes from row to row"),
        (of(120, 600), "logits", "has 600 bytes; allowed: one or more rows of 200 bytes"),
        (
            SampleRequest { candidates: Some(Candidates::default()), ..of(120, 720) },
            "row_stride",
            "is 120 beside candidates; allowed: 0",
        ),
        (SampleRequest { rows: Some(4), ..of(120, 720) }, "rows", "is 4, and logits has 3"),
    ] {
        let error = client.sample(request).await.unwrap_err();
        let (found, description) = error.violations().remove(0);
        assert_eq!(found, field, "{description}");
        assert!(description.contains(words), "{description}");
    }
    server.idle().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn padding_takes_room() {
    let (backend, gate) = Gated::boxed();
    let flags = ["--message-bytes-max=1MiB", "--queue-bytes-max=1MiB"];
    let server = TestServer::with(&flags, vec![backend]).await;
    let client = server.client().await;
    // Rows of one token in messages of 0.8 MB.
    let request = SampleRequest { row_stride: 400_000, params: vec![], ..request(1, 1, 1) };
    let request = SampleRequest { logits: vec![0; 800_000].into(), ..request };
    let first = tokio::spawn({
        let (client, request) = (client.clone(), request.clone());
        async move { client.sample(request).await }
    });
    gate.reached().await;
    let error = client.sample(request).await.unwrap_err();
    assert_eq!(error.code(), Some(Code::ResourceExhausted), "{error}");
    gate.open();
    assert_eq!(first.await.unwrap().unwrap().rows.len(), 1);
    server.idle().await;
}

/// The rows that are wrong, with the path and words of what is said of them.
type Wrong = [(usize, &'static str, &'static str)];

/// Every row is as it should be, but for these.
#[track_caller]
fn are_all_but(wrong: &Wrong, got: &[RowResult], right: &[RowResult]) {
    assert_eq!(got.len(), right.len());
    for (i, (got, right)) in got.iter().zip(right).enumerate() {
        let Some((_, field, words)) = wrong.iter().find(|(row, ..)| *row == i) else {
            assert_eq!(got, right, "row {i}");
            continue;
        };
        assert_eq!(got.status(), RowStatus::InvalidParameters, "row {i}");
        assert_eq!((got.token, got.kept, got.draws.len()), (None, 0, 0), "row {i}");
        let violation = got.violation.as_ref().expect("what is wrong");
        assert_eq!(violation.field, *field, "row {i}");
        assert!(violation.description.contains(words), "row {i}: {}", violation.description);
    }
}

/// Rows of which some are wrong in different ways, and what is said of these.
fn partly_wrong() -> (SampleRequest, SampleRequest, &'static Wrong) {
    let right =
        SampleRequest { adjustments: vec![Adjustments::default(); 9], ..request(9, 300, 4) };
    let mut wrong = right.clone();
    wrong.params[1].temperature = Some(-1.0);
    wrong.params[3].draw_rule = 77;
    wrong.params[4].dry = Some(Dry { base: Some(17.0), ..Default::default() });
    wrong.adjustments[6].banned_ids = vec![5, 300];
    wrong.params[8].no_repeat_ngram = 2;
    wrong.adjustments[8].counts = vec![1, 1];
    let said = &[
        (1, "params.temperature", "temperature is -1; allowed: 0 (greedy), or"),
        (3, "params.draw_rule", "draw_rule is 77; allowed: cumulative, race"),
        (4, "params.dry.base", "is 17; allowed: 1 to 16"),
        (6, "adjustments.banned_ids[1]", "is token 300; allowed: below"),
        (8, "adjustments.counts", "no_repeat_ngram needs the order of its tokens"),
    ];
    (right, wrong, said)
}

#[tokio::test(flavor = "multi_thread")]
async fn wrong_rows_leave_the_others_alone_if_that_is_asked_for() {
    let server = TestServer::with(&["--request-rows-max=4"], vec![cpu()]).await;
    let client = server.client().await;
    let (right, mut wrong, said) = partly_wrong();
    let right = expected(&right);
    let error = client.sample_all(wrong.clone()).await.unwrap_err();
    assert_eq!(error.code(), Some(Code::InvalidArgument), "the default: {error}");
    wrong.on_invalid_row = OnInvalidRow::Status.into();
    are_all_but(said, &client.sample_all(wrong.clone()).await.unwrap(), &right);
    let info = client.info().await.unwrap();
    are_all_but(said, &client.sample_chunked(wrong.clone(), &info).await.unwrap().rows, &right);
    wrong.on_invalid_row = 3;
    let error = client.sample_all(wrong).await.unwrap_err();
    assert!(
        error.violations()[0].1.contains("on_invalid_row is 3; allowed: 0 (refuse)"),
        "{error}"
    );
    server.idle().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn one_wrong_set_for_all_is_every_rows_and_what_is_nobodys_refuses_the_request() {
    let server = TestServer::with(&[], vec![cpu()]).await;
    let client = server.client().await;
    let set = SamplingParams { top_p: Some(0.0), ..Default::default() };
    let all = SampleRequest {
        params: vec![set],
        on_invalid_row: OnInvalidRow::Status.into(),
        ..request(3, 100, 4)
    };
    let rows = client.sample(all.clone()).await.unwrap().rows;
    let said = [0, 1, 2].map(|row| (row, "params.top_p", "top_p is 0; allowed: above 0"));
    are_all_but(&said, &rows, &vec![RowResult::default(); 3]);
    for spoil in [
        (|r| r.dtype = 9) as fn(&mut SampleRequest),
        |r| r.vocab_size = 7,
        |r| r.rows = Some(2),
        |r| r.params = vec![r.params[0].clone(); 2],
        |r| r.adjustments = vec![Adjustments::default(); 2],
    ] {
        let mut request = all.clone();
        spoil(&mut request);
        let error = client.sample(request).await.unwrap_err();
        assert_eq!(error.code(), Some(Code::InvalidArgument), "{error}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn rows_of_candidates_that_are_too_few_are_wrong_rows() {
    let server = TestServer::with(&[], vec![cpu()]).await;
    let client = server.client().await;
    let le = |words: &[u32]| words.iter().flat_map(|word| word.to_le_bytes()).collect();
    let candidates = Candidates { counts: le(&[2, 3, 2]), tokens: le(&[1, 2, 3, 4, 5, 6, 7]) };
    let set = |top_k| SamplingParams { top_k, seed: Some(3), ..Default::default() };
    let request = SampleRequest {
        logits: request(1, 7, 3).logits,
        candidates: Some(candidates),
        params: vec![set(2), set(3), set(2)],
        ..request(1, 100, 3)
    };
    let right = client.sample(request.clone()).await.unwrap().rows;
    let mut wrong = request;
    wrong.params[1].top_k = 4;
    wrong.on_invalid_row = OnInvalidRow::Status.into();
    let rows = client.sample(wrong).await.unwrap().rows;
    are_all_but(&[(1, "params.top_k", "top_k is 4, and row 0 has 3 candidates")], &rows, &right);
}

#[tokio::test(flavor = "multi_thread")]
async fn recorded_answers_with_padding_and_wrong_rows_replay() {
    let server = TestServer::with(&[], vec![cpu()]).await;
    let client = server.client().await;
    let (_, wrong, _) = partly_wrong();
    let request = padded(&wrong, 320);
    let request = SampleRequest { on_invalid_row: OnInvalidRow::Status.into(), ..request };
    let mut answer = client.sample(request.clone()).await.unwrap();
    let check = |answer: &_| {
        recheck(&mut Reference::default(), &request, answer, &mut Results::default()).unwrap()
    };
    assert_eq!(check(&answer), []);
    answer.rows[2].kept += 1;
    assert_eq!(check(&answer)[0].row, 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn fields_that_the_server_does_not_know_are_refused() {
    let server = TestServer::start(&[]).await;
    let raw = Raw::connect(server.address()).await;
    let good = request(1, 10, 1);
    raw.call("Sample", &[], framed(&good)).await.assert_code(Code::Ok, &[]);
    // Field 999, one byte of nothing.
    let unknown = [0xba, 0x3e, 0x00];
    let with = |bytes: Vec<u8>| crate::harness::raw::announced(bytes.len(), &bytes);
    let of_request = [&prost::Message::encode_to_vec(&good)[..], &unknown].concat();
    let reply = raw.call("Sample", &[], with(of_request)).await;
    reply.assert_code(Code::InvalidArgument, &["the request has a field 999", "does not know"]);
    let bare = SampleRequest { params: vec![], ..good };
    let params = [0x22, unknown.len() as u8];
    let of_params = [&prost::Message::encode_to_vec(&bare)[..], &params, &unknown].concat();
    let reply = raw.call("Sample", &[], with(of_params)).await;
    reply.assert_code(Code::InvalidArgument, &["params has a field 999"]);
    server.idle().await;
}
