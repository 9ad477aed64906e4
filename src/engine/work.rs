//! An accepted request on its way: waiting, running in parts, answered.

use super::queue::{Item, RowSize};
use super::{Completed, Failure, Permit, Priority, Request, RequestRow, Source, Timings};
use logitd_core::backend::DeviceInfo;
use logitd_core::batch::{Results, Row};
use std::ops::Range;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use tokio::sync::oneshot;

pub(super) type WorkOutcome = Result<Completed, Failure>;

/// Shared by the queue and the batches that its rows are in. When the last of them lets go, the
/// logits and the permit are free; the answer does not hold them.
pub(super) struct Work {
    rows: Vec<RequestRow>,
    /// What each of them takes of a batch.
    sizes: Vec<RowSize>,
    pub source: Source,
    pub priority: Priority,
    pub deadline: Option<Instant>,
    home: Option<usize>,
    accepted: Instant,
    progress: Mutex<Progress>,
    /// Declared last: the rows are gone when their room is given to others.
    _permit: Permit,
}

struct Progress {
    /// Gone once there is an answer.
    sender: Option<oneshot::Sender<WorkOutcome>>,
    rows_left: usize,
    /// Results of a request that was split, by first row.
    pieces: Vec<(usize, Results)>,
    timings: Timings,
}

/// An answer that has not been sent.
pub(super) struct Letter {
    sender: oneshot::Sender<WorkOutcome>,
    answer: WorkOutcome,
}

impl Letter {
    pub fn send(self) {
        // The caller may have stopped listening, which is its right.
        let _ = self.sender.send(self.answer);
    }
}

/// How the batch of some rows went.
#[derive(Clone, Copy)]
pub(super) struct Ran<'a> {
    pub start: Instant,
    pub copy: Duration,
    pub compute: Duration,
    pub device: &'a Arc<DeviceInfo>,
}

impl Work {
    pub fn new(
        request: Request,
        permit: Permit,
        home: Option<usize>,
        accepted: Instant,
    ) -> (Arc<Self>, oneshot::Receiver<WorkOutcome>) {
        let (answer, receiver) = oneshot::channel();
        let Request { rows, deadline, priority, source } = request;
        let progress = Mutex::new(Progress {
            sender: Some(answer),
            rows_left: rows.len(),
            pieces: Vec::new(),
            timings: Timings::default(),
        });
        let sizes = rows.iter().map(size).collect();
        let work = Self {
            rows,
            sizes,
            source,
            priority,
            deadline,
            home,
            accepted,
            progress,
            _permit: permit,
        };
        (Arc::new(work), receiver)
    }

    pub fn request_rows(&self, rows: Range<usize>) -> &[RequestRow] {
        &self.rows[rows]
    }

    pub fn rows(&self, rows: Range<usize>) -> impl Iterator<Item = Row<'_>> {
        self.rows[rows].iter().map(RequestRow::as_row)
    }

    /// Whether somebody waits for an answer.
    pub fn is_wanted(&self) -> bool {
        self.lock().sender.as_ref().is_some_and(|sender| !sender.is_closed())
    }

    /// How long it had waited at some moment.
    pub fn waited(&self, now: Instant) -> Duration {
        now.saturating_duration_since(self.accepted)
    }

    /// Takes the results of some of its rows: those at `at` in the batch's table. With the last of
    /// them comes the letter.
    pub fn complete(
        &self,
        rows: Range<usize>,
        batch: &Results,
        at: usize,
        ran: Ran<'_>,
    ) -> Option<Letter> {
        let mut results = Results::default();
        results.extend_from(batch, at..at + rows.len());
        let mut progress = self.lock();
        let progress = &mut *progress;
        progress.sender.as_ref()?;

        let is_first = progress.rows_left == self.rows.len();
        progress.rows_left -= rows.len();
        let timings = &mut progress.timings;
        let queue = self.waited(ran.start);
        timings.queue = if is_first { queue } else { timings.queue.min(queue) };
        timings.copy += ran.copy;
        timings.compute += ran.compute;
        if rows.len() < self.rows.len() {
            progress.pieces.push((rows.start, results));
            if progress.rows_left > 0 {
                return None;
            }
            results = join(&mut progress.pieces);
        }
        let sender = progress.sender.take()?;
        let device = Arc::clone(ran.device);
        let completed = Completed { results, timings: progress.timings, device };
        Some(Letter { sender, answer: self.settle_loans().map(|()| completed) })
    }

    /// Settles every loan, if what was sampled is what was lent. Asked when every row has been.
    fn settle_loans(&self) -> Result<(), Failure> {
        let loans = || self.rows.iter().filter_map(RequestRow::loan);
        loans().try_for_each(|loan| loan.check()).map_err(Failure::Loan)?;
        loans().for_each(|loan| loan.settle());
        Ok(())
    }

    /// Answers with a failure, unless it has been answered.
    pub fn fail(self: Arc<Self>, failure: Failure) {
        let sender = self.lock().sender.take();
        // The permit is free before the caller knows, so that it can come again at once.
        drop(self);
        if let Some(sender) = sender {
            Letter { sender, answer: Err(failure) }.send();
        }
    }

    fn lock(&self) -> MutexGuard<'_, Progress> {
        self.progress.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Item for Arc<Work> {
    fn rows(&self) -> usize {
        self.rows.len()
    }

    fn row_size(&self, row: usize) -> RowSize {
        self.sizes[row]
    }

    fn home(&self) -> Option<usize> {
        self.home
    }
}

fn size(row: &RequestRow) -> RowSize {
    let draws = row.params().draws() as usize;
    RowSize { bytes: row.size_bytes(), draws, cost: row.cost() }
}

/// The pieces as one table, in the order of the request.
fn join(pieces: &mut Vec<(usize, Results)>) -> Results {
    pieces.sort_unstable_by_key(|&(start, _)| start);
    let mut results = Results::default();
    for (_, piece) in pieces.drain(..) {
        results.extend_from(&piece, 0..piece.len());
    }
    results
}
