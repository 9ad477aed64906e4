//! The daemon under load on every plane, for as long as it is asked to: memory, descriptors and threads stay
//! where they were, every request is answered, and in the end it leaves in order.
//!
//! `LOGITD_SOAK_S` says how many seconds each takes, 30 if it says nothing; `.ci/run soak` takes ten minutes for
//! this one and half an hour for the `siege` in the long mode. Linux only, as `/proc` is read.
#![cfg(target_os = "linux")]

use crate::harness::daemon::{Daemon, value};
use crate::harness::raw::{Raw, announced};
use crate::harness::usage::{assert_flat, settled};
use serde_json::Value;
use std::process::Command;
use std::time::{Duration, Instant};

/// How long connections live: each round opens new ones.
const ROUND_S: u64 = 3;
/// One run of the load generator: what it says.
async fn load(target: String, flags: &'static str) -> Value {
    let mut command = Command::new(env!("CARGO_BIN_EXE_logitd"));
    command.args(["load", "--target", &target, "--quiet", "--json", "--warmup", "0"]);
    command.args(["--duration", &format!("{ROUND_S}s"), "--fail-on-errors"]);
    command.args(["--check", "0.02", "--check-with", "cpu", "--seed", "11"]);
    command.args(flags.split_whitespace());
    let output = tokio::task::spawn_blocking(move || command.output().unwrap()).await.unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{flags}: {said}");
    let report: Value = serde_json::from_slice(&output.stdout).expect("a report");
    assert_eq!(report["check"]["rows_wrong"], 0, "{flags}: {report}");
    report
}

/// Every plane, connections that are busy and such that are not.
const LOADS: [(bool, &str); 7] = [
    (false, "--vocab-size 32000 --rows 1..16 --concurrency 4 --connections 3"),
    (false, "--vocab-size 32000 --rows 1..4 --concurrency 16 --rpc stream --connections 2"),
    (true, "--vocab-size 32000 --rows 100..300 --concurrency 2 --plane chunked"),
    (false, "--vocab-size 128256 --rows 1..64 --concurrency 4 --plane candidates"),
    (true, "--vocab-size 128256 --rows 1..8 --concurrency 4 --plane shm --top-k 0,50"),
    (true, "--vocab-size 128256 --rows 1..8 --concurrency 2 --plane shm --rpc direct --top-k 0,50"),
    (false, "--vocab-size 1000 --rows 1 --rate 200"),
];

/// Clients a round that go away in the middle of a message, and as many that send nonsense.
const MISBEHAVING: usize = 10;

async fn misbehave(address: &str) {
    for _ in 0..MISBEHAVING {
        let raw = Raw::connect(address).await;
        let (pieces, answer) = raw.open("Sample", &[]);
        // The server may have noticed before the piece is out.
        let _ = pieces.send(announced(1 << 20, &[7; 5000])).await;
        tokio::time::sleep(Duration::from_millis(5)).await;
        answer.abort();
        raw.break_off();
        let raw = Raw::connect(address).await;
        let reply = raw.call("Sample", &[], announced(4, &[0xff; 4])).await;
        reply.assert_code(tonic::Code::InvalidArgument, &["malformed"]);
    }
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "takes as long as LOGITD_SOAK_S says; .ci/run soak and the long mode run it"]
async fn a_day_in_short_leaves_nothing_behind() {
    let seconds: u64 = std::env::var("LOGITD_SOAK_S").map_or(30, |s| s.parse().expect("seconds"));
    let directory = tempfile::tempdir().unwrap();
    let path = |name: &str| format!("unix:{}", directory.path().join(name).display());
    let mut daemon = Daemon::start(&[
        "--listen=127.0.0.1:0",
        &format!("--listen={}", path("logitd.sock")),
        &format!("--shm={}", path("shm.sock")),
        "--metrics-listen=127.0.0.1:0",
    ])
    .await;
    let targets = [daemon.target().to_owned(), path("logitd.sock")];
    let address = targets[0].strip_prefix("http://").expect("the first address is TCP").to_owned();

    let begun = Instant::now();
    let (mut answered, mut rounds, mut idle) = (0, 0, Vec::new());
    while begun.elapsed() < Duration::from_secs(seconds) || rounds < 5 {
        let runs = LOADS
            .map(|(unix, flags)| tokio::spawn(load(targets[usize::from(unix)].clone(), flags)));
        misbehave(&address).await;
        for run in runs {
            answered += run.await.unwrap()["runs"][0]["answered"].as_u64().unwrap();
        }
        rounds += 1;
        // Between two rounds nobody is connected: what is held now is held for nothing.
        let usage = settled(daemon.id()).await;
        println!("{:5.0} s: {answered} answered, {usage}", begun.elapsed().as_secs_f64());
        idle.push(usage);
    }

    assert_flat(&idle);
    let text = daemon.scrape().await;
    assert!(value(&text, "logitd_requests_total{code=\"OK\"}") >= answered as f64);
    for code in ["INTERNAL", "UNKNOWN", "DATA_LOSS", "UNAVAILABLE", "DEADLINE_EXCEEDED"] {
        assert!(!text.contains(&format!("code=\"{code}\"")), "{code}:\n{text}");
    }
    for plane in ["inline", "chunked", "candidates", "shared_memory"] {
        assert!(value(&text, &format!("logitd_bytes_total{{plane=\"{plane}\"}}")) > 0.0, "{plane}");
    }
    daemon.signal("TERM");
    assert_eq!(daemon.exit_code().await, Some(0), "{}", daemon.log());
}
