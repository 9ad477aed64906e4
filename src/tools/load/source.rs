//! Where requests come from: a generator, or a recorded trace.

use super::generator::Generator;
use super::message::{Request, Response};
use crate::record::{Call, Damage, Entry, Exchange, Method, ReadError, Reader};
use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

/// A supply of requests, taken by one pacer or by many workers.
#[derive(Debug)]
pub struct Source(Kind);

#[derive(Debug)]
enum Kind {
    Generated { generator: Box<Generator>, next: AtomicU64, end: u64 },
    Trace(Box<Mutex<Replay>>, Arc<Mutex<Lost>>),
}

/// The right to send one request. Taken in order; the request itself is made by whoever sends it.
#[derive(Debug)]
pub(super) struct Claim {
    index: u64,
    recorded: Option<Box<Recorded>>,
}

/// A request ready to be sent.
#[derive(Debug)]
pub(super) struct Prepared {
    /// Its number, from 0.
    pub index: u64,
    /// What to send.
    pub request: Request,
    /// What was answered when it was recorded.
    pub recorded: Option<Response>,
}

impl Source {
    /// Requests `first`, `first + 1` and so on of a generator, `requests_max` of them at most.
    pub fn generated(generator: Generator, first: u64, requests_max: Option<u64>) -> Self {
        let end = requests_max.map_or(u64::MAX, |n| first.saturating_add(n));
        Self(Kind::Generated { generator: Box::new(generator), next: AtomicU64::new(first), end })
    }

    /// The requests of a trace, in the order of their arrival, with the seeds that were used.
    /// A thread reads ahead, so that the disk does not set the pace; how far is bounded.
    pub fn trace(path: &Path) -> Result<Self, ReadError> {
        let reader = Reader::open(path)?;
        let (queue, entries) = sync_channel(AHEAD_ENTRIES_MAX);
        let lost = Arc::<Mutex<Lost>>::default();
        let shared = lost.clone();
        std::thread::Builder::new()
            .name("replay".into())
            .spawn(move || read_ahead(reader, &queue, &shared))?;
        Ok(Self(Kind::Trace(Box::new(Mutex::new(Replay { entries, next: 0 })), lost)))
    }

    /// The generator, where there is one.
    pub fn generator(&self) -> Option<&Generator> {
        match &self.0 {
            Kind::Generated { generator, .. } => Some(generator),
            Kind::Trace(..) => None,
        }
    }

    /// What of a trace could not be read so far.
    pub fn lost(&self) -> Lost {
        match &self.0 {
            Kind::Generated { .. } => Lost::default(),
            Kind::Trace(_, lost) => lost.lock().unwrap_or_else(PoisonError::into_inner).clone(),
        }
    }

    /// A claim to the next request, or `None` at the end of the supply. Waits for the disk where a trace
    /// cannot be read as fast as it is sent.
    pub(super) fn claim(&self) -> Option<Claim> {
        match &self.0 {
            Kind::Generated { next, end, .. } => {
                let index = next.fetch_add(1, Ordering::Relaxed);
                (index < *end).then_some(Claim { index, recorded: None })
            }
            Kind::Trace(replay, _) => {
                let mut replay = replay.lock().unwrap_or_else(PoisonError::into_inner);
                let recorded = replay.entries.recv().ok()?;
                let index = replay.next;
                replay.next += 1;
                Some(Claim { index, recorded: Some(recorded) })
            }
        }
    }

    /// The claimed request.
    pub(super) fn prepare(&self, claim: Claim) -> Prepared {
        let index = claim.index;
        match (&self.0, claim.recorded) {
            (_, Some(recorded)) => {
                let (request, recorded) = match recorded.entry.call {
                    Call::Sample(exchange) => sent(exchange),
                    Call::Verify(exchange) => sent(exchange),
                    Call::BeamStep(exchange) => sent(exchange),
                };
                Prepared { index, request, recorded }
            }
            (Kind::Generated { generator, .. }, None) => {
                Prepared { index, request: generator.request(index), recorded: None }
            }
            (Kind::Trace(..), None) => unreachable!("claims of a trace carry their entry"),
        }
    }
}

/// A recorded request with the seeds that were used, and its answer.
fn sent<M: Method<Answer: Into<Response>> + Into<Request>>(
    exchange: Exchange<M>,
) -> (Request, Option<Response>) {
    (exchange.seeded_request().into(), exchange.result.ok().map(Into::into))
}

impl Claim {
    /// When it arrived, where it was recorded: from the first session of the trace on.
    pub(super) fn arrival(&self) -> Duration {
        self.recorded.as_ref().map_or(Duration::ZERO, |recorded| recorded.arrival)
    }
}

/// What could not be read of a trace.
#[derive(Clone, Debug, Default)]
pub struct Lost {
    /// Frames that are damaged.
    pub damage: Vec<Damage>,
    /// Why reading ended before the end.
    pub failure: Option<String>,
}

/// Entries read ahead and in order.
const AHEAD_ENTRIES_MAX: usize = 32;
/// Entries that are held back to put them into the order of arrival: they were written in the order of
/// completion.
const REORDER_ENTRIES_MAX: usize = 1024;
/// Bytes of their logits.
const REORDER_BYTES_MAX: usize = 64 << 20;

#[derive(Debug)]
struct Replay {
    entries: Receiver<Box<Recorded>>,
    next: u64,
}

#[derive(Debug)]
struct Recorded {
    arrival: Duration,
    entry: Entry,
}

/// By arrival, then by place in the file.
#[derive(Debug)]
struct Waiting(Duration, u64, Box<Recorded>);

impl PartialEq for Waiting {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other).is_eq()
    }
}

impl Eq for Waiting {}

impl PartialOrd for Waiting {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Waiting {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        (self.0, self.1).cmp(&(other.0, other.1))
    }
}

/// Reads to the end of the trace, or until nobody listens.
fn read_ahead(mut reader: Reader, queue: &SyncSender<Box<Recorded>>, lost: &Mutex<Lost>) {
    let mut waiting = BinaryHeap::new();
    let mut waiting_bytes = 0;
    let mut place = 0;
    while let Some(item) = reader.next() {
        let entry = match item {
            Ok(entry) => entry,
            Err(error) => {
                let mut lost = lost.lock().unwrap_or_else(PoisonError::into_inner);
                match error {
                    ReadError::Damage(damage) => lost.damage.push(damage),
                    other => lost.failure = Some(other.to_string()),
                }
                continue;
            }
        };
        waiting_bytes += entry.call.logits_bytes();
        let arrival = reader.session_start() + entry.arrival;
        waiting.push(Reverse(Waiting(arrival, place, Box::new(Recorded { arrival, entry }))));
        place += 1;
        while waiting.len() > REORDER_ENTRIES_MAX || waiting_bytes > REORDER_BYTES_MAX {
            let Some(Reverse(Waiting(_, _, first))) = waiting.pop() else { break };
            waiting_bytes -= first.entry.call.logits_bytes();
            if queue.send(first).is_err() {
                return;
            }
        }
    }
    while let Some(Reverse(Waiting(_, _, first))) = waiting.pop() {
        if queue.send(first).is_err() {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::{Recorder, RecorderOptions};
    use logitd_proto::{SampleRequest, SampleResponse};
    use std::time::Instant;

    #[test]
    fn a_trace_is_replayed_in_the_order_of_arrival_with_the_seeds_that_were_used() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.trace");
        let recorder = Recorder::start(RecorderOptions::new(&path)).unwrap();
        let arrived = Instant::now();
        // Completed in the reverse order of their arrival.
        for n in (0..50u32).rev() {
            let request = SampleRequest { vocab_size: n, ..Default::default() };
            let row = logitd_proto::RowResult { seed: u64::from(n) + 100, ..Default::default() };
            let answer = SampleResponse { rows: vec![row], ..Default::default() };
            let at = arrived + Duration::from_millis(u64::from(n));
            recorder.record(at, &request, Ok(&answer));
        }
        recorder.finish();

        let source = Source::trace(&path).unwrap();
        let mut last = Duration::ZERO;
        for n in 0..50 {
            let claim = source.claim().unwrap();
            assert!(claim.arrival() >= last);
            last = claim.arrival();
            let prepared = source.prepare(claim);
            let (Request::Sample(request), Some(Response::Sample(recorded))) =
                (prepared.request, prepared.recorded)
            else {
                panic!("{n} is a request of Sample with an answer")
            };
            assert_eq!((prepared.index, request.vocab_size), (u64::from(n), n));
            assert_eq!(request.params[0].seed, Some(u64::from(n) + 100));
            assert_eq!(recorded.rows.len(), 1);
        }
        assert!(source.claim().is_none());
        assert!(source.lost().damage.is_empty() && source.lost().failure.is_none());
    }
}
