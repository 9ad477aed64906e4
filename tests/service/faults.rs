//! The server's promises when clients, networks and devices misbehave, and when it must leave.

use crate::harness::backends::{Broken, Gated, Paced};
use crate::harness::raw::{self, Raw, announced, framed};
use crate::harness::{TestServer, expected, request, until};
use bytes::Bytes;
use http_body_util::BodyExt;
use logitd::server::ServerError;
use logitd_client::{Client, Error};
use logitd_core::backend::Backend;
use logitd_core::backend::reference::Reference;
use logitd_proto::SampleStreamRequest;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tonic::Code;
use tonic::transport::Endpoint;
use tonic_health::pb::{HealthCheckRequest, health_client::HealthClient};

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// The server still answers, and correctly.
async fn is_well(server: &TestServer) {
    let request = request(3, 77, 42);
    let response = server.client().await.sample(request.clone()).await.unwrap();
    assert_eq!(response.rows, expected(&request));
}

#[tokio::test(flavor = "multi_thread")]
async fn garbage_on_the_socket_ends_its_connection_and_nothing_else() {
    let server = TestServer::start(&["--handshake-timeout=1s"]).await;
    let noise: Vec<u8> = crate::harness::logits(1, 20_000, 5).to_vec();
    // The preface, then frames that are none: too large, on stream 0, cut off.
    let broken = |frame: &[u8]| [PREFACE, frame].concat();
    for (i, bytes) in [
        b"GET / HTTP/1.1\r\nHost: logitd\r\n\r\n".to_vec(),
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03".to_vec(),
        noise.clone(),
        vec![0; 4096],
        broken(&noise),
        broken(&[0xff; 64]),
        broken(&[0, 0, 4, 0, 0, 0, 0, 0, 0, 1, 2, 3, 4]),
        broken(&[0, 0, 0, 4, 0, 0, 0, 0, 0, 0, 0, 9, 1, 4, 0, 0, 0, 1, 0xff, 0xff]),
    ]
    .into_iter()
    .enumerate()
    {
        let mut socket = TcpStream::connect(server.address()).await.unwrap();
        // The server may be faster to close than we are to write.
        let _ = socket.write_all(&bytes).await;
        let _ = socket.shutdown().await;
        let mut rest = Vec::new();
        let closed = tokio::time::timeout(Duration::from_secs(10), socket.read_to_end(&mut rest));
        assert!(closed.await.is_ok(), "case {i}: the connection is closed");
    }
    is_well(&server).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connection_that_says_nothing_is_closed() {
    let server = TestServer::start(&["--handshake-timeout=100ms"]).await;
    for beginning in [&b""[..], &PREFACE[..10], PREFACE] {
        let mut socket = TcpStream::connect(server.address()).await.unwrap();
        socket.write_all(beginning).await.unwrap();
        let mut rest = Vec::new();
        let closed = tokio::time::timeout(Duration::from_secs(10), socket.read_to_end(&mut rest));
        assert!(closed.await.is_ok(), "after {} bytes", beginning.len());
    }
    is_well(&server).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn announcing_much_and_sending_little_holds_room_for_a_bounded_time() {
    let server = TestServer::start(&["--receive-timeout=100ms"]).await;
    let raw = Raw::connect(server.address()).await;
    for method in ["Sample", "SampleStream"] {
        let (pieces, answer) = raw.open(method, &[]);
        pieces.send(announced(10 << 20, &[7; 100])).await.unwrap();
        let reply = raw::reply(answer.await.unwrap()).await;
        reply.assert_code(Code::DeadlineExceeded, &["--receive-timeout"]);
        server.idle().await;
    }
    // Nothing at all is too late as well, but a stream may be silent between messages.
    let (_pieces, answer) = raw.open("Sample", &[]);
    let reply = raw::reply(answer.await.unwrap()).await;
    reply.assert_code(Code::DeadlineExceeded, &["--receive-timeout"]);
    let (pieces, answer) = raw.open("SampleStream", &[]);
    let mut answers = answer.await.unwrap().into_body();
    for id in 0..2 {
        tokio::time::sleep(Duration::from_millis(250)).await;
        pieces
            .send(framed(&SampleStreamRequest {
                id,
                request: Some(request(1, 9, id)),
                first_row: None,
            }))
            .await
            .unwrap();
        assert!(answers.frame().await.unwrap().unwrap().is_data(), "the stream lives");
    }
    is_well(&server).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_hangs_up_frees_its_room() {
    let (backend, gate) = Gated::boxed();
    let server = TestServer::with(&["--batch-rows-max=1"], vec![backend]).await;
    let busy = tokio::spawn({
        let client = server.client().await;
        async move { client.sample(request(1, 10, 1)).await }
    });
    gate.reached().await;
    let free = || server.engine.reserve(server.limits.queue_rows_max as usize - 1, 0).is_ok();

    // In the middle of a payload; while it waits; on a stream.
    let bytes = server.limits.queue_bytes_max as usize;
    let untouched = || server.engine.reserve(0, bytes - 20).is_ok();
    let raw = Raw::connect(server.address()).await;
    let (pieces, _answer) = raw.open("Sample", &[]);
    pieces.send(announced(1 << 20, &[0; 1000])).await.unwrap();
    until("the payload has its permit", || !untouched()).await;
    raw.break_off();
    until("a broken payload's permit is back", untouched).await;

    let client = server.client().await;
    let waiting = tokio::spawn(async move { client.sample(request(5, 10, 2)).await });
    until("the request waits", || !free()).await;
    waiting.abort();
    until("a cancelled request's permit is back", free).await;

    let (mut sender, receiver) = server.client().await.stream().await.unwrap().split();
    for salt in 0..5 {
        sender.send(request(5, 10, salt)).await.unwrap();
    }
    until("the stream's requests wait", || !free()).await;
    drop(receiver);
    until("a dropped stream's permits are back", free).await;

    gate.open();
    assert_eq!(busy.await.unwrap().unwrap().rows, expected(&request(1, 10, 1)));
    server.idle().await;
    assert_eq!(gate.rows(), 1, "nothing was sampled for those who left");
    is_well(&server).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_never_reads_costs_a_bounded_amount_and_is_ended() {
    let (backend, log) = Paced::boxed(Duration::ZERO);
    let flags = ["--stream-requests-max=4", "--stream-stall-timeout=300ms"];
    let server = TestServer::with(&flags, vec![backend]).await;
    // Answers have no more room than this until they are read.
    let raw = Raw::with_window(server.address(), 200).await;
    let (pieces, answer) = raw.open("SampleStream", &[]);
    let response = answer.await.unwrap();
    let mut id = 0;
    let mut message = || {
        id += 1;
        let request = Some(request(2, 50, id));
        framed(&SampleStreamRequest { id, request, first_row: None })
    };
    let sending = async { while pieces.send(message()).await.is_ok() {} };
    let ended = tokio::time::timeout(Duration::from_secs(60), sending).await;
    assert!(ended.is_ok(), "a server that reads on and on");
    assert!(id > 100, "the windows take more than {id} requests");
    server.idle().await;
    assert!(log.read().rows > 0);
    assert!(log.read().rows <= 2 * 12, "{} rows of 200 were sampled", log.read().rows);
    assert!(response.into_body().collect().await.is_err(), "its call was cut off");
    is_well(&server).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_slow_reader_is_not_a_stalled_one() {
    let flags = ["--stream-requests-max=8", "--stream-stall-timeout=600ms"];
    let server = TestServer::start(&flags).await;
    let raw = Raw::with_window(server.address(), 200).await;
    let (pieces, answer) = raw.open("SampleStream", &[]);
    let mut answers = answer.await.unwrap().into_body();
    for id in 0..12 {
        pieces
            .send(framed(&SampleStreamRequest {
                id,
                request: Some(request(3, 50, id)),
                first_row: None,
            }))
            .await
            .unwrap();
    }
    drop(pieces);
    // Longer in all than the timeout, and never as long at once.
    let mut bytes = 0;
    let trailers = loop {
        tokio::time::sleep(Duration::from_millis(80)).await;
        let frame = answers.frame().await.unwrap().unwrap();
        match frame.into_data() {
            Ok(data) => bytes += data.len(),
            Err(frame) => break frame.into_trailers().unwrap(),
        }
    };
    assert_eq!(trailers["grpc-status"], "0", "{trailers:?}");
    assert!(bytes > 12 * 60);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_deadline_passes_while_the_device_is_busy_with_others() {
    let (backend, gate) = Gated::boxed();
    let server = TestServer::with(&["--batch-rows-max=2"], vec![backend]).await;
    let busy = tokio::spawn({
        let client = server.client().await;
        async move { client.sample(request(2, 10, 1)).await }
    });
    gate.reached().await;
    // By hand: a client with a timeout would give up by itself.
    let raw = Arc::new(Raw::connect(server.address()).await);
    let mut late = JoinSet::new();
    for salt in 0..50 {
        let raw = Arc::clone(&raw);
        let body = framed(&request(2, 10, salt));
        late.spawn(async move { raw.call("Sample", &[("grpc-timeout", "1m")], body).await });
    }
    for reply in late.join_all().await {
        reply.assert_code(Code::DeadlineExceeded, &["deadline"]);
    }
    assert_eq!(gate.batches(), 1, "all of them were told while the device was busy");
    gate.open();
    assert!(busy.await.unwrap().is_ok());
    server.idle().await;
    assert_eq!(gate.rows(), 2, "nothing was sampled too late");
}

#[tokio::test(flavor = "multi_thread")]
async fn one_connection_with_much_to_do_does_not_hold_up_another() {
    const GREEDY: usize = 30;
    let (backend, gate) = Gated::boxed();
    let server = TestServer::with(&[], vec![backend]).await;
    let accepted = |rows: usize| {
        let (engine, free) = (&server.engine, server.limits.queue_rows_max as usize - rows);
        until("the requests wait", move || engine.reserve(free + 1, 0).is_err())
    };

    let client = server.client().await;
    let mut greedy = JoinSet::new();
    for salt in 1..=GREEDY {
        let mut request = request(8, 64, salt as u64);
        request.params.iter_mut().for_each(|params| params.draws = Some(1024));
        let client = client.clone();
        greedy.spawn(async move { client.sample(request).await.map(|_| ()) });
    }
    accepted(8 * GREEDY).await;
    let modest = request(1, 64, 1000);
    let seed = modest.params[0].seed.unwrap();
    let client = server.client().await;
    let answer = tokio::spawn(async move { client.sample(modest).await });
    accepted(8 * GREEDY + 1).await;
    gate.open();
    answer.await.unwrap().unwrap();
    while let Some(done) = greedy.join_next().await {
        done.unwrap().unwrap();
    }

    let batches = gate.seeds();
    let at = batches.iter().position(|seeds| seeds.contains(&seed)).unwrap();
    println!(
        "{GREEDY} requests of 8,192 draws took {} batches; the one that came last was in batch {at}, \
         after the one that was running",
        batches.len()
    );
    assert_eq!(at, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_thousand_connections_are_served() {
    // This process holds both ends of each.
    let limit = getrlimit(Resource::Nofile);
    setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, ..limit }).unwrap();
    let files = limit.maximum.unwrap_or(u64::MAX);
    assert!(files >= 2200, "needs 2200 open files, but the system allows {files}");
    let server = TestServer::start(&[]).await;
    let mut connecting = JoinSet::new();
    for _ in 0..1000 {
        let target = server.target().to_owned();
        connecting.spawn(async move { Client::connect(target).await.expect("connected") });
    }
    let clients = connecting.join_all().await;
    for round in 0..2 {
        let mut sampling = JoinSet::new();
        for (i, client) in clients.iter().cloned().enumerate() {
            sampling.spawn(async move {
                let request = request(1, 40, (round * 1000 + i) as u64);
                assert_eq!(client.sample(request.clone()).await.unwrap().rows, expected(&request));
            });
        }
        sampling.join_all().await;
    }
    drop(clients);
    server.stop().await.unwrap().unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn connections_beyond_the_limit_are_closed_and_the_others_are_not() {
    let flags = ["--connections-max=3", "--connections-per-address-max=3"];
    let server = TestServer::start(&flags).await;
    let mut inside = Vec::new();
    for _ in 0..3 {
        let client = server.client().await;
        client.info().await.unwrap();
        inside.push(client);
    }
    let mut fourth = TcpStream::connect(server.address()).await.unwrap();
    let mut rest = Vec::new();
    assert!(matches!(fourth.read_to_end(&mut rest).await, Ok(0) | Err(_)));
    for client in &inside {
        client.info().await.unwrap();
    }
    drop(inside);
    let mut back = None;
    let patience = Instant::now() + Duration::from_secs(20);
    while back.is_none() {
        assert!(Instant::now() < patience, "no place was given back");
        let client = Client::connect(server.target()).await;
        back = match client {
            Ok(client) => client.info().await.ok(),
            Err(_) => None,
        };
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn at_four_times_its_capacity_the_server_does_as_much_as_at_its_peak() {
    const ROW: Duration = Duration::from_millis(10);
    const SPAN: Duration = Duration::from_millis(1500);
    let (backend, log) = Paced::boxed(ROW);
    let flags = ["--batch-rows-max=1", "--queue-rows-max=8", "--request-rows-max=1"];
    let server = TestServer::with(&flags, vec![backend]).await;
    let client = server.client().await;

    // The peak: never idle, never refused.
    let begun = Instant::now();
    let mut workers = JoinSet::new();
    for worker in 0..4 {
        let client = client.clone();
        workers.spawn(async move {
            let mut done = 0;
            while begun.elapsed() < SPAN {
                client.sample(request(1, 20, worker)).await.expect("there is room for four");
                done += 1;
            }
            done
        });
    }
    let done: usize = workers.join_all().await.into_iter().sum();
    let peak = done as f64 / begun.elapsed().as_secs_f64();

    // Four times as much, whether or not it is refused.
    let begun = Instant::now();
    let mut ticks = tokio::time::interval(ROW / 4);
    let mut requests = JoinSet::new();
    while begun.elapsed() < SPAN {
        ticks.tick().await;
        let client = client.clone();
        requests.spawn(async move { client.sample(request(1, 20, 7)).await });
    }
    let offered = requests.len();
    let answers = requests.join_all().await;
    let elapsed = begun.elapsed().as_secs_f64();
    let mut good = 0;
    for answer in answers {
        match answer {
            Ok(response) => {
                assert_eq!(response.rows, expected(&request(1, 20, 7)));
                good += 1;
            }
            Err(error) => {
                assert_eq!(error.code(), Some(Code::ResourceExhausted), "{error}");
                assert!(error.retry_after().is_some_and(|delay| !delay.is_zero()), "{error}");
            }
        }
    }
    assert_eq!(log.read().rows, done + good, "every row that was sampled is somebody's answer");
    assert!(offered > 3 * good, "{offered} offered, {good} answered: no overload");
    let overloaded = f64::from(good as u32) / elapsed;
    assert!(overloaded >= 0.9 * peak, "{overloaded:.0} rows a second, {peak:.0} at the peak");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failed_device_is_an_error_and_health_says_so() {
    let server = TestServer::with(&[], vec![Box::new(Broken::default())]).await;
    let client = server.client().await;
    let error = client.sample(request(1, 10, 1)).await.unwrap_err();
    assert_eq!(error.code(), Some(Code::Internal), "{error}");
    let error = client.sample(request(1, 10, 1)).await.unwrap_err();
    assert_eq!(error.code(), Some(Code::Unavailable), "{error}");
    assert!(!client.info().await.unwrap().devices[0].up);
    let patience = Instant::now() + Duration::from_secs(20);
    while health(&server, "logitd.v1.SamplerService").await != 2 {
        assert!(Instant::now() < patience, "health stays as it was");
    }
    assert_eq!(health(&server, "broken").await, 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_device_that_fails_beside_another_has_a_health_of_its_own() {
    let backends: [Box<dyn Backend>; 2] =
        [Box::new(Broken::default()), Box::<Reference>::default()];
    let server = TestServer::with(&[], backends.into()).await;
    let client = server.client().await;
    let patience = Instant::now() + Duration::from_secs(20);
    while health(&server, "broken").await != 2 {
        assert!(Instant::now() < patience, "health stays as it was");
        let request = request(1, 10, 1);
        assert_eq!(client.sample(request.clone()).await.unwrap().rows, expected(&request));
    }
    assert_eq!(health(&server, "reference").await, 1);
    assert_eq!(health(&server, "").await, 1, "what is left serves");
}

/// 1 serves, 2 does not.
async fn health(server: &TestServer, service: &str) -> i32 {
    let channel = Endpoint::new(server.target().to_owned()).unwrap().connect().await.unwrap();
    let request = HealthCheckRequest { service: service.into() };
    HealthClient::new(channel).check(request).await.unwrap().into_inner().status
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_leaves_loses_nothing_that_it_has_accepted() {
    let (backend, log) = Paced::boxed(Duration::from_millis(1));
    let server = TestServer::with(&["--batch-rows-max=4"], vec![backend]).await;
    let answered = Arc::new(AtomicUsize::new(0));
    let mut clients = JoinSet::new();
    for salt in 0..6 {
        let client = server.client().await;
        let answered = Arc::clone(&answered);
        clients.spawn(async move {
            let request = request(2, 30, salt);
            loop {
                match client.sample(request.clone()).await {
                    Ok(response) => {
                        assert_eq!(response.rows, expected(&request));
                        answered.fetch_add(2, Ordering::Relaxed);
                    }
                    Err(error) => break error,
                }
            }
        });
    }
    for salt in 0..2 {
        let (mut sender, mut receiver) = server.client().await.stream().await.unwrap().split();
        tokio::spawn(async move { while sender.send(request(1, 30, salt)).await.is_ok() {} });
        let answered = Arc::clone(&answered);
        clients.spawn(async move {
            loop {
                match receiver.receive().await {
                    Some(Ok((_, Ok(response)))) => {
                        assert_eq!(response.rows, expected(&request(1, 30, salt)));
                        answered.fetch_add(1, Ordering::Relaxed);
                    }
                    // It goes on sending, whatever it is told.
                    Some(Ok((_, Err(error)))) => {
                        assert_eq!(error.code(), Some(Code::Unavailable), "{error}");
                    }
                    Some(Err(error)) => break error,
                    None => panic!("a stream that was cut short says so"),
                }
            }
        });
    }
    until("the load is on", || answered.load(Ordering::Relaxed) > 100).await;
    server.stop().await.unwrap().unwrap();
    for error in clients.join_all().await {
        let Error::Status(status) = &error else { panic!("{error}") };
        // Not taken: no connection any more, or told that the server is leaving.
        assert_eq!(status.code(), Code::Unavailable, "{error}");
        assert!(!status.message().contains("stopped before"), "{error}");
    }
    assert_eq!(answered.load(Ordering::Relaxed), log.read().rows, "rows sampled and rows answered");
}

#[tokio::test(flavor = "multi_thread")]
async fn health_says_no_before_work_is_refused() {
    let server = TestServer::start(&["--drain-delay=2s"]).await;
    let channel = Endpoint::new(server.target().to_owned()).unwrap().connect().await.unwrap();
    let request = || HealthCheckRequest { service: String::new() };
    let mut watch = HealthClient::new(channel).watch(request()).await.unwrap().into_inner();
    assert_eq!(watch.message().await.unwrap().unwrap().status, 1);
    let client = server.client().await;
    let done = server.stop();
    assert_eq!(watch.message().await.unwrap().unwrap().status, 2, "not serving");
    assert!(client.sample(crate::harness::request(1, 10, 1)).await.is_ok(), "work is still taken");
    // The watch never ends by itself; the server leaves all the same.
    done.await.unwrap().unwrap();
    assert!(watch.message().await.is_err());
}

#[tokio::test(flavor = "multi_thread")]
async fn silent_connections_do_not_keep_a_server_from_leaving() {
    let server = TestServer::start(&[]).await;
    let _silent = TcpStream::connect(server.address()).await.unwrap();
    let mut half = TcpStream::connect(server.address()).await.unwrap();
    half.write_all(&PREFACE[..5]).await.unwrap();
    is_well(&server).await;
    let done = tokio::time::timeout(Duration::from_secs(20), server.stop()).await;
    done.expect("long before --drain-timeout").unwrap().unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_must_leave_without_answering_says_so() {
    let (backend, gate) = Gated::boxed();
    let server = TestServer::with(&["--drain-timeout=200ms"], vec![backend]).await;
    let client = server.client().await;
    // Held, or its threads would be waited for.
    let engine = server.engine.clone();
    let stuck = tokio::spawn(async move { client.sample(request(1, 10, 1)).await });
    gate.reached().await;
    let error = server.stop().await.unwrap().unwrap_err();
    assert!(matches!(error, ServerError::DrainTimeout { calls: 1, .. }), "{error}");
    assert!(stuck.await.unwrap().is_err());
    gate.open();
    drop(engine);
}

#[tokio::test(flavor = "multi_thread")]
async fn frames_of_any_size_make_the_same_messages() {
    let server = TestServer::start(&[]).await;
    let raw = Raw::connect(server.address()).await;
    let messages: Vec<Bytes> = (0..4)
        .map(|id| {
            framed(&SampleStreamRequest { id, request: Some(request(2, 30, id)), first_row: None })
        })
        .collect();
    let whole = Bytes::from(messages.concat());
    for size in [1, 2, 5, 64, whole.len()] {
        let (pieces, answer) = raw.open("SampleStream", &[]);
        let sent = whole.clone();
        tokio::spawn(async move {
            for at in (0..sent.len()).step_by(size) {
                let piece = sent.slice(at..(at + size).min(sent.len()));
                pieces.send(piece).await.unwrap();
            }
        });
        let reply = raw::reply(answer.await.unwrap()).await;
        reply.assert_code(Code::Ok, &[]);
        assert_eq!(reply.messages.len(), 4, "in pieces of {size}");
    }
}
