//! Checks a share of the answers, beside the run and not in it.
//!
//! What a worker hands over is an answer and the request it belongs to, whose logits are a slice of what
//! is in memory anyway. By default nothing is checked until the run is over, so that checking takes no
//! processor from what is measured; [`CheckOptions::live`] is for runs that are too long for that.

use super::message::{Request, Response};
use super::random::{bits, unit};
use super::source::Prepared;
use crate::record::recheck::{Difference, Recheck, RecheckError};
use logitd_core::arithmetic;
use logitd_core::backend::{Backend, dual};
use logitd_core::batch::Results;
use logitd_proto::{BeamStepRequest, SampleRequest, VerifyRequest};
use std::collections::VecDeque;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

/// What is checked, and how.
#[derive(Clone, Copy, Debug)]
pub struct CheckOptions {
    /// Share of the answers: 0 to 1.
    pub fraction: f64,
    /// Rows that may wait for being checked. Answers beyond it are not checked, and counted.
    pub rows_max: usize,
    /// Check while the run goes on, on one thread.
    pub live: bool,
    /// Threads that check once it is over.
    pub threads: usize,
    /// Makes what is checked against, one for each thread.
    pub backend: fn() -> Box<dyn Backend>,
    /// Chooses which answers are checked.
    pub seed: u64,
}

/// What checking has shown.
#[derive(Clone, Debug, Default)]
pub struct Checked {
    /// Answers that were checked.
    pub answers: u64,
    /// Their rows.
    pub rows: u64,
    /// Rows that are wrong.
    pub rows_wrong: u64,
    /// Answers that were chosen but had no room in the queue.
    pub skipped: u64,
    /// Answers that cannot be checked here.
    pub uncheckable: u64,
    /// Why the first of those cannot be.
    pub uncheckable_reason: Option<RecheckError>,
    /// The first wrong row, by the number of its request.
    pub first: Option<Wrong>,
}

/// A wrong row.
#[derive(Clone, Debug)]
pub struct Wrong {
    /// The number of its request.
    pub request: u64,
    /// The device that answered.
    pub device: String,
    /// What is wrong.
    pub difference: Difference,
    /// Its logits, parameters and both answers. Absent where it was compared with a recorded answer.
    pub replayable: Option<dual::Difference>,
}

/// Takes answers during a run.
#[derive(Debug)]
pub struct Checker {
    options: CheckOptions,
    shared: Arc<Shared>,
    live: Option<JoinHandle<()>>,
}

impl Checker {
    /// A checker for one run, or for several one after another.
    pub fn new(options: CheckOptions) -> Self {
        let shared = Arc::<Shared>::default();
        let live = options.live.then(|| worker(&options, &shared));
        Self { options, shared, live }
    }

    /// Whether the answer to request `index` is to be checked.
    pub(super) fn wants(&self, index: u64) -> bool {
        unit(bits(self.options.seed, index, CHOICE)) <= self.options.fraction
    }

    /// Takes an answer, or counts it as skipped if too many wait.
    pub(super) fn offer(&self, prepared: Prepared, answer: Response) {
        let Prepared { index, mut request, recorded } = prepared;
        if recorded.is_some() {
            // It is compared with the recorded answer; the logits are not needed any more.
            request.forget_logits();
        }
        let rows = request.rows(&answer).max(1);
        let mut state = self.shared.lock();
        if state.rows_waiting + rows > self.options.rows_max {
            state.checked.skipped += 1;
            return;
        }
        state.rows_waiting += rows;
        state.jobs.push_back(Job { index, request, recorded, answer });
        drop(state);
        self.shared.changed.notify_one();
    }

    /// Checks what waits and says what was found. `progress` is told how many rows are left.
    pub fn finish(mut self, mut progress: impl FnMut(usize)) -> Checked {
        let started: Vec<_> = (usize::from(self.live.is_some())..self.options.threads.max(1))
            .map(|_| worker(&self.options, &self.shared))
            .collect();
        self.shared.lock().closed = true;
        self.shared.changed.notify_all();
        loop {
            let rows_waiting = self.shared.lock().rows_waiting;
            progress(rows_waiting);
            if rows_waiting == 0 {
                break;
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        for thread in started.into_iter().chain(self.live.take()) {
            thread.join().expect("checking does not panic");
        }
        std::mem::take(&mut self.shared.lock().checked)
    }
}

/// Which of a request's random numbers decides whether it is checked.
const CHOICE: u32 = u32::MAX - 1;

#[derive(Debug, Default)]
struct Shared {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct State {
    jobs: VecDeque<Job>,
    /// Rows of the jobs, and of those in work.
    rows_waiting: usize,
    /// No more jobs come.
    closed: bool,
    checked: Checked,
}

#[derive(Debug)]
struct Job {
    index: u64,
    request: Request,
    recorded: Option<Response>,
    answer: Response,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The next job, or `None` once there will be none.
    fn next(&self) -> Option<Job> {
        let state = self.lock();
        let idle = |state: &mut State| state.jobs.is_empty() && !state.closed;
        let mut state =
            self.changed.wait_while(state, idle).unwrap_or_else(PoisonError::into_inner);
        state.jobs.pop_front()
    }
}

fn worker(options: &CheckOptions, shared: &Arc<Shared>) -> JoinHandle<()> {
    let (mut backend, shared) = ((options.backend)(), shared.clone());
    let work = move || {
        let mut results = Results::default();
        while let Some(job) = shared.next() {
            let found = check(&mut *backend, &job, &mut results);
            let mut state = shared.lock();
            state.rows_waiting -= job.request.rows(&job.answer).max(1);
            state.checked.add(&job, found);
        }
    };
    std::thread::Builder::new().name("check".into()).spawn(work).expect("a thread can be started")
}

/// What is wrong with an answer: each row, and the first of them to be sampled again.
type Found = Result<(Vec<Difference>, Option<dual::Difference>), RecheckError>;

fn check(backend: &mut dyn Backend, job: &Job, results: &mut Results) -> Found {
    match (&job.request, &job.recorded, &job.answer) {
        (Request::Sample(request), None, Response::Sample(answer)) => {
            again(backend, request, answer, results)
        }
        (Request::Verify(request), None, Response::Verify(answer)) => {
            again(backend, request, answer, results)
        }
        (Request::BeamStep(request), None, Response::BeamStep(answer)) => {
            again(backend, request, answer, results)
        }
        (_, Some(Response::Sample(recorded)), Response::Sample(answer)) => {
            compare::<SampleRequest>(recorded, answer)
        }
        (_, Some(Response::Verify(recorded)), Response::Verify(answer)) => {
            compare::<VerifyRequest>(recorded, answer)
        }
        (_, Some(Response::BeamStep(recorded)), Response::BeamStep(answer)) => {
            compare::<BeamStepRequest>(recorded, answer)
        }
        _ => Err(RecheckError::Method),
    }
}

/// Samples the rows of a request again.
fn again<M: Recheck>(
    backend: &mut dyn Backend,
    request: &M,
    answer: &M::Answer,
    results: &mut Results,
) -> Found {
    let differences = request.recheck(backend, answer, results)?;
    let first = differences.first();
    let replayable = first.and_then(|first| request.replayable(backend, answer, first).ok());
    Ok((differences, replayable))
}

/// Compares an answer with the recorded one.
fn compare<M: Recheck>(recorded: &M::Answer, answer: &M::Answer) -> Found {
    let (ours, theirs) = (M::arithmetic_version(recorded), M::arithmetic_version(answer));
    if !agree(ours, theirs) {
        return Err(RecheckError::ArithmeticVersion { ours, theirs });
    }
    Ok((M::differences(recorded, answer), None))
}

/// Whether the same request has the same answer under two versions of the arithmetic.
fn agree(recorded: u32, answered: u32) -> bool {
    recorded == answered || arithmetic::replays(recorded) && arithmetic::replays(answered)
}

impl Checked {
    fn add(&mut self, job: &Job, found: Found) {
        let (differences, replayable) = match found {
            Ok(found) => found,
            Err(reason) => {
                self.uncheckable += 1;
                self.uncheckable_reason.get_or_insert(reason);
                return;
            }
        };
        self.answers += 1;
        self.rows += job.request.rows(&job.answer) as u64;
        self.rows_wrong += differences.len() as u64;
        let is_first = self.first.as_ref().is_none_or(|first| job.index < first.request);
        if let (true, Some(difference)) = (is_first, differences.into_iter().next()) {
            let device = job.answer.device().to_owned();
            self.first = Some(Wrong { request: job.index, device, difference, replayable });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::recheck;
    use crate::tools::load::{Choices, Generator, Method, Pool, Shape};
    use logitd_core::backend::reference::Reference;
    use logitd_core::batch::Dtype;
    use logitd_proto as api;

    fn options(fraction: f64, live: bool) -> CheckOptions {
        CheckOptions {
            fraction,
            rows_max: 1000,
            live,
            threads: 2,
            backend: || Box::<Reference>::default(),
            seed: 3,
        }
    }

    fn generator() -> Generator {
        let shape = Shape {
            method: Method::Sample,
            rows: "2".parse().unwrap(),
            params: [("temperature", "0.7"), ("top_k", "0,5"), ("top_p", "0.9")]
                .map(|(name, values)| Choices::read(name, values).unwrap())
                .into(),
            priority: api::Priority::Normal,
            seed: 3,
        };
        Generator::new(shape, Pool::generate(Dtype::F16, 64, 8, 3))
    }

    /// Answers to requests 0 to 99, one token of request `wrong` off.
    fn checked(options: CheckOptions, wrong: u64) -> Checked {
        let (generator, checker) = (generator(), Checker::new(options));
        for index in (0..100).filter(|&index| checker.wants(index)) {
            let request = generator.sample(index);
            let (mut backend, mut results) = (Reference::default(), Results::default());
            let mut answer = recheck::answer(&mut backend, &request, &mut results).unwrap();
            if index == wrong {
                answer.rows[1].token = answer.rows[1].token.map(|token| token ^ 1);
            }
            let request = request.into();
            checker.offer(Prepared { index, request, recorded: None }, answer.into());
        }
        checker.finish(|_| ())
    }

    #[test]
    fn one_wrong_token_is_found_live_and_afterwards() {
        for live in [false, true] {
            let checked = checked(options(1.0, live), 61);
            assert_eq!((checked.answers, checked.rows, checked.rows_wrong), (100, 200, 1));
            let first = checked.first.unwrap();
            assert_eq!(
                (first.request, first.difference.row, first.difference.field),
                (61, 1, "token")
            );
            let replayable = first.replayable.unwrap();
            assert_eq!(replayable.logits, generator().sample(61).logits[128..]);
        }
    }

    #[test]
    fn right_answers_pass_and_a_fraction_is_a_fraction() {
        let all = checked(options(1.0, false), u64::MAX);
        assert_eq!((all.answers, all.rows_wrong, all.skipped), (100, 0, 0));
        assert!(all.first.is_none());
        let some = checked(options(0.3, false), u64::MAX).answers;
        assert!((15..45).contains(&some), "{some}");
        assert_eq!(checked(options(0.0, false), u64::MAX).answers, 0);
    }

    #[test]
    fn what_has_no_room_is_counted() {
        let checked = checked(CheckOptions { rows_max: 20, ..options(1.0, false) }, u64::MAX);
        assert_eq!((checked.answers, checked.skipped), (10, 90));
    }
}
