//! An honest client beside others that take what they can, for as long as it is asked to: every answer is right, nothing
//! is left behind, and the honest client's waits are compared with those beside a program that only burns the same
//! processor.
//!
//! The server and the honest client share one half of the cores, the attackers have the other. LOGITD_SIEGE_BY names the
//! attackers, such as `Resets,Greedy`; otherwise it is all of them.

use crate::harness::daemon::Daemon;
use crate::harness::frames::{self, DATA, END_STREAM, Frames, RST_STREAM, frame, headers};
use crate::harness::raw::{announced, framed};
use crate::harness::usage::{assert_flat, settled};
use crate::harness::{expected, request};
use bytes::Bytes;
use logitd_client::Client;
use logitd_proto::{RowResult, SampleRequest, SamplingParams};
use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};
use tokio::io::AsyncWriteExt;
use tokio::net::{TcpStream, UnixStream};
use tokio::runtime::{Builder, Runtime};

/// Of each round, beside a busy loop.
const CALM: Duration = Duration::from_secs(5);
/// Of each round, beside attackers.
const SIEGE: Duration = Duration::from_secs(10);
/// Between two honest requests, whether or not the one before has been answered.
const PACE: Duration = Duration::from_millis(5);
/// How long an attacker holds what it has.
const HOLD: Duration = Duration::from_secs(1);
/// What the honest client's 99th percentile may grow by, with room for a machine that others use too. The goal is 3. With one core
/// for the server it was 2.7 to 3.4 times beside all attackers (3.9 while workers yielded every 0.8 ms however long the queue): 2.0 to
/// 2.7 ms beside the busy loop, and 5.9 to 7.4 ms (10.5 then) beside the attackers. Most of what remains is for [`Attack::Resets`],
/// which connects 780 times a second.
const SLOWER_MAX: f64 = 6.0;

#[test]
#[ignore = "takes as long as LOGITD_SOAK_S says; .ci/run soak and the long mode run it"]
fn attackers_take_nothing_from_an_honest_client() {
    let seconds: u64 = std::env::var("LOGITD_SOAK_S").map_or(30, |s| s.parse().expect("seconds"));
    let (ours, theirs) = halves();
    let (honest, attackers) = (runtime(ours), runtime(theirs));
    let directory = tempfile::tempdir().unwrap();
    let path = |name: &str| directory.path().join(name);
    // On a thread of our cores, so that the server has those too.
    let daemon = honest.spawn({
        let (calls, shm) = (path("logitd.sock"), path("shm.sock"));
        async move {
            Daemon::start(&[
                "--device=cpu",
                "--listen=127.0.0.1:0",
                &format!("--listen=unix:{}", calls.display()),
                &format!("--shm=unix:{}", shm.display()),
                "--metrics-listen=127.0.0.1:0",
            ])
            .await
        }
    });
    let mut daemon = honest.block_on(daemon).unwrap();
    let address = daemon.target().strip_prefix("http://").expect("TCP").to_owned();
    let place = Place { address, shm: path("shm.sock").display().to_string() };

    let begun = Instant::now();
    let (mut calm, mut besieged, mut idle) = (Waits::default(), Waits::default(), Vec::new());
    let attacks: Vec<(Attack, AtomicUsize)> =
        chosen().into_iter().map(|attack| (attack, AtomicUsize::new(0))).collect();
    let attacks = Arc::new(attacks);
    while begun.elapsed() < Duration::from_secs(seconds) || idle.len() < 4 {
        let burning = Burning::on(&attackers, theirs.count() as usize);
        calm.add(&honest, daemon.target(), CALM);
        drop(burning);
        let stop = Arc::new(AtomicBool::new(false));
        for i in 0..attacks.len() {
            let (place, stop, attacks) = (place.clone(), Arc::clone(&stop), Arc::clone(&attacks));
            attackers.spawn(async move {
                let (attack, count) = &attacks[i];
                while !stop.load(Ordering::Relaxed) {
                    attack.run(&place).await;
                    count.fetch_add(1, Ordering::Relaxed);
                }
            });
        }
        besieged.add(&honest, daemon.target(), SIEGE);
        stop.store(true, Ordering::Relaxed);
        std::thread::sleep(2 * HOLD);
        let usage = honest.block_on(settled(daemon.id()));
        println!(
            "{:5.0} s: p50 and p99 {:.1} and {:.1} ms calm, {:.1} and {:.1} ms besieged; {usage}",
            begun.elapsed().as_secs_f64(),
            calm.percentile(0.5),
            calm.percentile(0.99),
            besieged.percentile(0.5),
            besieged.percentile(0.99),
        );
        idle.push(usage);
    }
    for (attack, count) in attacks.iter() {
        println!("{:?}: {} times", attack, count.load(Ordering::Relaxed));
        assert!(count.load(Ordering::Relaxed) > 0);
    }
    println!("refused and tried again: {} calm, {} besieged", calm.refused, besieged.refused);
    assert_flat(&idle);
    let slower = besieged.percentile(0.99) / calm.percentile(0.99);
    println!("the 99th percentile is {slower:.2} times that beside a busy loop");
    assert!(slower <= SLOWER_MAX, "{slower}");
    daemon.signal("TERM");
    let code = honest.block_on(daemon.exit_code());
    assert_eq!(code, Some(0), "{}", daemon.log());
}

/// The attackers of this siege.
fn chosen() -> Vec<Attack> {
    let Ok(names) = std::env::var("LOGITD_SIEGE_BY") else { return ATTACKS.to_vec() };
    let named = |name: &str| ATTACKS.into_iter().find(|attack| format!("{attack:?}") == name);
    let named = |name| named(name).unwrap_or_else(|| panic!("{name} is none of {ATTACKS:?}"));
    names.split(',').map(named).collect()
}

/// The cores of this process in two halves; both are all of them where there is one.
fn halves() -> (CpuSet, CpuSet) {
    let all = sched_getaffinity(None).expect("the cores of this process");
    let cores: Vec<usize> = (0..CpuSet::MAX_CPU).filter(|&core| all.is_set(core)).collect();
    if cores.len() < 2 {
        println!("one core only: server and attackers share it");
        return (all, all);
    }
    let set = |cores: &[usize]| {
        let mut set = CpuSet::new();
        cores.iter().for_each(|&core| set.set(core));
        set
    };
    let (ours, theirs) = cores.split_at(cores.len() / 2);
    (set(ours), set(theirs))
}

/// Threads that run on these cores only.
fn runtime(cores: CpuSet) -> Runtime {
    let pin = move || sched_setaffinity(None, &cores).expect("pinned");
    let threads = cores.count() as usize;
    Builder::new_multi_thread()
        .worker_threads(threads)
        .on_thread_start(pin)
        .enable_all()
        .build()
        .unwrap()
}

/// Threads that do nothing as fast as they can, until dropped.
struct Burning(Arc<AtomicBool>);

impl Burning {
    fn on(runtime: &Runtime, threads: usize) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        for _ in 0..threads {
            let stop = Arc::clone(&stop);
            runtime.spawn_blocking(move || {
                while !stop.load(Ordering::Relaxed) {
                    std::hint::spin_loop();
                }
            });
        }
        Self(stop)
    }
}

impl Drop for Burning {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// How long an honest client waited for its answers, from when it meant to send, in milliseconds.
#[derive(Default)]
struct Waits {
    sorted_ms: Vec<f64>,
    refused: usize,
}

impl Waits {
    /// Asks at a steady pace for so long, and checks every answer.
    fn add(&mut self, runtime: &Runtime, target: &str, time: Duration) {
        let target = target.to_owned();
        let asked = runtime.block_on(runtime.spawn(async move { ask(&target, time).await }));
        let (waits, refused) = asked.unwrap();
        self.sorted_ms.extend(waits);
        self.sorted_ms.sort_by(f64::total_cmp);
        self.refused += refused;
    }

    fn percentile(&self, share: f64) -> f64 {
        self.sorted_ms[((self.sorted_ms.len() - 1) as f64 * share) as usize]
    }
}

async fn ask(target: &str, time: Duration) -> (Vec<f64>, usize) {
    let asks: Vec<(SampleRequest, Vec<RowResult>)> = (0..16)
        .map(|salt| request(4, 4000, salt))
        .map(|request| (request.clone(), expected(&request)))
        .collect();
    let asks = Arc::new(asks);
    let client = Client::connect(target).await.expect("connected");
    let (begun, mut pending) = (Instant::now(), tokio::task::JoinSet::new());
    for n in 0.. {
        let intended = begun + PACE * n;
        if intended - begun > time {
            break;
        }
        tokio::time::sleep_until(intended.into()).await;
        let (client, asks) = (client.clone(), Arc::clone(&asks));
        pending.spawn(async move {
            let (request, expected) = &asks[n as usize % asks.len()];
            let mut refused = 0;
            let response = loop {
                match client.sample(request.clone()).await {
                    Ok(response) => break response,
                    Err(error) => {
                        let pause = error.retry_after();
                        tokio::time::sleep(pause.unwrap_or_else(|| panic!("{error}"))).await;
                        refused += 1;
                    }
                }
            };
            assert_eq!(&response.rows, expected);
            (intended.elapsed().as_secs_f64() * 1e3, refused)
        });
    }
    let answers = pending.join_all().await;
    let refused = answers.iter().map(|&(_, refused)| refused).sum();
    (answers.into_iter().map(|(wait, _)| wait).collect(), refused)
}

/// Where to attack.
#[derive(Clone)]
struct Place {
    address: String,
    shm: String,
}

#[derive(Clone, Copy, Debug)]
enum Attack {
    /// Answers of 0.8 MB each that are not read.
    Unread,
    /// Messages of which next to nothing comes.
    Announced,
    /// Whole messages whose calls do not end.
    Unended,
    /// Calls that are reset as they begin.
    Resets,
    /// Calls that are cancelled while they wait.
    Cancelled,
    /// As much work as one connection takes.
    Greedy,
    /// Connections that say nothing.
    Silent,
    /// The same where memory is handed over.
    SilentControl,
    /// Connections that say hello, and live on pings.
    Idle,
    /// What is no HTTP/2, and no message.
    Garbage,
}

const ATTACKS: [Attack; 10] = [
    Attack::Unread,
    Attack::Announced,
    Attack::Unended,
    Attack::Resets,
    Attack::Cancelled,
    Attack::Greedy,
    Attack::Silent,
    Attack::SilentControl,
    Attack::Idle,
    Attack::Garbage,
];

impl Attack {
    /// Does it once. The server may cut it off at any moment, which is its right.
    async fn run(&self, place: &Place) {
        let sent = match self {
            Self::Unread => self.send(place, 0, 32, |stream| {
                [headers(stream, "Sample"), frame(DATA, END_STREAM, stream, &greedy())].concat()
            }),
            Self::Announced => self.send(place, 65_535, 16, |stream| {
                let beginning = announced(16 << 20, &[0x1a, 0xf0, 0xff, 0xff, 0x07]);
                [headers(stream, "Sample"), frame(DATA, 0, stream, &beginning)].concat()
            }),
            Self::Unended => self.send(place, 65_535, 16, |stream| {
                let whole = framed(&request(4, 1000, 1));
                [headers(stream, "Sample"), frame(DATA, 0, stream, &whole)].concat()
            }),
            Self::Resets => self.send(place, 65_535, 1000, |stream| {
                [headers(stream, "Sample"), reset(stream)].concat()
            }),
            Self::Cancelled => self.send(place, 65_535, 100, |stream| {
                let call = frame(DATA, END_STREAM, stream, &greedy());
                [headers(stream, "Sample"), call, reset(stream)].concat()
            }),
            Self::Greedy => self.send(place, 1 << 30, 100, |stream| {
                [headers(stream, "Sample"), frame(DATA, END_STREAM, stream, &greedy())].concat()
            }),
            Self::Idle => self.send(place, 65_535, 0, |_| Vec::new()),
            Self::Silent => {
                let mut open = Vec::new();
                for _ in 0..50 {
                    open.extend(TcpStream::connect(&place.address).await);
                }
                return tokio::time::sleep(HOLD).await;
            }
            Self::SilentControl => {
                let mut open = Vec::new();
                for _ in 0..50 {
                    open.extend(UnixStream::connect(&place.shm).await);
                }
                return tokio::time::sleep(HOLD).await;
            }
            Self::Garbage => {
                for salt in 0..20 {
                    let noise = crate::harness::logits(1, 5000, salt);
                    if let Ok(mut socket) = TcpStream::connect(&place.address).await {
                        let _ = socket.write_all(&noise).await;
                    }
                }
                return self
                    .send(place, 65_535, 50, |stream| {
                        let nonsense = announced(4, &[0xff; 4]);
                        [headers(stream, "Sample"), frame(DATA, END_STREAM, stream, &nonsense)]
                            .concat()
                    })
                    .await;
            }
        };
        sent.await;
    }

    /// Opens a connection with this window a stream, makes calls on it, and reads what comes for a while. The calls come
    /// once the server has said how large its own windows are: else it may cut the connection off for more bytes than it
    /// has allowed, and that is another attack.
    async fn send(&self, place: &Place, window: u32, calls: u32, call: fn(u32) -> Vec<u8>) {
        let attempt = async {
            let mut connection = Frames::try_connect(&place.address, window).await.ok()?;
            while connection.next().await?.kind != frames::WINDOW_UPDATE {}
            let calls: Vec<u8> = (0..calls).flat_map(|n| call(2 * n + 1)).collect();
            connection.socket.write_all(&calls).await.ok()?;
            loop {
                let ping = frame(frames::PING, 0, 0, &[1; 8]);
                connection.socket.write_all(&ping).await.ok()?;
                while connection.next().await?.kind != frames::PING {}
                tokio::time::sleep(HOLD / 10).await;
            }
        };
        let _: Result<Option<()>, _> = tokio::time::timeout(HOLD, attempt).await;
    }
}

fn reset(stream: u32) -> Vec<u8> {
    frame(RST_STREAM, 0, stream, &8u32.to_be_bytes())
}

/// A message of 64 rows with 1,024 draws each.
fn greedy() -> Bytes {
    let params = SamplingParams { draws: Some(1024), seed: Some(7), ..Default::default() };
    framed(&SampleRequest { params: vec![params], ..request(64, 8, 1) })
}
