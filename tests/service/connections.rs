//! Who may have a connection, for how long, and what is said to those who speak something else.

use crate::harness::backends::Gated;
use crate::harness::daemon::{Daemon, value};
use crate::harness::raw::{self, Raw, framed};
use crate::harness::{TestServer, expected, request, until};
use http::{Request, StatusCode};
use http_body_util::{BodyExt, Full};
use logitd_client::{Client, Direct, Region};
use logitd_proto::direct::Hello;
use logitd_proto::shm::{Authorize, Register};
use logitd_proto::{GetInfoRequest, GetInfoResponse};
use prost::Message;
use std::cell::RefCell;
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};
use tokio::io::AsyncReadExt;
use tokio::net::{TcpSocket, TcpStream};
use tokio::task::JoinSet;
use tonic::Code;
use tonic::transport::Endpoint;
use tonic_health::pb::{HealthCheckRequest, health_client::HealthClient};

/// A server on a Unix socket beside TCP, with a socket for memory.
struct Local {
    server: TestServer,
    folder: tempfile::TempDir,
}

impl Local {
    async fn start(flags: &[&str]) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| format!("unix:{}", folder.path().join(name).display());
        let own = [
            format!("--listen=127.0.0.1:0,{}", path("logitd.sock")),
            format!("--shm={}", path("shm.sock")),
        ];
        let own: Vec<&str> = own.iter().map(String::as_str).collect();
        let server = TestServer::start(&[&own, flags].concat()).await;
        Self { server, folder }
    }

    fn unix(&self) -> &str {
        &self.server.targets[1]
    }

    fn control(&self) -> String {
        self.folder.path().join("shm.sock").display().to_string()
    }

    /// A connection to the socket for memory that says nothing.
    fn silent(&self) -> UnixStream {
        let stream = UnixStream::connect(self.control()).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        stream
    }

    fn region(&self) -> Result<Region, String> {
        Region::register(&self.control(), 4096, 1).map_err(|error| error.to_string())
    }
}

/// Everything until the server closes.
fn rest(stream: &mut UnixStream) -> Vec<u8> {
    let mut rest = Vec::new();
    let _ = stream.read_to_end(&mut rest);
    rest
}

#[tokio::test(flavor = "multi_thread")]
async fn silent_connections_to_the_memory_socket_are_closed_and_owners_are_not() {
    let flags = ["--shm-connections-max=8", "--handshake-timeout=300ms"];
    let local = Local::start(&flags).await;
    let mut region = local.region().unwrap();
    let mut silent: Vec<UnixStream> = (0..7).map(|_| local.silent()).collect();
    let register = Register { slot_stride_bytes: 64, slot_count: 1, device: None };
    for (stream, bytes) in silent.iter_mut().zip([
        &register.encode()[..5],
        &Hello { token_bytes: 9 }.encode(),
        &Authorize { token_bytes: 9 }.encode(),
        // Refused, and then silent.
        &register.encode(),
    ]) {
        stream.write_all(bytes).unwrap();
    }
    let begun = Instant::now();
    silent.iter_mut().for_each(|stream| drop(rest(stream)));
    println!("7 silent connections were closed in {:?}", begun.elapsed());
    // The places come free, each a moment after its connection is closed, and the owner of memory still has its own.
    let others: RefCell<Vec<Region>> = RefCell::default();
    let one_more = || {
        others.borrow_mut().extend(local.region().ok());
        others.borrow().len() == 7
    };
    until("seven others have a place", one_more).await;
    let inline = request(1, 50, 1);
    let mut by_slot = inline.clone();
    let logits = std::mem::take(&mut by_slot.logits);
    region.slot_mut(0)[..logits.len()].copy_from_slice(&logits);
    by_slot.slot = Some(region.commit(0, logits.len()));
    tokio::time::sleep(Duration::from_millis(400)).await;
    let client = Client::connect(local.unix()).await.unwrap();
    assert_eq!(client.sample(by_slot).await.unwrap().rows, expected(&inline));
    drop(others);
}

#[tokio::test(flavor = "multi_thread")]
async fn who_finds_no_place_at_the_memory_socket_is_told_so() {
    for (flags, flag) in [
        (["--shm-connections-max=3", "--shm-connections-per-peer-max=9"], "--shm-connections-max"),
        (
            ["--shm-connections-max=9", "--shm-connections-per-peer-max=3"],
            "--shm-connections-per-peer-max",
        ),
    ] {
        let local = Local::start(&flags).await;
        let held: Vec<Region> = (0..3).map(|_| local.region().unwrap()).collect();
        let told = [
            local.region().unwrap_err(),
            Direct::connect(&local.control(), None).await.unwrap_err().to_string(),
            Region::register_with(&local.control(), Some("x"), 64, 1).unwrap_err().to_string(),
        ];
        for text in told {
            assert!(
                text.contains("3 connections") && text.contains(&format!("({flag})")),
                "{text}"
            );
        }
        drop(held);
        let patience = Instant::now() + Duration::from_secs(20);
        while let Err(error) = local.region() {
            assert!(Instant::now() < patience, "{error}");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn connections_to_the_memory_socket_are_a_metric() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name).display().to_string();
    let flags = [
        format!("--listen=127.0.0.1:0,unix:{}", path("logitd.sock")),
        format!("--shm=unix:{}", path("shm.sock")),
    ];
    let own = ["--metrics-listen=127.0.0.1:0", "--shm-connections-max=3"];
    let daemon = Daemon::start(&[&own[..], &flags.each_ref().map(String::as_str)].concat()).await;
    let says = async |name: &str, expected: f64| {
        let patience = Instant::now() + Duration::from_secs(20);
        while value(&daemon.scrape().await, name) != expected {
            assert!(Instant::now() < patience, "{name} is never {expected}");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    let held: Vec<UnixStream> =
        (0..3).map(|_| UnixStream::connect(path("shm.sock")).unwrap()).collect();
    says("logitd_shm_connections", 3.0).await;
    assert_eq!(value(&daemon.scrape().await, "logitd_shm_connections_refused_total"), 0.0);
    let _fourth = UnixStream::connect(path("shm.sock")).unwrap();
    says("logitd_shm_connections_refused_total", 1.0).await;
    drop(held);
    says("logitd_shm_connections", 0.0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn idle_direct_connections_end_unless_their_process_shares_memory() {
    let local = Local::start(&["--connection-idle-timeout=300ms"]).await;
    let connect = async || {
        let mut stream = local.silent();
        stream.write_all(&Hello { token_bytes: 0 }.encode()).unwrap();
        stream.read_exact(&mut [0; 4]).unwrap();
        stream
    };
    let mut idle = connect().await;
    assert_eq!(rest(&mut idle), b"", "closed");
    let region = local.region().unwrap();
    let mut owner = connect().await;
    owner.set_read_timeout(Some(Duration::from_millis(1000))).unwrap();
    let kind = owner.read(&mut [0]).unwrap_err().kind();
    assert_eq!(kind, std::io::ErrorKind::WouldBlock, "still open");
    drop(region);
    owner.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    assert_eq!(rest(&mut owner), b"", "closed, now that there is nothing to keep");
}

#[tokio::test(flavor = "multi_thread")]
async fn memory_and_reflection_need_a_token_where_sampling_does() {
    let tokens = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(tokens.path(), "alpha Ann\n").unwrap();
    let flag = format!("--tokens-file={}", tokens.path().display());
    let local = Local::start(&[&flag, "--handshake-timeout=500ms"]).await;
    let region = |token| Region::register_with(&local.control(), token, 4096, 1);
    for (token, words) in [(None, "no token"), (Some(""), "no token"), (Some("beta"), "not known")]
    {
        let error = region(token).unwrap_err().to_string();
        assert!(error.contains(words), "{token:?}: {error}");
    }
    let too_long = "x".repeat(300);
    assert!(region(Some(&too_long)).unwrap_err().to_string().contains("300"));
    let mut region = region(Some("alpha")).unwrap();
    let inline = request(1, 50, 1);
    let mut by_slot = inline.clone();
    let logits = std::mem::take(&mut by_slot.logits);
    region.slot_mut(0)[..logits.len()].copy_from_slice(&logits);
    by_slot.slot = Some(region.commit(0, logits.len()));
    let client = Client::builder(local.unix()).token("alpha").connect().await.unwrap();
    assert_eq!(client.sample(by_slot).await.unwrap().rows, expected(&inline));

    let raw = Raw::connect(local.server.address()).await;
    for version in ["v1", "v1alpha"] {
        let path = format!("grpc.reflection.{version}.ServerReflection/ServerReflectionInfo");
        for (token, expected) in [(&[][..], Code::Unauthenticated), (&["Bearer alpha"], Code::Ok)] {
            let post = Request::post(format!("http://logitd/{path}"));
            let post = post.header("content-type", "application/grpc").header("te", "trailers");
            let post = token.iter().fold(post, |post, token| post.header("authorization", *token));
            let reply = raw.request(post.body(Full::default()).unwrap()).await;
            raw::reply(reply).await.assert_code(expected, &[]);
        }
    }
    let twice = [("authorization", "Bearer alpha"), ("authorization", "Bearer alpha")];
    let reply = raw.call("GetInfo", &twice, framed(&GetInfoRequest {})).await;
    reply.assert_code(Code::Unauthenticated, &["several"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn connections_without_calls_are_asked_to_go_and_then_closed() {
    let (backend, gate) = Gated::boxed();
    let flags = ["--connection-idle-timeout=400ms", "--handshake-timeout=300ms"];
    let server = TestServer::with(&flags, vec![backend]).await;
    // Speaks HTTP/2 and answers pings, and does nothing else.
    let idle = Raw::connect(server.address()).await;
    let working = server.client().await;
    let waiting = tokio::spawn(async move { working.sample(request(1, 20, 1)).await });
    gate.reached().await;
    let channel = Endpoint::new(server.target().to_owned()).unwrap().connect().await.unwrap();
    let check = HealthCheckRequest { service: String::new() };
    let mut health = HealthClient::new(channel).watch(check).await.unwrap().into_inner();
    assert_eq!(health.message().await.unwrap().unwrap().status, 1);
    let begun = Instant::now();
    until("the idle connection is closed", || idle.is_closed()).await;
    println!("an idle connection was closed after {:?}", begun.elapsed());
    // One that refuses to go: it sends the preface and its settings, and reads nothing.
    let mut deaf = TcpStream::connect(server.address()).await.unwrap();
    let opening = [&b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"[..], &[0, 0, 0, 4, 0, 0, 0, 0, 0]].concat();
    tokio::io::AsyncWriteExt::write_all(&mut deaf, &opening).await.unwrap();
    let mut said = Vec::new();
    let end = deaf.read_to_end(&mut said);
    let _ = tokio::time::timeout(Duration::from_secs(20), end).await.expect("closed");
    // A call under way is no idleness, however long it takes; and who comes again comes in.
    gate.open();
    assert_eq!(waiting.await.unwrap().unwrap().rows, expected(&request(1, 20, 1)));
    assert!(server.client().await.info().await.is_ok());
    let next = tokio::time::timeout(Duration::from_millis(100), health.message()).await;
    assert!(next.is_err(), "a watch of health goes on: {next:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn one_address_does_not_get_all_places_and_unix_sockets_have_some_of_their_own() {
    let local = Local::start(&["--connections-max=16"]).await;
    let address = local.server.address();
    // Opens so many from an address of this host, and waits until so many are closed, and no more.
    let open = async |from: &str, count: usize, refused: usize| {
        let closed = Arc::new(AtomicUsize::new(0));
        let mut held = JoinSet::new();
        for _ in 0..count {
            let socket = TcpSocket::new_v4().unwrap();
            socket.bind(from.parse().unwrap()).unwrap();
            let mut stream = socket.connect(address.parse().unwrap()).await.unwrap();
            let closed = Arc::clone(&closed);
            held.spawn(async move {
                let _ = stream.read(&mut [0]).await;
                closed.fetch_add(1, Ordering::Relaxed);
            });
        }
        until("they are refused", || closed.load(Ordering::Relaxed) >= refused).await;
        tokio::time::sleep(Duration::from_millis(200)).await;
        assert_eq!(closed.load(Ordering::Relaxed), refused, "of {count} from {from}");
        held
    };
    // Half of --connections-max, and an eighth is kept for Unix sockets.
    let held = [open("127.0.0.1:0", 16, 8).await, open("127.0.0.2:0", 8, 2).await];
    println!("one address got 8 of 16 places, the next 6");
    let mut clients = Vec::new();
    for _ in 0..2 {
        let client = Client::connect(local.unix()).await.unwrap();
        assert!(client.info().await.is_ok());
        clients.push(client);
    }
    drop(held);
}

fn http1(address: &str, request: &str) -> String {
    let mut stream = std::net::TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    stream.write_all(request.as_bytes()).unwrap();
    let mut text = String::new();
    stream.read_to_string(&mut text).unwrap();
    text
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_not_grpc_is_told_what_is_spoken_here() {
    let server = TestServer::start(&[]).await;
    let address = server.address();
    for request in [
        "GET / HTTP/1.1\r\nHost: x\r\n\r\n",
        "POST /logitd.v1.SamplerService/Sample HTTP/1.1\r\nHost: x\r\ncontent-type: application/json\r\n\
         content-length: 2\r\n\r\n{}",
        "PRIVMSG / HTTP/1.1\r\n\r\n",
    ] {
        let text = http1(address, request);
        assert!(text.starts_with("HTTP/1.1 505 "), "{request:?}: {text:?}");
        assert!(text.contains("gRPC over HTTP/2") && text.contains("grpc_web"), "{text}");
    }
    let raw = Raw::connect(address).await;
    let post = |content_type: &str| {
        Request::post("http://logitd/logitd.v1.SamplerService/GetInfo")
            .header("content-type", content_type)
            .header("te", "trailers")
            .body(Full::from(framed(&GetInfoRequest {})))
            .unwrap()
    };
    let get = Request::get("http://logitd/").body(Full::default()).unwrap();
    for (request, expected) in [
        (get, StatusCode::METHOD_NOT_ALLOWED),
        (post("application/json"), StatusCode::UNSUPPORTED_MEDIA_TYPE),
        (post("application/grpc-web+proto"), StatusCode::UNSUPPORTED_MEDIA_TYPE),
        (post("application/grpc-web-text"), StatusCode::UNSUPPORTED_MEDIA_TYPE),
    ] {
        let shown = format!("{request:?}");
        let response = raw.request(request).await;
        assert_eq!(response.status(), expected, "{shown}");
        assert!(response.headers()["content-type"].to_str().unwrap().starts_with("text/plain"));
        let body = response.into_body().collect().await.unwrap().to_bytes();
        assert!(body.starts_with(b"logitd speaks gRPC"), "{body:?}");
    }
    for grpc in ["application/grpc", "application/grpc+proto", "application/grpc;charset=utf-8"] {
        raw::reply(raw.request(post(grpc)).await).await.assert_code(Code::Ok, &[]);
    }
    let gzip = [("grpc-encoding", "gzip")];
    let reply = raw.call("GetInfo", &gzip, framed(&GetInfoRequest {})).await;
    reply.assert_code(Code::Unimplemented, &["gzip", "identity", "compression off"]);
    let identity = [("grpc-encoding", "identity")];
    let reply = raw.call("GetInfo", &identity, framed(&GetInfoRequest {})).await;
    reply.assert_code(Code::Ok, &[]);
}

#[tokio::test(flavor = "multi_thread")]
async fn headers_above_the_limit_are_refused_by_its_name() {
    let server = TestServer::start(&["--header-bytes-max=4KiB"]).await;
    let raw = Raw::connect(server.address()).await;
    let call = async |bytes: usize| {
        let value = "x".repeat(bytes);
        raw.call("GetInfo", &[("x-trace", &value)], framed(&GetInfoRequest {})).await
    };
    call(3000).await.assert_code(Code::Ok, &[]);
    for bytes in [4096, 12_000] {
        call(bytes).await.assert_code(Code::ResourceExhausted, &["4096", "--header-bytes-max"]);
    }
    call(3000).await.assert_code(Code::Ok, &[]);
}

/// Sends a call of `GetInfo` byte by byte as it is given the authority: what the HTTP/2 library of a client would not.
struct ByHand(Box<dyn Stream>);

trait Stream: Read + Write {}
impl<T: Read + Write> Stream for T {}

impl ByHand {
    fn open(stream: impl Stream + 'static) -> Self {
        let mut stream: Box<dyn Stream> = Box::new(stream);
        stream.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0").unwrap();
        Self(stream)
    }

    fn frame(&mut self, kind: u8, flags: u8, stream: u8, payload: &[u8]) {
        let length = (payload.len() as u32).to_be_bytes();
        let head = [length[1], length[2], length[3], kind, flags, 0, 0, 0, stream];
        self.0.write_all(&[&head[..], payload].concat()).unwrap();
    }

    /// `authority` is the field as it is encoded. The answer's message, or the code that it was reset with.
    fn call(&mut self, stream: u8, authority: &[u8]) -> Result<GetInfoResponse, u32> {
        let field = |index: u8, value: &[u8]| [&[index, value.len() as u8], value].concat();
        let literal = |name: &str, value: &str| {
            let name = field(0, name.as_bytes());
            [&name[..], &[value.len() as u8], value.as_bytes()].concat()
        };
        let block = [
            &[0x83, 0x86][..], // POST, http
            &field(4, b"/logitd.v1.SamplerService/GetInfo"),
            authority,
            &literal("content-type", "application/grpc"),
            &literal("te", "trailers"),
        ]
        .concat();
        self.frame(1, 4, stream, &block);
        self.frame(0, 1, stream, &[0; 5]);
        loop {
            let mut head = [0; 9];
            self.0.read_exact(&mut head).unwrap();
            let mut payload = vec![0; u32::from_be_bytes([0, head[0], head[1], head[2]]) as usize];
            self.0.read_exact(&mut payload).unwrap();
            match (head[3], head[8] == stream) {
                (0, true) if payload.len() > 5 => {
                    return Ok(GetInfoResponse::decode(&payload[5..]).unwrap());
                }
                (3, true) => return Err(u32::from_be_bytes(payload.try_into().unwrap())),
                (7, _) => panic!("the connection ends: {payload:?}"),
                (4, _) if head[4] == 0 => self.frame(4, 1, 0, &[]),
                _ => {}
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sockets_path_is_an_authority_on_a_unix_socket_and_its_reset_elsewhere_is_logged() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("logitd.sock");
    let listen = format!("--listen=127.0.0.1:0,unix:{}", path.display());
    let daemon = Daemon::start(&[&listen, "--metrics-listen=127.0.0.1:0"]).await;
    // As gRPC's C core sends it: the name in full, and kept in the table.
    let named =
        |value: &str| [&b"\x40\x0a:authority"[..], &[value.len() as u8], value.as_bytes()].concat();
    let encoded = path.display().to_string().replace('/', "%2F");
    let kept = 0x80 | 62; // The youngest field of the table.
    let stream = UnixStream::connect(&path).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    let mut local = ByHand::open(stream);
    for (stream, authority) in [
        (1, named(&encoded)),
        (3, vec![kept]),
        (5, [b"\x41\x05", &b"a/b%c"[..]].concat()),
        (7, vec![kept]),
        (9, vec![kept + 1]),
        // `a/b` in Huffman's code.
        (11, vec![0x41, 0x83, 0b0001_1011, 0b0001_0001, 0b1111_1111]),
    ] {
        let answer = local.call(stream, &authority).expect("answered");
        assert_eq!(answer.arithmetic_version, logitd_core::arithmetic::VERSION);
    }
    println!("6 calls with a path as their authority were answered");

    let address = daemon.target().strip_prefix("http://").unwrap();
    let stream = std::net::TcpStream::connect(address).unwrap();
    let mut connection = ByHand::open(stream);
    assert_eq!(connection.call(1, &named(&encoded)).unwrap_err(), 1, "PROTOCOL_ERROR");
    daemon.logged("a call was reset").await;
    let begun = Instant::now();
    for stream in (3..61).step_by(2) {
        assert_eq!(connection.call(stream, &named(&encoded)).unwrap_err(), 1);
    }
    let lines = daemon.events("a call was reset");
    println!("30 resets, {} lines: {:?}", lines.len(), lines[0]);
    assert!(lines.len() as u64 <= 2 + begun.elapsed().as_secs(), "{lines:?}");
    let reason = lines[0]["reason"].as_str().unwrap();
    assert!(reason.contains("malformed authority") && reason.contains("%2F"), "{reason}");
    // The HTTP/2 library warns of an answer to a ping that it never sent, once for each.
    (0..20).for_each(|_| connection.frame(6, 1, 0, &[7; 8]));
    assert!(connection.call(61, &named("localhost")).is_ok(), "and the connection goes on");
    assert!(!daemon.log_has("PING") && !daemon.log_has("\"h2"), "{}", daemon.log());
    let text = daemon.scrape().await;
    assert_eq!(value(&text, "logitd_connections{transport=\"tcp\"}"), 1.0);
    assert_eq!(value(&text, "logitd_connections{transport=\"unix\"}"), 1.0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_preface_in_pieces_is_http2() {
    let server = TestServer::start(&[]).await;
    let mut stream = TcpStream::connect(server.address()).await.unwrap();
    stream.set_nodelay(true).unwrap();
    for byte in b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0" {
        tokio::io::AsyncWriteExt::write_all(&mut stream, &[*byte]).await.unwrap();
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    let mut head = [0; 9];
    stream.read_exact(&mut head).await.unwrap();
    assert_eq!(head[3], 4, "its settings come first: {head:?}");
    assert!(server.client().await.sample(request(1, 5, 1)).await.is_ok());
}
