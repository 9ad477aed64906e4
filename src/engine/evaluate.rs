//! Evaluations: what sets of parameters come to over rows, on threads of their own.
//!
//! An evaluation takes many times what sampling takes, and nobody waits for it as one waits for a token. So it runs beside
//! the devices, on threads of low priority (nice 19 on Linux), which compute while the processor has nothing else to do, and
//! give way every 100 us. The rows of all evaluations wait in one [queue], in which sources take turns by what rows cost; a
//! thread takes one row at a time. Threads are started by the first evaluation. What else an evaluation takes, unfolding
//! thousands of sets and arranging their sums, is work for the same threads ([`Evaluations::work`]), and goes before rows:
//! whoever waits for it has taken room.

use super::permits::Permit;
use super::priority::lower_priority;
use super::queue::{self, Budget, Item, Part, Queue, RowSize};
use super::slots::Key;
use super::{Failure, Priority, Refused, RequestRow, Source, Timings, spawn};
use logitd_core::batch::RowStatus;
use logitd_core::evaluate::row::RowEvaluator;
use logitd_core::evaluate::sets::Sets;
use logitd_core::evaluate::sums::{GroupSums, SetSums};
use logitd_core::evaluate::{Evaluation, Position, Question, Reference, TailShare};
use metrics::{Counter, Unit, counter, describe_counter};
use std::collections::VecDeque;
use std::future::Future;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, OnceLock, PoisonError};
use std::task::{Context, Poll};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};
use tokio::sync::oneshot;

/// What evaluates, as answers name it.
pub const DEVICE: &str = "cpu";

/// Rows to evaluate, all answered together.
#[derive(Debug)]
pub struct EvaluationRequest {
    /// At least one.
    pub rows: Vec<EvaluationRow>,
    /// Labels that occur.
    pub groups: usize,
    /// At least one.
    pub sets: Sets,
    /// What a row's tail is.
    pub tail: TailShare,
    /// Whether an answer is wanted of each row and set.
    pub evaluations: bool,
    /// After this moment nobody wants the answer any more.
    pub deadline: Option<Instant>,
    /// Which evaluations go first.
    pub priority: Priority,
    /// Whose it is.
    pub source: Source,
}

/// A row, and the token that came next.
#[derive(Debug)]
pub struct EvaluationRow {
    /// Its logits; what its parameters are does not matter.
    pub row: RequestRow,
    /// Below the vocabulary's size.
    pub reference: u32,
    /// Which of the labels it is summed under.
    pub group: usize,
}

/// The answer to an evaluation.
#[derive(Clone, Debug, Default)]
pub struct Evaluated {
    /// One a row.
    pub references: Vec<Reference>,
    /// One a label.
    pub groups: Vec<GroupSums>,
    /// If they were asked for: those of the first row, set by set, then those of the next.
    pub evaluations: Vec<Evaluation>,
    /// Until the first row was begun, and what all threads together computed.
    pub timings: Timings,
}

type EvaluationOutcome = Result<Evaluated, Failure>;

/// A cheap handle to the threads. When the last one is dropped they end with the rows that they have begun, and what
/// waits is answered [`Failure::Cancelled`].
#[derive(Clone)]
pub struct Evaluations {
    threads: Arc<Threads>,
}

impl Evaluations {
    /// On so many threads, one at least. The first of a priority waits for no more than `passed_over_max` rows of higher
    /// ones in a row.
    pub fn new(threads: usize, passed_over_max: u32) -> Self {
        describe();
        let queue = Queue::new(queue::Config {
            // A row is a batch: whoever has many gives way to others after each.
            budget: Budget { rows: 1, bytes: usize::MAX, draws: usize::MAX, cost: u64::MAX },
            shared_cost: u64::MAX,
            delay: Duration::ZERO,
            passed_over_max,
        });
        let shared = Arc::new(Shared {
            state: Mutex::new(State { queue, works: VecDeque::new(), stopped: false }),
            work: Condvar::new(),
            rows: counter!("logitd_evaluated_rows_total"),
            evaluations: counter!("logitd_evaluations_total"),
        });
        let count = threads.max(1);
        Self { threads: Arc::new(Threads { shared, count, handles: OnceLock::new() }) }
    }

    /// Has a thread do some work; an error where the threads are stopped, or it panics. The work has the room that was
    /// taken for it, so that there is not much of it, whoever still waits.
    pub async fn work<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, Failure> {
        let (sender, done) = oneshot::channel();
        self.threads.started().add(Box::new(move || {
            if !sender.is_closed() {
                let _ = sender.send(caught(work));
            }
        }));
        done.await.unwrap_or(Err(Failure::Cancelled))
    }

    /// Queues an evaluation. The permit is held until its last row is done.
    pub fn submit(
        &self,
        permit: Permit,
        request: EvaluationRequest,
    ) -> Result<EvaluationTicket, Refused> {
        let now = Instant::now();
        if request.deadline.is_some_and(|deadline| deadline <= now) {
            return Err(Refused::DeadlineExceeded);
        }
        if request.rows.is_empty() || request.sets.is_empty() {
            return Err(Refused::Empty);
        }
        let shared = self.threads.started();
        let (source, priority, deadline) = (request.source, request.priority, request.deadline);
        let (job, answer) = Job::new(request, permit, now);
        let mut state = shared.lock();
        if state.stopped {
            return Err(Refused::Draining);
        }
        let key = state.queue.push(Arc::new(job), source, priority, deadline, now);
        drop(state);
        shared.work.notify_all();
        Ok(EvaluationTicket { shared: Arc::clone(shared), key, answer })
    }
}

/// Resolves to the answer. Dropping it cancels: rows that wait leave the queue.
pub struct EvaluationTicket {
    shared: Arc<Shared>,
    key: Key,
    answer: oneshot::Receiver<EvaluationOutcome>,
}

impl Future for EvaluationTicket {
    type Output = EvaluationOutcome;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<EvaluationOutcome> {
        let answer = Pin::new(&mut self.answer).poll(cx);
        answer.map(|answer| answer.unwrap_or(Err(Failure::Cancelled)))
    }
}

impl Drop for EvaluationTicket {
    fn drop(&mut self) {
        self.answer.close();
        let removed = self.shared.lock().queue.cancel(self.key);
        drop(removed);
    }
}

/// An evaluation on its way.
struct Job {
    request: EvaluationRequest,
    accepted: Instant,
    progress: Mutex<Progress>,
    /// Declared last: the rows are gone when their room is given to others.
    _permit: Permit,
}

struct Progress {
    /// Gone once there is an answer.
    sender: Option<oneshot::Sender<EvaluationOutcome>>,
    rows_left: usize,
    started: bool,
    found: Evaluated,
}

impl Job {
    fn new(
        request: EvaluationRequest,
        permit: Permit,
        accepted: Instant,
    ) -> (Self, oneshot::Receiver<EvaluationOutcome>) {
        let (sender, answer) = oneshot::channel();
        let (rows, sets) = (request.rows.len(), request.sets.len());
        let evaluations = if request.evaluations { rows * sets } else { 0 };
        let found = Evaluated {
            references: vec![Reference::default(); rows],
            groups: (0..request.groups).map(|_| GroupSums::new(sets)).collect(),
            evaluations: vec![Evaluation::default(); evaluations],
            timings: Timings::default(),
        };
        let progress = Progress { sender: Some(sender), rows_left: rows, started: false, found };
        let progress = Mutex::new(progress);
        (Self { request, accepted, progress, _permit: permit }, answer)
    }

    fn lock(&self) -> MutexGuard<'_, Progress> {
        // Nothing panics half way through a change.
        self.progress.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Begins a row, unless nobody waits for the answer.
    fn begin(&self, now: Instant) -> bool {
        let mut progress = self.lock();
        if !std::mem::replace(&mut progress.started, true) {
            progress.found.timings.queue = now.saturating_duration_since(self.accepted);
        }
        progress.sender.as_ref().is_some_and(|sender| !sender.is_closed())
    }

    /// Adds what was found of a row; with the last of them comes the answer.
    fn complete(&self, row: usize, begun: Instant, of_row: &OfRow) -> Option<Letter> {
        let sets = self.request.sets.len();
        let mut progress = self.lock();
        let progress = &mut *progress;
        let found = &mut progress.found;
        found.references[row] = of_row.reference;
        let group = &mut found.groups[self.request.rows[row].group];
        if of_row.reference.status == RowStatus::Ok {
            group.rows += 1;
            group.sets.iter_mut().zip(&of_row.sums).for_each(|(sums, more)| *sums += *more);
        } else {
            group.rows_failed += 1;
        }
        if self.request.evaluations {
            found.evaluations[row * sets..][..sets].copy_from_slice(&of_row.evaluations);
        }
        found.timings.compute += begun.elapsed();
        progress.rows_left -= 1;
        if progress.rows_left > 0 {
            return None;
        }
        let sender = progress.sender.take()?;
        let found = std::mem::take(found);
        Some(Letter { sender, answer: self.settle_loans().map(|()| found) })
    }

    /// As sampling does: what was read is what was lent, or nothing counts.
    fn settle_loans(&self) -> Result<(), Failure> {
        let loans = || self.request.rows.iter().filter_map(|row| row.row.loan());
        loans().try_for_each(|loan| loan.check()).map_err(Failure::Loan)?;
        loans().for_each(|loan| loan.settle());
        Ok(())
    }

    fn fail(&self, failure: Failure) {
        if let Some(sender) = self.lock().sender.take() {
            Letter { sender, answer: Err(failure) }.send();
        }
    }
}

/// An answer that has not been sent.
struct Letter {
    sender: oneshot::Sender<EvaluationOutcome>,
    answer: EvaluationOutcome,
}

impl Letter {
    fn send(self) {
        // The caller may have stopped listening, which is its right.
        let _ = self.sender.send(self.answer);
    }
}

impl Item for Arc<Job> {
    fn rows(&self) -> usize {
        self.request.rows.len()
    }

    /// What a row costs, as bytes of logits whose sampling takes as long: reading it and counting its values takes what
    /// sampling seven such rows does, its masses at a temperature four fifths of one, a set as much as 1,250 bytes, and a stage
    /// of further cuts (typical_p, the dearest, 2.4 us) as much as 20,000.
    fn row_size(&self, row: usize) -> RowSize {
        const SET: usize = 1250;
        const STEP: usize = 20_000;
        let bytes = self.request.rows[row].row.bytes();
        let sets = &self.request.sets;
        let masses = sets.temperature_count() * bytes / 5 * 4;
        let cost = 7 * bytes + masses + SET * sets.len() + STEP * sets.step_count();
        RowSize { cost: cost as u64, ..Default::default() }
    }
}

/// What was found of one row, in memory that is used again.
#[derive(Default)]
struct OfRow {
    reference: Reference,
    sums: Vec<SetSums>,
    evaluations: Vec<Evaluation>,
}

impl OfRow {
    fn find(&mut self, evaluator: &mut RowEvaluator, request: &EvaluationRequest, row: usize) {
        let EvaluationRequest { sets, tail, evaluations, .. } = request;
        let EvaluationRow { row, reference, .. } = &request.rows[row];
        let question = Question { sets, tail: *tail, rows: *evaluations };
        let position =
            Position::new(row.as_row(), *reference, 0).expect("checked when it was made");
        self.sums.resize(sets.len(), SetSums::default());
        self.evaluations.clear();
        self.evaluations.resize(if *evaluations { sets.len() } else { 0 }, Evaluation::default());
        let (sums, each) = (&mut self.sums, &mut self.evaluations);
        self.reference = evaluator.evaluate(&position, &question, |set, found, evaluation| {
            sums[set] = *found;
            if let Some(place) = each.get_mut(set) {
                *place = evaluation;
            }
        });
    }
}

struct Shared {
    state: Mutex<State>,
    /// Told when there is work.
    work: Condvar,
    rows: Counter,
    evaluations: Counter,
}

type Work = Box<dyn FnOnce() + Send>;

struct State {
    queue: Queue<Arc<Job>>,
    /// What is done before the next row.
    works: VecDeque<Work>,
    stopped: bool,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        // Nothing panics half way through a change of the state.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Adds some work, which is dropped where the threads are stopped.
    fn add(&self, work: Work) {
        let mut state = self.lock();
        if state.stopped {
            return;
        }
        state.works.push_back(work);
        drop(state);
        self.work.notify_all();
    }

    /// Takes row after row until the threads are stopped.
    fn run(&self) {
        lower_priority();
        let (mut evaluator, mut of_row) = (RowEvaluator::new(), OfRow::default());
        while let Some(next) = self.next() {
            let part = match next {
                Next::Row(part) => part,
                Next::Work(work) => {
                    work();
                    continue;
                }
            };
            let (job, row) = (part.item, part.rows.start);
            let begun = Instant::now();
            if !job.begin(begun) {
                continue;
            }
            let find = || of_row.find(&mut evaluator, &job.request, row);
            if let Err(failure) = caught(find) {
                (evaluator, of_row) = (RowEvaluator::new(), OfRow::default());
                job.fail(failure);
                continue;
            }
            self.rows.increment(1);
            self.evaluations.increment(job.request.sets.len() as u64);
            let letter = job.complete(row, begun, &of_row);
            // The permit is free by now, so that whoever is answered can come again at once.
            drop(job);
            if let Some(letter) = letter {
                letter.send();
            }
        }
    }

    /// What is to be done next; `None` once the threads are stopped.
    fn next(&self) -> Option<Next> {
        let (mut parts, mut expired) = (Vec::new(), Vec::new());
        loop {
            let mut state = self.lock();
            while !state.stopped && state.works.is_empty() && state.queue.waiting().rows == 0 {
                state = self.work.wait(state).unwrap_or_else(PoisonError::into_inner);
            }
            if state.stopped {
                return None;
            }
            if let Some(work) = state.works.pop_front() {
                return Some(Next::Work(work));
            }
            state.queue.take_batch(0, Instant::now(), &mut parts, &mut expired);
            drop(state);
            expired.drain(..).for_each(|job: Arc<Job>| job.fail(Failure::DeadlineExceeded));
            if let Some(part) = parts.pop() {
                return Some(Next::Row(part));
            }
        }
    }
}

/// What some work comes to, which may panic.
fn caught<T>(work: impl FnOnce() -> T) -> Result<T, Failure> {
    catch_unwind(AssertUnwindSafe(work)).map_err(|_| {
        tracing::error!("an evaluation panicked");
        Failure::Panicked
    })
}

enum Next {
    Row(Part<Arc<Job>>),
    Work(Work),
}

/// The threads, started when there is something to do, and joined when the last handle goes.
struct Threads {
    shared: Arc<Shared>,
    count: usize,
    handles: OnceLock<Mutex<Vec<JoinHandle<()>>>>,
}

impl Threads {
    fn started(&self) -> &Arc<Shared> {
        self.handles.get_or_init(|| {
            let start = |_| {
                let shared = Arc::clone(&self.shared);
                spawn("logitd-evaluate", move || shared.run())
            };
            Mutex::new((0..self.count).map(start).collect())
        });
        &self.shared
    }
}

impl Drop for Threads {
    fn drop(&mut self) {
        let mut waiting = Vec::new();
        let mut state = self.shared.lock();
        state.stopped = true;
        state.queue.clear(&mut waiting);
        // Dropped, each answers that it is not done.
        let works = std::mem::take(&mut state.works);
        drop(state);
        drop(works);
        self.shared.work.notify_all();
        waiting.into_iter().for_each(|job| job.fail(Failure::Cancelled));
        let handles = self.handles.take().and_then(|handles| handles.into_inner().ok());
        handles.into_iter().flatten().for_each(|handle| drop(handle.join()));
    }
}

fn describe() {
    describe_counter!("logitd_evaluated_rows_total", Unit::Count, "Rows evaluated.");
    describe_counter!(
        "logitd_evaluations_total",
        Unit::Count,
        "Rows evaluated times the parameter sets of each."
    );
}
