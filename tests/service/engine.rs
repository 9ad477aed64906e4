//! The engine's promises, on backends that do what a test tells them.

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

#[tokio::test]
async fn each_request_gets_its_own_rows_in_order() {
    let engine = start([Scripted::new("a", []), Scripted::new("b", [])]);
    let mut open = Vec::new();
    for n in 0..200 {
        let request = request(n * 10..n * 10 + 1 + n % 4);
        let expected = expected(&request);
        open.push((submit(&engine, request).unwrap(), expected));
    }
    for (ticket, expected) in open {
        let completed = answer(ticket).await.unwrap();
        assert!(completed.results.iter().eq(expected.iter()));
    }
}

#[tokio::test]
async fn a_request_larger_than_a_batch_comes_back_whole_and_in_order() {
    let config = EngineConfig { batch_rows_max: 7, ..Default::default() };
    let engine = start_with(config, [Scripted::new("a", []), Scripted::new("b", [])]);
    let mut open = Vec::new();
    for n in [100, 1, 50] {
        let request = request(n..2 * n);
        let expected = expected(&request);
        open.push((submit(&engine, request).unwrap(), expected));
    }
    for (ticket, expected) in open {
        let completed = answer(ticket).await.unwrap();
        assert!(completed.results.iter().eq(expected.iter()));
    }
    engine.drain().await;
}

#[tokio::test]
async fn what_waits_when_the_device_falls_free_is_the_next_batch() {
    let (engine, gate, busy) = start_busy(EngineConfig::default());
    let waiting: Vec<_> = (0..5).map(|n| submit(&engine, request([n])).unwrap()).collect();
    gate.open();
    assert_eq!(gate.pass(), [0, 1, 2, 3, 4]);
    let busy = answer(busy).await.unwrap();
    for ticket in waiting {
        let completed = answer(ticket).await.unwrap();
        assert_eq!(completed.device.id, "gated");
        assert!(completed.timings.queue > Duration::ZERO);
        assert_eq!(completed.timings.copy, Duration::ZERO);
    }
    // It waited at the gate inside of the backend.
    assert!(busy.timings.compute > Duration::ZERO);
}

#[tokio::test]
async fn budgets_of_rows_and_bytes_bound_a_batch() {
    let config = EngineConfig {
        batch_rows_max: 4,
        batch_bytes_max: 3 * ROW_BYTES + 1,
        ..Default::default()
    };
    let (engine, gate, _busy) = start_busy(config);
    let _waiting: Vec<_> = (0..5).map(|n| submit(&engine, request([n])).unwrap()).collect();
    gate.open();
    assert_eq!(gate.pass(), [0, 1, 2]);
    assert_eq!(gate.pass(), [3, 4]);

    let large = RequestRow::new(Dtype::F16, vec![0; 4 * ROW_BYTES].into(), *row(0).params());
    let rows = vec![large.unwrap()];
    let refused = submit(
        &engine,
        Request { rows, deadline: None, priority: Priority::High, source: Source::default() },
    );
    let (asked, limit) = (4 * ROW_BYTES, 3 * ROW_BYTES + 1);
    let expected = Refused::TooLarge { what: Resource::BatchBytes, limit, asked };
    assert_eq!(refused.err(), Some(expected));
}

#[tokio::test]
async fn priorities_decide_who_goes_first() {
    let config = EngineConfig { batch_rows_max: 1, ..Default::default() };
    let (engine, gate, _busy) = start_busy(config);
    let mut waiting = Vec::new();
    for (n, priority) in [Priority::Low, Priority::Normal, Priority::High].into_iter().enumerate() {
        waiting.push(submit(&engine, Request { priority, ..request([n as u64]) }).unwrap());
    }
    gate.open();
    assert_eq!([gate.pass(), gate.pass(), gate.pass()], [[2], [1], [0]]);
}

#[tokio::test]
async fn a_delay_lets_a_batch_fill_up() {
    let config =
        EngineConfig { batch_rows_max: 3, batch_delay: LONG * 10, ..EngineConfig::default() };
    let (backend, gate) = Scripted::new("gated", []).gated();
    let engine = start_with(config, [backend]);
    let mut open = Vec::new();
    for n in 0..3 {
        open.push(submit(&engine, request([n])).unwrap());
    }
    assert_eq!(gate.pass(), [0, 1, 2]);
    // A drain does not wait.
    open.push(submit(&engine, request([3])).unwrap());
    let mut drain = pin!(engine.drain());
    assert!(poll(drain.as_mut()).is_pending());
    assert_eq!(gate.pass(), [3]);
    drain.await;
    for ticket in open {
        answer(ticket).await.unwrap();
    }
}

#[tokio::test]
async fn overload_is_refused_at_once_and_says_when_to_come_again() {
    let config = EngineConfig {
        queue_rows_max: 4,
        queue_bytes_max: 100 * ROW_BYTES,
        retry_after_max: Duration::from_millis(20),
        ..Default::default()
    };
    let (engine, gate, busy) = start_busy(config);
    let waiting = submit(&engine, request(0..3)).unwrap();
    let refused = |rows, bytes| engine.reserve(rows, bytes).err().unwrap();

    let Refused::Overloaded { what, limit, asked, retry_after } = refused(1, 0) else {
        panic!("four rows are in")
    };
    assert_eq!((what, limit, asked), (Resource::QueueRows, 4, 1));
    assert!(!retry_after.is_zero() && retry_after <= config.retry_after_max);
    let never = Refused::TooLarge { what: Resource::QueueRows, limit: 4, asked: 5 };
    assert_eq!(refused(5, 0), never);
    let (limit, asked) = (100 * ROW_BYTES, 101 * ROW_BYTES);
    let never = Refused::TooLarge { what: Resource::QueueBytes, limit, asked };
    assert_eq!(refused(0, asked), never);

    gate.open();
    gate.pass();
    answer(busy).await.unwrap();
    answer(waiting).await.unwrap();
    assert!(engine.reserve(4, limit).is_ok());
}

#[tokio::test]
async fn dropping_a_ticket_takes_a_waiting_request_out_and_frees_its_permits() {
    let config = EngineConfig { queue_rows_max: 3, ..Default::default() };
    let (engine, gate, busy) = start_busy(config);
    let kept = submit(&engine, request([1])).unwrap();
    let dropped = submit(&engine, request([2])).unwrap();
    assert!(engine.reserve(1, 0).is_err());
    drop(dropped);
    let permit = engine.reserve(1, 0).expect("the device is still busy, but the place is free");
    gate.open();
    assert_eq!(gate.pass(), [1]);
    answer(busy).await.unwrap();
    answer(kept).await.unwrap();
    drop(permit);
    engine.drain().await;
}

#[tokio::test]
async fn dropping_the_ticket_of_a_running_request_frees_its_permits_when_it_is_done() {
    let config = EngineConfig { queue_rows_max: 2, ..Default::default() };
    let (engine, gate, busy) = start_busy(config);
    drop(busy);
    let waiting = submit(&engine, request([1])).unwrap();
    assert!(engine.reserve(1, 0).is_err(), "its logits are still being read");
    gate.open();
    gate.pass();
    answer(waiting).await.unwrap();
    assert!(engine.reserve(2, 0).is_ok());
}

#[tokio::test]
async fn a_deadline_expires_while_the_device_is_busy() {
    let config = EngineConfig { queue_rows_max: 3, ..Default::default() };
    let (engine, gate, busy) = start_busy(config);
    let deadline = Instant::now() + Duration::from_millis(100);
    let patient = submit(&engine, request([1])).unwrap();
    let hasty = submit(&engine, Request { deadline: Some(deadline), ..request([2]) });
    let hasty = hasty.unwrap();
    assert!(engine.reserve(1, 0).is_err());

    // The gate is closed all the while.
    assert_eq!(answer(hasty).await.unwrap_err(), Failure::DeadlineExceeded);
    assert!(Instant::now() >= deadline);
    assert!(engine.reserve(1, 0).is_ok());
    gate.open();
    assert_eq!(gate.pass(), [1]);
    answer(busy).await.unwrap();
    answer(patient).await.unwrap();
}

#[tokio::test]
async fn deadlines_expire_in_their_own_order() {
    let (engine, _gate, _busy) = start_busy(EngineConfig::default());
    let now = Instant::now();
    let late = submit(&engine, Request { deadline: Some(now + LONG * 10), ..request([1]) });
    let mut late = late.unwrap();
    let soon = Some(now + Duration::from_millis(50));
    let soon = submit(&engine, Request { deadline: soon, ..request([2]) }).unwrap();
    assert_eq!(answer(soon).await.unwrap_err(), Failure::DeadlineExceeded);
    assert!(poll(pin!(&mut late)).is_pending());
}

#[tokio::test]
async fn a_request_whose_rest_expires_is_answered_before_its_first_part_is_done() {
    let config = EngineConfig { batch_rows_max: 2, queue_rows_max: 5, ..Default::default() };
    let (backend, gate) = Scripted::new("gated", []).gated();
    let engine = start_with(config, [backend]);
    let deadline = Some(Instant::now() + Duration::from_millis(300));
    let split = submit(&engine, Request { deadline, ..request(0..5) }).unwrap();
    assert_eq!(gate.arrived(), [0, 1]);
    assert_eq!(answer(split).await.unwrap_err(), Failure::DeadlineExceeded);
    assert!(engine.reserve(1, 0).is_err(), "its first rows are still being read");
    let mut drain = pin!(engine.drain());
    assert!(poll(drain.as_mut()).is_pending());
    gate.open();
    drain.await;
    assert!(gate.batches.try_recv().is_err(), "nothing else ran");
}

#[tokio::test]
async fn what_cannot_be_queued_is_refused() {
    let engine = start([Scripted::new("a", [])]);
    let late = Request { deadline: Some(Instant::now()), ..request([0]) };
    assert_eq!(submit(&engine, late).err(), Some(Refused::DeadlineExceeded));
    assert_eq!(submit(&engine, request([])).err(), Some(Refused::Empty));
    // A permit that is too small grows with its request.
    let permit = engine.reserve(0, 0).unwrap();
    answer(engine.submit(permit, request(0..3)).unwrap()).await.unwrap();
}

#[tokio::test]
async fn a_permit_is_resized_whole_or_not_at_all() {
    let config = EngineConfig { queue_rows_max: 4, queue_bytes_max: 100, ..Default::default() };
    let engine = start_with(config, [Scripted::new("a", [])]);
    let mut permit = engine.reserve(1, 60).unwrap();
    let other = engine.reserve(3, 40).unwrap();
    assert!(permit.resize(2, 10).is_err());
    assert_eq!((permit.rows(), permit.bytes()), (1, 60));
    permit.resize(1, 10).unwrap();
    assert!(engine.reserve(0, 51).is_err());
    drop(other);
    permit.resize(4, 100).unwrap();
    assert!(engine.reserve(1, 0).is_err());
    drop(permit);
    assert!(engine.reserve(4, 100).is_ok());
}

/// Runs three requests on devices that fail in some way; every one must come back right.
async fn survives(devices: Devices) -> Engine {
    let config = EngineConfig { batch_rows_max: 4, ..Default::default() };
    let engine = Engine::start(config, devices);
    let mut open = Vec::new();
    for n in 0..20 {
        let request = request(n..n + 3);
        let expected = expected(&request);
        open.push((submit(&engine, request).unwrap(), expected));
    }
    for (ticket, expected) in open {
        let completed = answer(ticket).await.unwrap();
        assert!(completed.results.iter().eq(expected.iter()));
    }
    assert!(engine.reserve(EngineConfig::default().queue_rows_max, 0).is_ok());
    engine
}

const FAULTS: [Step; 3] = [Step::Fail, Step::Panic, Step::Short];

#[tokio::test]
async fn another_device_runs_the_batch_of_one_that_fails() {
    for fault in FAULTS {
        let good = Scripted::new("good", []).boxed();
        let bad = Scripted::new("bad", [Step::Sample, fault]).boxed();
        let (second, gate) = Scripted::new("bad", [fault]).gated();
        let engine = survives(vec![bad, good].into()).await;
        // Whether the bad one has had its second batch is a matter of luck, so once more, certainly.
        drop(engine);
        let engine = start([second]);
        let ticket = submit(&engine, request([5])).unwrap();
        gate.pass();
        assert!(matches!(answer(ticket).await, Err(Failure::Device(_))), "{fault:?}");
    }
}

#[tokio::test]
async fn a_waiting_device_gets_the_batch_of_one_that_fails() {
    let config = EngineConfig { batch_rows_max: 2, ..Default::default() };
    for fault in FAULTS {
        let (bad, bad_gate) = Scripted::new("bad", [fault]).gated();
        let (good, good_gate) = Scripted::new("good", []).gated();
        let engine = start_with(config, [bad, good]);
        let mut news = engine.watch_devices();
        let requests = [request([1, 2]), request([3, 4])];
        let tickets = requests.clone().map(|request| submit(&engine, request).unwrap());
        // Each device has one of them; either way round.
        let (lost, kept) = (bad_gate.arrived(), good_gate.arrived());
        let third = submit(&engine, request([5])).unwrap();
        bad_gate.open();
        news.wait_for(|states| states.iter().any(|state| !state.up)).await.unwrap();
        good_gate.open();
        // What was given back goes before what came later.
        let next = good_gate.pass();
        assert_eq!(next, lost, "{fault:?}");
        assert_ne!(next, kept);
        assert_eq!(good_gate.pass(), [5]);
        for (ticket, request) in tickets.into_iter().zip(&requests) {
            let completed = answer(ticket).await.unwrap();
            assert_eq!(completed.device.id, "good");
            assert!(completed.results.iter().eq(expected(request).iter()));
        }
        answer(third).await.unwrap();
        assert_eq!(ups(&engine), [("bad".into(), false), ("good".into(), true)]);
    }
}

#[tokio::test]
async fn a_fallback_takes_over_when_every_device_has_failed() {
    for fault in FAULTS {
        let backends = ["a", "b", "c"].map(|id| Scripted::new(id, [fault]).boxed());
        let devices = Devices {
            backends: backends.into(),
            fallback: Some(make(Scripted::new("fallback", []))),
            verify: None,
        };
        let engine = survives(devices).await;
        // Devices without a batch have not failed yet: give each of them one.
        while ups(&engine).len() < 4 {
            answer(submit(&engine, request([1])).unwrap()).await.unwrap();
        }
        // A device is said to be down a moment after its batch has gone to the next.
        let mut news = engine.watch_devices();
        let down = news.wait_for(|states| states.iter().filter(|state| !state.up).count() == 3);
        tokio::time::timeout(LONG, down).await.expect("all three are out").unwrap();
        let expected = [("a", false), ("b", false), ("c", false), ("fallback", true)];
        assert_eq!(ups(&engine), expected.map(|(id, up)| (id.to_owned(), up)));
    }
}

#[tokio::test]
async fn with_nothing_left_requests_fail_and_nothing_hangs() {
    let (bad, gate) = Scripted::new("bad", [Step::Panic]).gated();
    let engine = start([bad]);
    let running = submit(&engine, request([1])).unwrap();
    gate.arrived();
    let waiting = submit(&engine, request([2])).unwrap();
    let permit = engine.reserve(1, ROW_BYTES).unwrap();
    gate.open();
    for ticket in [running, waiting] {
        let Failure::Device(error) = answer(ticket).await.unwrap_err() else { panic!("no device") };
        assert_eq!(error.to_string(), "device bad failed: it panicked: told to");
    }
    assert_eq!(engine.submit(permit, request([3])).err(), Some(Refused::NoDevice));
    assert_eq!(engine.reserve(1, 1).err(), Some(Refused::NoDevice));
    assert_eq!(ups(&engine), [("bad".into(), false)]);
    engine.drain().await;
}

#[tokio::test]
async fn a_fallback_that_cannot_be_made_is_a_failure_too() {
    let devices = Devices {
        backends: vec![Scripted::new("bad", [Step::Fail]).boxed()],
        fallback: Some(Box::new(|| panic!("no memory"))),
        verify: None,
    };
    let engine = Engine::start(EngineConfig::default(), devices);
    let ticket = submit(&engine, request([1])).unwrap();
    let error = answer(ticket).await.unwrap_err();
    assert_eq!(error.to_string(), "device bad failed: told to, and no other device is left");
}

#[tokio::test]
async fn a_fallback_that_fails_is_the_end() {
    let devices = Devices {
        backends: vec![Scripted::new("bad", [Step::Fail]).boxed()],
        fallback: Some(make(Scripted::new("fallback", [Step::Panic]))),
        verify: None,
    };
    let engine = Engine::start(EngineConfig::default(), devices);
    let error = answer(submit(&engine, request([1])).unwrap()).await.unwrap_err();
    let Failure::Device(error) = error else { panic!("{error}") };
    assert_eq!(error.device, "fallback");
    assert_eq!(ups(&engine), [("bad".into(), false), ("fallback".into(), false)]);
}

#[tokio::test]
async fn without_a_backend_the_fallback_is_all_there_is() {
    let engine = Engine::start(EngineConfig::default(), Devices::default());
    assert_eq!(engine.reserve(1, 1).err(), Some(Refused::NoDevice));
    engine.drain().await;
    let fallback = Some(make(Scripted::new("fallback", [])));
    let engine = Engine::start(EngineConfig::default(), Devices { fallback, ..Default::default() });
    answer(submit(&engine, request([1])).unwrap()).await.unwrap();
}

/// Two devices with a request each, of which one has failed while the other is still busy: the
/// tickets of the request that was given back and of the one that runs.
async fn start_half_lost(deadline: Option<Instant>) -> (Engine, Gate, Ticket, Ticket) {
    let config = EngineConfig { batch_rows_max: 1, queue_rows_max: 2, ..Default::default() };
    let (bad, bad_gate) = Scripted::new("bad", [Step::Fail]).gated();
    let (good, good_gate) = Scripted::new("good", []).gated();
    let engine = start_with(config, [bad, good]);
    let mut news = engine.watch_devices();
    let submit = |n| submit(&engine, Request { deadline, ..request([n]) }).unwrap();
    let (first, second) = (submit(1), submit(2));
    let (lost, _) = (bad_gate.arrived(), good_gate.arrived());
    bad_gate.open();
    news.wait_for(|states| states.iter().any(|state| !state.up)).await.unwrap();
    assert!(engine.reserve(1, 0).is_err());
    let (lost, kept) = if lost == [1] { (first, second) } else { (second, first) };
    (engine, good_gate, lost, kept)
}

#[tokio::test]
async fn a_cancelled_request_that_was_given_back_frees_its_permits() {
    let (engine, gate, lost, kept) = start_half_lost(None).await;
    drop(lost);
    assert!(engine.reserve(1, 0).is_ok(), "while the other still runs");
    gate.open();
    answer(kept).await.unwrap();
}

#[tokio::test]
async fn a_request_that_was_given_back_still_expires() {
    let deadline = Some(Instant::now() + Duration::from_millis(500));
    let (engine, gate, lost, kept) = start_half_lost(deadline).await;
    assert_eq!(answer(lost).await.unwrap_err(), Failure::DeadlineExceeded);
    assert!(engine.reserve(1, 0).is_ok(), "while the other still runs");
    gate.open();
    answer(kept).await.unwrap();
}

#[tokio::test]
async fn a_drain_finishes_what_was_accepted_and_takes_nothing_more() {
    let (engine, gate, busy) = start_busy(EngineConfig::default());
    let waiting = submit(&engine, request([1])).unwrap();
    let permit = engine.reserve(1, ROW_BYTES).unwrap();
    let mut drain = pin!(engine.drain());
    assert!(poll(drain.as_mut()).is_pending());
    assert_eq!(engine.reserve(1, 1).err(), Some(Refused::Draining));
    // A permit is a promise.
    let promised = engine.submit(permit, request([2])).unwrap();
    gate.open();
    assert_eq!(gate.pass(), [1, 2]);
    drain.await;
    for ticket in [busy, waiting, promised] {
        // Answered before the drain resolved: ready without waiting.
        assert!(matches!(poll(pin!(ticket)), Poll::Ready(Ok(_))));
    }
    engine.drain().await;
}

#[tokio::test]
async fn dropping_the_engine_cancels_what_waits_and_joins_the_threads() {
    let (backend, gate) = Scripted::new("gated", []).gated();
    let dropped = Arc::clone(&backend.dropped);
    let engine = start([backend]);
    let busy = submit(&engine, request([0])).unwrap();
    gate.arrived();
    let waiting = submit(&engine, request([1])).unwrap();
    let permit = engine.reserve(1, 1).unwrap();
    let other_handle = engine.clone();
    drop(engine);
    let dropping = std::thread::spawn(|| drop(other_handle));
    assert_eq!(answer(waiting).await.unwrap_err(), Failure::Cancelled);
    gate.open();
    dropping.join().unwrap();
    assert_eq!(dropped.load(Ordering::Relaxed), 1, "the thread that owned it is gone");
    assert!(answer(busy).await.is_ok());
    drop(permit);
}

#[test]
fn the_last_handle_may_go_on_a_worker_thread() {
    struct Last(Mutex<Option<Engine>>, Sender<()>);
    impl Wake for Last {
        fn wake(self: Arc<Self>) {
            self.0.lock().unwrap().take();
            self.1.send(()).unwrap();
        }
    }
    let (engine, gate, mut busy) = start_busy(EngineConfig::default());
    let (done, woken) = channel();
    let last = Arc::new(Last(Mutex::new(Some(engine)), done));
    let waker = Waker::from(Arc::clone(&last));
    assert!(pin!(&mut busy).poll(&mut Context::from_waker(&waker)).is_pending());
    gate.open();
    woken.recv_timeout(LONG).expect("dropping the engine on its own thread does not hang");
    assert!(matches!(poll(pin!(busy)), Poll::Ready(Ok(_))));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn many_callers_who_cancel_and_expire_leave_nothing_behind() {
    let config = EngineConfig {
        batch_rows_max: 16,
        queue_rows_max: 64,
        batch_delay: Duration::from_micros(50),
        ..Default::default()
    };
    let backends =
        ["a", "b", "c"].map(|id| Scripted::new(id, [Step::Sample, Step::Sample, Step::Fail]));
    let devices = Devices {
        backends: backends.map(Scripted::boxed).into(),
        fallback: Some(make(Scripted::new("fallback", []))),
        verify: None,
    };
    let engine = Engine::start(config, devices);
    let callers = (0..32u64).map(|caller| {
        let engine = engine.clone();
        tokio::spawn(async move {
            for n in 0..100u64 {
                let seed = caller * 1000 + n;
                let mut request = request(seed..seed + 1 + seed % 5);
                request.priority =
                    [Priority::Low, Priority::Normal, Priority::High][n as usize % 3];
                if n % 7 == 0 {
                    request.deadline = Some(Instant::now() + Duration::from_micros(seed % 300));
                }
                let expected = expected(&request);
                let Ok(ticket) = submit(&engine, request) else { continue };
                if n % 5 == 0 {
                    tokio::task::yield_now().await;
                    continue;
                }
                match answer(ticket).await {
                    Ok(done) => assert!(done.results.iter().eq(expected.iter())),
                    Err(failure) => assert_eq!(failure, Failure::DeadlineExceeded),
                }
            }
        })
    });
    for caller in callers.collect::<Vec<_>>() {
        caller.await.unwrap();
    }
    tokio::time::timeout(LONG, engine.drain()).await.expect("every permit comes back");
}

/// Logits of `row(n)` that can be spoilt, and whether somebody has them.
#[derive(Debug)]
struct Lent {
    logits: Bytes,
    spoilt: Arc<Mutex<Option<LoanError>>>,
}

impl Loan for Lent {
    fn copy(&self, at: usize, into: &mut [u8]) {
        into.copy_from_slice(&self.logits[at..at + into.len()]);
    }

    fn check(&self) -> Result<(), LoanError> {
        self.spoilt.lock().unwrap().clone().map_or(Ok(()), Err)
    }
}

/// `row(n)`s with their logits in one loan; what spoils it; and a witness that goes when the loan does.
fn lent(rows: Vec<u64>) -> (Request, Arc<Mutex<Option<LoanError>>>, std::sync::Weak<dyn Loan>) {
    let bytes = |n: &u64| {
        let mut logits = vec![0; ROW_BYTES];
        row(*n).as_row().copy_to(0, &mut logits);
        logits
    };
    let logits: Bytes = rows.iter().flat_map(bytes).collect();
    let spoilt = Arc::default();
    let loan: Arc<dyn Loan> = Arc::new(Lent { logits, spoilt: Arc::clone(&spoilt) });
    let witness = Arc::downgrade(&loan);
    let row = |(i, n): (usize, u64)| {
        let params = *row(n).params();
        RequestRow::lent(Dtype::F16, Arc::clone(&loan), i * ROW_BYTES, ROW_BYTES, params).unwrap()
    };
    let rows = rows.into_iter().enumerate().map(row).collect();
    (
        Request { rows, deadline: None, priority: Priority::Normal, source: Source::default() },
        spoilt,
        witness,
    )
}

#[tokio::test]
async fn a_loan_is_checked_after_its_rows_and_over_before_their_answer() {
    // Two batches, so that the loan is spoilt between them.
    let config = EngineConfig { batch_rows_max: 2, ..Default::default() };
    let broken =
        [LoanError::Changed("slot 3 was written".into()), LoanError::Lost("the device".into())];
    for error in [None, Some(broken[0].clone()), Some(broken[1].clone())] {
        let (backend, gate) = Scripted::new("cpu", []).gated();
        let engine = start_with(config, [backend]);
        let (request, spoilt, witness) = lent(vec![5, 6, 7]);
        let expected = expected(&request);
        let ticket = submit(&engine, request).unwrap();
        gate.arrived();
        gate.open();
        gate.arrived();
        *spoilt.lock().unwrap() = error.clone();
        assert!(witness.upgrade().is_some());
        gate.open();
        match (error, answer(ticket).await) {
            (None, Ok(completed)) => assert!(completed.results.iter().eq(expected.iter())),
            (Some(error), Err(failure)) => assert_eq!(failure, Failure::Loan(error)),
            (error, answer) => panic!("{error:?}: {answer:?}"),
        }
        assert!(witness.upgrade().is_none(), "the owner can have its memory back");
        let ticket = submit(&engine, self::request([1])).unwrap();
        gate.arrived();
        gate.open();
        assert!(answer(ticket).await.is_ok(), "the device is as good as before");
    }
}

#[tokio::test]
async fn a_loan_that_is_over_is_not_verified() {
    let recorder = metrics_exporter_prometheus::PrometheusBuilder::new().build_recorder();
    let page = recorder.handle();
    let verify = Verify::new(1.0, make(Scripted::new("second", [])));
    let backends = vec![Scripted::new("first", []).boxed()];
    let devices = Devices { backends, verify: Some(verify), fallback: None };
    let engine =
        metrics::with_local_recorder(&recorder, || Engine::start(EngineConfig::default(), devices));
    let (request, ..) = lent(vec![1, 2]);
    answer(submit(&engine, request).unwrap()).await.unwrap();
    until(|| page.render().contains("\nlogitd_parity_skips_total 1\n")).await;
    assert!(page.render().contains("\nlogitd_parity_checks_total 0\n"), "{}", page.render());
}

#[tokio::test]
async fn metrics_say_what_happened() {
    let recorder = metrics_exporter_prometheus::PrometheusBuilder::new().build_recorder();
    let page = recorder.handle();
    let (backend, gate) = Scripted::new("cpu", []).gated();
    let engine = metrics::with_local_recorder(&recorder, || start([backend]));
    let nan = RequestRow::new(Dtype::F32, vec![0xff; 4].into(), *row(0).params()).unwrap();
    let mut with_nan = request([1, 2]);
    with_nan.rows.push(nan);
    let ticket = submit(&engine, with_nan).unwrap();
    gate.arrived();
    let waiting = submit(&engine, request([3, 4])).unwrap();
    assert!(page.render().contains("\nlogitd_queue_rows 2\n"), "{}", page.render());
    gate.open();
    gate.pass();
    answer(ticket).await.unwrap();
    answer(waiting).await.unwrap();
    let text = page.render();
    for line in [
        "logitd_batches_total 2",
        "logitd_batch_rows_sum 5",
        "logitd_queue_rows 0",
        "logitd_queue_wait_seconds_count 2",
        "logitd_copy_seconds_sum 0",
        "logitd_compute_seconds_count 2",
        "logitd_rows_total{status=\"OK\",device=\"cpu\"} 4",
        "logitd_rows_total{status=\"NAN\",device=\"cpu\"} 1",
        "logitd_parity_mismatches_total 0",
        "logitd_device_up{device=\"cpu\"} 1",
        "# HELP logitd_queue_wait_seconds From acceptance of a request to the start of its batch.",
    ] {
        assert!(text.lines().any(|l| l == line), "{line} is not in\n{text}");
    }
}

#[tokio::test]
async fn a_mismatch_is_counted_and_written_where_it_can_be_replayed() {
    let recorder = metrics_exporter_prometheus::PrometheusBuilder::new().build_recorder();
    let page = recorder.handle();
    let folder = tempfile::tempdir().unwrap();
    let verify = Verify {
        dump: Some(Box::new(writer(folder.path().into()))),
        ..Verify::new(1.0, make(Scripted::new("second", [])))
    };
    let backends = vec![Scripted::new("cuda:0", [Step::Sample, Step::Wrong]).boxed()];
    let devices = Devices { backends, verify: Some(verify), fallback: None };
    let engine =
        metrics::with_local_recorder(&recorder, || Engine::start(EngineConfig::default(), devices));
    for (n, mismatches) in [(0, 0), (20, 1)] {
        answer(submit(&engine, request(n..n + 20)).unwrap()).await.unwrap();
        let checks = format!("\nlogitd_parity_checks_total {}\n", n / 20 + 1);
        until(|| page.render().contains(&checks)).await;
        until(|| std::fs::read_dir(folder.path()).unwrap().count() == 3 * mismatches).await;
        let line = format!("\nlogitd_parity_mismatches_total {mismatches}\n");
        until(|| page.render().contains(&line)).await;
    }
    assert_eq!(ups(&engine), [("cuda:0".into(), true)]);
    let files = std::fs::read_dir(folder.path()).unwrap().map(|file| file.unwrap().path());
    let text = files.into_iter().find(|path| path.extension().is_some_and(|e| e == "txt"));
    let text = std::fs::read_to_string(text.unwrap()).unwrap();
    assert!(text.contains("row 0 (f16, vocab_size 32)") && text.contains("seed 20,"), "{text}");
}

#[tokio::test]
async fn a_strict_verification_takes_a_wrong_device_out() {
    let verify = Verify { strict: true, ..Verify::new(1.0, make(Scripted::new("second", []))) };
    let devices = Devices {
        backends: vec![Scripted::new("wrong", [Step::Wrong]).boxed()],
        fallback: Some(make(Scripted::new("fallback", []))),
        verify: Some(verify),
    };
    let engine = Engine::start(EngineConfig::default(), devices);
    let mut news = engine.watch_devices();
    answer(submit(&engine, request([1])).unwrap()).await.unwrap();
    // No further batch is needed for it.
    let out = news.wait_for(|states| states.len() == 2 && !states[0].up && states[1].up);
    tokio::time::timeout(LONG, out).await.expect("it is replaced").unwrap();
    let completed = answer(submit(&engine, request([2])).unwrap()).await.unwrap();
    assert_eq!(completed.device.id, "fallback");
}

#[tokio::test]
async fn the_share_of_batches_that_is_verified_is_spread_evenly() {
    let (second, gate) = Scripted::new("second", []).gated();
    for _ in 0..3 {
        gate.open();
    }
    let verify = Verify::new(0.25, make(second));
    let backends = vec![Scripted::new("first", []).boxed()];
    let devices = Devices { backends, verify: Some(verify), fallback: None };
    let engine = Engine::start(EngineConfig::default(), devices);
    for n in 1..=12 {
        answer(submit(&engine, request([n])).unwrap()).await.unwrap();
        if n % 4 == 0 {
            assert_eq!(gate.arrived(), [n]);
        }
    }
    drop(engine);
    assert!(gate.batches.try_recv().is_err());
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
