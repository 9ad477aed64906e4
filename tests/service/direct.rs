//! Direct calls: what `Sample` says, said without HTTP/2, over the socket where memory is handed over.

use crate::harness::backends::Gated;
use crate::harness::{TestServer, expected, request};
use logitd_client::{Direct, Error, Region};
use logitd_core::backend::Backend;
use logitd_proto::direct::{Hello, RequestHead, SAMPLE};
use logitd_proto::sample_stream_response::Result as Outcome;
use logitd_proto::{Plane, SampleRequest, SampleStreamResponse, SamplingParams, SlotRef};
use prost::Message;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;
use tonic::Code;

struct Shared {
    server: TestServer,
    control: String,
    _directory: tempfile::TempDir,
}

impl Shared {
    async fn start(flags: &[&str]) -> Self {
        Self::with(flags, None).await
    }

    async fn with(flags: &[&str], backend: Option<Box<dyn Backend>>) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let path = |name: &str| format!("unix:{}", directory.path().join(name).display());
        let (listen, control) = (format!("--listen={}", path("logitd.sock")), path("shm.sock"));
        let shm = format!("--shm={control}");
        let flags = [&[listen.as_str(), shm.as_str()], flags].concat();
        let server = match backend {
            None => TestServer::start(&flags).await,
            Some(backend) => TestServer::with(&flags, vec![backend]).await,
        };
        Self { server, control, _directory: directory }
    }

    async fn calls(&self) -> Direct {
        Direct::connect(&self.control, None).await.unwrap()
    }

    fn region(&self, slot_bytes: usize, slot_count: u32) -> Region {
        Region::register(&self.control, slot_bytes, slot_count).unwrap()
    }

    /// A connection of which every byte is the test's.
    async fn raw(&self) -> UnixStream {
        UnixStream::connect(self.control.strip_prefix("unix:").unwrap()).await.unwrap()
    }

    /// The same, welcomed.
    async fn welcomed(&self) -> UnixStream {
        let mut stream = self.raw().await;
        stream.write_all(&Hello { token_bytes: 0 }.encode()).await.unwrap();
        assert_eq!(stream.read_u32_le().await.unwrap(), 0);
        stream
    }
}

/// The same request with its logits in a slot.
fn through(region: &mut Region, slot: u32, mut request: SampleRequest) -> SampleRequest {
    let logits = std::mem::take(&mut request.logits);
    region.slot_mut(slot)[..logits.len()].copy_from_slice(&logits);
    request.slot = Some(region.commit(slot, logits.len()));
    request
}

fn code(error: &Error) -> Code {
    error.code().expect("an answer of the server")
}

async fn send(stream: &mut UnixStream, message: &[u8], timeout_us: u32) {
    let head = RequestHead { kind: SAMPLE, length: message.len() as u32, timeout_us };
    stream.write_all(&[&head.encode(), message].concat()).await.unwrap();
}

/// The code of a refusal, `Ok` for an answer.
async fn receive(stream: &mut UnixStream) -> Code {
    let length = stream.read_u32_le().await.unwrap();
    let mut message = vec![0; length as usize];
    stream.read_exact(&mut message).await.unwrap();
    match SampleStreamResponse::decode(&*message).unwrap().result.unwrap() {
        Outcome::Response(_) => Code::Ok,
        Outcome::Error(error) => Code::from(error.code),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_direct_call_gives_the_answer_of_its_rows() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("trace");
    let record = format!("--record={}", file.display());
    // Where logits are needed after the answer they are copied first, and everything else is the same.
    for flags in [&[][..], &["--verify-fraction=1"], &[record.as_str()]] {
        let shared = Shared::start(flags).await;
        let mut region = shared.region(2 << 20, 3);
        let mut calls = shared.calls().await;
        calls.set_timeout(Some(Duration::from_secs(60)));
        let sizes = [(1, 3), (5, 1001), (64, 4096), (1, 262_144), (2, 262_144), (7, 1)];
        for (n, (rows, vocab_size)) in sizes.into_iter().enumerate() {
            let inline = request(rows, vocab_size, n as u64);
            let by_slot = through(&mut region, n as u32 % 3, inline.clone());
            let response = calls.sample(&by_slot).await.unwrap();
            assert_eq!(response.rows, expected(&inline), "{rows} rows of {vocab_size}");
            assert_eq!(response.plane(), Plane::SharedMemory);
            let response = calls.sample(&request(2, 50, 9)).await.unwrap();
            assert_eq!(response.rows, expected(&request(2, 50, 9)), "small logits can come along");
            assert_eq!(response.plane(), Plane::Inline);
        }
        shared.server.stop().await.unwrap().unwrap();
    }
    let recorded = logitd::record::Reader::open(&file).unwrap().count();
    assert_eq!(recorded, 12);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refusal_is_an_answer_and_the_connection_goes_on() {
    let shared = Shared::start(&[]).await;
    let mut region = shared.region(4096, 1);
    let mut calls = shared.calls().await;
    let good = through(&mut region, 0, request(2, 100, 1));
    let named = good.slot.clone().unwrap();
    for (slot, expected) in [
        (SlotRef { slot: 1, ..named.clone() }, Code::InvalidArgument),
        (SlotRef { generation: 2, ..named.clone() }, Code::FailedPrecondition),
        (SlotRef { region: vec![1; 16].into(), ..named.clone() }, Code::NotFound),
    ] {
        let wrong = SampleRequest { slot: Some(slot), ..good.clone() };
        let error = calls.sample(&wrong).await.unwrap_err();
        assert_eq!(code(&error), expected, "{error}");
    }
    let mut wrong = SampleRequest { rows: Some(4), ..good.clone() };
    let violations = calls.sample(&wrong).await.unwrap_err().violations();
    assert!(violations[0].1.contains("rows is 4, and logits has 2"), "{violations:?}");
    wrong.rows = Some(2);
    wrong.params[1].top_p = Some(2.0);
    let violations = calls.sample(&wrong).await.unwrap_err().violations();
    assert_eq!(violations[0].0, "params[1].top_p", "{violations:?}");
    assert_eq!(calls.sample(&good).await.unwrap().rows, expected(&request(2, 100, 1)));

    let mut raw = shared.welcomed().await;
    send(&mut raw, &[0xff; 40], 0).await;
    assert_eq!(receive(&mut raw).await, Code::InvalidArgument);
    send(&mut raw, &good.encode_to_vec(), 0).await;
    assert_eq!(receive(&mut raw).await, Code::Ok);
    // What is not read cannot be followed by anything.
    raw.write_all(&RequestHead { kind: SAMPLE, length: 1 << 23, timeout_us: 0 }.encode())
        .await
        .unwrap();
    assert_eq!(receive(&mut raw).await, Code::InvalidArgument);
    assert_eq!(raw.read(&mut [0]).await.unwrap(), 0, "it ends");
    let mut raw = shared.welcomed().await;
    raw.write_all(&RequestHead { kind: 9, length: 4, timeout_us: 0 }.encode()).await.unwrap();
    assert_eq!(receive(&mut raw).await, Code::InvalidArgument);
    assert_eq!(raw.read(&mut [0]).await.unwrap(), 0, "it ends");
    shared.server.idle().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_without_room_is_read_past_and_told_when_to_come_again() {
    let shared = Shared::start(&[]).await;
    let mut calls = shared.calls().await;
    let rows = shared.server.limits.queue_rows_max as usize;
    let all = shared.server.engine.reserve(rows, 0).unwrap();
    let error = calls.sample(&request(2, 50, 1)).await.unwrap_err();
    assert_eq!(code(&error), Code::ResourceExhausted, "{error}");
    assert!(error.retry_after().is_some(), "{error}");
    drop(all);
    let bytes = shared.server.limits.queue_bytes_max as usize;
    let all = shared.server.engine.reserve(0, bytes).unwrap();
    let error = calls.sample(&request(2, 5000, 1)).await.unwrap_err();
    assert_eq!(code(&error), Code::ResourceExhausted, "{error}");
    drop(all);
    let answer = calls.sample(&request(2, 50, 1)).await.unwrap();
    assert_eq!(answer.rows, expected(&request(2, 50, 1)));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_no_greeting_ends_the_connection_and_nothing_else() {
    let shared = Shared::start(&["--receive-timeout=1s"]).await;
    let mut old = Hello { token_bytes: 0 }.encode();
    old[4] = 9;
    for (bytes, reason) in [
        (old.to_vec(), "version 9"),
        (Hello { token_bytes: u32::MAX }.encode().to_vec(), "token"),
        (Hello { token_bytes: 5 }.encode().to_vec(), ""),
    ] {
        let mut raw = shared.raw().await;
        raw.write_all(&bytes).await.unwrap();
        let mut said = Vec::new();
        let end = raw.read_to_end(&mut said);
        tokio::time::timeout(Duration::from_secs(10), end).await.expect("it ends").unwrap();
        assert!(String::from_utf8_lossy(&said).contains(reason), "{said:?}");
    }
    // A request that stops half way.
    let mut raw = shared.welcomed().await;
    raw.write_all(&RequestHead { kind: SAMPLE, length: 100, timeout_us: 0 }.encode()[..5])
        .await
        .unwrap();
    let end = raw.read_u32_le();
    tokio::time::timeout(Duration::from_secs(10), end).await.expect("it ends").unwrap_err();
    assert!(shared.calls().await.sample(&request(1, 5, 1)).await.is_ok());
    shared.server.idle().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn tokens_are_asked_for_here_too() {
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), "alpha-secret Alpha\n").unwrap();
    let shared = Shared::start(&[&format!("--tokens-file={}", file.path().display())]).await;
    for (token, reason) in [(None, "no token"), (Some("alpha-secre"), "not known")] {
        let error = Direct::connect(&shared.control, token).await.unwrap_err().to_string();
        assert!(error.contains(reason), "{error}");
    }
    let mut calls = Direct::connect(&shared.control, Some("alpha-secret")).await.unwrap();
    assert!(calls.sample(&request(1, 5, 1)).await.is_ok());
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_waits_for_what_nobody_wants() {
    let (backend, gate) = Gated::boxed();
    let shared = Shared::with(&[], Some(backend)).await;
    let mut region = shared.region(4096, 2);
    let by_slot = through(&mut region, 0, request(2, 100, 1));

    // One runs, and the next waits until its time is over, by the server's clock.
    let mut first = shared.welcomed().await;
    send(&mut first, &by_slot.encode_to_vec(), 0).await;
    gate.reached().await;
    let mut late = shared.welcomed().await;
    send(&mut late, &request(1, 5, 1).encode_to_vec(), 1000).await;
    assert_eq!(receive(&mut late).await, Code::DeadlineExceeded);
    // Its slot is taken for as long as it runs.
    send(&mut late, &by_slot.encode_to_vec(), 0).await;
    assert_eq!(receive(&mut late).await, Code::FailedPrecondition);
    // Another waits, and its client hangs up.
    let mut gone = shared.welcomed().await;
    send(&mut gone, &request(3, 5, 1).encode_to_vec(), 0).await;
    let waiting =
        || shared.server.engine.reserve(shared.server.limits.queue_rows_max as usize - 4, 0);
    crate::harness::until("it is queued", || waiting().is_err()).await;
    drop(gone);
    crate::harness::until("it has left", || waiting().is_ok()).await;
    // So does the owner of memory that is on loan.
    drop(region);
    gate.open();
    assert_eq!(receive(&mut first).await, Code::Ok);
    shared.server.idle().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_leaves_answers_what_it_has_taken() {
    let (backend, gate) = Gated::boxed();
    let shared = Shared::with(&[], Some(backend)).await;
    let mut region = shared.region(4096, 1);
    let by_slot = through(&mut region, 0, request(2, 100, 1));
    let (mut taken, mut after) = (shared.welcomed().await, shared.welcomed().await);
    send(&mut taken, &by_slot.encode_to_vec(), 0).await;
    gate.reached().await;
    let socket = shared.server.target().strip_prefix("unix:").unwrap().to_owned();
    let done = shared.server.stop();
    let connect = || std::os::unix::net::UnixStream::connect(&socket);
    crate::harness::until("it drains", || connect().is_err()).await;
    send(&mut after, &request(1, 5, 1).encode_to_vec(), 0).await;
    assert_eq!(receive(&mut after).await, Code::Unavailable);
    gate.open();
    assert_eq!(receive(&mut taken).await, Code::Ok);
    done.await.unwrap().unwrap();
    assert_eq!(taken.read(&mut [0]).await.unwrap(), 0, "and the connection ends");
}

#[tokio::test(flavor = "multi_thread")]
async fn answers_that_nobody_reads_are_bounded_here_too() {
    let shared = Shared::start(&["--answer-bytes-max=3MiB", "--stream-stall-timeout=3s"]).await;
    // An answer of 600 KB is more than a socket holds, and takes 860 KB of the room.
    let params = SamplingParams { draws: Some(1024), seed: Some(7), ..Default::default() };
    let large = SampleRequest { params: vec![params], ..request(64, 8, 1) };
    let mut unread = Vec::new();
    for _ in 0..8 {
        let mut raw = shared.welcomed().await;
        send(&mut raw, &large.encode_to_vec(), 0).await;
        // It has been answered, or refused, when its answer begins.
        let length = raw.read_u32_le().await.unwrap();
        unread.push((raw, length));
    }
    let small = |(_, length): &&(UnixStream, u32)| *length < 1000;
    let refused = unread.iter().filter(small).count();
    println!("{} answers unread, {refused} refused", unread.len() - refused);
    assert_eq!(refused, 8 - 3, "three fit");
    // They are cut off, and others are answered again.
    let mut calls = shared.calls().await;
    let patience = std::time::Instant::now() + Duration::from_secs(20);
    while let Err(error) = calls.sample(&large).await {
        assert_eq!(code(&error), Code::ResourceExhausted, "{error}");
        assert!(error.to_string().contains("--answer-bytes-max"), "{error}");
        assert!(std::time::Instant::now() < patience, "answers are still held");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}
