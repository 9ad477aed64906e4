//! Queues requests, forms batches while the devices are busy, and hands each request its own rows.
//!
//! A caller [reserves](Engine::reserve) room, [submits](Engine::submit) its request and awaits the
//! [`Ticket`]. The request waits in `queue`; one thread a device (`worker`) takes whatever waits when
//! the device falls free, samples it as one batch and answers every request in it; one more thread
//! (`timer`) answers requests whose deadline passes first. What is accepted is bounded by `permits`,
//! and every accepted request is answered, whatever happens to the devices.
//!
//! There is one lock around the queue, held for as long as it takes to add a request or to form a
//! batch. Nothing is dropped, answered or computed under it.

mod cost;
mod device;
mod evaluate;
mod homes;
mod metrics;
mod permits;
pub mod priority;
mod queue;
mod request;
mod slots;
mod timer;
mod turns;
mod verify;
mod work;
mod worker;
mod yielding;

pub use evaluate::{
    DEVICE as EVALUATION_DEVICE, Evaluated, EvaluationRequest, EvaluationRow, EvaluationTicket,
    Evaluations,
};
pub use permits::{Freed, Permit};
pub use request::{Completed, Failure, Priority, Refused, Request, RequestRow, Resource, Timings};
pub use turns::{ConnectionId, GroupId, Source};
pub use verify::{Dump, Verify};

use device::Device;
use logitd_core::backend::{Backend, DeviceInfo};
use logitd_core::params::DRAWS_MAX;
use metrics::Metrics;
use permits::{Limits, Permits};
use queue::{Budget, Queue, Ready};
use slots::Key;
use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};
use tokio::sync::{oneshot, watch};
use work::{Work, WorkOutcome};
use worker::Worker;

/// Every limit of the engine. Limits of 0 count as 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EngineConfig {
    /// Rows in one batch.
    pub batch_rows_max: usize,
    /// Bytes of logits in one batch; a row must fit. A batch of rows that are slow for their size ends with the one
    /// that makes it take as long as this many bytes of plain rows on every thread of the device.
    pub batch_bytes_max: usize,
    /// Draws in one batch; below those of one row it counts as those.
    pub batch_draws_max: usize,
    /// Rows waiting or being sampled, of all callers together.
    pub queue_rows_max: usize,
    /// Bytes of logits waiting or being sampled, of all callers together.
    pub queue_bytes_max: usize,
    /// How long a batch that is not full waits for more.
    pub batch_delay: Duration,
    /// How many batches in a row may take nothing from the first request of a priority, because
    /// higher ones or smaller rows fill them. Then it opens the next.
    pub passed_over_max: u32,
    /// The longest wait that a refusal may ask for.
    pub retry_after_max: Duration,
}

impl Default for EngineConfig {
    fn default() -> Self {
        Self {
            batch_rows_max: 256,
            batch_bytes_max: 256 << 20,
            batch_draws_max: 1 << 14,
            queue_rows_max: 4096,
            queue_bytes_max: 1 << 30,
            batch_delay: Duration::ZERO,
            passed_over_max: 8,
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
    pub fallback: Option<MakeBackend>,
    /// Whether some batches are computed twice and compared.
    pub verify: Option<Verify>,
}

/// Makes a backend when one is needed.
pub type MakeBackend = Box<dyn FnOnce() -> Box<dyn Backend> + Send>;

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
        let Devices { mut backends, mut fallback, verify } = devices.into();
        if backends.is_empty() {
            backends.extend(fallback.take().map(|make| make()));
        }
        let devices: Vec<_> = backends.iter().map(|b| Device::new(b.device())).collect();
        let shared = Arc::new(Shared::new(config, &devices, fallback));
        if devices.is_empty() {
            shared.permits.close(Refused::NoDevice);
        }

        let mut handles = Vec::new();
        let sampler = verify.map(|verify| {
            let (sampler, handle) = verify::start(&shared, verify);
            handles.push(handle);
            sampler
        });
        for (at, (backend, device)) in backends.into_iter().zip(devices).enumerate() {
            let worker = Worker::new(Arc::clone(&shared), backend, device, at, sampler.clone());
            handles.push(spawn("logitd-worker", move || worker.run()));
        }
        let timer = Arc::clone(&shared);
        handles.push(spawn("logitd-timer", move || timer::run(timer)));
        Engine { threads: Arc::new(Threads { shared, handles }) }
    }

    /// Takes permits, at once or not at all. They are released when the [`Permit`], or the request it
    /// went into, is gone.
    pub fn reserve(&self, rows: usize, bytes: usize) -> Result<Permit, Refused> {
        self.shared().permits.take(rows, bytes)
    }

    /// How long it takes to answer so many bytes of logits at the recent rate, as refusals say it.
    pub fn time_for(&self, bytes: usize) -> Duration {
        self.shared().permits.time_for(bytes)
    }

    /// The longest wait that refusals name.
    pub fn retry_after_max(&self) -> Duration {
        self.shared().permits.retry_after_max()
    }

    /// The bytes of permits that have been given back.
    pub fn freed(&self) -> &Freed {
        &self.shared().permits.freed
    }

    /// Queues a request. The permit is resized to it if it differs.
    pub fn submit(&self, mut permit: Permit, request: Request) -> Result<Ticket, Refused> {
        let shared = self.shared();
        let now = Instant::now();
        let (rows, bytes) = shared.check(&request, now)?;
        if (rows, bytes) != (permit.rows(), permit.bytes()) {
            permit.resize(rows, bytes)?;
        }
        let home = shared.home(&request);
        let (work, answer) = Work::new(request, permit, home, now);
        let key = shared.push(work, now)?;
        Ok(Ticket { shared: Arc::clone(shared), key, answer, answered: false })
    }

    /// Takes no more work, and resolves when everything accepted has been answered. A permit counts as
    /// accepted: its request may still come.
    pub async fn drain(&self) {
        let shared = self.shared();
        shared.permits.close(Refused::Draining);
        shared.lock().queue.end_delay(Instant::now());
        shared.work.notify_all();
        shared.permits.drained().await;
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
    shared: Arc<Shared>,
    key: Key,
    answer: oneshot::Receiver<WorkOutcome>,
    answered: bool,
}

impl Future for Ticket {
    type Output = WorkOutcome;

    /// # Panics
    /// If it has been ready before.
    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<WorkOutcome> {
        let answer = Pin::new(&mut self.answer).poll(cx);
        self.answered = answer.is_ready();
        // A sender that is dropped unused was part of an engine that stopped.
        answer.map(|answer| answer.unwrap_or(Err(Failure::Cancelled)))
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        if !self.answered {
            self.answer.close();
            self.shared.cancel(self.key);
        }
    }
}

/// What callers and threads share.
struct Shared {
    config: EngineConfig,
    permits: Arc<Permits>,
    metrics: Metrics,
    /// The ids of the devices that there were at the start.
    ids: Vec<String>,
    devices: watch::Sender<Vec<DeviceState>>,
    state: Mutex<State>,
    /// Told when there is work, or when a worker has to look up.
    work: Condvar,
    /// Told when a deadline comes before all others.
    timer: Condvar,
}

struct State {
    queue: Queue<Arc<Work>>,
    /// Workers that sleep and have not been signalled.
    idle: usize,
    /// Signals on their way to a sleeping worker.
    signals: usize,
    /// Devices that take work.
    up: usize,
    fallback: Option<MakeBackend>,
    /// When the timer wakes by itself.
    timer_at: Option<Instant>,
    stopped: bool,
}

impl Shared {
    fn new(config: EngineConfig, devices: &[Arc<Device>], fallback: Option<MakeBackend>) -> Self {
        let metrics = Metrics::new();
        let up = |device: &Arc<Device>| {
            device.metrics.up.set(1.0);
            DeviceState { info: Arc::clone(&device.info), up: true }
        };
        let permits = Permits::new(Limits {
            rows: config.queue_rows_max.max(1),
            bytes: config.queue_bytes_max.max(1),
            retry_after_max: config.retry_after_max,
        });
        let state = State {
            queue: Queue::new(queue::Config {
                budget: Budget {
                    rows: config.batch_rows_max.max(1),
                    bytes: config.batch_bytes_max.max(1),
                    draws: config.batch_draws_max.max(DRAWS_MAX as usize),
                    cost: batch_cost(&config, devices),
                },
                shared_cost: shared_cost(devices),
                delay: config.batch_delay,
                passed_over_max: config.passed_over_max,
            }),
            idle: 0,
            signals: 0,
            up: devices.len(),
            fallback,
            timer_at: None,
            stopped: false,
        };
        Self {
            config,
            permits: Arc::new(permits),
            metrics,
            ids: devices.iter().map(|device| device.info.id.clone()).collect(),
            devices: watch::Sender::new(devices.iter().map(up).collect()),
            state: Mutex::new(state),
            work: Condvar::new(),
            timer: Condvar::new(),
        }
    }

    /// The rows and bytes of a request that can be queued.
    fn check(&self, request: &Request, now: Instant) -> Result<(usize, usize), Refused> {
        if request.deadline.is_some_and(|deadline| deadline <= now) {
            return Err(Refused::DeadlineExceeded);
        }
        let limit = self.config.batch_bytes_max.max(1);
        match request.rows.iter().map(RequestRow::size_bytes).max() {
            None => Err(Refused::Empty),
            Some(asked) if asked > limit => {
                Err(Refused::TooLarge { what: Resource::BatchBytes, limit, asked })
            }
            Some(_) => Ok((request.rows.len(), request.bytes())),
        }
    }

    /// The one of several devices in whose memory the request's logits lie.
    fn home(&self, request: &Request) -> Option<usize> {
        if self.ids.len() < 2 {
            return None;
        }
        let loan = request.rows.first()?.loan()?;
        self.ids.iter().position(|id| loan.address_on(id, 0).is_some())
    }

    fn push(&self, work: Arc<Work>, now: Instant) -> Result<Key, Refused> {
        let (source, priority, deadline) = (work.source, work.priority, work.deadline);
        let mut state = self.lock();
        if state.up == 0 || state.stopped {
            let refused = if state.stopped { Refused::Draining } else { Refused::NoDevice };
            drop(state);
            return Err(refused);
        }
        let was = state.queue.ready(now);
        let key = state.queue.push(work, source, priority, deadline, now);
        self.gauge(&state);
        // A worker that sleeps until a batch is due need not wake for less; where there are homes, it may sleep for longer.
        let ready = state.queue.ready(now);
        let is_news = ready == Ready::Now || ready != was || state.queue.has_homes();
        let wake = if is_news { state.wake() } else { Wake::Nobody };
        let wake_timer = deadline.is_some_and(|d| state.timer_at.is_none_or(|at| d < at));
        if wake_timer {
            state.timer_at = deadline;
        }
        drop(state);
        self.notify(wake);
        if wake_timer {
            self.timer.notify_one();
        }
        Ok(key)
    }

    /// Takes a request out whose ticket is gone.
    fn cancel(&self, key: Key) {
        let mut removed = Vec::new();
        let mut state = self.lock();
        removed.extend(state.queue.cancel(key));
        if state.queue.has_returned() {
            state.queue.cancel_returned(|work| work.is_wanted(), &mut removed);
        }
        self.gauge(&state);
        drop(state);
    }

    /// Ends everything that waits, now and later.
    fn stop(&self) {
        let mut waiting = Vec::new();
        let mut state = self.lock();
        state.stopped = true;
        state.queue.clear(&mut waiting);
        self.gauge(&state);
        drop(state);
        self.work.notify_all();
        self.timer.notify_all();
        waiting.into_iter().for_each(|work| work.fail(Failure::Cancelled));
    }

    /// Wakes the workers that were picked.
    fn notify(&self, wake: Wake) {
        match wake {
            Wake::Nobody => {}
            Wake::One => self.work.notify_one(),
            Wake::All => self.work.notify_all(),
        }
    }

    fn gauge(&self, state: &State) {
        self.metrics.queue_rows.set(state.queue.waiting().rows as f64);
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // Nothing panics half way through a change of the state.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Who of the sleeping workers is to be woken.
#[must_use]
enum Wake {
    Nobody,
    One,
    All,
}

impl State {
    /// Picks one sleeping worker to be woken, if there is one; all of them where rows wait that only one of them takes.
    fn wake(&mut self) -> Wake {
        let (woken, wake) = match self.idle {
            0 => (0, Wake::Nobody),
            idle if self.queue.has_homes() => (idle, Wake::All),
            _ => (1, Wake::One),
        };
        self.idle -= woken;
        self.signals += woken;
        wake
    }
}

/// The threads, joined when the last handle goes.
struct Threads {
    shared: Arc<Shared>,
    handles: Vec<JoinHandle<()>>,
}

impl Drop for Threads {
    fn drop(&mut self) {
        self.shared.stop();
        // The last handle may go on one of these threads, with a task that it wakes: then they end
        // behind our back.
        let own = std::thread::current().id();
        if self.handles.iter().all(|handle| handle.thread().id() != own) {
            for handle in self.handles.drain(..) {
                let _ = handle.join();
            }
        }
    }
}

/// What the rows of a batch may cost together: as much as plain ones that fill it, on each thread of the largest device. Of a
/// GPU as on the processor, which samples what kernels do not.
fn batch_cost(config: &EngineConfig, devices: &[Arc<Device>]) -> u64 {
    let cores = || std::thread::available_parallelism().map_or(1, usize::from);
    let threads = devices.iter().map(|device| match device.info.threads {
        0 => cores(),
        threads => threads,
    });
    let plain = cost::of_plain(config.batch_rows_max.max(1), config.batch_bytes_max.max(1));
    plain.saturating_mul(threads.max().unwrap_or(1) as u64)
}

/// The same while several sources send requests: what each thread does in about a millisecond. On a GPU a launch takes as long
/// however few rows it has, so there batches stay as large as they can be.
fn shared_cost(devices: &[Arc<Device>]) -> u64 {
    let is_gpu = |device: &Arc<Device>| device.info.threads == 0;
    let threads = devices.iter().map(|device| device.info.threads as u64).max().unwrap_or(1);
    if devices.iter().any(is_gpu) { u64::MAX } else { cost::MILLISECOND * threads }
}

fn spawn(name: &str, run: impl FnOnce() + Send + 'static) -> JoinHandle<()> {
    std::thread::Builder::new().name(name.into()).spawn(run).expect("a thread can be started")
}
