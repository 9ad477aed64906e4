//! Clients that take what they can: answers that nobody reads, messages that are announced and not sent, or never
//! end, floods of resets, fields without number. What each can hold is counted here, and the others are served.

use crate::harness::backends::Gated;
use crate::harness::daemon::{Daemon, value};
use crate::harness::frames::{
    ACK, DATA, END_STREAM, Frames, GOAWAY, PING, RST_STREAM, SETTINGS, WINDOW_UPDATE, frame,
    headers,
};
use crate::harness::raw::{self, Raw, announced, framed};
use crate::harness::usage::Usage;
use crate::harness::{TestServer, cpu, expected, request, until};
use bytes::{BufMut, Bytes, BytesMut};
use http_body_util::BodyExt;
use logitd::server::{Error, convert};
use logitd_client::Client;
use logitd_proto::{
    Adjustments, OnInvalidRow, RowStatus, SampleRequest, SampleResponse, SampleStreamRequest,
    SamplingParams,
};
use prost::Message;
use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::AsyncWriteExt;
use tokio::task::JoinSet;
use tonic::Code;
use tonic_types::StatusExt;

/// An honest client is answered, and right.
async fn is_served(target: &str, requests: u64) {
    let client = Client::connect(target).await.expect("connected");
    for salt in 0..requests {
        let request = request(3, 77, salt);
        let response = client.sample(request.clone()).await.expect("an honest client is served");
        assert_eq!(response.rows, expected(&request));
    }
}

/// Rows of eight logits with 1,024 draws each: 900 bytes for an answer of 13 KB a row.
fn many_draws(rows: usize) -> SampleRequest {
    let params = SamplingParams { draws: Some(1024), seed: Some(7), ..Default::default() };
    SampleRequest { params: vec![params], ..request(rows, 8, 1) }
}

/// Memory of the daemon.
fn resident_bytes(daemon: &Daemon) -> u64 {
    Usage::of(daemon.id()).resident_kib << 10
}

fn address(target: &str) -> &str {
    target.split_once("://").expect("a TCP target").1
}

#[tokio::test(flavor = "multi_thread")]
async fn answers_that_nobody_reads_are_bounded_and_not_kept_for_ever() {
    const CONNECTIONS: usize = 8;
    const CALLS: usize = 32;
    let flags = [
        "--device=cpu",
        "--metrics-listen=127.0.0.1:0",
        "--answer-bytes-max=24MiB",
        "--stream-stall-timeout=2s",
    ];
    let daemon = Daemon::start(&flags).await;
    is_served(daemon.target(), 1).await;
    let before = resident_bytes(&daemon);
    let (mut sent, mut unread, mut refused) = (0, Vec::new(), 0);
    let mut connections = Vec::new();
    for _ in 0..CONNECTIONS {
        let raw = Raw::with_window(address(daemon.target()), 0).await;
        let mut answers = JoinSet::new();
        for _ in 0..CALLS {
            let body = framed(&many_draws(64));
            sent += body.len();
            let (pieces, answer) = raw.open("Sample", &[]);
            pieces.send(body).await.unwrap();
            answers.spawn(answer);
        }
        for answer in answers.join_all().await {
            let response = answer.unwrap();
            if response.headers().contains_key("grpc-status") {
                let reply = raw::reply(response).await;
                reply.assert_code(Code::ResourceExhausted, &["--", "-bytes-max", "try again"]);
                assert!(reply.status.get_details_retry_info().is_some());
                refused += 1;
            } else {
                unread.push(response);
            }
        }
        connections.push(raw);
    }
    let held = value(&daemon.scrape().await, "logitd_answer_bytes");
    let grown = resident_bytes(&daemon).saturating_sub(before);
    println!(
        "{sent} bytes sent in {} calls: {} answers unread, {refused} refused, {held} bytes held, memory grew by \
         {grown}",
        CONNECTIONS * CALLS,
        unread.len(),
    );
    assert!(!unread.is_empty() && refused > 0);
    // The answers that are there take less than was reserved for them, and no more than one a thread was
    // let in beyond the limit.
    assert!(held <= f64::from(26 << 20), "{held} bytes");
    // Their calls are cut off, and all that they held is free again.
    let cut = unread.len();
    for response in unread {
        assert!(response.into_body().collect().await.is_err(), "an answer nobody read is cut off");
    }
    let patience = std::time::Instant::now() + Duration::from_secs(20);
    while value(&daemon.scrape().await, "logitd_answer_bytes") > 0.0 {
        assert!(std::time::Instant::now() < patience, "answers are still held");
    }
    let counted = value(&daemon.scrape().await, "logitd_answers_cut_total");
    assert_eq!(counted, cut as f64);
    is_served(daemon.target(), 5).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn one_connection_does_not_take_all_the_room_for_answers() {
    let server = TestServer::start(&["--answer-bytes-max=32MiB"]).await;
    let raw = Raw::with_window(server.address(), 0).await;
    let mut unread = Vec::new();
    let mut refused = 0;
    for _ in 0..40 {
        let (pieces, answer) = raw.open("Sample", &[]);
        pieces.send(framed(&many_draws(64))).await.unwrap();
        drop(pieces);
        let response = answer.await.unwrap();
        match response.headers().contains_key("grpc-status") {
            true => refused += 1,
            false => unread.push(response),
        }
    }
    println!("{} answers unread, {refused} refused", unread.len());
    assert!((10..40).contains(&unread.len()), "16 MiB hold more than 10 and less than 40");
    // Others have the rest.
    let request = many_draws(64);
    let response = server.client().await.sample(request.clone()).await.unwrap();
    assert_eq!(response.rows, expected(&request));
}

#[tokio::test(flavor = "multi_thread")]
async fn small_answers_that_nobody_reads_end_their_connection() {
    let server = TestServer::start(&["--stream-stall-timeout=300ms"]).await;
    let raw = Raw::with_window(server.address(), 0).await;
    let mut answers = JoinSet::new();
    for salt in 0..100 {
        let (pieces, answer) = raw.open("Sample", &[]);
        pieces.send(framed(&request(1, 8, salt))).await.unwrap();
        drop(pieces);
        answers.spawn(async move { answer.await.unwrap().into_body().collect().await.is_err() });
    }
    assert!(answers.join_all().await.into_iter().all(|cut| cut), "none is kept");
    is_served(server.target(), 1).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_large_answer_that_is_read_slowly_is_whole() {
    let server = TestServer::start(&["--stream-stall-timeout=1s"]).await;
    let raw = Raw::with_window(server.address(), 60_000).await;
    let (pieces, answer) = raw.open("Sample", &[]);
    let request = many_draws(64);
    pieces.send(framed(&request)).await.unwrap();
    drop(pieces);
    let mut body = answer.await.unwrap().into_body();
    let mut message = BytesMut::new();
    // Longer in all than the timeout, and never as long at once.
    while let Some(frame) = body.frame().await {
        match frame.unwrap().into_data() {
            Ok(data) => message.put(data),
            Err(frame) => assert_eq!(frame.into_trailers().unwrap()["grpc-status"], "0"),
        }
        tokio::time::sleep(Duration::from_millis(60)).await;
    }
    let response = SampleResponse::decode(&message[5..]).unwrap();
    assert_eq!(response.rows, expected(&request));
}

/// Calls that announce a message of 16 MiB and send so many bytes of it, on this many connections.
async fn announce(
    address: &str,
    connections: usize,
    calls: usize,
    bytes: usize,
) -> Vec<impl Sized> {
    let mut held = Vec::new();
    // A field of logits as long as the message.
    let logits = [&[0x1a, 0xf0, 0xff, 0xff, 0x07][..], &vec![0; bytes]].concat();
    let piece = announced(16 << 20, &logits[..bytes]);
    for _ in 0..connections {
        let raw = Raw::connect(address).await;
        for _ in 0..calls {
            let (pieces, answer) = raw.open("Sample", &[]);
            pieces.send(piece.clone()).await.unwrap();
            held.push((pieces, answer));
        }
    }
    held
}

#[tokio::test(flavor = "multi_thread")]
async fn announcing_is_not_sending() {
    let server = TestServer::with(&[], vec![cpu()]).await;
    let bytes_max = server.limits.queue_bytes_max as usize;
    // Nothing is sent; less than a part that counts; and just that.
    for sent in [0, 1000, 1 << 20] {
        let held = announce(server.address(), 4, 16, sent).await;
        tokio::time::sleep(Duration::from_millis(300)).await;
        let free = |bytes| server.engine.reserve(0, bytes).is_ok();
        let taken = (0..=64).rev().find(|&n| !free(bytes_max - (n << 24))).map_or(0, |n| n + 1);
        println!(
            "64 calls that announce 16 MiB and send {sent} bytes hold less than {} MiB",
            taken * 16
        );
        assert!(free(bytes_max / 3), "a third of the room is left");
        let mut honest = JoinSet::new();
        for salt in 0..4 {
            let client = server.client().await;
            honest.spawn(async move {
                for i in 0..3 {
                    let request = request(2, 500_000, salt * 10 + i);
                    let response = client.sample(request).await.expect("there is room");
                    assert_eq!(response.rows.len(), 2);
                }
            });
        }
        honest.join_all().await;
        drop(held);
        server.idle().await;
    }
}

/// Sends a message piece by piece, and says how many bytes of it were taken before the answer came.
async fn send_in_pieces(raw: &Raw, message: Bytes) -> (usize, raw::Reply) {
    let (pieces, answer) = raw.open("Sample", &[]);
    let sending = tokio::spawn(async move {
        let mut rest = message.clone();
        while !rest.is_empty() {
            let piece = rest.split_to(rest.len().min(64 << 10));
            if pieces.send(piece).await.is_err() {
                break;
            }
        }
        message.len() - rest.len()
    });
    let reply = raw::reply(answer.await.unwrap()).await;
    (sending.await.unwrap(), reply)
}

#[tokio::test(flavor = "multi_thread")]
async fn large_messages_that_find_no_room_are_not_sent_in_vain() {
    const CONNECTIONS: usize = 6;
    const CALLS: u64 = 10;
    let flags = ["--queue-bytes-max=32MiB", "--message-bytes-max=8MiB", "--room-wait=60s"];
    let server = TestServer::with(&flags, vec![cpu()]).await;
    let asked = request(8, 500_000, 5);
    let message = framed(&asked);
    let mut calls = JoinSet::new();
    for _ in 0..CONNECTIONS {
        let raw = Arc::new(Raw::connect(server.address()).await);
        for _ in 0..CALLS {
            let (raw, message) = (Arc::clone(&raw), message.clone());
            calls.spawn(async move { send_in_pieces(&raw, message).await });
        }
    }
    let (mut answered, mut in_vain) = (0, Vec::new());
    for (sent, reply) in calls.join_all().await {
        match reply.status.code() {
            Code::Ok => {
                answered += 1;
                let response = SampleResponse::decode(&*reply.messages[0]).unwrap();
                assert_eq!(response.rows.len(), 8);
            }
            _ => {
                reply.assert_code(Code::ResourceExhausted, &["queue_bytes_max"]);
                in_vain.push(sent);
            }
        }
    }
    let wasted: usize = in_vain.iter().sum();
    println!(
        "{answered} messages of {} MB were answered at once in room for 4; {} were refused, which had sent {:.1} MB",
        message.len() / 1_000_000,
        in_vain.len(),
        wasted as f64 / 1e6
    );
    assert!(wasted < answered * message.len() / 10, "{in_vain:?}");
    server.idle().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn one_connection_does_not_take_all_the_room_for_requests() {
    let (backend, gate) = Gated::boxed();
    let flags =
        ["--connection-bytes-max=2MiB", "--message-bytes-max=1MiB", "--queue-bytes-max=8MiB"];
    let server = TestServer::with(&flags, vec![backend]).await;
    let client = server.client().await;
    let mut calls = JoinSet::new();
    for salt in 0..12 {
        let client = client.clone();
        calls.spawn(async move { client.sample(request(1, 250_000, salt)).await });
    }
    // Those that find no room are told at once; four are held.
    let mut refused = 0;
    while refused < 8 {
        let error = calls.join_next().await.unwrap().unwrap().unwrap_err();
        assert_eq!(error.code(), Some(Code::ResourceExhausted), "{error}");
        assert!(error.to_string().contains("--connection-bytes-max"), "{error}");
        assert!(error.retry_after().is_some());
        refused += 1;
    }
    let other = tokio::spawn({
        let client = server.client().await;
        async move { client.sample(request(1, 250_000, 99)).await }
    });
    let others = server.limits.queue_bytes_max as usize - 2_300_000;
    until("another's request is held too", || server.engine.reserve(0, others).is_err()).await;
    gate.open();
    for held in calls.join_all().await {
        held.unwrap();
    }
    assert_eq!(other.await.unwrap().unwrap().rows, expected(&request(1, 250_000, 99)));
}

#[tokio::test(flavor = "multi_thread")]
async fn one_token_does_not_take_all_the_room() {
    let directory = tempfile::tempdir().unwrap();
    let tokens = directory.path().join("tokens");
    std::fs::write(&tokens, "greedy Greedy\nmodest Modest\n").unwrap();
    let (backend, gate) = Gated::boxed();
    let tokens = format!("--tokens-file={}", tokens.display());
    let flags = [
        tokens.as_str(),
        "--token-bytes-max=1MiB",
        "--message-bytes-max=1MiB",
        "--queue-bytes-max=8MiB",
    ];
    let server = TestServer::with(&flags, vec![backend]).await;
    let connect = |token| Client::builder(server.target()).token(token).connect();
    let mut calls = JoinSet::new();
    for salt in 0..4 {
        // Each on a connection of its own.
        let client = connect("greedy").await.unwrap();
        calls.spawn(async move { client.sample(request(1, 250_000, salt)).await });
    }
    for _ in 0..2 {
        let error = calls.join_next().await.unwrap().unwrap().unwrap_err();
        assert_eq!(error.code(), Some(Code::ResourceExhausted), "{error}");
        assert!(error.to_string().contains("token Greedy"), "{error}");
        assert!(error.to_string().contains("--token-bytes-max"), "{error}");
    }
    let modest = connect("modest").await.unwrap();
    let other = tokio::spawn(async move { modest.sample(request(1, 250_000, 9)).await });
    gate.reached().await;
    gate.open();
    assert!(calls.join_all().await.into_iter().all(|held| held.is_ok()));
    assert_eq!(other.await.unwrap().unwrap().rows, expected(&request(1, 250_000, 9)));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_that_finds_no_room_on_its_way_is_refused_and_its_stream_lives_on() {
    let flags = ["--message-bytes-max=1MiB", "--connection-bytes-max=1MiB"];
    let server = TestServer::start(&flags).await;
    let raw = Raw::connect(server.address()).await;
    let message = |id, rows| {
        framed(&SampleStreamRequest {
            id,
            request: Some(request(rows, 100_000, id)),
            first_row: Some(5),
        })
    };
    // It begins where there is room, and when it has come half there is none.
    let (slow, answer) = raw.open("SampleStream", &[]);
    let large = message(77, 4);
    slow.send(large.slice(..100)).await.unwrap();
    let mut answers = answer.await.unwrap().into_body();
    let (other, _other_answer) = raw.open("Sample", &[]);
    other.send(framed(&request(3, 100_000, 1)).slice(..500_000)).await.unwrap();
    until("the other has its room", || {
        server.engine.reserve(0, server.limits.queue_bytes_max as usize - 600_000).is_err()
    })
    .await;
    slow.send(large.slice(100..700_000)).await.unwrap();
    slow.send(large.slice(700_000..)).await.unwrap();
    slow.send(message(78, 1)).await.unwrap();
    drop(slow);
    let mut bytes = BytesMut::new();
    while let Some(frame) = answers.frame().await {
        if let Ok(data) = frame.unwrap().into_data() {
            bytes.put(data);
        }
    }
    let mut outcomes = HashMap::new();
    while !bytes.is_empty() {
        let length = u32::from_be_bytes(bytes[1..5].try_into().unwrap()) as usize;
        let message = bytes.split_to(5 + length);
        let answer = logitd_proto::SampleStreamResponse::decode(&message[5..]).unwrap();
        assert_eq!(answer.first_row, Some(5));
        outcomes.insert(answer.id, answer.result.unwrap());
    }
    use logitd_proto::sample_stream_response::Result::{Error, Response};
    let Error(refused) = &outcomes[&77] else { panic!("{outcomes:?}") };
    assert_eq!(Code::from(refused.code), Code::ResourceExhausted, "{refused:?}");
    let Response(answered) = &outcomes[&78] else { panic!("{outcomes:?}") };
    assert_eq!(answered.rows, expected(&request(1, 100_000, 78)));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_call_that_does_not_end_is_late() {
    let server = TestServer::start(&["--receive-timeout=400ms"]).await;
    let raw = Raw::connect(server.address()).await;
    let whole = framed(&request(4, 100_000, 1));
    for (headers, word) in [
        (&[][..], "--receive-timeout"),
        (&[("grpc-timeout", "200m")][..], "deadline"),
        (&[("grpc-timeout", "3600S")][..], "--receive-timeout"),
    ] {
        let (pieces, answer) = raw.open("Sample", headers);
        pieces.send(whole.clone()).await.unwrap();
        let reply = raw::reply(answer.await.unwrap()).await;
        reply.assert_code(Code::DeadlineExceeded, &[word]);
        server.idle().await;
    }
    // So it is with every call of one message, whatever is in it.
    for method in ["Verify", "BeamStep", "Evaluate", "GetInfo"] {
        let (pieces, answer) = raw.open(method, &[]);
        pieces.send(announced(0, &[])).await.unwrap();
        let reply = raw::reply(answer.await.unwrap()).await;
        reply.assert_code(Code::DeadlineExceeded, &["--receive-timeout"]);
    }
    // A stream may be open as long as its caller says, beyond the time for a message.
    let (_pieces, answer) = raw.open("SampleStream", &[("grpc-timeout", "1200m")]);
    let reply = raw::reply(answer.await.unwrap()).await;
    reply.assert_code(Code::DeadlineExceeded, &["deadline"]);
    server.idle().await;
    // A second message is not waited for, and takes nothing.
    let reply = raw.call("Sample", &[], [&whole[..], &whole[..]].concat()).await;
    reply.assert_code(Code::InvalidArgument, &["one a unary call"]);
    server.idle().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_drain_cuts_off_who_does_not_read_or_end() {
    // The timeout is longer than anybody waits for the daemon here.
    let flags = ["--device=cpu", "--drain-timeout=600s", "--drain-grace=500ms"];
    let mut daemon = Daemon::start(&flags).await;
    let unreading = Raw::with_window(address(daemon.target()), 0).await;
    let (pieces, unread) = unreading.open("Sample", &[]);
    pieces.send(framed(&many_draws(64))).await.unwrap();
    drop(pieces);
    let unread = unread.await.unwrap();
    let (stream, answers) = unreading.open("SampleStream", &[]);
    let message = SampleStreamRequest { id: 1, request: Some(many_draws(64)), first_row: None };
    stream.send(framed(&message)).await.unwrap();
    let answers = answers.await.unwrap();

    let raw = Raw::connect(address(daemon.target())).await;
    let (whole, unended) = raw.open("Sample", &[]);
    whole.send(framed(&request(1, 10, 1))).await.unwrap();
    let (part, unsent) = raw.open("Sample", &[]);
    part.send(announced(1 << 20, &[7; 100])).await.unwrap();
    // Both have been received when a call behind them is answered.
    raw.call("Sample", &[], framed(&request(1, 10, 1))).await.assert_code(Code::Ok, &[]);

    daemon.signal("TERM");
    for late in [unended, unsent] {
        let reply = raw::reply(late.await.unwrap()).await;
        reply.assert_code(Code::Unavailable, &["shutting down"]);
    }
    assert_eq!(daemon.exit_code().await, Some(0), "{}", daemon.log());
    for cut in [unread, answers] {
        assert!(cut.into_body().collect().await.is_err());
    }
    let log = daemon.log();
    println!("{log}");
    assert!(log.contains("\"unended\":2") && log.contains("\"unread\":2"), "{log}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_drain_waits_for_what_was_taken_beside_those_who_do_not_read() {
    let (backend, gate) = Gated::boxed();
    let server = TestServer::with(&["--drain-grace=100ms"], vec![backend]).await;
    let client = server.client().await;
    let taken = tokio::spawn(async move { client.sample(request(2, 10, 1)).await });
    gate.reached().await;
    let raw = Raw::connect(server.address()).await;
    let (part, unsent) = raw.open("Sample", &[]);
    part.send(announced(1 << 20, &[7; 100])).await.unwrap();
    raw.call("GetInfo", &[], announced(0, &[])).await.assert_code(Code::Ok, &[]);
    let done = server.stop();
    raw::reply(unsent.await.unwrap()).await.assert_code(Code::Unavailable, &["shutting down"]);
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert!(!done.is_finished(), "one request is still with the device");
    gate.open();
    assert_eq!(taken.await.unwrap().unwrap().rows, expected(&request(2, 10, 1)));
    done.await.unwrap().unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_mass_cancel_leaves_the_other_calls_of_its_connection() {
    const OTHERS: u32 = 40;
    const CANCELLED: u32 = 128;
    let (backend, gate) = Gated::boxed();
    let server = TestServer::with(&["--connection-streams-max=168"], vec![backend]).await;
    let mut client = Frames::connect(server.address()).await;
    let mut sent = Vec::new();
    let other = |call: u32| 2 * call + 1;
    for call in 0..OTHERS {
        let message = framed(&request(1, 10, call.into()));
        sent.extend(headers(other(call), "Sample"));
        sent.extend(frame(DATA, END_STREAM, other(call), &message));
    }
    client.socket.write_all(&sent).await.unwrap();
    gate.reached().await;
    // All of them in one piece, begun and cancelled before the server has looked at any.
    let cancelled = |call: u32| {
        let stream = other(OTHERS + call);
        [headers(stream, "Sample"), frame(RST_STREAM, 0, stream, &8u32.to_be_bytes())].concat()
    };
    let burst: Vec<u8> = (0..CANCELLED).flat_map(cancelled).collect();
    client.socket.write_all(&burst).await.unwrap();
    client.socket.write_all(&frame(PING, 0, 0, &[9; 8])).await.unwrap();
    let (mut answers, mut opened) = (HashMap::new(), false);
    while answers.len() < OTHERS as usize {
        let frame = client.next().await.expect("the connection lives on");
        match frame.kind {
            GOAWAY => panic!("{} answered, then {frame:?}", answers.len()),
            PING if frame.flags == ACK => {
                gate.open();
                opened = true;
            }
            DATA if frame.stream % 2 == 1 && !frame.payload.is_empty() => {
                answers.insert(frame.stream, frame.payload);
            }
            _ => {}
        }
    }
    assert!(opened, "the server had read all resets before anything was answered");
    for call in 0..OTHERS {
        let response = SampleResponse::decode(&answers[&other(call)][5..]).unwrap();
        assert_eq!(response.rows, expected(&request(1, 10, call.into())));
    }
    println!("{CANCELLED} calls cancelled at once, {} others answered", answers.len());
    server.idle().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_flood_of_resets_is_cut_off() {
    const FLOOD: u32 = 20_000;
    let server = TestServer::start(&[]).await;
    let mut client = Frames::connect(server.address()).await;
    let reset = |call: u32| {
        let stream = 2 * call + 1;
        [headers(stream, "Sample"), frame(RST_STREAM, 0, stream, &8u32.to_be_bytes())].concat()
    };
    let flood: Vec<u8> = (0..FLOOD).flat_map(reset).collect();
    // The server may be faster to close than we are to write.
    let _ = client.socket.write_all(&flood).await;
    let mut last = None;
    while let Some(frame) = client.next().await {
        if frame.kind == GOAWAY {
            last = Some(frame);
        }
    }
    let goaway = last.expect("it is told why");
    let word = |at: usize| u32::from_be_bytes(goaway.payload[at..at + 4].try_into().unwrap());
    println!("{FLOOD} resets sent, {} calls seen", word(0).div_ceil(2));
    assert_eq!(word(4), 11, "ENHANCE_YOUR_CALM");
    assert!(word(0).div_ceil(2) < FLOOD / 2);
    is_served(server.target(), 3).await;
}

/// The window of a connection and its largest frame, as the server gives them.
async fn window(client: &mut Frames) -> (usize, usize) {
    let ping = frame(PING, 0, 0, &[1; 8]);
    client.socket.write_all(&ping).await.unwrap();
    let (mut window, mut frame_bytes, mut pongs) = (65_535, 16 << 10, 0);
    // All that the server has to say at first is said before the second answer.
    while pongs < 2 {
        let frame = client.next().await.expect("a connection");
        let word = |bytes: &[u8]| u32::from_be_bytes(bytes.try_into().unwrap()) as usize;
        match frame.kind {
            WINDOW_UPDATE if frame.stream == 0 => window += word(&frame.payload),
            SETTINGS => {
                let settings = frame.payload.chunks_exact(6);
                for setting in settings.filter(|setting| setting[..2] == [0, 5]) {
                    frame_bytes = word(&setting[2..]);
                }
            }
            PING => {
                pongs += 1;
                client.socket.write_all(&ping).await.unwrap();
            }
            _ => {}
        }
    }
    (window, frame_bytes)
}

#[tokio::test(flavor = "multi_thread")]
async fn the_windows_of_all_connections_are_bounded_in_sum() {
    const CONNECTIONS: usize = 200;
    let flags = ["--window-bytes-max=64MiB", "--connection-window-bytes=4MiB"];
    let server = TestServer::start(&flags).await;
    let (mut clients, mut windows, mut frames) = (Vec::new(), Vec::new(), 0);
    for _ in 0..CONNECTIONS {
        let mut client = Frames::connect(server.address()).await;
        let (window, frame_bytes) = window(&mut client).await;
        windows.push(window);
        frames += frame_bytes;
        clients.push(client);
    }
    let sum: usize = windows.iter().sum();
    println!(
        "{CONNECTIONS} connections: windows of {sum} bytes in all, frames of {frames}; the first {:?}",
        &windows[..8]
    );
    assert_eq!(windows[0], 4 << 20, "the first has all it wants");
    assert!(sum <= (64 << 20) + CONNECTIONS * 65_535, "{sum}");
    assert!(frames <= sum / 4 + CONNECTIONS * (16 << 10), "{frames}");
    drop(clients);
    let patience = std::time::Instant::now() + Duration::from_secs(20);
    while window(&mut Frames::connect(server.address()).await).await.0 < 4 << 20 {
        assert!(std::time::Instant::now() < patience, "windows are not given back");
    }
}

#[test]
fn wrong_fields_are_described_as_many_as_are_told() {
    let wrong = SamplingParams {
        temperature: Some(f32::NAN),
        top_p: Some(f32::NAN),
        min_p: f32::NAN,
        draws: Some(0),
        ..Default::default()
    };
    let mut limits = convert::limits(&Default::default());
    let request = SampleRequest { params: vec![wrong; 1 << 16], ..request(1, 2, 1) };
    // More than there may be rows: not one is looked at.
    let error = convert::batch(request.clone(), None, None, &limits).unwrap_err();
    assert!(matches!(error, Error::OverLimit { value: 65_536, limit: 1024, .. }), "{error}");
    limits.request_rows_max = 1 << 16;
    let error = convert::batch(request, None, None, &limits).unwrap_err();
    let Error::Invalid { listed, more } = &error else { panic!("{error}") };
    println!("{} wrong fields described, {more} counted", listed.len());
    assert_eq!((listed.len(), *more), (24, 4 * 65_536 + 1 - 24));
}

/// Asks for a refusal of a message of which only so much is sent.
/// The most memory that a daemon ever had at once.
fn peak_bytes(daemon: &Daemon) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{}/status", daemon.id())).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).expect("a peak");
    line.trim().trim_end_matches(" kB").parse::<u64>().unwrap() << 10
}

#[tokio::test(flavor = "multi_thread")]
async fn wrong_rows_of_a_request_cost_no_more_than_the_request() {
    let daemon = Daemon::start(&["--device=cpu"]).await;
    let client = Client::connect(daemon.target()).await.unwrap();
    let rows = 1024;
    // A history of 2 MB that all rows share, and one row of them wrong.
    let history = Adjustments { prompt: vec![3; 500_000], ..Default::default() };
    let mut shared = SampleRequest { adjustments: vec![history], ..request(rows, 8, 1) };
    shared.params[7].top_p = Some(2.0);
    shared.on_invalid_row = OnInvalidRow::Status.into();
    let answers = client.sample(shared.clone()).await.unwrap().rows;
    let wrong = answers.iter().filter(|row| row.status() == RowStatus::InvalidParameters);
    assert_eq!((wrong.count(), answers.len()), (1, rows));
    // What all rows share is wrong itself.
    shared.adjustments[0].banned_ids = vec![8];
    let answers = client.sample(shared).await.unwrap().rows;
    assert!(answers.iter().all(|row| row.violation.as_ref().is_some_and(|violation| {
        violation.field == "adjustments.banned_ids[0]"
            && violation.description.starts_with("banned_ids[0] is token 8; allowed: below")
    })));
    // Millions of rows, more than any request may have, if it were not wrong about them.
    let many = SampleRequest {
        vocab_size: 1,
        logits: vec![0; 12 << 20].into(),
        rows: Some(5),
        params: vec![],
        on_invalid_row: OnInvalidRow::Status.into(),
        ..request(1, 1, 1)
    };
    let error = client.sample(many).await.unwrap_err();
    assert_eq!(error.code(), Some(Code::InvalidArgument), "{error}");
    let peak = peak_bytes(&daemon);
    println!("peak: {} MiB", peak >> 20);
    assert!(peak < 256 << 20, "{peak}");
    is_served(daemon.target(), 1).await;
}

async fn refused_before_it_is_sent(server: &TestServer, length: usize, beginning: &[u8]) -> String {
    let raw = Raw::connect(server.address()).await;
    let (pieces, answer) = raw.open("Sample", &[]);
    pieces.send(announced(length, beginning)).await.unwrap();
    let reply = raw::reply(answer.await.unwrap()).await;
    reply.assert_code(Code::OutOfRange, &["--request-rows-max"]);
    reply.status.message().to_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn what_no_request_has_is_refused_before_it_is_sent() {
    // None of the rest would come for an hour.
    let server = TestServer::start(&["--receive-timeout=3600s"]).await;
    let whole = 15 << 20;
    // Empty parameter sets; fields that nobody knows; logits of nothing, again and again; a group.
    for (field, times, words) in [
        (&[0x22, 0][..], 1025, "parameter sets"),
        (&[0x7a, 0], 70_000, "without logits"),
        (&[0x1a, 0], 70_000, "without logits"),
        (&[0x4b, 0x4c], 70_000, "without logits"),
        (&[0x28, 1], 70_000, "without logits"),
    ] {
        let beginning = field.repeat(times);
        let said = refused_before_it_is_sent(&server, whole, &beginning).await;
        println!("{field:02x?}: refused at {} of {whole} bytes: {said}", beginning.len());
        assert!(said.contains(words), "{said}");
    }
    // Candidates of 14 MiB that are no candidates.
    let beginning = [&[0x3a, 0x80, 0x80, 0x80, 0x07][..], &[0x7a, 0].repeat(65)].concat();
    let (pieces, answer) = Raw::connect(server.address()).await.open("Sample", &[]);
    pieces.send(announced(whole, &beginning)).await.unwrap();
    let reply = raw::reply(answer.await.unwrap()).await;
    reply.assert_code(Code::InvalidArgument, &["candidates", "counts and tokens"]);
    server.idle().await;
    // On a stream all of it is read past, and the request is refused by its id.
    let raw = Raw::connect(server.address()).await;
    let junk = [&[0x08, 9][..], &[0x7a, 0].repeat(whole / 2)].concat();
    let good = SampleStreamRequest { id: 10, request: Some(request(1, 10, 10)), first_row: None };
    let body = [&announced(junk.len(), &junk)[..], &framed(&good)].concat();
    let reply = raw.call("SampleStream", &[], body).await;
    reply.assert_code(Code::Ok, &[]);
    let mut answers: Vec<_> = (reply.messages.iter())
        .map(|bytes| logitd_proto::SampleStreamResponse::decode(&**bytes).unwrap())
        .collect();
    answers.sort_by_key(|answer| answer.id);
    let ids: Vec<u64> = answers.iter().map(|answer| answer.id).collect();
    assert_eq!(ids, [9, 10]);
    use logitd_proto::sample_stream_response::Result::{Error, Response};
    assert!(
        matches!(&answers[0].result, Some(Error(error)) if error.code == Code::OutOfRange as i32)
    );
    assert!(matches!(&answers[1].result, Some(Response(_))));
}
