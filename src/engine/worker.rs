//! The threads that own backends.
//!
//! ```text
//! wait until the queue has a batch
//!     sample it
//!     ok     -> hand each request its rows
//!     failed -> the device is out:
//!         others are up       -> they get the batch, first in the queue; this thread ends
//!         there is a fallback -> this thread goes on with it, beginning with the same batch
//!         else                -> every request is answered with the failure
//! ```

use super::device::Device;
use super::queue::{Part, Ready};
use super::verify::Sampler;
use super::work::{Letter, Ran, Work};
use super::yielding::{self, Yielding};
use super::{DeviceState, Failure, Refused, Shared, State, Wake};
use logitd_core::backend::{Backend, DeviceError};
use logitd_core::batch::{Results, Row};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::Ordering;
use std::sync::{Arc, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

pub(super) struct Worker {
    shared: Arc<Shared>,
    device: Arc<Device>,
    /// Its place among the devices of the start.
    at: usize,
    backend: Box<dyn Backend>,
    sampler: Option<Sampler>,
    batch: Batch,
    /// After how much computing to yield, while several sources send requests.
    stretch: Option<Duration>,
    yielding: Yielding,
}

/// The present batch. All of its memory is used again for the next.
#[derive(Default)]
struct Batch {
    parts: Vec<Part<Arc<Work>>>,
    expired: Vec<Arc<Work>>,
    rows: Vec<Row<'static>>,
    results: Results,
    letters: Vec<Letter>,
}

/// What a worker finds when it looks for work.
enum Next {
    Batch,
    Condemned,
    Stopped,
}

impl Worker {
    pub fn new(
        shared: Arc<Shared>,
        backend: Box<dyn Backend>,
        device: Arc<Device>,
        at: usize,
        sampler: Option<Sampler>,
    ) -> Self {
        let (batch, yielding) = (Batch::default(), Yielding::default());
        Self { shared, device, at, backend, sampler, batch, stretch: None, yielding }
    }

    /// Runs until the engine stops or the device is lost with nothing to take its place.
    pub fn run(self) {
        let (shared, device, at) = (Arc::clone(&self.shared), Arc::clone(&self.device), self.at);
        if catch_unwind(AssertUnwindSafe(|| self.work())).is_err() {
            // Not the backend: what we call or are. Its batch is lost, the others must not hang.
            tracing::error!(device = %device.info.id, "a worker panicked");
            let mut state = shared.lock();
            state.up -= 1;
            state.queue.close_home(at);
            let wake = state.wake();
            let reason = "its worker panicked".into();
            shared.end_if_last(state, DeviceError { device: device.info.id.clone(), reason });
            shared.notify(wake);
            shared.set_up(&device, false);
        }
    }

    fn work(mut self) {
        loop {
            let outcome = match self.next_batch() {
                Next::Batch => self.run_batch(),
                Next::Condemned => Err(self.error("its results differ from a second computation")),
                Next::Stopped => return,
            };
            let Err(error) = outcome else { continue };
            let Some(replaced) = self.replace(error) else { return };
            self = replaced;
        }
    }

    /// Waits for a batch and takes it.
    fn next_batch(&mut self) -> Next {
        if !self.batch.parts.is_empty() {
            return Next::Batch;
        }
        let mut state = self.shared.lock();
        let now = loop {
            if state.stopped {
                return Next::Stopped;
            }
            if self.device.condemned.load(Ordering::Relaxed) {
                return Next::Condemned;
            }
            let now = Instant::now();
            let left = match state.queue.ready_for(self.at, now) {
                Ready::Now => break now,
                Ready::At(due) => Some(due - now),
                Ready::Empty => None,
            };
            state = self.shared.wait(state, left);
        };
        let Batch { parts, expired, .. } = &mut self.batch;
        let is_shared = state.queue.is_shared(now);
        state.queue.take_batch(self.at, now, parts, expired);
        self.stretch = is_shared.then(|| yielding::stretch(state.queue.is_long()));
        self.shared.gauge(&state);
        let wake = match state.queue.ready(now) {
            Ready::Now => state.wake(),
            _ => Wake::Nobody,
        };
        drop(state);
        self.shared.notify(wake);
        Next::Batch
    }

    /// Runs the batch and answers its requests. On an error its parts are still there.
    fn run_batch(&mut self) -> Result<(), DeviceError> {
        // Keeps a drain from resolving between the end of a request's permit and its answer.
        let _unanswered = self.shared.permits.hold();
        let start = Instant::now();
        self.drop_unwanted(start);
        if self.batch.parts.is_empty() {
            return Ok(());
        }

        let Batch { parts, results, rows: memory, .. } = &mut self.batch;
        let mut rows = recycle(std::mem::take(memory));
        rows.extend(parts.iter().flat_map(|part| part.item.rows(part.rows.clone())));
        let count = rows.len();
        let bytes = rows.iter().map(Row::bytes).sum();
        let outcome = sample(self.backend.as_mut(), &self.device, &rows, results);
        *memory = recycle(rows);
        outcome?;
        if self.batch.results.len() != count {
            let answered = self.batch.results.len();
            return Err(self.error(&format!("it answered {answered} of {count} rows")));
        }

        let busy = start.elapsed();
        self.shared.served(count, bytes, busy);
        let copy = self.backend.copy_time().min(busy);
        self.count(start, copy, busy - copy);
        if let Some(sampler) = &mut self.sampler {
            sampler.offer(&self.device, &self.batch.parts, &self.batch.results);
        }
        self.answer(Ran {
            start,
            copy,
            compute: busy - copy,
            device: &Arc::clone(&self.device.info),
        });
        if let Some(stretch) = self.stretch {
            self.yielding.give(busy, stretch);
        }
        Ok(())
    }

    /// The last look before launch: removes what nobody waits for any more.
    fn drop_unwanted(&mut self, now: Instant) {
        let Batch { parts, expired, .. } = &mut self.batch;
        parts.retain(|part| {
            if part.item.deadline.is_some_and(|deadline| deadline <= now) {
                expired.push(Arc::clone(&part.item));
                return false;
            }
            part.item.is_wanted()
        });
        expired.drain(..).for_each(|work| work.fail(Failure::DeadlineExceeded));
    }

    /// Hands each request its rows.
    fn answer(&mut self, ran: Ran<'_>) {
        let Batch { parts, results, letters, .. } = &mut self.batch;
        let mut at = 0;
        for part in parts.drain(..) {
            let rows = part.rows.len();
            letters.extend(part.item.complete(part.rows, results, at, ran));
            at += rows;
        }
        // Every permit is free by now, so that whoever is answered can come again at once.
        letters.drain(..).for_each(Letter::send);
    }

    fn count(&self, start: Instant, copy: Duration, compute: Duration) {
        let metrics = &self.shared.metrics;
        metrics.batches.increment(1);
        metrics.batch_rows.record(self.batch.results.len() as f64);
        metrics.copy.record(copy);
        metrics.compute.record(compute);
        for part in &self.batch.parts {
            metrics.queue_wait.record(part.item.waited(start));
        }
        self.device.metrics.count_rows(&self.batch.results);
    }

    /// Takes the device out. The worker that comes back has another one.
    fn replace(self, error: DeviceError) -> Option<Self> {
        let Self { shared, device, at, backend, sampler, mut batch, stretch, yielding } = self;
        tracing::error!(device = %error.device, reason = %error.reason, "device taken out");
        let _ = catch_unwind(AssertUnwindSafe(|| drop(backend)));

        let _unanswered = shared.permits.hold();
        let mut state = shared.lock();
        state.up -= 1;
        state.queue.close_home(at);
        if state.stopped {
            drop(state);
            shared.set_up(&device, false);
            batch.fail(&Failure::Cancelled);
            return None;
        }
        if state.up > 0 {
            shared.give_back(state, &mut batch.parts);
            shared.set_up(&device, false);
            return None;
        }
        if let Some(fallback) = state.fallback.take() {
            // While it is being made, requests are accepted and wait.
            state.up += 1;
            drop(state);
            shared.set_up(&device, false);
            if let Ok(backend) = catch_unwind(AssertUnwindSafe(fallback)) {
                let device = Device::new(backend.device());
                tracing::warn!(device = %device.info.id, "fallback takes over");
                shared.set_up(&device, true);
                return Some(Self {
                    shared,
                    device,
                    at,
                    backend,
                    sampler,
                    batch,
                    stretch,
                    yielding,
                });
            }
            tracing::error!("the fallback could not be made");
            state = shared.lock();
            state.up -= 1;
        }
        shared.end_if_last(state, error.clone());
        shared.set_up(&device, false);
        batch.fail(&Failure::Device(error));
        None
    }

    fn error(&self, reason: &str) -> DeviceError {
        DeviceError { device: self.device.info.id.clone(), reason: reason.into() }
    }
}

impl Batch {
    /// Answers everything in it with a failure.
    fn fail(&mut self, failure: &Failure) {
        let parts = self.parts.drain(..).map(|part| part.item);
        parts.chain(self.expired.drain(..)).for_each(|work| work.fail(failure.clone()));
    }
}

/// Runs a backend. A panic is an error of its device.
fn sample(
    backend: &mut dyn Backend,
    device: &Device,
    rows: &[Row<'_>],
    results: &mut Results,
) -> Result<(), DeviceError> {
    // Whatever state the panic leaves behind is not looked at: the backend is dropped, and the
    // results are reset by the next.
    catch_unwind(AssertUnwindSafe(|| backend.sample(rows, results))).unwrap_or_else(|panic| {
        let text = panic.downcast_ref::<&str>().map(|text| (*text).to_owned());
        let text = text.or_else(|| panic.downcast_ref::<String>().cloned());
        let reason = format!("it panicked: {}", text.as_deref().unwrap_or("without words"));
        Err(DeviceError { device: device.info.id.clone(), reason })
    })
}

/// An empty vector in the memory of another. Rows borrow from a batch; the memory of their vector
/// does not, and collecting in place keeps it.
fn recycle<'a>(mut rows: Vec<Row<'_>>) -> Vec<Row<'a>> {
    rows.clear();
    rows.into_iter().map(|_| unreachable!("the vector is empty")).collect()
}

impl Shared {
    /// Sets whether a device takes work, for everybody who asks. A fallback is added.
    fn set_up(&self, device: &Device, up: bool) {
        device.metrics.up.set(f64::from(u8::from(up)));
        self.devices.send_modify(|states| {
            let state = DeviceState { info: Arc::clone(&device.info), up };
            match states.iter_mut().find(|state| Arc::ptr_eq(&state.info, &device.info)) {
                Some(known) => *known = state,
                None => states.push(state),
            }
        });
    }

    /// Puts a batch that did not run back to the head of the queue.
    fn give_back(&self, mut state: MutexGuard<'_, State>, parts: &mut Vec<Part<Arc<Work>>>) {
        let now = Instant::now();
        // A ticket that is dropped closes its request and then looks for it in the queue. So one that
        // is still wanted here, under the lock, is found there.
        let (wanted, unwanted): (Vec<_>, Vec<_>) =
            parts.drain(..).partition(|part| part.item.is_wanted());
        for part in wanted.into_iter().rev() {
            let (priority, deadline) = (part.item.priority, part.item.deadline);
            state.queue.give_back(part, priority, deadline, now);
        }
        self.gauge(&state);
        let wake = state.wake();
        drop(state);
        drop(unwanted);
        self.notify(wake);
        // There may be deadlines that the timer has forgotten.
        self.timer.notify_one();
    }

    /// Without a device, nothing that waits can be done, and nothing more be taken.
    fn end_if_last(&self, mut state: MutexGuard<'_, State>, error: DeviceError) {
        if state.up > 0 {
            return;
        }
        let mut waiting = Vec::new();
        state.queue.clear(&mut waiting);
        self.gauge(&state);
        drop(state);
        self.permits.close(Refused::NoDevice);
        waiting.into_iter().for_each(|work| work.fail(Failure::Device(error.clone())));
    }

    fn served(&self, rows: usize, bytes: usize, busy: Duration) {
        let devices = self.devices.borrow().iter().filter(|device| device.up).count();
        self.permits.served(rows, bytes, busy, devices);
    }

    /// Sleeps until there may be work.
    fn wait<'a>(
        &'a self,
        mut state: MutexGuard<'a, State>,
        left: Option<Duration>,
    ) -> MutexGuard<'a, State> {
        state.idle += 1;
        let mut state = match left {
            None => self.work.wait(state).unwrap_or_else(PoisonError::into_inner),
            Some(left) => {
                self.work.wait_timeout(state, left).unwrap_or_else(PoisonError::into_inner).0
            }
        };
        // Whoever woke one of the idle has counted it out.
        if state.signals > 0 {
            state.signals -= 1;
        } else {
            state.idle -= 1;
        }
        state
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use logitd_core::batch::Dtype;
    use logitd_core::params::ParamsSpec;

    #[test]
    fn the_memory_of_rows_is_used_again() {
        let logits = vec![0; 8];
        let params = ParamsSpec::default().parse(|| 0).unwrap();
        let mut rows = Vec::with_capacity(100);
        rows.push(Row::new(Dtype::F16, &logits, params).unwrap());
        let (at, capacity) = (rows.as_ptr() as usize, rows.capacity());
        let rows: Vec<Row<'static>> = recycle(rows);
        drop(logits);
        assert_eq!((rows.as_ptr() as usize, rows.capacity()), (at, capacity));
    }
}
