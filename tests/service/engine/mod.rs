//! The engine's promises, on backends that do what a test tells them.

mod batching;
mod ending;
mod failures;
mod limits;
mod loans;
mod turns;
mod watching;

use bytes::Bytes;
use logitd::engine::{
    Completed, Devices, Engine, EngineConfig, Failure, MakeBackend, Priority, Refused, Request,
    RequestRow, Resource, Source, Ticket, Verify,
};
use logitd::files::difference::writer;
use logitd_core::backend::reference::Reference;
use logitd_core::backend::{Backend, DeviceError, DeviceInfo};
use logitd_core::batch::{Dtype, Loan, LoanError, Results, Row};
use logitd_core::params::ParamsSpec;
use std::collections::VecDeque;
use std::future::Future;
use std::pin::pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, Wake, Waker};
use std::time::{Duration, Instant};

/// Longer than anything takes; ends a test that would hang.
const LONG: Duration = Duration::from_secs(60);

/// A row whose logits and seed follow from `n`.
fn row(n: u64) -> RequestRow {
    let params = ParamsSpec { seed: Some(n), ..Default::default() }.parse(|| 0).unwrap();
    let logits: Vec<u8> = (0..64).map(|i| (n.wrapping_mul(2 * i + 1) >> 3) as u8 & 0x3f).collect();
    RequestRow::new(Dtype::F16, Bytes::from(logits), params).unwrap()
}

const ROW_BYTES: usize = 64;

fn request(rows: impl IntoIterator<Item = u64>) -> Request {
    let rows = rows.into_iter().map(row).collect();
    Request { rows, deadline: None, priority: Priority::Normal, source: Source::default() }
}

fn expected(request: &Request) -> Results {
    let rows: Vec<Row<'_>> = request.rows.iter().map(|row| row.as_row()).collect();
    let mut results = Results::default();
    Reference::default().sample(&rows, &mut results).unwrap();
    results
}

/// Reserves and submits.
fn submit(engine: &Engine, request: Request) -> Result<Ticket, Refused> {
    let permit = engine.reserve(request.rows.len(), request.bytes())?;
    engine.submit(permit, request)
}

async fn answer(ticket: Ticket) -> Result<Completed, Failure> {
    tokio::time::timeout(LONG, ticket).await.expect("every request is answered")
}

/// What a scripted backend does with a batch. When the script is over it samples.
#[derive(Clone, Copy, Debug)]
enum Step {
    Sample,
    Fail,
    Panic,
    /// Leaves out the last row.
    Short,
    /// Flips a bit of the first row.
    Wrong,
}

/// The oracle, doing as it is told, and telling the first seed of each row it was given.
struct Scripted {
    reference: Reference,
    device: DeviceInfo,
    steps: VecDeque<Step>,
    seen: Option<Sender<Vec<u64>>>,
    /// A batch waits here for a word.
    gate: Option<Receiver<()>>,
    dropped: Arc<AtomicUsize>,
}

impl Scripted {
    fn new(id: &str, steps: impl IntoIterator<Item = Step>) -> Self {
        let reference = Reference::default();
        let device = DeviceInfo { id: id.into(), ..reference.device().clone() };
        let steps = steps.into_iter().collect();
        Self { reference, device, steps, seen: None, gate: None, dropped: Arc::default() }
    }

    /// Opens its batches one by one and sees what is in them.
    fn gated(mut self) -> (Self, Gate) {
        let ((seen, batches), (open, gate)) = (channel(), channel());
        (self.seen, self.gate) = (Some(seen), Some(gate));
        (self, Gate { batches, open })
    }

    fn boxed(self) -> Box<dyn Backend> {
        Box::new(self)
    }
}

impl Drop for Scripted {
    fn drop(&mut self) {
        self.dropped.fetch_add(1, Ordering::Relaxed);
    }
}

impl Backend for Scripted {
    fn device(&self) -> &DeviceInfo {
        &self.device
    }

    fn sample(&mut self, rows: &[Row<'_>], results: &mut Results) -> Result<(), DeviceError> {
        if let Some(seen) = &self.seen {
            let _ = seen.send(rows.iter().map(|row| row.params().seed()).collect());
        }
        if let Some(gate) = &self.gate {
            // A test that has ended lets everything through.
            let _ = gate.recv_timeout(LONG);
        }
        match self.steps.pop_front().unwrap_or(Step::Sample) {
            Step::Sample => self.reference.sample(rows, results),
            Step::Fail => {
                results.reset(rows);
                let reason = "told to".into();
                Err(DeviceError { device: self.device.id.clone(), reason })
            }
            Step::Panic => panic!("told to"),
            Step::Short => self.reference.sample(&rows[..rows.len() - 1], results),
            Step::Wrong => {
                self.reference.sample(rows, results)?;
                results.slots().next().unwrap().outcome.kept_mass ^= 1;
                Ok(())
            }
        }
    }
}

struct Gate {
    batches: Receiver<Vec<u64>>,
    open: Sender<()>,
}

impl Gate {
    /// Waits until a batch is at the gate; the seeds of its rows.
    fn arrived(&self) -> Vec<u64> {
        self.batches.recv_timeout(LONG).expect("a batch comes")
    }

    fn open(&self) {
        self.open.send(()).unwrap();
    }

    /// Lets a batch pass.
    fn pass(&self) -> Vec<u64> {
        let seeds = self.arrived();
        self.open();
        seeds
    }
}

fn start(backends: impl IntoIterator<Item = Scripted>) -> Engine {
    start_with(EngineConfig::default(), backends)
}

fn start_with(config: EngineConfig, backends: impl IntoIterator<Item = Scripted>) -> Engine {
    Engine::start(config, backends.into_iter().map(Scripted::boxed).collect::<Vec<_>>())
}

fn make(backend: Scripted) -> MakeBackend {
    Box::new(|| backend.boxed())
}

/// An engine with a gate, and a request at it.
fn start_busy(config: EngineConfig) -> (Engine, Gate, Ticket) {
    let (backend, gate) = Scripted::new("gated", []).gated();
    let engine = start_with(config, [backend]);
    let busy = submit(&engine, request([1000])).unwrap();
    assert_eq!(gate.arrived(), [1000]);
    (engine, gate, busy)
}

fn ups(engine: &Engine) -> Vec<(String, bool)> {
    engine.devices().into_iter().map(|state| (state.info.id.clone(), state.up)).collect()
}

/// Waits for what another thread is about to do.
async fn until(done: impl Fn() -> bool) {
    tokio::time::timeout(LONG, async {
        while !done() {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    })
    .await
    .expect("it happens");
}

fn poll<F: Future>(future: std::pin::Pin<&mut F>) -> Poll<F::Output> {
    future.poll(&mut Context::from_waker(Waker::noop()))
}
