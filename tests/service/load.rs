//! The load generator tells the truth: servers with planted faults, and what is said of them.
//!
//! Nothing here asserts how long something took on a real clock. Where time matters it is the runtime's,
//! which stands still until everything waits.

use crate::harness::TestServer;
use logitd::record::recheck;
use logitd::record::{Recorder, RecorderOptions};
use logitd::tools::load::{
    Arrivals, Clock, Code, Failure, Generator, Measured, Method, Pace, Plan, Pool, Request,
    Response, Shape, Source, Target, run,
};
use logitd_core::backend::reference::Reference;
use logitd_core::backend::{Backend, DeviceError, DeviceInfo};
use logitd_core::batch::{Dtype, Results, Row};
use logitd_proto::SampleResponse;
use serde_json::Value;
use std::path::Path;
use std::process::{Command, Output};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio_util::sync::CancellationToken;

/// A server that stops for 200 ms at the start of every second, and otherwise needs 1 ms.
struct Stalling(tokio::time::Instant);

impl Target for Stalling {
    async fn send(&self, _: u64, _: Request) -> Result<Response, Failure> {
        let into_second = Duration::from_millis(self.0.elapsed().as_millis() as u64 % 1000);
        let stall = Duration::from_millis(200).saturating_sub(into_second);
        tokio::time::sleep(stall + Duration::from_millis(1)).await;
        Ok(Response::Sample(SampleResponse::default()))
    }
}

async fn against_stalls(pace: Pace) -> Measured {
    against(Stalling(tokio::time::Instant::now()), pace).await
}

async fn against(target: impl Target, pace: Pace) -> Measured {
    let shape = Shape {
        method: Method::Sample,
        rows: "1".parse().unwrap(),
        params: Vec::new(),
        priority: logitd_proto::Priority::Normal,
        seed: 1,
    };
    let generator = Generator::new(shape, Pool::generate(Dtype::F16, 4, 1, 1));
    let plan = Plan {
        pace,
        warmup: Duration::from_secs(1),
        duration: Duration::from_secs(20),
        timeout: Duration::from_secs(5),
        outstanding_max: 10_000,
        failure_pause: Duration::ZERO,
        clock: Clock::Runtime,
    };
    let target = Arc::new(target);
    let source = Arc::new(Source::generated(generator, 0, None));
    run(target, source, &plan, None, CancellationToken::new(), |_| ()).await
}

/// A fifth of all time is a stall. Callers who come when they come meet it one time in five; four
/// workers who wait for their answers meet it four times a second, and their p99 knows nothing of it.
#[tokio::test(start_paused = true)]
async fn a_stall_shows_in_an_open_loop_and_hides_in_a_closed_one() {
    let ms = |measured: &Measured, quantile: f64| {
        measured.total.times.response.value_at_quantile(quantile) / 1_000_000
    };
    for arrivals in [Arrivals::Constant, Arrivals::Poisson] {
        let open = against_stalls(Pace::Open { rate: 500.0, arrivals, seed: 4 }).await;
        assert!(ms(&open, 0.99) >= 180, "p99 {} ms", ms(&open, 0.99));
        assert!(ms(&open, 0.9) >= 80, "p90 {} ms", ms(&open, 0.9));
        assert!(ms(&open, 0.5) <= 5, "p50 {} ms", ms(&open, 0.5));
    }
    let closed = against_stalls(Pace::Closed { concurrency: 4 }).await;
    let service = &closed.total.times.service;
    assert!(service.value_at_quantile(0.99) <= 5_000_000, "it hides");
    assert!(service.max() >= 190_000_000, "it was there");
}

/// A server that has no room for anybody, and says when to come again.
struct Crowded;

impl Target for Crowded {
    async fn send(&self, _: u64, _: Request) -> Result<Response, Failure> {
        let retry_after = Some(Duration::from_millis(500));
        Err(Failure { retry_after, ..Failure::new(Code::RESOURCE_EXHAUSTED, "no room") })
    }
}

/// Each attempt costs a server some of what it could do instead.
#[tokio::test(start_paused = true)]
async fn callers_who_are_refused_come_again_when_they_are_told_to() {
    let measured = against(Crowded, Pace::Closed { concurrency: 4 }).await;
    let refused = measured.total.counts.refused;
    assert!((150..=164).contains(&refused), "{refused} refusals of 4 callers in 20 s");
}

/// The oracle, but one token in so many is another.
struct Wrong {
    honest: Reference,
    every: usize,
    rows: AtomicUsize,
}

impl Backend for Wrong {
    fn device(&self) -> &DeviceInfo {
        self.honest.device()
    }

    fn sample(&mut self, rows: &[Row<'_>], results: &mut Results) -> Result<(), DeviceError> {
        self.honest.sample(rows, results)?;
        for slot in results.slots() {
            if self.rows.fetch_add(1, Ordering::Relaxed) % self.every == self.every - 1 {
                slot.draws[0].token ^= 1;
            }
        }
        Ok(())
    }
}

async fn wrong_server(every: usize) -> TestServer {
    let honest = Reference::default();
    let backend = Wrong { honest, every, rows: AtomicUsize::new(0) };
    TestServer::with(&[], vec![Box::new(backend)]).await
}

/// What `logitd load` says, and its exit code. The server runs on this test's runtime meanwhile.
async fn load(target: &str, flags: &str) -> (i32, Value, String) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_logitd"));
    command.args(["load", "--target", target, "--quiet", "--json"]);
    command.args(flags.split_whitespace());
    let output: Output =
        tokio::task::spawn_blocking(move || command.output().unwrap()).await.unwrap();
    let errors = String::from_utf8(output.stderr).unwrap();
    let json = serde_json::from_slice(&output.stdout).unwrap_or(Value::Null);
    (output.status.code().expect("it was not killed"), json, errors)
}

const SMALL: &str = "--vocab-size 500 --rows 1..4 --concurrency 4";

/// A server on a Unix socket, a TCP port and shared memory, and the folder of its sockets.
async fn on_every_way() -> (TestServer, tempfile::TempDir) {
    let directory = tempfile::tempdir().unwrap();
    let path = |name: &str| format!("unix:{}", directory.path().join(name).display());
    let listen = format!("--listen={},127.0.0.1:0", path("logitd.sock"));
    let shm = format!("--shm={}", path("shm.sock"));
    (TestServer::start(&[&listen, &shm]).await, directory)
}

#[tokio::test(flavor = "multi_thread")]
async fn an_honest_server_passes_on_every_way() {
    let (server, _directory) = on_every_way().await;
    for (target, flags, plane) in [
        (&server.targets[1], "--rpc unary --connections 2", "INLINE"),
        (&server.targets[1], "--rpc stream", "INLINE"),
        (&server.targets[0], "--rpc stream --connections 2", "INLINE"),
        (&server.targets[0], "--plane shm", "SHARED_MEMORY"),
        (&server.targets[0], "--plane shm --rpc direct", "SHARED_MEMORY"),
        (&server.targets[1], "--plane chunked --connections 2", "CHUNKED"),
        (&server.targets[0], "--plane candidates", "CANDIDATES"),
        (&server.targets[1], "--plane candidates --candidates 20 --rpc stream", "CANDIDATES"),
    ] {
        let top_k = if plane == "CANDIDATES" { "5,20" } else { "0,20" };
        let flags = format!(
            "{SMALL} --requests 200 --check 1 --fail-on-errors --fail-on-refusals \
             --temperature 0,0.7,1.5 --top-k {top_k} --top-p 0.9,1 --draws 1,3 {flags}"
        );
        let (code, json, errors) = load(target, &flags).await;
        assert_eq!(code, 0, "{flags}: {errors}{json}");
        let run = &json["runs"][0];
        assert_eq!((&run["answered"], &run["errors"]), (&200.into(), &0.into()));
        assert_eq!(json["check"]["answers"], 200);
        assert_eq!(json["check"]["rows"], run["rows"]);
        assert_eq!(run["service"]["count"], 200);
        assert_eq!(run["devices"][format!("reference via {plane}")], 200, "{json}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn drafts_and_beams_are_sent_on_every_way_and_checked() {
    let (server, _directory) = on_every_way().await;
    for (target, flags, plane) in [
        (&server.targets[1], "--method verify", "INLINE"),
        (&server.targets[1], "--method verify --mode typical --rpc stream", "INLINE"),
        (&server.targets[0], "--method verify --mode rejection --plane shm", "SHARED_MEMORY"),
        (
            &server.targets[0],
            "--method verify --mode rejection --distributions sparse --plane shm --rpc direct",
            "SHARED_MEMORY",
        ),
        (
            &server.targets[1],
            "--method verify --mode rejection --distributions dense --rpc stream --connections 2",
            "INLINE",
        ),
        (&server.targets[1], "--method verify --mode rejection --distributions logits", "INLINE"),
        (&server.targets[1], "--method beam-step --groups 1..3 --beams 5", "INLINE"),
        (&server.targets[0], "--method beam-step --plane shm", "SHARED_MEMORY"),
    ] {
        let sequences =
            if flags.contains("verify") { "--sequences 1..3 --drafts 1..5" } else { "" };
        let flags = format!(
            "--vocab-size 500 --concurrency 4 --requests 60 --check 1 --fail-on-errors \
             --fail-on-refusals {sequences} {flags}"
        );
        let (code, json, errors) = load(target, &flags).await;
        assert_eq!(code, 0, "{flags}: {errors}{json}");
        let (run, check) = (&json["runs"][0], &json["check"]);
        assert_eq!((&run["answered"], &check["answers"]), (&60.into(), &60.into()));
        assert_eq!(check["rows"], run["rows"]);
        assert_eq!(run["devices"][format!("reference via {plane}")], 60, "{json}");
    }

    let wrong = wrong_server(7).await;
    let flags = "--method verify --vocab-size 500 --requests 20 --concurrency 1 --check 1";
    let (code, json, _) = load(wrong.target(), flags).await;
    assert!(code == 1 && json["check"]["rows_wrong"].as_u64().unwrap() > 0, "{json}");
    let first = json["check"]["first"].as_str().unwrap();
    assert!(first.contains("sequence ") && first.contains(": tokens is "), "{first}");

    // What the server does not take is said before anything is sent.
    let limits = ["--request-rows-max=30", "--drafts-max=8", "--beams-max=8"];
    let server = TestServer::start(&limits).await;
    for (flags, part) in [
        ("--method verify --sequences 7", "up to 35 rows"),
        ("--method verify --sequences 4 --mode rejection --distributions logits", "up to 36 rows"),
        ("--method beam-step --groups 4 --beams 8", "lower --groups or --beams"),
        ("--method verify --sequences 1 --drafts 9", "up to 9 drafts"),
        ("--method beam-step --groups 1 --beams 9", "takes 8; lower --beams"),
    ] {
        let (code, _, errors) = load(server.target(), flags).await;
        assert!(code == 2 && errors.contains(part), "{flags}: {errors}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn one_wrong_token_is_found_and_can_be_sent_again() {
    let server = wrong_server(100).await;
    for rpc in ["unary", "stream"] {
        let flags = format!("{SMALL} --rpc {rpc} --requests 200 --check 1");
        let (code, json, _) = load(server.target(), &flags).await;
        let check = &json["check"];
        let wrong = check["rows_wrong"].as_u64().unwrap();
        let rows = check["rows"].as_u64().unwrap();
        assert!(wrong.abs_diff(rows / 100) <= 1, "{wrong} of {rows}");
        assert_eq!(code, 1);
        let first = check["first"].as_str().unwrap();
        assert!(first.contains("token is") && first.contains(", seed "), "{first}");
    }

    // Every token is wrong, so what the message says to do again finds it again.
    let server = wrong_server(1).await;
    let (_, json, _) = load(server.target(), &format!("{SMALL} --requests 5 --check 1")).await;
    let first = json["check"]["first"].as_str().unwrap();
    let again = first.split("with ").nth(1).unwrap();
    let (code, json, _) = load(server.target(), &format!("{SMALL} {again}")).await;
    assert_eq!(code, 1, "{again}");
    assert_eq!(json["check"]["answers"], 1);
    let row = |text: &str| text.split_once("(reference, b").map_or(text, |(row, _)| row).to_owned();
    assert_eq!(row(json["check"]["first"].as_str().unwrap()), row(first));

    let dump = tempfile::tempdir().unwrap();
    let flags = format!("{SMALL} --requests 5 --check 1 --dump {}", dump.path().display());
    load(server.target(), &flags).await;
    assert!(dump.path().join("logitd-difference.npy").exists());
    // Unchecked, the same answers pass.
    assert_eq!(load(server.target(), &format!("{SMALL} --requests 5")).await.0, 0);
}

/// What a proxy does to a connection once enough bytes came from the client.
#[derive(Clone, Copy)]
enum Fault {
    /// It is closed.
    Closed,
    /// Nothing is forwarded any more.
    Silent,
}

/// A way to `address` that breaks after `bytes` of each connection.
async fn faulty(address: &str, fault: Fault, bytes: usize) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let target = format!("http://{}", listener.local_addr().unwrap());
    let address = address.to_owned();
    tokio::spawn(async move {
        while let Ok((client, _)) = listener.accept().await {
            let server = TcpStream::connect(&address).await.unwrap();
            tokio::spawn(forward(client, server, fault, bytes));
        }
    });
    target
}

async fn forward(client: TcpStream, server: TcpStream, fault: Fault, mut left: usize) {
    let (mut from_client, mut to_client) = client.into_split();
    let (mut from_server, mut to_server) = server.into_split();
    let back = tokio::spawn(async move { tokio::io::copy(&mut from_server, &mut to_client).await });
    let mut buffer = vec![0; 4096];
    while left > 0 {
        let Ok(n @ 1..) = from_client.read(&mut buffer).await else { break };
        if to_server.write_all(&buffer[..n]).await.is_err() {
            break;
        }
        left = left.saturating_sub(n);
    }
    if matches!(fault, Fault::Silent) {
        std::future::pending::<()>().await;
    }
    back.abort();
}

#[tokio::test(flavor = "multi_thread")]
async fn connections_that_break_are_errors_and_the_rest_is_answered() {
    let server = TestServer::start(&[]).await;
    for rpc in ["unary", "stream"] {
        let target = faulty(server.address(), Fault::Closed, 60_000).await;
        let flags = format!("{SMALL} --rpc {rpc} --requests 300 --failure-pause 1ms");
        let (code, json, errors) = load(&target, &flags).await;
        let run = &json["runs"][0];
        let (answered, failed) =
            (run["answered"].as_u64().unwrap(), run["errors"].as_u64().unwrap());
        assert!(answered > 0 && failed > 0, "{rpc}: {errors}{json}");
        assert_eq!(answered + failed, 300, "every request is accounted for");
        assert_eq!(code, 0, "errors are reported, not judged");
        let (code, ..) = load(&target, &format!("{flags} --fail-on-errors")).await;
        assert_eq!(code, 1);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_never_answers_is_counted_and_does_not_hang() {
    let server = TestServer::start(&[]).await;
    for flags in ["--rpc unary", "--rpc stream", "--rate 200"] {
        let target = faulty(server.address(), Fault::Silent, 30_000).await;
        let pace = if flags.contains("rate") { "" } else { "--concurrency 4" };
        let flags = format!(
            "--vocab-size 500 {pace} {flags} --requests 60 --timeout 200ms --fail-on-errors"
        );
        let (code, json, errors) = load(&target, &flags).await;
        let run = &json["runs"][0];
        assert!(run["answered"].as_u64().unwrap() > 0, "{flags}: {errors}{json}");
        assert!(run["failures"]["NO_ANSWER"]["count"].as_u64().unwrap() > 0, "{flags}: {json}");
        assert_eq!(run["requests"], 60);
        assert_eq!(code, 1);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn refusals_are_told_from_errors() {
    let server = TestServer::start(&["--queue-rows-max=4", "--request-rows-max=4"]).await;
    let flags = "--vocab-size 60000 --rows 4 --concurrency 16 --requests 200 --failure-pause 0";
    let (code, json, errors) = load(server.target(), flags).await;
    let run = &json["runs"][0];
    assert!(run["refused"].as_u64().unwrap() > 0, "{errors}{json}");
    assert_eq!(run["errors"], 0);
    assert!(run["failures"]["RESOURCE_EXHAUSTED"]["message"].is_string());
    assert_eq!(run["refusal"]["count"], run["refused"]);
    assert_eq!(code, 0);
    assert_eq!(load(server.target(), &format!("{flags} --fail-on-errors")).await.0, 0);
    assert_eq!(load(server.target(), &format!("{flags} --fail-on-refusals")).await.0, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_run_says_why() {
    let free = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    let (code, _, errors) = load(&format!("http://{free}"), "--requests 1").await;
    assert!(code == 2 && errors.contains(&free.to_string()), "{errors}");

    let server = TestServer::start(&["--request-rows-max=8"]).await;
    for (flags, part) in [
        ("--rows 9", "--request-rows-max"),
        ("--rows 8 --dtype f32 --vocab-size 1048576", "--message-bytes-max"),
        ("--temperature 0,-2", "--temperature is -2"),
        ("--logits /nowhere.npy", "/nowhere.npy"),
        ("--replay /nowhere.trace", "/nowhere.trace"),
        ("--plane shm", "unix:PATH"),
    ] {
        let (code, _, errors) = load(server.target(), flags).await;
        assert!(code == 2 && errors.contains(part), "{flags}: {errors}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sweep_makes_a_page_that_needs_nothing_else() {
    let server = TestServer::start(&[]).await;
    let directory = tempfile::tempdir().unwrap();
    for (name, pace) in [("one", "--rate 200"), ("sweep", "--sweep rate:50,100,200")] {
        let path = directory.path().join(format!("{name}.html"));
        let flags = format!(
            "--vocab-size 300 {pace} --duration 400ms --warmup 50ms --report {}",
            path.display()
        );
        let (code, json, errors) = load(server.target(), &flags).await;
        assert_eq!(code, 0, "{errors}");
        let page = std::fs::read_to_string(&path).unwrap();
        let runs = json["runs"].as_array().unwrap();
        assert_eq!(runs.len(), if name == "one" { 1 } else { 3 });
        assert!(runs.iter().all(|run| run["answered"].as_u64().unwrap() > 0));
        assert_eq!(page.matches("<svg").count(), 3, "{name}");
        assert_eq!(page.matches("<svg").count(), page.matches("</svg>").count());
        for other in ["src=", "href=", "url(", "@import", "<script", "<link", "NaN"] {
            assert!(!page.contains(other), "{name}: {other}");
        }
        assert!(page.contains("prefers-color-scheme: dark"));
    }
}

/// A server that records, its trace sent again, and its answers checked without it.
#[tokio::test(flavor = "multi_thread")]
async fn what_a_server_records_is_replayed_and_verified() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("a.trace");
    let record = format!("--record={}", path.display());
    let server = TestServer::start(&[&record]).await;
    let (code, ..) =
        load(server.target(), &format!("{SMALL} --requests 60 --draws 1,2 --priority high")).await;
    assert_eq!(code, 0);
    // A seed left to the server is one that it took, and that the replay takes again.
    let mut seedless = crate::harness::request(2, 50, 9);
    seedless.params.iter_mut().for_each(|params| params.seed = None);
    server.client().await.sample(seedless).await.unwrap();
    // What was asked for beside tokens is sent again, and told again.
    let mut asking = crate::harness::request(2, 50, 8);
    let (of, ids) = (vec![1, 2, 3], vec![49, 0]);
    asking.params[0].logprobs = Some(logitd_proto::Logprobs { of, top: 5, ids });
    asking.params.iter_mut().for_each(|params| params.return_kept = true);
    server.client().await.sample(asking).await.unwrap();
    // Candidates are recorded as they came, and a batch in chunks chunk by chunk.
    let flags = format!("{SMALL} --requests 20 --plane candidates --top-k 5 --seed 2");
    assert_eq!(load(server.target(), &flags).await.0, 0);
    let flags = format!("{SMALL} --requests 5 --plane chunked --seed 3");
    assert_eq!(load(server.target(), &flags).await.0, 0);
    server.stop().await.unwrap().unwrap();

    let (code, said) = verify(&path).await;
    assert!(code == 0 && said.contains("87 requests, 0 without an answer"), "{said}");
    assert!(said.contains("0 differences"), "{said}");

    // Whether kept tokens are a list or a bitmask is no difference.
    let honest = TestServer::start(&["--kept-ids-max=2"]).await;
    for pace in ["", "--concurrency 3", "--speed 4"] {
        let flags = format!("--replay {} --check 1 --fail-on-errors {pace}", path.display());
        let (code, json, errors) = load(honest.target(), &flags).await;
        assert_eq!(code, 0, "{pace}: {errors}{json}");
        assert_eq!(
            (&json["runs"][0]["answered"], &json["check"]["answers"]),
            (&87.into(), &87.into())
        );
    }
    let wrong = wrong_server(10).await;
    let flags = format!("--replay {} --check 1 --concurrency 3", path.display());
    let (code, json, _) = load(wrong.target(), &flags).await;
    assert!(code == 1 && json["check"]["rows_wrong"].as_u64().unwrap() > 0, "{json}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_recorded_answer_that_is_wrong_is_found_without_a_server() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("a.trace");
    let recorder = Recorder::start(RecorderOptions::new(&path)).unwrap();
    for salt in 0..20 {
        let request = crate::harness::request(3, 200, salt);
        let (mut backend, mut results) = (Reference::default(), Results::default());
        let mut answer = recheck::answer(&mut backend, &request, &mut results).unwrap();
        if salt == 13 {
            answer.rows[2].token = answer.rows[2].token.map(|token| token ^ 1);
        }
        recorder.record(Instant::now(), &request, Ok(&answer));
    }
    recorder.finish();
    let (code, said) = verify(&path).await;
    assert_eq!(code, 1, "{said}");
    assert!(said.contains("request 13") && said.contains("row 2: token is"), "{said}");

    // A torn tail is said, and no difference.
    let whole = std::fs::read(&path).unwrap();
    std::fs::write(&path, &whole[..whole.len() / 2]).unwrap();
    let (code, said) = verify(&path).await;
    assert!(code == 0 && said.contains("lost: the frame at byte"), "{said}");
    std::fs::write(&path, b"something else entirely").unwrap();
    assert_eq!(verify(&path).await.0, 2);
}

async fn verify(path: &Path) -> (i32, String) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_logitd"));
    let dump = path.parent().unwrap();
    command.args(["verify", "--recorded"]).arg(path).arg("--dump").arg(dump);
    let output = tokio::task::spawn_blocking(move || command.output().unwrap()).await.unwrap();
    let said = [output.stdout, output.stderr].concat();
    (output.status.code().unwrap(), String::from_utf8(said).unwrap())
}
