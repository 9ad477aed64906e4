//! Computes some batches a second time, on another backend, and compares every bit.
//!
//! Workers offer batches to one side thread and never wait for it: while it is busy with one and has
//! another, what is offered is skipped and counted. On Linux the thread has the lowest priority, so it
//! lives on time that nobody else wants; threads that its backend starts inherit that.

use super::device::Device;
use super::priority::lower_priority;
use super::queue::Part;
use super::work::Work;
use super::{MakeBackend, RequestRow, Shared, spawn};
use logitd_core::backend::dual::{Difference, first_difference};
use logitd_core::backend::{Backend, DeviceError};
use logitd_core::batch::{Results, Row};
use std::fmt;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::thread::JoinHandle;
use std::time::{SystemTime, UNIX_EPOCH};

/// Batches that wait for the side thread; each holds on to its logits.
const WAITING_MAX: usize = 1;
/// Rows between two looks at whether the engine has stopped.
const ROWS_AT_ONCE: usize = 16;

/// Writes a difference under a name, and returns where.
pub type Dump = Box<dyn Fn(&Difference, &str) -> io::Result<PathBuf> + Send>;

/// Which batches are computed twice, and what follows from a difference.
///
/// Up to two batches are held for it beyond what the queue may hold.
pub struct Verify {
    /// The share of batches, 0 to 1.
    pub fraction: f64,
    /// Whether a device whose bits differ is taken out.
    pub strict: bool,
    /// Writes a differing row, with its logits and seed, under a name, and says where. They are
    /// what somebody sampled: with `None` they go nowhere.
    pub dump: Option<Dump>,
    /// How many of them are written at most.
    pub dumps_max: usize,
    /// Makes the backend that batches are computed on the second time. Called on the side thread.
    pub backend: MakeBackend,
}

impl Verify {
    /// Counts and logs differences, and does nothing about them.
    pub fn new(fraction: f64, backend: MakeBackend) -> Self {
        Self { fraction, strict: false, dump: None, dumps_max: 16, backend }
    }
}

impl fmt::Debug for Verify {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Verify").field("fraction", &self.fraction).finish_non_exhaustive()
    }
}

/// A worker's side: chooses batches, evenly spread.
#[derive(Clone)]
pub(super) struct Sampler {
    shared: Arc<Shared>,
    fraction: f64,
    /// The share of a batch that is owed; at 1 the next is chosen.
    owed: f64,
    sender: SyncSender<Check>,
}

/// A batch and what came out of it.
struct Check {
    device: Arc<Device>,
    rows: Vec<RequestRow>,
    results: Results,
}

/// Starts the side thread. It ends when the engine stops, or when every sampler is gone.
pub(super) fn start(shared: &Arc<Shared>, verify: Verify) -> (Sampler, JoinHandle<()>) {
    let (sender, checks) = sync_channel(WAITING_MAX);
    let fraction = if verify.fraction > 0.0 { verify.fraction.min(1.0) } else { 0.0 };
    let sampler = Sampler { shared: Arc::clone(shared), fraction, owed: 0.0, sender };
    let shared = Arc::clone(shared);
    let handle = spawn("logitd-verify", move || run(&shared, verify, &checks));
    (sampler, handle)
}

impl Sampler {
    /// Takes a copy of a batch if it is one of those to be verified. Logits on loan are not there to be read
    /// again: such batches are passed over.
    pub fn offer(&mut self, device: &Arc<Device>, parts: &[Part<Arc<Work>>], results: &Results) {
        self.owed += self.fraction;
        if self.owed < 1.0 {
            return;
        }
        self.owed -= 1.0;
        let rows = parts.iter().flat_map(|part| part.item.request_rows(part.rows.clone()));
        let rows: Vec<RequestRow> = rows.cloned().collect();
        if rows.iter().any(|row| row.loan().is_some()) {
            return self.shared.metrics.parity_skips.increment(1);
        }
        let check = Check { device: Arc::clone(device), rows, results: results.clone() };
        if let Err(TrySendError::Full(_)) = self.sender.try_send(check) {
            self.shared.metrics.parity_skips.increment(1);
        }
    }
}

fn run(shared: &Shared, mut verify: Verify, checks: &Receiver<Check>) {
    lower_priority();
    let make = std::mem::replace(&mut verify.backend, Box::new(|| unreachable!("made once")));
    let Ok(mut backend) = catch_unwind(AssertUnwindSafe(make)) else {
        tracing::error!("the backend to verify with could not be made; nothing is verified");
        return;
    };
    let mut dumps = 0;
    while let Ok(check) = checks.recv() {
        match check.run(shared, backend.as_mut()) {
            Ok(None) => {}
            Ok(Some(difference)) => report(shared, &verify, &check, &difference, &mut dumps),
            Err(error) => {
                tracing::error!(%error, "the backend to verify with failed; nothing is verified");
                return;
            }
        }
        if shared.lock().stopped {
            return;
        }
    }
}

impl Check {
    /// The first differing row.
    fn run(
        &self,
        shared: &Shared,
        backend: &mut dyn Backend,
    ) -> Result<Option<Difference>, DeviceError> {
        let (mut first, mut second) = (Results::default(), Results::default());
        for start in (0..self.rows.len()).step_by(ROWS_AT_ONCE) {
            if shared.lock().stopped {
                return Ok(None);
            }
            let range = start..(start + ROWS_AT_ONCE).min(self.rows.len());
            let rows: Vec<Row<'_>> =
                self.rows[range.clone()].iter().map(RequestRow::as_row).collect();
            first.reset(&[]);
            first.extend_from(&self.results, range);
            catch_unwind(AssertUnwindSafe(|| backend.sample(&rows, &mut second))).unwrap_or_else(
                |_| {
                    let device = backend.device().id.clone();
                    Err(DeviceError { device, reason: "it panicked".into() })
                },
            )?;
            if let Some(mut difference) = first_difference(&rows, &first, &second) {
                difference.row_index += start;
                return Ok(Some(difference));
            }
        }
        shared.metrics.parity_checks.increment(1);
        Ok(None)
    }
}

/// Says what differs without saying what was sampled; that goes to the folder, if there is one.
fn report(
    shared: &Shared,
    verify: &Verify,
    check: &Check,
    difference: &Difference,
    dumps: &mut usize,
) {
    shared.metrics.parity_checks.increment(1);
    shared.metrics.parity_mismatches.increment(1);
    let device = &check.device.info.id;
    let dump = verify.dump.as_ref().filter(|_| *dumps < verify.dumps_max).map(|dump| {
        *dumps += 1;
        let ms = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_millis();
        let name =
            format!("parity-{}-{ms}-{dumps}", device.replace(|c: char| !c.is_alphanumeric(), "-"));
        dump(difference, &name)
    });
    let dump = match dump {
        None => "none".into(),
        Some(Ok(path)) => path.display().to_string(),
        Some(Err(error)) => format!("failed: {error}"),
    };
    let Difference { row_index, dtype, vocab_size, .. } = difference;
    let rows = check.rows.len();
    tracing::error!(%device, row_index, rows, %dtype, vocab_size, %dump, "parity mismatch");
    if verify.strict {
        check.device.condemned.store(true, Ordering::Relaxed);
        // An idle worker need not wait for work to find out.
        let _state = shared.lock();
        shared.work.notify_all();
    }
}
