//! The server's door: TLS, client certificates, tokens.

use crate::harness::backends::{Gate, Gated};
use crate::harness::daemon::{Daemon, value};
use crate::harness::raw::{Raw, announced};
use crate::harness::{TestServer, expected, request, until};
use logitd::config::Config;
use logitd::server::Server;
use logitd_client::{Client, Error};
use logitd_proto::{Priority, SampleRequest};
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use std::path::PathBuf;
use std::time::Duration;
use tempfile::TempDir;
use tokio::io::AsyncReadExt;
use tokio::task::JoinSet;
use tonic::Code;
use tonic::transport::Endpoint;
use tonic_health::pb::{HealthCheckRequest, health_client::HealthClient};

/// An authority, and what it has signed.
struct Authority {
    issuer: CertifiedIssuer<'static, KeyPair>,
    directory: TempDir,
}

impl Authority {
    fn new() -> Self {
        let mut params = CertificateParams::new(vec![]).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let issuer = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
        Self { issuer, directory: tempfile::tempdir().unwrap() }
    }

    fn pem(&self) -> String {
        self.issuer.pem()
    }

    /// A certificate for this name, and its key.
    fn sign(&self, name: &str) -> (String, String) {
        let key = KeyPair::generate().unwrap();
        let params = CertificateParams::new(vec![name.into()]).unwrap();
        (params.signed_by(&key, &self.issuer).unwrap().pem(), key.serialize_pem())
    }

    fn file(&self, name: &str, text: &str) -> PathBuf {
        let path = self.directory.path().join(name);
        std::fs::write(&path, text).unwrap();
        path
    }

    /// The flags of a server with a certificate of this authority.
    fn server_flags(&self) -> [String; 2] {
        let (cert, key) = self.sign("localhost");
        let (cert, key) = (self.file("cert.pem", &cert), self.file("key.pem", &key));
        [format!("--tls-cert={}", cert.display()), format!("--tls-key={}", key.display())]
    }
}

async fn start(flags: &[String]) -> TestServer {
    TestServer::start(&flags.iter().map(String::as_str).collect::<Vec<_>>()).await
}

fn tls_client(server: &TestServer, roots: &str) -> logitd_client::Builder {
    Client::builder(server.target()).tls_roots(roots).tls_domain("localhost")
}

#[tokio::test(flavor = "multi_thread")]
async fn tls_serves_those_who_know_the_authority() {
    let ours = Authority::new();
    let socket = format!("--listen=unix:{}", ours.directory.path().join("s").display());
    let tcp = "--listen=127.0.0.1:0".to_owned();
    let [cert, key] = ours.server_flags();
    let server = start(&[tcp, socket, cert, key, "--handshake-timeout=200ms".into()]).await;
    assert!(server.target().starts_with("https://"));
    let request = request(2, 60, 1);
    let client = tls_client(&server, &ours.pem()).connect().await.unwrap();
    assert_eq!(client.sample(request.clone()).await.unwrap().rows, expected(&request));
    // The Unix socket is the file system's to guard, and speaks plainly.
    let client = Client::connect(&server.targets[1]).await.unwrap();
    assert_eq!(client.sample(request.clone()).await.unwrap().rows, expected(&request));

    let error = tls_client(&server, &Authority::new().pem()).connect().await.unwrap_err();
    assert!(matches!(error, Error::Connect { .. }), "{error}");
    let error = Client::builder(server.target()).tls_roots(ours.pem()).tls_domain("elsewhere");
    assert!(error.connect().await.is_err(), "the certificate is for another name");
    let plain = Client::connect(server.address()).await;
    let refused = match plain {
        Ok(client) => client.sample(request).await.is_err(),
        Err(_) => true,
    };
    assert!(refused, "no plaintext where TLS is asked for");

    // A handshake that never comes is not waited for.
    let mut silent = tokio::net::TcpStream::connect(server.address()).await.unwrap();
    let mut rest = Vec::new();
    assert!(matches!(silent.read_to_end(&mut rest).await, Ok(0) | Err(_)));
}

#[tokio::test(flavor = "multi_thread")]
async fn mutual_tls_serves_those_whom_the_authority_knows() {
    let (ours, theirs) = (Authority::new(), Authority::new());
    let ca = ours.file("ca.pem", &ours.pem());
    let [cert, key] = ours.server_flags();
    let server = start(&[cert, key, format!("--tls-client-ca={}", ca.display())]).await;
    let request = request(1, 60, 1);

    let (cert, key) = ours.sign("client");
    let client = tls_client(&server, &ours.pem()).tls_identity(cert, key).connect().await.unwrap();
    assert_eq!(client.sample(request.clone()).await.unwrap().rows, expected(&request));

    let (cert, key) = theirs.sign("client");
    let strangers = [
        tls_client(&server, &ours.pem()),
        tls_client(&server, &ours.pem()).tls_identity(cert, key),
    ];
    for stranger in strangers {
        // TLS 1.3 tells a client only when it has spoken.
        let refused = match stranger.connect().await {
            Ok(client) => client.sample(request.clone()).await.is_err(),
            Err(_) => true,
        };
        assert!(refused);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hangup_has_the_authority_of_clients_read_again() {
    let (ours, theirs) = (Authority::new(), Authority::new());
    let ca = ours.file("ca.pem", &ours.pem());
    let [cert, key] = ours.server_flags();
    let flags = [cert, key, format!("--tls-client-ca={}", ca.display())];
    let flags = [&flags.each_ref().map(String::as_str)[..], &["--metrics-listen=127.0.0.1:0"]];
    let daemon = Daemon::start(&flags.concat()).await;
    let request = request(1, 60, 1);
    let is_served = async |authority: &Authority| {
        let (cert, key) = authority.sign("client");
        let builder = Client::builder(daemon.target()).tls_roots(ours.pem());
        match builder.tls_domain("localhost").tls_identity(cert, key).connect().await {
            Ok(client) => client.sample(request.clone()).await.is_ok(),
            Err(_) => false,
        }
    };
    assert!(is_served(&ours).await && !is_served(&theirs).await);
    let expiry = "logitd_tls_certificate_expiry_timestamp_seconds{certificate=\"client_ca\"}";
    assert!(value(&daemon.scrape().await, expiry) > 0.0);

    ours.file("ca.pem", "nothing of use");
    daemon.signal("HUP");
    daemon.logged("certificates and tokens stay as they were").await;
    assert!(daemon.log_has("ca.pem"), "{}", daemon.log());
    assert!(is_served(&ours).await && !is_served(&theirs).await);

    ours.file("ca.pem", &theirs.pem());
    daemon.signal("HUP");
    daemon.logged("read certificates and tokens again").await;
    assert!(!is_served(&ours).await && is_served(&theirs).await);
}

#[tokio::test(flavor = "multi_thread")]
async fn tokens_are_asked_of_everybody_but_health_checks() {
    let files = Authority::new();
    let tokens = files.file("tokens", "# for tests\nalpha-secret Alpha\nbeta-secret\n");
    let server = start(&[format!("--tokens-file={}", tokens.display())]).await;
    let request = request(1, 60, 1);
    for token in ["alpha-secret", "beta-secret"] {
        let client = Client::builder(server.target()).token(token).connect().await.unwrap();
        assert_eq!(client.sample(request.clone()).await.unwrap().rows, expected(&request));
        assert!(client.info().await.is_ok());
        assert!(client.stream().await.is_ok());
    }
    let nobody = Client::connect(server.target()).await.unwrap();
    let wrong = Client::builder(server.target()).token("alpha-secre").connect().await.unwrap();
    for client in [nobody, wrong] {
        for error in [
            client.sample(request.clone()).await.unwrap_err(),
            client.info().await.unwrap_err(),
            client.stream().await.unwrap_err(),
        ] {
            assert_eq!(error.code(), Some(Code::Unauthenticated), "{error}");
            assert!(!error.to_string().contains("secre"), "{error}");
        }
    }
    // Refused before a byte of the body is read.
    let raw = Raw::connect(server.address()).await;
    let (pieces, answer) = raw.open("Sample", &[("authorization", "Bearer x")]);
    pieces.send(announced(1 << 20, &[])).await.unwrap();
    let reply = crate::harness::raw::reply(answer.await.unwrap()).await;
    reply.assert_code(Code::Unauthenticated, &["authorization"]);
    server.idle().await;

    let channel = Endpoint::new(server.target().to_owned()).unwrap().connect().await.unwrap();
    let check = HealthCheckRequest { service: String::new() };
    assert_eq!(HealthClient::new(channel).check(check).await.unwrap().into_inner().status, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn one_token_cannot_fill_the_queue() {
    let files = Authority::new();
    let tokens = files.file("tokens", "greedy Greedy\nmodest");
    let flag = format!("--tokens-file={}", tokens.display());
    let (backend, gate) = Gated::boxed();
    let server = TestServer::with(&[&flag, "--token-rows-max=5"], vec![backend]).await;
    let client = |token| Client::builder(server.target()).token(token).connect();
    let greedy = client("greedy").await.unwrap();
    let held = tokio::spawn({
        let greedy = greedy.clone();
        async move { greedy.sample(request(4, 10, 1)).await }
    });
    gate.reached().await;
    let error = greedy.sample(request(2, 10, 2)).await.unwrap_err();
    assert_eq!(error.code(), Some(Code::ResourceExhausted), "{error}");
    assert!(error.retry_after().is_some_and(|delay| !delay.is_zero()), "{error}");
    assert!(error.to_string().contains("Greedy") && error.to_string().contains("--token-rows-max"));
    let error = greedy.sample(request(6, 10, 2)).await.unwrap_err();
    assert_eq!(error.code(), Some(Code::OutOfRange), "{error}");
    let modest = client("modest").await.unwrap();
    let other = tokio::spawn(async move { modest.sample(request(4, 10, 3)).await });
    gate.open();
    assert!(held.await.unwrap().is_ok());
    assert_eq!(other.await.unwrap().unwrap().rows, expected(&request(4, 10, 3)));
    assert!(greedy.sample(request(5, 10, 2)).await.is_ok(), "the room is free again");
}

/// One token has 8 connections with 64 requests of 4 rows each, and batches have 8 rows.
#[tokio::test(flavor = "multi_thread")]
async fn a_token_with_one_call_at_a_time_takes_turns_with_one_that_has_all_connections_busy() {
    const BATCH: usize = 8;
    const CONNECTIONS: usize = 8;
    const REQUESTS: u64 = 64;
    // Salts, and so seeds, from here on are the modest one's.
    const MODEST: u64 = 1 << 20;
    let files = Authority::new();
    let tokens = files.file("tokens", "greedy Greedy\nmodest Modest");
    let (backend, gate) = Gated::boxed();
    let tokens = format!("--tokens-file={}", tokens.display());
    let server = TestServer::with(&[&tokens, "--batch-rows-max=8"], vec![backend]).await;
    let client = |token| Client::builder(server.target()).token(token).connect();
    let mut greedy = JoinSet::new();
    for connection in 0..CONNECTIONS as u64 {
        let client = client("greedy").await.unwrap();
        for n in 0..REQUESTS {
            let (client, asked) = (client.clone(), request(4, 8, connection * REQUESTS + n));
            greedy.spawn(async move { client.sample(asked).await.map(|_| ()) });
        }
    }
    let left = server.limits.queue_rows_max as usize - CONNECTIONS * REQUESTS as usize * 4;
    until("all rows are here", || server.engine.reserve(left + 1, 0).is_err()).await;

    let modest = client("modest").await.unwrap();
    let ask = |rows, salt| {
        let (client, asked) = (modest.clone(), request(rows, 8, MODEST + salt));
        tokio::spawn(async move {
            let answer = client.sample(asked.clone()).await.unwrap();
            assert_eq!(answer.rows, expected(&asked));
        })
    };
    // Small calls: each waits for the batch that has been taken, and is in the next. One more may have been taken before
    // the call is in the queue.
    let before = |gate: &Gate| greedy_rows(&gate.seeds(), MODEST * 1000);
    for salt in 0..5 {
        let mut call = ask(1, salt);
        let mut batches = 0;
        while tokio::time::timeout(Duration::from_millis(300), &mut call).await.is_err() {
            let taken = gate.batches();
            gate.pass();
            until("the next batch is taken", || gate.batches() > taken).await;
            batches += 1;
        }
        assert!(batches <= 3, "call {salt} was answered after {batches} batches");
    }
    // A large call has half of each batch, whatever the number of connections beside it.
    let greedy_before = before(&gate);
    let call = ask(64, 5);
    tokio::time::sleep(Duration::from_millis(100)).await;
    gate.open();
    call.await.unwrap();
    let seeds = gate.seeds();
    let last = seeds.iter().rposition(|batch| batch.iter().any(|&seed| seed >= MODEST * 1000));
    let between = greedy_rows(&seeds[..=last.unwrap()], MODEST * 1000) - greedy_before;
    println!("{between} rows of the one were sampled while 64 of the other were");
    assert!(between <= 64 + 3 * BATCH, "{between} rows for 64");
    assert!(greedy.join_all().await.into_iter().all(|answer| answer.is_ok()));
}

/// How many rows have seeds below this.
fn greedy_rows(batches: &[Vec<u64>], seed: u64) -> usize {
    batches.iter().flatten().filter(|&&of_row| of_row < seed).count()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_high_priority_is_for_tokens_that_may_ask_for_it() {
    let files = Authority::new();
    let tokens = files
        .file("tokens", "batch Batch jobs priority=low\nchat Chat\nadmin Admin priority=high\n");
    let server = start(&[format!("--tokens-file={}", tokens.display())]).await;
    let (low, normal, high) = (Priority::Low, Priority::Normal, Priority::High);
    for (token, allowed) in [
        ("batch", vec![Priority::Unspecified, low]),
        ("chat", vec![Priority::Unspecified, low, normal]),
        ("admin", vec![Priority::Unspecified, low, normal, high]),
    ] {
        let client = Client::builder(server.target()).token(token).connect().await.unwrap();
        for priority in [Priority::Unspecified, low, normal, high] {
            let request = SampleRequest { priority: priority.into(), ..request(1, 60, 1) };
            match client.sample(request.clone()).await {
                Ok(response) => assert_eq!(response.rows, expected(&request)),
                Err(error) => {
                    assert_eq!(error.code(), Some(Code::PermissionDenied), "{error}");
                    let text = error.to_string();
                    assert!(text.contains("priority=") && text.contains("--tokens-file"), "{text}");
                    assert!(!allowed.contains(&priority), "{token}: {text}");
                    continue;
                }
            }
            assert!(allowed.contains(&priority), "{token} asked for {priority:?}");
        }
    }
    server.idle().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn files_that_cannot_be_used_are_named() {
    let files = Authority::new();
    let [cert, key] = files.server_flags();
    let text = files.file("text", "nothing of use");
    let empty = files.file("empty", "\n");
    for (flags, name) in [
        (vec!["--tls-cert=/no/such/cert".to_owned(), key.clone()], "/no/such/cert"),
        (vec![cert.clone(), format!("--tls-key={}", text.display())], "text"),
        (vec![format!("--tls-cert={}", text.display()), key.clone()], "text"),
        (vec![cert, key, format!("--tls-client-ca={}", text.display())], "text"),
        (vec![format!("--tokens-file={}", empty.display())], "empty"),
        (vec!["--tokens-file=/no/such/tokens".to_owned()], "/no/such/tokens"),
    ] {
        let args = ["serve".to_owned(), "--listen=127.0.0.1:0".into()].into_iter().chain(flags);
        let Err(error) = Server::bind(Config::from_args(args).unwrap()).await else {
            panic!("bound with {name}")
        };
        assert!(error.to_string().contains(name), "{error}");
    }
}

#[tokio::test]
async fn a_target_that_makes_no_sense_is_refused_by_the_client() {
    for (target, words) in [
        ("ftp://somewhere", "http://HOST:PORT"),
        ("https://localhost:1", "tls_roots"),
        ("http://not a uri", "not a uri"),
    ] {
        let error = Client::connect(target).await.unwrap_err();
        assert!(error.to_string().contains(words), "{error}");
    }
    let error = Client::connect("127.0.0.1:1").await.unwrap_err();
    assert!(matches!(error, Error::Connect { .. }) && error.to_string().contains("127.0.0.1:1"));
    let error = Client::builder("http://127.0.0.1:1").tls_roots("x").connect().await.unwrap_err();
    assert!(matches!(error, Error::Target(_)), "{error}");
    let error = Client::builder("http://127.0.0.1:1").token("a\nb").connect().await.unwrap_err();
    assert!(matches!(error, Error::Target(_)), "{error}");
}
