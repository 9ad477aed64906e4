//! Queues requests, forms batches while the devices are busy, and hands each request its own rows.
//!
//! A caller [reserves](Engine::reserve) room, [submits](Engine::submit) its request and awaits the
//! [`Ticket`]. One worker thread a device takes whatever waits when the device falls free, samples it
//! as one batch, and answers every request in it.

mod permits;
mod request;
mod worker;

pub use permits::Permit;
pub use request::{Completed, Failure, Priority, Refused, Request, RequestRow, Resource, Timings};

use crate::backend::{Backend, DeviceInfo};
use permits::{Limits, Permits};
use std::collections::VecDeque;
use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};
use tokio::sync::{oneshot, watch};
use worker::{Work, Worker};

/// Every limit of the engine. Limits of 0 count as 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EngineConfig {
    /// Rows in one batch.
    pub batch_rows_max: usize,
    /// Bytes of logits in one batch; a row must fit.
    pub batch_bytes_max: usize,
    /// Rows waiting or being sampled, of all callers together.
    pub queue_rows_max: usize,
    /// Bytes of logits waiting or being sampled, of all callers together.
    pub queue_bytes_max: usize,
    /// How long a batch that is not full waits for more.
    pub batch_delay: Duration,
    /// The longest wait that a refusal may ask for.
    pub retry_after_max: Duration,
}

impl Default for EngineConfig {
    fn default() -> Self {
        Self {
            batch_rows_max: 256,
            batch_bytes_max: 256 << 20,
            queue_rows_max: 4096,
            queue_bytes_max: 1 << 30,
            batch_delay: Duration::ZERO,
            retry_after_max: Duration::from_secs(1),
        }
    }
}

/// What the engine computes with.
#[derive(Default)]
pub struct Devices {
    /// One worker thread each.
    pub backends: Vec<Box<dyn Backend>>,
    /// Makes the backend that takes over when the last of them has failed.
    pub fallback: Option<Fallback>,
}

/// Makes a backend when one is needed.
pub type Fallback = Box<dyn FnOnce() -> Box<dyn Backend> + Send>;

impl From<Vec<Box<dyn Backend>>> for Devices {
    fn from(backends: Vec<Box<dyn Backend>>) -> Self {
        Self { backends, ..Self::default() }
    }
}

/// A device and how it fares.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeviceState {
    /// What it is.
    pub info: Arc<DeviceInfo>,
    /// Whether it takes work.
    pub up: bool,
}

/// A cheap handle. When the last one is dropped the engine stops: batches that run are finished, what
/// waits is answered [`Failure::Cancelled`], and the threads are joined. [Drain](Self::drain) first
/// to lose nothing.
#[derive(Clone)]
pub struct Engine {
    threads: Arc<Threads>,
}

impl Engine {
    /// Starts one thread a backend. Install the metrics recorder before, or metrics go nowhere.
    pub fn start(config: EngineConfig, devices: impl Into<Devices>) -> Engine {
        let devices = devices.into();
        let states = devices
            .backends
            .iter()
            .map(|b| DeviceState { info: Arc::new(b.device().clone()), up: true })
            .collect();
        let shared = Arc::new(Shared {
            permits: Arc::new(Permits::new(Limits {
                rows: config.queue_rows_max.max(1),
                bytes: config.queue_bytes_max.max(1),
                retry_after_max: config.retry_after_max,
            })),
            config,
            state: Mutex::default(),
            work: Condvar::new(),
            devices: watch::Sender::new(states),
        });
        let handles = devices
            .backends
            .into_iter()
            .map(|backend| {
                let worker = Worker::new(Arc::clone(&shared), backend);
                std::thread::Builder::new()
                    .name("logitd-worker".into())
                    .spawn(move || worker.run())
                    .expect("a thread can be started")
            })
            .collect();
        Engine { threads: Arc::new(Threads { shared, handles }) }
    }

    /// Takes permits, at once or not at all. They are released when the [`Permit`], or the request it
    /// went into, is gone.
    pub fn reserve(&self, rows: usize, bytes: usize) -> Result<Permit, Refused> {
        self.shared().permits.take(rows, bytes)
    }

    /// Queues a request. The permit is resized to it if it differs.
    pub fn submit(&self, mut permit: Permit, request: Request) -> Result<Ticket, Refused> {
        let shared = self.shared();
        if request.rows.is_empty() {
            return Err(Refused::Empty);
        }
        let now = Instant::now();
        if request.deadline.is_some_and(|deadline| deadline <= now) {
            return Err(Refused::DeadlineExceeded);
        }
        let limit = shared.config.batch_bytes_max.max(1);
        let asked = request.rows.iter().map(|row| row.logits().len()).max().unwrap_or(0);
        if asked > limit {
            return Err(Refused::TooLarge { what: Resource::BatchBytes, limit, asked });
        }
        let (rows, bytes) = (request.rows.len(), request.bytes());
        if (rows, bytes) != (permit.rows(), permit.bytes()) {
            permit.resize(rows, bytes)?;
        }
        let (answer, ticket) = oneshot::channel();
        let work = Work { request, permit, answer, accepted: now };
        shared.lock().queue.push_back(work);
        shared.work.notify_one();
        Ok(Ticket { answer: ticket })
    }

    /// Takes no more work, and resolves when everything accepted has been answered. A permit counts as
    /// accepted: its request may still come.
    pub async fn drain(&self) {
        self.shared().permits.close();
        self.shared().permits.drained().await;
    }

    /// What it computes with, and how that fares.
    pub fn devices(&self) -> Vec<DeviceState> {
        self.shared().devices.borrow().clone()
    }

    /// [`devices`](Self::devices), with news when one fails or takes over.
    pub fn watch_devices(&self) -> watch::Receiver<Vec<DeviceState>> {
        self.shared().devices.subscribe()
    }

    fn shared(&self) -> &Arc<Shared> {
        &self.threads.shared
    }
}

/// Resolves to the answer. Dropping it cancels: a request that waits leaves the queue and frees its
/// permits; one that runs is finished for nobody.
pub struct Ticket {
    answer: oneshot::Receiver<Result<Completed, Failure>>,
}

impl Future for Ticket {
    type Output = Result<Completed, Failure>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        Pin::new(&mut self.answer).poll(cx).map(|answer| answer.unwrap_or(Err(Failure::Cancelled)))
    }
}

/// What callers and threads share.
struct Shared {
    config: EngineConfig,
    permits: Arc<Permits>,
    state: Mutex<State>,
    /// Told when there is work, or none will ever come.
    work: Condvar,
    devices: watch::Sender<Vec<DeviceState>>,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        // Nothing panics half way through a change of the state.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[derive(Default)]
struct State {
    queue: VecDeque<Work>,
    stopped: bool,
}

/// The threads, joined when the last handle goes.
struct Threads {
    shared: Arc<Shared>,
    handles: Vec<JoinHandle<()>>,
}

impl Drop for Threads {
    fn drop(&mut self) {
        self.shared.lock().stopped = true;
        self.shared.work.notify_all();
        for handle in self.handles.drain(..) {
            // The last handle may go on one of these threads, with a task that it wakes.
            if handle.thread().id() != std::thread::current().id() {
                let _ = handle.join();
            }
        }
    }
}
