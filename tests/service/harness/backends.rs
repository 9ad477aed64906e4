//! Backends with habits: slow, counted, stopped, broken.

use logitd_core::backend::reference::Reference;
use logitd_core::backend::{Backend, DeviceError, DeviceInfo};
use logitd_core::batch::{Results, Row};
use std::sync::{Arc, Condvar, Mutex};
use std::time::{Duration, Instant};

/// The longest a closed gate holds.
const PATIENCE: Duration = Duration::from_secs(30);

/// Answers as `Reference` does, and takes a fixed time a row whatever the processor is busy with.
pub struct Paced {
    inner: Reference,
    row_time: Duration,
    log: Log,
}

/// What a paced backend has done so far.
#[derive(Clone, Default)]
pub struct Log(Arc<Mutex<Done>>);

#[derive(Clone, Copy, Default)]
pub struct Done {
    /// Rows sampled.
    pub rows: usize,
    /// Time between batches, without that before the first.
    pub idle: Duration,
    last: Option<Instant>,
}

impl Log {
    pub fn read(&self) -> Done {
        *self.0.lock().unwrap()
    }
}

impl Paced {
    pub fn boxed(row_time: Duration) -> (Box<dyn Backend>, Log) {
        let log = Log::default();
        (Box::new(Self { inner: Reference::default(), row_time, log: log.clone() }), log)
    }
}

impl Backend for Paced {
    fn device(&self) -> &DeviceInfo {
        self.inner.device()
    }

    fn sample(&mut self, rows: &[Row<'_>], results: &mut Results) -> Result<(), DeviceError> {
        let begun = Instant::now();
        let result = self.inner.sample(rows, results);
        std::thread::sleep((self.row_time * rows.len() as u32).saturating_sub(begun.elapsed()));
        let mut done = self.log.0.lock().unwrap();
        done.rows += rows.len();
        let idle = done.last.map_or(Duration::ZERO, |last| begun - last);
        done.idle += idle;
        done.last = Some(Instant::now());
        result
    }
}

/// Answers as `Reference` does, but only once its gate is open.
pub struct Gated {
    inner: Reference,
    gate: Gate,
}

/// Holds a gated backend until it is opened.
#[derive(Clone, Default)]
pub struct Gate(Arc<(Mutex<GateState>, Condvar)>);

#[derive(Default)]
struct GateState {
    open: bool,
    /// Batches that may pass while it is closed.
    passes: usize,
    /// The seeds of each batch's rows.
    batches: Vec<Vec<u64>>,
}

impl Gated {
    pub fn boxed() -> (Box<dyn Backend>, Gate) {
        let gate = Gate::default();
        (Box::new(Self { inner: Reference::default(), gate: gate.clone() }), gate)
    }
}

impl Gate {
    pub fn open(&self) {
        self.0.0.lock().unwrap().open = true;
        self.0.1.notify_all();
    }

    /// Lets one batch through.
    pub fn pass(&self) {
        self.0.0.lock().unwrap().passes += 1;
        self.0.1.notify_all();
    }

    /// Batches that have reached the backend.
    pub fn batches(&self) -> usize {
        self.0.0.lock().unwrap().batches.len()
    }

    /// The seeds of their rows.
    pub fn seeds(&self) -> Vec<Vec<u64>> {
        self.0.0.lock().unwrap().batches.clone()
    }

    /// Rows in them.
    pub fn rows(&self) -> usize {
        self.seeds().iter().map(Vec::len).sum()
    }

    /// Waits until the backend holds a batch.
    pub async fn reached(&self) {
        super::until("a batch reaches the backend", || self.batches() > 0).await;
    }
}

impl Backend for Gated {
    fn device(&self) -> &DeviceInfo {
        self.inner.device()
    }

    fn sample(&mut self, rows: &[Row<'_>], results: &mut Results) -> Result<(), DeviceError> {
        let mut state = self.gate.0.0.lock().unwrap();
        state.batches.push(rows.iter().map(|row| row.params().seed()).collect());
        // Not for ever: a test that fails is to end.
        let is_closed = |state: &mut GateState| !state.open && state.passes == 0;
        let (mut state, _) = self.gate.0.1.wait_timeout_while(state, PATIENCE, is_closed).unwrap();
        state.passes = state.passes.saturating_sub(1);
        drop(state);
        self.inner.sample(rows, results)
    }
}

/// Fails at once, as a device does that is gone.
pub struct Broken(DeviceInfo);

impl Default for Broken {
    fn default() -> Self {
        Self(DeviceInfo { id: "broken".into(), ..Reference::default().device().clone() })
    }
}

impl Backend for Broken {
    fn device(&self) -> &DeviceInfo {
        &self.0
    }

    fn sample(&mut self, _: &[Row<'_>], _: &mut Results) -> Result<(), DeviceError> {
        Err(DeviceError { device: self.0.id.clone(), reason: "it is gone".into() })
    }
}
