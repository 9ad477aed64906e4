//! One run: requests go out at their pace, and every one of them is accounted for.
//!
//! **Open loop.** A pacer follows the schedule, whatever the server does: a request that is due is sent,
//! and its response time counts from when it was due. A server that stalls for a second therefore shows
//! in every request of that second, and not in one. If too many are unanswered, a due request is not
//! sent but counted as overflow.
//!
//! **Closed loop.** A number of workers each send the next request when the last is answered. That finds
//! out what a server can do, but a stall stops the workers too, and shows in one request each.

use super::check::Checker;
use super::meter::{Meter, Moments, Recent, Shard, Tally};
use super::schedule::{Arrivals, Schedule};
use super::source::{Claim, Source};
use super::target::Target;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;
use tokio::sync::Semaphore;
use tokio::time::{Instant, MissedTickBehavior, sleep, sleep_until, timeout};
use tokio_util::sync::CancellationToken;

/// How a run goes.
#[derive(Clone, Debug)]
pub struct Plan {
    /// When requests are sent.
    pub pace: Pace,
    /// What is due in this time from the start is sent, but not measured.
    pub warmup: Duration,
    /// What is due in this time after the warm-up is measured.
    pub duration: Duration,
    /// How long a request waits for its answer.
    pub timeout: Duration,
    /// Unanswered requests of an open loop; what is due beyond it is overflow. 1 or more.
    pub outstanding_max: usize,
    /// How long a worker of a closed loop rests after a failure, so as not to hammer a dead server. After a refusal that says
    /// when to come again it rests at least as long as that says.
    pub failure_pause: Duration,
    /// What an open loop looks at.
    pub clock: Clock,
}

/// When requests are sent.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Pace {
    /// By a schedule, whatever the server does.
    Open {
        /// Requests a second, above 0.
        rate: f64,
        /// How they are spread.
        arrivals: Arrivals,
        /// Of the schedule.
        seed: u64,
    },
    /// As they arrived when they were recorded.
    Recorded {
        /// 2 is twice as fast.
        speed: f64,
    },
    /// When the request before is answered.
    Closed {
        /// Workers, 1 or more.
        concurrency: usize,
    },
}

/// What an open loop looks at to know when a request is due.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Clock {
    /// The system's, on a thread of its own: late by some 60 us.
    Thread,
    /// The async runtime's, which is late by up to 2 ms, but stands still where a test has stopped it.
    Runtime,
}

/// What a run has measured.
#[derive(Clone, Debug)]
pub struct Measured {
    /// From the end of the warm-up to the last answer, or to the end of sending if that was later.
    pub elapsed: Duration,
    /// Everything together.
    pub total: Tally,
    /// How it went over time, in windows of equal length but for the last.
    pub windows: Vec<Window>,
}

/// A part of a run. Requests count where their answers came.
#[derive(Clone, Copy, Debug, PartialEq, serde::Serialize)]
pub struct Window {
    /// Its end, from the end of the warm-up.
    pub end_s: f64,
    /// Its length.
    pub seconds: f64,
    /// Requests that were answered.
    pub answered: u64,
    /// Their rows.
    pub rows: u64,
    /// Requests that were refused.
    pub refused: u64,
    /// Requests that failed.
    pub errors: u64,
    /// Requests that were never sent.
    pub overflow: u64,
    /// Response times; 0 where nothing was answered.
    pub response_p50_us: f64,
    /// As above.
    pub response_p99_us: f64,
    /// As above.
    pub response_max_us: f64,
}

/// How a run is going: told about ten times a second.
#[derive(Debug)]
pub struct Tick<'a> {
    /// Since the end of the warm-up; negative before it, in seconds.
    pub at_s: f64,
    /// What was measured since the tick before.
    pub latest: &'a Recent,
    /// Requests without an answer at present.
    pub outstanding: usize,
}

/// Runs a plan. `stop` ends it early; what was measured so far is returned. `observe` is told how it goes.
///
/// Ends at the latest `timeout` after the last request was sent: nothing that a server does can make it
/// hang.
pub async fn run<T: Target>(
    target: Arc<T>,
    source: Arc<Source>,
    plan: &Plan,
    checker: Option<Arc<Checker>>,
    stop: CancellationToken,
    mut observe: impl FnMut(&Tick<'_>),
) -> Measured {
    let start = Instant::now();
    let run = Arc::new(Run {
        target,
        source,
        checker,
        meter: Meter::new(std::thread::available_parallelism().map_or(1, usize::from)),
        plan: plan.clone(),
        start,
        from: start + plan.warmup,
        end: start + plan.warmup + plan.duration,
        stop,
        outstanding: AtomicUsize::new(0),
    });
    let mut windows = Windows::new(plan.duration);
    let mut drive = tokio::spawn(drive(run.clone()));
    let mut ticks = tokio::time::interval_at(start + windows.tick, windows.tick);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Skip);
    let sent_until = loop {
        let (now, ended) = tokio::select! {
            now = ticks.tick() => (now, None),
            ended = &mut drive => (Instant::now(), Some(ended.expect("sending does not panic"))),
        };
        let latest = windows.tick(&run, now, ended.is_some());
        let at_s = (now - start).as_secs_f64() - plan.warmup.as_secs_f64();
        observe(&Tick { at_s, latest, outstanding: run.outstanding.load(Ordering::Relaxed) });
        if let Some(ended) = ended {
            break ended;
        }
    };
    let last = windows.total.counts.last_answer.map_or(sent_until, |last| last.max(sent_until));
    Measured {
        elapsed: last.saturating_duration_since(run.from),
        total: windows.total,
        windows: windows.done,
    }
}

#[derive(Debug)]
struct Run<T> {
    target: Arc<T>,
    source: Arc<Source>,
    checker: Option<Arc<Checker>>,
    meter: Meter,
    plan: Plan,
    start: Instant,
    /// Where measuring begins.
    from: Instant,
    /// Where sending ends.
    end: Instant,
    stop: CancellationToken,
    outstanding: AtomicUsize,
}

/// Sends everything and waits for what is unanswered. Returns when sending ended.
async fn drive<T: Target>(run: Arc<Run<T>>) -> Instant {
    match run.plan.pace {
        Pace::Closed { concurrency } => closed(&run, concurrency).await,
        Pace::Open { .. } | Pace::Recorded { .. } => open(&run).await,
    }
}

async fn closed<T: Target>(run: &Arc<Run<T>>, concurrency: usize) -> Instant {
    let workers: Vec<_> = (0..concurrency).map(|_| tokio::spawn(worker(run.clone()))).collect();
    let mut sent_until = run.from;
    for worker in workers {
        sent_until = sent_until.max(worker.await.expect("a worker does not panic"));
    }
    sent_until
}

/// One worker of a closed loop. Returns when it stopped sending.
async fn worker<T: Target>(run: Arc<Run<T>>) -> Instant {
    loop {
        let due = Instant::now();
        if due >= run.end {
            return run.end;
        }
        if run.stop.is_cancelled() {
            return due;
        }
        let Some(claim) = run.source.claim() else { return due };
        if let Err(told) = run.one(claim, due).await {
            tokio::select! {
                () = sleep(run.plan.failure_pause.max(told)) => {}
                () = run.stop.cancelled() => {}
            }
        }
    }
}

async fn open<T: Target>(run: &Arc<Run<T>>) -> Instant {
    let room = Arc::new(Semaphore::new(run.plan.outstanding_max));
    let pacer = Pacer::new(run.clone(), room.clone());
    let sent_until = match run.plan.clock {
        Clock::Thread => {
            tokio::task::spawn_blocking(|| pacer.on_a_thread()).await.expect("it does not panic")
        }
        Clock::Runtime => pacer.on_the_runtime().await,
    };
    // All of the room is free once everything is answered or has timed out.
    let all = u32::try_from(run.plan.outstanding_max).unwrap_or(u32::MAX);
    drop(room.acquire_many(all).await);
    sent_until
}

/// Says what is due when, and sends it.
struct Pacer<T> {
    run: Arc<Run<T>>,
    room: Arc<Semaphore>,
    schedule: Option<Schedule>,
    /// When the first request of a trace arrived.
    first_arrival: Option<Duration>,
    /// Whether everything that is due within the run was sent.
    whole: bool,
}

impl<T: Target> Pacer<T> {
    fn new(run: Arc<Run<T>>, room: Arc<Semaphore>) -> Self {
        let schedule = match run.plan.pace {
            Pace::Open { rate, arrivals, seed } => Some(Schedule::new(arrivals, rate, seed)),
            Pace::Recorded { .. } | Pace::Closed { .. } => None,
        };
        Self { run, room, schedule, first_arrival: None, whole: false }
    }

    fn on_a_thread(mut self) -> Instant {
        /// How soon a stop is noticed.
        const NAP_MAX: Duration = Duration::from_millis(50);
        while let Some((due, claim)) = self.next() {
            loop {
                let left = due.saturating_duration_since(Instant::now());
                if left.is_zero() {
                    break;
                }
                if self.run.stop.is_cancelled() {
                    return Instant::now();
                }
                std::thread::sleep(left.min(NAP_MAX));
            }
            self.dispatch(due, claim);
        }
        self.ended()
    }

    async fn on_the_runtime(mut self) -> Instant {
        while let Some((due, claim)) = self.next() {
            tokio::select! {
                () = sleep_until(due) => {}
                () = self.run.stop.cancelled() => return Instant::now(),
            }
            self.dispatch(due, claim);
        }
        self.ended()
    }

    /// The next request and when it is due; `None` at the end of the run or of the supply.
    fn next(&mut self) -> Option<(Instant, Claim)> {
        if self.run.stop.is_cancelled() {
            return None;
        }
        let (at, claim) = match (&mut self.schedule, self.run.plan.pace) {
            (Some(schedule), _) => (schedule.next()?, self.run.source.claim()?),
            (None, pace) => {
                let speed = if let Pace::Recorded { speed } = pace { speed } else { 1.0 };
                let claim = self.run.source.claim()?;
                let first = *self.first_arrival.get_or_insert(claim.arrival());
                let after_s = claim.arrival().saturating_sub(first).as_secs_f64() / speed;
                (Duration::try_from_secs_f64(after_s).unwrap_or(Duration::MAX), claim)
            }
        };
        let due = self.run.start.checked_add(at).filter(|due| *due < self.run.end);
        self.whole = due.is_none();
        Some((due?, claim))
    }

    fn dispatch(&self, due: Instant, claim: Claim) {
        let run = &self.run;
        match self.room.clone().try_acquire_owned() {
            Ok(room) => {
                let run = run.clone();
                tokio::spawn(async move {
                    let _ = run.one(claim, due).await;
                    drop(room);
                });
            }
            Err(_) if due >= run.from => run.meter.count(Shard::overflow),
            Err(_) => {}
        }
    }

    /// When sending ended: with the run, or before it with the supply or by a stop.
    fn ended(&self) -> Instant {
        if self.whole { self.run.end } else { Instant::now() }
    }
}

impl<T: Target> Run<T> {
    /// Sends one request and accounts for it. If it is not answered, how long the server says to wait; nothing, where it says nothing.
    async fn one(&self, claim: Claim, due: Instant) -> Result<(), Duration> {
        self.outstanding.fetch_add(1, Ordering::Relaxed);
        let prepared = self.source.prepare(claim);
        let bytes = prepared.request.bytes();
        let request = prepared.request.clone();
        let sent = Instant::now();
        let result = timeout(self.plan.timeout, self.target.send(prepared.index, request)).await;
        let moments = Moments { due, sent, answered: Instant::now() };
        self.outstanding.fetch_sub(1, Ordering::Relaxed);

        let measured = due >= self.from;
        let count = |write: &mut dyn FnMut(&mut Shard)| {
            if measured {
                self.meter.count(|shard| write(shard));
            }
        };
        match result {
            Ok(Ok(answer)) => {
                let rows = prepared.request.rows(&answer);
                count(&mut |shard| shard.answer(moments, rows, bytes, &answer));
                let checker = self.checker.as_ref().filter(|c| c.wants(prepared.index));
                if let Some(checker) = checker {
                    checker.offer(prepared, answer);
                }
                Ok(())
            }
            Ok(Err(failure)) => {
                count(&mut |shard| shard.failure(moments, failure.clone()));
                Err(failure.retry_after.unwrap_or_default())
            }
            Err(_) => {
                count(&mut |shard| shard.timeout(self.plan.timeout));
                Err(Duration::ZERO)
            }
        }
    }
}

/// Gathers what the meter holds, tick by tick, into windows and into the whole.
struct Windows {
    tick: Duration,
    /// Length of a window: some ticks.
    length: Duration,
    /// What the last tick brought.
    latest: Recent,
    current: Recent,
    /// Where the current window began.
    began: Option<Instant>,
    total: Tally,
    done: Vec<Window>,
    /// Empty, in exchange for what a shard holds.
    spare: Shard,
}

/// Windows of a run; more would say no more on a page.
const WINDOWS: u32 = 120;
const TICK: Duration = Duration::from_millis(100);

impl Windows {
    fn new(duration: Duration) -> Self {
        let ticks = (duration / WINDOWS).as_micros().div_ceil(TICK.as_micros()).max(1);
        Self {
            tick: TICK,
            length: TICK * u32::try_from(ticks).unwrap_or(u32::MAX),
            latest: Recent::default(),
            current: Recent::default(),
            began: None,
            total: Tally::default(),
            done: Vec::new(),
            spare: Shard::default(),
        }
    }

    /// Takes what was measured since the last tick, and says what it was.
    fn tick<T>(&mut self, run: &Run<T>, now: Instant, last: bool) -> &Recent {
        self.latest.clear();
        let recent = [&mut self.latest, &mut self.current];
        run.meter.drain(&mut self.spare, &mut self.total, recent);
        if now < run.from {
            return &self.latest;
        }
        let began = *self.began.get_or_insert(run.from);
        if now - began >= self.length || (last && self.current.counts.requests() > 0) {
            self.done.push(window(&self.current, now - run.from, now - began));
            self.current.clear();
            self.began = Some(now);
        }
        &self.latest
    }
}

fn window(recent: &Recent, end: Duration, length: Duration) -> Window {
    let Recent { counts, response } = recent;
    let us = |ns: u64| ns as f64 / 1000.0;
    Window {
        end_s: end.as_secs_f64(),
        seconds: length.as_secs_f64(),
        answered: counts.answered,
        rows: counts.rows,
        refused: counts.refused,
        errors: counts.errors_total(),
        overflow: counts.overflow,
        response_p50_us: us(response.value_at_quantile(0.5)),
        response_p99_us: us(response.value_at_quantile(0.99)),
        response_max_us: us(response.max()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tools::load::{
        Code, Failure, Generator, Method, NO_ANSWER, Pool, Request, Response, Shape,
    };
    use logitd_core::batch::Dtype;
    use logitd_proto::{self as api, SampleResponse};

    /// Answers after a time that depends on the request's index; `None` is never.
    struct After(fn(u64) -> Option<Result<Duration, Failure>>);

    impl Target for After {
        async fn send(&self, i: u64, request: Request) -> Result<Response, Failure> {
            match (self.0)(i) {
                Some(Ok(time)) => sleep(time).await,
                Some(Err(failure)) => return Err(failure),
                None => std::future::pending().await,
            }
            let Request::Sample(request) = request else { panic!("nothing else is generated") };
            let rows = request.params.iter().map(|_| api::RowResult::default()).collect();
            Ok(Response::Sample(SampleResponse { rows, ..Default::default() }))
        }
    }

    fn source(requests_max: Option<u64>) -> Arc<Source> {
        let shape = Shape {
            method: Method::Sample,
            rows: "3".parse().unwrap(),
            params: Vec::new(),
            priority: api::Priority::Normal,
            seed: 1,
        };
        let pool = Pool::generate(Dtype::F16, 5, 2, 1);
        Arc::new(Source::generated(Generator::new(shape, pool), 0, requests_max))
    }

    fn plan(pace: Pace) -> Plan {
        Plan {
            pace,
            warmup: Duration::from_secs(2),
            duration: Duration::from_secs(10),
            timeout: Duration::from_secs(1),
            outstanding_max: 1000,
            failure_pause: Duration::from_millis(10),
            clock: Clock::Runtime,
        }
    }

    const OPEN: Pace = Pace::Open { rate: 100.0, arrivals: Arrivals::Constant, seed: 0 };
    const CLOSED: Pace = Pace::Closed { concurrency: 4 };
    const FIVE_MS: Option<Result<Duration, Failure>> = Some(Ok(Duration::from_millis(5)));

    async fn measure(target: After, plan: Plan, requests_max: Option<u64>) -> Measured {
        let stop = CancellationToken::new();
        run(Arc::new(target), source(requests_max), &plan, None, stop, |_| ()).await
    }

    fn ms(ns: u64) -> u64 {
        (ns + 500_000) / 1_000_000
    }

    #[tokio::test(start_paused = true)]
    async fn an_open_loop_sends_what_is_due_and_measures_after_the_warmup() {
        let measured = measure(After(|_| FIVE_MS), plan(OPEN), None).await;
        let total = &measured.total;
        assert_eq!((total.counts.answered, total.counts.rows), (1000, 3000));
        assert_eq!(total.counts.requests(), 1000);
        assert_eq!(total.counts.bytes, 3000 * 10);
        assert_eq!(ms(total.times.response.max()), 5);
        assert_eq!(ms(total.times.lag.max()), 0);
        assert_eq!(measured.elapsed.as_secs(), 10);
        assert_eq!(measured.windows.iter().map(|w| w.answered).sum::<u64>(), 1000);
    }

    #[tokio::test(start_paused = true)]
    async fn a_closed_loop_sends_when_it_was_answered() {
        let measured = measure(After(|_| FIVE_MS), plan(CLOSED), None).await;
        // Four workers, 10 s, and 5 ms or (for the coarse timer of the runtime) 6 ms a request.
        let answered = measured.total.counts.answered;
        assert!((4 * 1600..=4 * 2000).contains(&answered), "{answered}");
        assert_eq!(measured.total.counts.requests(), answered);
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_due_while_too_much_is_unanswered_is_counted() {
        let target = After(|i| if i < 400 { FIVE_MS } else { None });
        let measured = measure(target, Plan { outstanding_max: 50, ..plan(OPEN) }, None).await;
        let counts = measured.total.counts;
        // From request 400 on: 50 go out, and for the rest of the second there is no room; so each second.
        assert_eq!(counts.answered, 200);
        assert_eq!(counts.requests(), 1000, "every due request is accounted for");
        assert!((380..=420).contains(&counts.errors[NO_ANSWER]), "{counts:?}");
        assert_eq!(counts.overflow, 1000 - 200 - counts.errors[NO_ANSWER]);
    }

    #[tokio::test(start_paused = true)]
    async fn every_end_is_accounted_for_and_a_dead_server_is_not_hammered() {
        let failing = || {
            After(|i| match i % 4 {
                0 => FIVE_MS,
                1 => Some(Err(Failure::new(Code::RESOURCE_EXHAUSTED, "full"))),
                2 => Some(Err(Failure::new(Code::UNAVAILABLE, "reset"))),
                _ => None,
            })
        };
        let counts = measure(failing(), plan(OPEN), None).await.total.counts;
        assert_eq!((counts.answered, counts.refused), (250, 250));
        assert_eq!((counts.errors["UNAVAILABLE"], counts.errors[NO_ANSWER]), (250, 250));

        let down = After(|_| Some(Err(Failure::new(Code::UNAVAILABLE, "down"))));
        let counts = measure(down, plan(CLOSED), None).await.total.counts;
        assert!(counts.requests() <= 4 * 1000, "a pause of 10 ms: {}", counts.requests());
    }

    #[tokio::test(start_paused = true)]
    async fn a_run_ends_with_its_supply_or_when_it_is_stopped() {
        let measured = measure(After(|_| FIVE_MS), plan(OPEN), Some(300)).await;
        assert_eq!(measured.total.counts.answered, 100);
        assert_eq!(measured.elapsed.as_secs_f64().round(), 1.0);
        let measured = measure(After(|_| FIVE_MS), plan(CLOSED), Some(0)).await;
        assert_eq!(measured.total.counts.requests(), 0);

        for pace in [OPEN, CLOSED] {
            let stop = CancellationToken::new();
            let stopper = stop.clone();
            tokio::spawn(async move {
                sleep(Duration::from_millis(4500)).await;
                stopper.cancel();
            });
            let target = Arc::new(After(|_| FIVE_MS));
            let measured = run(target, source(None), &plan(pace), None, stop, |_| ()).await;
            let seconds = measured.elapsed.as_secs_f64();
            assert!((2.5..2.6).contains(&seconds), "{seconds}");
            assert!(measured.total.counts.answered >= 250);
        }
    }

    /// The thread's clock is the real one, so nothing is asserted about times here.
    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn the_thread_sends_the_same_requests() {
        let plan = Plan {
            warmup: Duration::from_millis(20),
            duration: Duration::from_millis(200),
            clock: Clock::Thread,
            ..plan(OPEN)
        };
        let measured = measure(After(|_| FIVE_MS), plan, None).await;
        assert_eq!(measured.total.counts.answered, 20);
    }
}
