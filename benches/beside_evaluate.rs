//! What evaluations cost those who sample beside them: how long calls of `Sample` take on a server alone, and while it evaluates
//! without a pause.
//!
//! ```text
//! cargo bench --bench beside_evaluate -- [ROUNDS]
//! ```
//!
//! A server on the processor, with its defaults. Calls of 4 rows of 32,000 logits are due a hundred times a second, whatever the
//! server does; a call's time is from when it was due. Evaluations are of 512 sets over 64 rows of 262,144 logits, which lie in shared
//! memory, two at a time: so the client of the evaluations does next to nothing, and what is seen is the server's doing. Rounds of both
//! alternate; of each 99th percentile the median over the rounds is told.

use logitd::tools::generate::Random;
use logitd_client::{Client, Region};
use logitd_proto::{Dtype, EvaluateRequest, SampleRequest, SamplingParams, SetGrid};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

const ROUND: Duration = Duration::from_secs(5);
const PACE: Duration = Duration::from_millis(10);
const ROWS: usize = 64;
const VOCAB_SIZE: u32 = 262_144;

#[tokio::main]
async fn main() {
    let rounds: u32 = std::env::args().skip(1).find_map(|arg| arg.parse().ok()).unwrap_or(5);
    let directory = tempfile::tempdir().expect("a folder");
    let socket = |name: &str| format!("unix:{}", directory.path().join(name).display());
    let (calls, memory) = (socket("calls"), socket("memory"));
    let _server = Server::start(&calls, &memory);
    let client = connected(&calls).await;
    let mut found = [Vec::new(), Vec::new()];
    let mut calls_evaluated = 0;
    let stop = Arc::new(AtomicBool::new(false));
    let evaluated = Arc::new(AtomicUsize::new(0));
    for _ in 0..rounds {
        found[0].push(waits(&client).await);
        stop.store(false, Ordering::Relaxed);
        let sweeps: Vec<_> = (0..2u32)
            .map(|seed| {
                let (stop, evaluated) = (Arc::clone(&stop), Arc::clone(&evaluated));
                tokio::spawn(sweep(client.clone(), memory.clone(), seed, stop, evaluated))
            })
            .collect();
        while evaluated.load(Ordering::Relaxed) == 0 {
            tokio::time::sleep(PACE).await;
        }
        found[1].push(waits(&client).await);
        stop.store(true, Ordering::Relaxed);
        for sweep in sweeps {
            sweep.await.expect("it ends");
        }
        calls_evaluated += evaluated.swap(0, Ordering::Relaxed);
    }
    let medians = found.map(|rounds| [0.5, 0.9, 0.99].map(|share| median(&rounds, share)));
    for (name, [p50, p90, p99]) in ["alone", "beside evaluations"].iter().zip(medians) {
        println!("{name:<20} p50 {p50:>6.0} us  p90 {p90:>6.0} us  p99 {p99:>6.0} us");
    }
    println!("p99 beside evaluations: {:.2} times", medians[1][2] / medians[0][2]);
    let rows_a_second = (calls_evaluated * ROWS) as f64 / (ROUND * rounds).as_secs_f64();
    println!("evaluated meanwhile: {rows_a_second:.0} rows/s, 512 sets each");
}

/// A child process, which ends with this one.
struct Server(Child);

impl Server {
    fn start(calls: &str, memory: &str) -> Self {
        let mut command = Command::new(env!("CARGO_BIN_EXE_logitd"));
        command.args(["serve", "--device=cpu", "--listen", calls, "--shm", memory]);
        Self(command.stderr(Stdio::null()).spawn().expect("a server"))
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

async fn connected(target: &str) -> Client {
    loop {
        match Client::connect(target).await {
            Ok(client) if client.info().await.is_ok() => return client,
            _ => tokio::time::sleep(PACE).await,
        }
    }
}

/// How long calls of `Sample` took, in microseconds, ascending.
async fn waits(client: &Client) -> Vec<f64> {
    let request = SampleRequest {
        dtype: Dtype::F16.into(),
        vocab_size: 32_000,
        logits: logits(4 * 32_000, 1).into(),
        params: vec![SamplingParams { top_p: Some(0.95), seed: Some(1), ..Default::default() }],
        ..Default::default()
    };
    let (begun, mut calls) = (Instant::now(), tokio::task::JoinSet::new());
    for n in 0.. {
        let due = begun + PACE * n;
        if due - begun > ROUND {
            break;
        }
        tokio::time::sleep_until(due.into()).await;
        let (client, request) = (client.clone(), request.clone());
        calls.spawn(async move {
            client.sample(request).await.expect("an answer");
            due.elapsed().as_secs_f64() * 1e6
        });
    }
    let mut waits = calls.join_all().await;
    waits.sort_by(f64::total_cmp);
    waits
}

/// Evaluates the same rows, again and again.
async fn sweep(
    client: Client,
    memory: String,
    seed: u32,
    stop: Arc<AtomicBool>,
    evaluated: Arc<AtomicUsize>,
) {
    let rows = logits(ROWS * VOCAB_SIZE as usize, seed);
    let mut region = Region::register(&memory, rows.len(), 1).expect("memory");
    region.slot_mut(0).copy_from_slice(&rows);
    let steps = |count: u8| (1..=count).map(move |n| f32::from(n) / f32::from(count));
    let grid = SetGrid {
        temperature: steps(8).collect(),
        top_k: vec![10, 20, 50, 100],
        top_p: steps(16).collect(),
        ..Default::default()
    };
    while !stop.load(Ordering::Relaxed) {
        let request = EvaluateRequest {
            dtype: Dtype::F16.into(),
            vocab_size: VOCAB_SIZE,
            slot: Some(region.commit(0, rows.len())),
            references: vec![7; ROWS],
            grid: Some(grid.clone()),
            ..Default::default()
        };
        client.evaluate(request).await.expect("an answer");
        evaluated.fetch_add(1, Ordering::Relaxed);
    }
}

fn logits(count: usize, seed: u32) -> Vec<u8> {
    let mut random = Random::new(u64::from(seed), 0);
    let mut next = || half::f16::from_f32(3.0 * random.bell()).to_le_bytes();
    (0..count).flat_map(|_| next()).collect()
}

fn median(rounds: &[Vec<f64>], share: f64) -> f64 {
    let of = |waits: &Vec<f64>| waits[((waits.len() - 1) as f64 * share) as usize];
    let mut each: Vec<f64> = rounds.iter().map(of).collect();
    each.sort_by(f64::total_cmp);
    each[each.len() / 2]
}
