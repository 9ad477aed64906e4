//! The server's promises to clients, at the protocol: answers, and errors that name what is wrong.

use crate::harness::backends::Gated;
use crate::harness::raw::{Raw, announced, framed};
use crate::harness::{TestServer, expected, logits, request};
use logitd_client::{Client, Error};
use logitd_proto::sample_stream_response::Result as Outcome;
use logitd_proto::{
    DrawRule, Dtype, GetInfoResponse, Plane, RowStatus, SampleRequest, SampleStreamRequest,
    SampleStreamResponse, SamplingParams,
};
use prost::Message;
use std::collections::HashSet;
use tonic::Code;
use tonic_types::StatusExt;

#[tokio::test(flavor = "multi_thread")]
async fn rows_are_answered_as_the_reference_answers_them() {
    let server = TestServer::start(&[]).await;
    let client = server.client().await;
    for (rows, vocab_size) in [(1, 1), (3, 257), (17, 1000)] {
        let request = request(rows, vocab_size, rows as u64);
        let response = client.sample(request.clone()).await.unwrap();
        assert_eq!(response.rows, expected(&request));
        assert_eq!(response.device, "reference");
        assert_eq!(response.arithmetic_version, logitd_core::arithmetic::VERSION);
        assert_eq!(response.plane, i32::from(Plane::Inline));
        assert!(response.timings.is_some());
    }
    server.stop().await.unwrap().unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn every_dtype_is_read_exactly() {
    let server = TestServer::start(&[]).await;
    let client = server.client().await;
    let values = [0.5f32, 3.0, -1.25, 2.5];
    let f16: Vec<u8> = values.iter().flat_map(|&x| half::f16::from_f32(x).to_le_bytes()).collect();
    let bf16: Vec<u8> =
        values.iter().flat_map(|&x| half::bf16::from_f32(x).to_le_bytes()).collect();
    let f32: Vec<u8> = values.iter().flat_map(|x| x.to_le_bytes()).collect();
    let mut answers = Vec::new();
    for (dtype, logits) in [(Dtype::F16, f16), (Dtype::Bf16, bf16), (Dtype::F32, f32)] {
        let params = vec![SamplingParams { seed: Some(5), draws: Some(20), ..Default::default() }];
        let request = SampleRequest {
            dtype: dtype.into(),
            vocab_size: 4,
            logits: logits.into(),
            params,
            ..Default::default()
        };
        answers.push(client.sample(request).await.unwrap().rows);
    }
    assert_eq!(answers[0][0].draws.len(), 20);
    assert_eq!(answers[0][0].draws[0].token, answers[0][0].token.unwrap());
    assert!(answers.iter().all(|rows| *rows == answers[0]), "the values are exact in all three");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wrong_row_has_a_status_and_the_others_have_tokens() {
    let server = TestServer::start(&[]).await;
    let rows =
        [[0.0, 1.0], [f32::NAN, f32::INFINITY], [f32::INFINITY, 0.0], [f32::NEG_INFINITY; 2]];
    let request = SampleRequest {
        dtype: Dtype::F32.into(),
        vocab_size: 2,
        logits: rows.iter().flatten().flat_map(|x| x.to_le_bytes()).collect(),
        ..Default::default()
    };
    let response = server.client().await.sample(request).await.unwrap();
    let statuses: Vec<_> = response.rows.iter().map(|row| row.status()).collect();
    let wanted =
        [RowStatus::Ok, RowStatus::Nan, RowStatus::PositiveInfinity, RowStatus::NoCandidate];
    assert_eq!(statuses, wanted);
    for (i, row) in response.rows.iter().enumerate() {
        assert_eq!(row.token.is_some(), i == 0, "row {i}");
        assert_eq!(row.logprob.is_some(), i == 0, "row {i}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn seeds_are_fresh_where_none_is_given_and_replay_the_draws() {
    let server = TestServer::start(&[]).await;
    let client = server.client().await;
    let mut request = request(8, 500, 3);
    request.params = vec![SamplingParams { draws: Some(4), ..Default::default() }];
    let first = client.sample(request.clone()).await.unwrap().rows;
    let seeds: HashSet<u64> = first.iter().map(|row| row.seed).collect();
    assert_eq!(seeds.len(), 8, "a seed of its own for each row");
    assert!(
        seeds.iter().all(|seed| *seed < 1 << 53),
        "{seeds:?}: programs with doubles have them whole"
    );
    let replay = |seed| SamplingParams { seed: Some(seed), draws: Some(4), ..Default::default() };
    request.params = first.iter().map(|row| replay(row.seed)).collect();
    assert_eq!(client.sample(request).await.unwrap().rows, first);
}

/// Values of twice the size are twice the rows of something else.
#[tokio::test(flavor = "multi_thread")]
async fn rows_that_are_not_as_many_as_was_said_are_refused_with_the_likely_cause() {
    let server = TestServer::start(&["--request-rows-max=100"]).await;
    let client = server.client().await;
    let good = SampleRequest { rows: Some(3), ..request(3, 100, 1) };
    assert_eq!(client.sample(good.clone()).await.unwrap().rows, expected(&good));

    let doubles = |rows: u32| SampleRequest {
        dtype: Dtype::F32.into(),
        vocab_size: 8,
        logits: (0..rows * 8).flat_map(|i| f64::from(i).to_le_bytes()).collect(),
        rows: Some(rows),
        ..Default::default()
    };
    for (wrong, parts) in [
        (doubles(3), &["rows is 3, and logits has 6", "8 bytes a logit, and f32 has 4"][..]),
        (doubles(80), &["rows is 80, and logits has 160", "is dtype right?"]),
        (SampleRequest { rows: Some(0), ..good.clone() }, &["rows is 0; allowed"]),
        (
            SampleRequest { rows: Some(2), ..good.clone() },
            &["rows is 2, and logits has 3", "3 bytes"],
        ),
        (SampleRequest { rows: Some(7), ..good.clone() }, &["rows is 7", "vocab_size right?"]),
        (SampleRequest { rows: Some(u32::MAX), ..good.clone() }, &["rows is 4294967295"]),
        (
            SampleRequest { logits: good.logits.slice(2..), ..good.clone() },
            &["has 598 bytes; allowed: 3 rows of 200 bytes"],
        ),
    ] {
        let error = client.sample(wrong.clone()).await.unwrap_err();
        let violations = error.violations();
        let field = if parts[0].contains("598") { "logits" } else { "rows" };
        assert_eq!(violations[0].0, field, "{violations:?}");
        assert!(parts.iter().all(|part| violations[0].1.contains(part)), "{violations:?}");

        let (mut sender, mut receiver) = client.stream().await.unwrap().split();
        sender.send(wrong).await.unwrap();
        let (_, answer) = receiver.receive().await.unwrap().unwrap();
        assert_eq!(answer.unwrap_err().violations(), violations, "on a stream");
    }
    // A batch that is cut must not become chunks that look right.
    let large = SampleRequest { params: vec![], ..doubles(200) };
    let error = client.sample_all(large).await.unwrap_err().to_string();
    assert!(error.contains("rows is 200, and logits has 400"), "{error}");
    let large = SampleRequest { rows: Some(250), ..request(250, 100, 2) };
    assert_eq!(client.sample_all(large.clone()).await.unwrap(), expected(&large));
}

#[tokio::test(flavor = "multi_thread")]
async fn temperatures_that_are_nearly_greedy_are_taken() {
    let server = TestServer::start(&[]).await;
    let client = server.client().await;
    let mut near = request(5, 300, 4);
    for (params, t) in near.params.iter_mut().zip([1e-30, 1e-20, 1e-7, 1e-6, 1e-5]) {
        params.temperature = Some(t);
    }
    assert_eq!(client.sample(near.clone()).await.unwrap().rows, expected(&near));
    near.params[2].temperature = Some(1e-45);
    let violations = client.sample(near).await.unwrap_err().violations();
    assert_eq!(violations[0].0, "params[2].temperature", "{violations:?}");
    assert_eq!(violations[0].1, "temperature is 1e-45; allowed: 0 (greedy), or 1e-30 to 10000");
}

#[tokio::test(flavor = "multi_thread")]
async fn tcp_and_a_unix_socket_are_served_at_once() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("logitd.sock");
    let unix = format!("--listen=unix:{}", path.display());
    let server = TestServer::start(&["--listen=127.0.0.1:0", &unix]).await;
    assert_eq!(server.targets.len(), 2);
    let request = request(2, 300, 1);
    for target in &server.targets {
        let client = Client::connect(target).await.unwrap();
        let response = client.sample(request.clone()).await.unwrap();
        assert_eq!(response.rows, expected(&request), "{target}");
    }
    server.stop().await.unwrap().unwrap();
    assert!(!path.exists(), "the socket's file is removed");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_answers_every_request_by_its_id() {
    let server = TestServer::start(&["--stream-requests-max=4"]).await;
    let (mut sender, mut receiver) = server.client().await.stream().await.unwrap().split();
    let requests: Vec<_> = (0..50).map(|i| request(1 + i % 5, 100 + i, i as u64)).collect();
    let sent = requests.clone();
    let sending = tokio::spawn(async move {
        for (i, request) in sent.into_iter().enumerate() {
            assert_eq!(sender.send(request).await.unwrap(), i as u64);
        }
    });
    let mut answered = vec![false; requests.len()];
    while let Some(answer) = receiver.receive().await {
        let (id, response) = answer.unwrap();
        let id = id as usize;
        assert!(!std::mem::replace(&mut answered[id], true), "one answer a request");
        assert_eq!(response.unwrap().rows, expected(&requests[id]), "request {id}");
    }
    sending.await.unwrap();
    assert!(answered.into_iter().all(|answered| answered));
}

#[tokio::test(flavor = "multi_thread")]
async fn clients_that_share_batches_get_their_own_rows() {
    let server = TestServer::start(&["--batch-delay-us=2000"]).await;
    let clients = (0..8u64).map(|c| {
        let target = server.target().to_owned();
        tokio::spawn(async move {
            let client = Client::connect(target).await.unwrap();
            for i in 0..10 {
                let request = request(1 + (c + i) as usize % 4, 64 + c as usize, c * 100 + i);
                let response = client.sample(request.clone()).await.unwrap();
                assert_eq!(response.rows, expected(&request), "client {c}, request {i}");
            }
        })
    });
    for client in clients.collect::<Vec<_>>() {
        client.await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn get_info_says_what_a_client_must_know() {
    let flags = ["--request-rows-max=7", "--message-bytes-max=1MiB", "--stream-requests-max=3"];
    let server = TestServer::start(&flags).await;
    let info: GetInfoResponse = server.client().await.info().await.unwrap();
    assert_eq!(info.version, env!("CARGO_PKG_VERSION"));
    assert_eq!(info.arithmetic_version, logitd_core::arithmetic::VERSION);
    let planes = [Plane::Inline, Plane::Chunked, Plane::Candidates];
    assert_eq!(info.planes, planes.map(i32::from));
    assert_eq!((info.devices[0].id.as_str(), info.devices[0].up), ("reference", true));
    assert_eq!(info.draw_rules().collect::<Vec<_>>(), [DrawRule::Cumulative, DrawRule::Race]);
    let limits = info.limits.unwrap();
    assert_eq!(limits.request_rows_max, 7);
    assert_eq!(limits.message_bytes_max, 1 << 20);
    assert_eq!(limits.stream_requests_max, 3);
    assert_eq!((limits.vocab_size_max, limits.draws_max), (1 << 20, 1024));
    // All others have values, too.
    let text = format!("{limits:?}");
    assert!(!text.contains(": 0"), "{text}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_batch_of_any_size_is_sampled_in_parts() {
    let server = TestServer::start(&["--request-rows-max=4", "--message-bytes-max=2KiB"]).await;
    let whole = request(23, 200, 9);
    let client = server.client().await;
    assert_eq!(client.sample(whole.clone()).await.unwrap_err().code(), Some(Code::OutOfRange));
    assert_eq!(client.sample_all(whole.clone()).await.unwrap(), expected(&whole));
}

/// Changes a valid request of 3 rows of 10 logits so that these fields are wrong.
type Wrong = (&'static [&'static str], fn(&mut SampleRequest));

const WRONG: &[Wrong] = &[
    (&["dtype"], |r| r.dtype = 0),
    (&["dtype"], |r| r.dtype = 99),
    (&["vocab_size"], |r| r.vocab_size = 0),
    (&["vocab_size"], |r| r.vocab_size = (1 << 20) + 1),
    (&["logits"], |r| r.logits = bytes::Bytes::new()),
    (&["logits"], |r| r.logits = logits(1, 29, 1)),
    (&["logits"], |r| r.logits = r.logits.slice(1..)),
    (&["priority"], |r| r.priority = 4),
    (&["params"], |r| r.params.truncate(2)),
    (&["params"], |r| r.params.extend(vec![SamplingParams::default(); 2])),
    (&["params[1].temperature"], |r| r.params[1].temperature = Some(f32::NAN)),
    (&["params[0].temperature"], |r| r.params[0].temperature = Some(-1.0)),
    (&["params[2].temperature"], |r| r.params[2].temperature = Some(1e5)),
    (&["params[0].top_p"], |r| r.params[0].top_p = Some(0.0)),
    (&["params[0].top_p"], |r| r.params[0].top_p = Some(f32::NAN)),
    (&["params[0].min_p"], |r| r.params[0].min_p = 1.5),
    (&["params[0].min_p"], |r| r.params[0].min_p = f32::NAN),
    (&["params[2].draws"], |r| r.params[2].draws = Some(0)),
    (&["params[2].draws"], |r| r.params[2].draws = Some(1025)),
    (&["params[1].draw_rule"], |r| r.params[1].draw_rule = 3),
    (
        &[
            "dtype",
            "vocab_size",
            "params[0].temperature",
            "params[0].top_p",
            "params[0].min_p",
            "params[0].draws",
            "params[2].top_p",
        ],
        |r| {
            (r.dtype, r.vocab_size) = (7, 0);
            r.params[0] = SamplingParams {
                temperature: Some(f32::INFINITY),
                top_p: Some(2.0),
                min_p: -1.0,
                draws: Some(5000),
                ..Default::default()
            };
            r.params[2].top_p = Some(-0.5);
        },
    ),
];

#[tokio::test(flavor = "multi_thread")]
async fn every_wrong_field_is_named_with_its_value_and_range() {
    let server = TestServer::start(&[]).await;
    let client = server.client().await;
    let mut stream = client.stream().await.unwrap();
    for (i, (fields, change)) in WRONG.iter().enumerate() {
        let mut request = request(3, 10, 1);
        change(&mut request);
        let unary = client.sample(request.clone()).await.unwrap_err();
        let id = stream.send(request).await.unwrap();
        let (answered, streamed) = stream.receive().await.unwrap().unwrap();
        assert_eq!(answered, id);
        for error in [unary, streamed.unwrap_err()] {
            assert_eq!(error.code(), Some(Code::InvalidArgument), "case {i}: {error}");
            let violations = error.violations();
            let named: Vec<_> = violations.iter().map(|(field, _)| field.as_str()).collect();
            assert_eq!(named, *fields, "case {i}");
            for (_, description) in violations {
                assert!(description.contains("allowed: "), "case {i}: {description}");
            }
            assert!(error.to_string().contains(fields[0]), "case {i}: {error}");
        }
    }
    // The stream lives on.
    let good = request(3, 10, 1);
    stream.send(good.clone()).await.unwrap();
    let (_, response) = stream.receive().await.unwrap().unwrap();
    assert_eq!(response.unwrap().rows, expected(&good));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_thousand_wrong_fields_are_still_a_readable_answer() {
    let server = TestServer::start(&[]).await;
    let mut request = request(1000, 2, 1);
    request.params.iter_mut().for_each(|params| params.top_p = Some(7.0));
    let error = server.client().await.sample(request).await.unwrap_err();
    assert_eq!(error.code(), Some(Code::InvalidArgument), "{error}");
    assert!(error.to_string().contains("and 999 more"), "{error}");
    assert!((1..100).contains(&error.violations().len()));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_exceeds_a_limit_is_refused_by_the_limits_name_and_flag() {
    let flags = [
        "--request-rows-max=4",
        "--request-draws-max=10",
        "--request-race-tokens-max=35",
        "--message-bytes-max=64KiB",
    ];
    let server = TestServer::start(&flags).await;
    let client = server.client().await;
    let mut many_draws = request(2, 10, 1);
    many_draws.params.iter_mut().for_each(|params| params.draws = Some(6));
    let mut many_runners = request(2, 10, 1);
    many_runners.params.iter_mut().for_each(|params| {
        *params = SamplingParams {
            temperature: Some(1.0),
            top_k: 9,
            draws: Some(2),
            draw_rule: DrawRule::Race.into(),
            seed: Some(1),
            ..Default::default()
        };
    });
    for (limit, value, request) in [
        ("request_rows_max", 4, request(5, 10, 1)),
        ("request_draws_max", 10, many_draws),
        ("request_race_tokens_max", 35, many_runners),
        ("message_bytes_max", 64 << 10, request(1, 40_000, 1)),
    ] {
        let unary = client.sample(request.clone()).await.unwrap_err();
        let mut stream = client.stream().await.unwrap();
        let id = stream.send(request).await.unwrap();
        let (answered, streamed) = stream.receive().await.unwrap().unwrap();
        assert_eq!(answered, id, "even of a message that was not kept");
        for error in [unary, streamed.unwrap_err()] {
            let Error::Status(status) = &error else { panic!("{error}") };
            assert_eq!(status.code(), Code::OutOfRange, "{error}");
            let flag = format!("--{}", limit.replace('_', "-"));
            assert!(status.message().contains(&flag), "{error}");
            let quota = status.get_details_quota_failure().unwrap();
            assert_eq!(quota.violations[0].subject, limit);
            assert_eq!(quota.violations[0].quota_value, value);
        }
        let good = crate::harness::request(1, 10, 1);
        stream.send(good.clone()).await.unwrap();
        let (_, response) = stream.receive().await.unwrap().unwrap();
        assert_eq!(response.unwrap().rows, expected(&good), "the stream lives on");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_queue_refuses_at_once_and_says_when_to_come_back() {
    let (backend, gate) = Gated::boxed();
    let flags = ["--queue-rows-max=8", "--request-rows-max=8", "--queue-bytes-max=16MiB"];
    let server = TestServer::with(&flags, vec![backend]).await;
    let client = server.client().await;
    let held = tokio::spawn({
        let client = client.clone();
        async move { client.sample(request(8, 10, 1)).await }
    });
    gate.reached().await;
    let mut stream = client.stream().await.unwrap();
    let refused = client.sample(request(1, 10, 2)).await.unwrap_err();
    stream.send(request(1, 10, 2)).await.unwrap();
    let (_, streamed) = stream.receive().await.unwrap().unwrap();
    for error in [refused, streamed.unwrap_err()] {
        assert_eq!(error.code(), Some(Code::ResourceExhausted), "{error}");
        assert!(error.retry_after().unwrap() > std::time::Duration::ZERO);
        assert!(error.to_string().contains("queue_rows_max"), "{error}");
    }
    gate.open();
    assert_eq!(held.await.unwrap().unwrap().rows, expected(&request(8, 10, 1)));
    // With retries, a client waits as long as it is told.
    let patient = Client::builder(server.target()).retries_max(100).connect().await.unwrap();
    assert!(patient.sample(request(1, 10, 2)).await.is_ok());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_payload_that_has_no_room_is_refused_before_it_is_read() {
    let (backend, gate) = Gated::boxed();
    let flags = ["--queue-bytes-max=1MiB", "--message-bytes-max=1MiB"];
    let server = TestServer::with(&flags, vec![backend]).await;
    let client = server.client().await;
    let held = tokio::spawn({
        let client = client.clone();
        async move { client.sample(request(1, 300_000, 1)).await }
    });
    gate.reached().await;
    // The header alone is answered; the payload never comes.
    let raw = Raw::connect(server.address()).await;
    let (pieces, answer) = raw.open("Sample", &[]);
    pieces.send(announced(900_000, &[])).await.unwrap();
    let reply = crate::harness::raw::reply(answer.await.unwrap()).await;
    reply.assert_code(Code::ResourceExhausted, &["queue_bytes_max"]);
    assert!(reply.status.get_details_retry_info().is_some());

    // On a stream the payload is read past, and the refusal finds its request.
    let mut stream = client.stream().await.unwrap();
    for _ in 0..3 {
        let id = stream.send(request(1, 400_000, 2)).await.unwrap();
        let (answered, response) = stream.receive().await.unwrap().unwrap();
        assert_eq!((answered, response.unwrap_err().code()), (id, Some(Code::ResourceExhausted)));
    }
    gate.open();
    assert!(held.await.unwrap().is_ok());
    server.idle().await;
    stream.send(request(1, 400_000, 2)).await.unwrap();
    let (_, response) = stream.receive().await.unwrap().unwrap();
    assert_eq!(response.unwrap().rows, expected(&request(1, 400_000, 2)));
}

#[tokio::test(flavor = "multi_thread")]
async fn bytes_that_are_no_request_are_the_clients_error() {
    let server = TestServer::start(&[]).await;
    let raw = Raw::connect(server.address()).await;
    let whole = framed(&request(2, 50, 1));
    for (body, words) in [
        (whole.slice(..whole.len() - 1), &["before its announced length"][..]),
        (whole.slice(..3), &["before its announced length"]),
        (bytes::Bytes::new(), &["before its announced length"]),
        (announced(4, &[0xff; 4]), &["malformed"]),
        (announced(4, &[0xff; 2]), &["before its announced length"]),
    ] {
        raw.call("Sample", &[], body).await.assert_code(Code::InvalidArgument, words);
    }
    let reply = raw.call("Sample", &[("grpc-timeout", "soon")], whole.clone()).await;
    reply.assert_code(Code::InvalidArgument, &["grpc-timeout", "soon"]);
    let reply = raw.call("NoSuchMethod", &[], whole.clone()).await;
    reply.assert_code(Code::Unimplemented, &[]);
    let reply = raw.call("Sample", &[("grpc-encoding", "gzip")], whole.clone()).await;
    reply.assert_code(Code::Unimplemented, &["gzip"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_ends_where_its_bytes_are_no_message_after_answering_those_before() {
    let server = TestServer::start(&[]).await;
    let raw = Raw::connect(server.address()).await;
    let good = SampleStreamRequest { id: 5, request: Some(request(2, 50, 1)), first_row: None };
    let empty = SampleStreamRequest { id: 6, ..Default::default() };
    let body = [framed(&good), framed(&empty), announced(3, &[0xff; 3])].concat();
    let reply = raw.call("SampleStream", &[], body).await;
    reply.assert_code(Code::InvalidArgument, &["malformed"]);
    let mut answers: Vec<_> =
        reply.messages.iter().map(|m| SampleStreamResponse::decode(m.clone()).unwrap()).collect();
    answers.sort_by_key(|answer| answer.id);
    assert_eq!(answers.iter().map(|answer| answer.id).collect::<Vec<_>>(), [5, 6]);
    assert!(
        matches!(&answers[0].result, Some(Outcome::Response(r)) if r.rows == expected(&request(2, 50, 1)))
    );
    assert!(
        matches!(&answers[1].result, Some(Outcome::Error(e)) if e.code == i32::from(Code::InvalidArgument))
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn parameters_cannot_blow_up_a_small_message() {
    let server = TestServer::start(&[]).await;
    let raw = Raw::connect(server.address()).await;
    // Two bytes each on the wire, and dozens in memory.
    let sets = [0x22, 0].repeat(1 << 20);
    let reply = raw.call("Sample", &[], announced(sets.len(), &sets)).await;
    reply.assert_code(Code::OutOfRange, &["parameter sets", "--request-rows-max"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn health_and_reflection_answer_any_client() {
    use tonic_health::pb::{HealthCheckRequest, health_client::HealthClient};
    use tonic_reflection::pb::v1::server_reflection_client::ServerReflectionClient;
    use tonic_reflection::pb::v1::server_reflection_request::MessageRequest;
    use tonic_reflection::pb::v1::{ServerReflectionRequest, server_reflection_response};

    let server = TestServer::start(&[]).await;
    let channel = tonic::transport::Endpoint::new(server.target().to_owned())
        .unwrap()
        .connect()
        .await
        .unwrap();
    let mut health = HealthClient::new(channel.clone());
    for service in ["", "logitd.v1.SamplerService"] {
        let request = HealthCheckRequest { service: service.into() };
        assert_eq!(
            health.check(request).await.unwrap().into_inner().status,
            1,
            "{service:?} serves"
        );
    }
    let unknown = HealthCheckRequest { service: "nobody".into() };
    assert_eq!(health.check(unknown).await.unwrap_err().code(), Code::NotFound);

    let ask = ServerReflectionRequest {
        host: String::new(),
        message_request: Some(MessageRequest::ListServices(String::new())),
    };
    let mut answers = ServerReflectionClient::new(channel)
        .server_reflection_info(tokio_stream::once(ask))
        .await
        .unwrap()
        .into_inner();
    let answer = answers.message().await.unwrap().unwrap().message_response.unwrap();
    let server_reflection_response::MessageResponse::ListServicesResponse(list) = answer else {
        panic!("{answer:?}")
    };
    let names: Vec<_> = list.service.iter().map(|service| service.name.as_str()).collect();
    for name in ["logitd.v1.SamplerService", "grpc.health.v1.Health"] {
        assert!(names.contains(&name), "{names:?}");
    }
}
