//! The queue against a plain model: lists of ranges, searched from the front.

use super::*;
use crate::engine::{ConnectionId, GroupId};
use proptest::prelude::*;
use std::rc::Rc;

#[derive(Debug)]
struct Request {
    id: usize,
    sizes: Vec<RowSize>,
    source: Source,
    priority: Priority,
    deadline: Option<Instant>,
    home: Option<usize>,
}

impl Item for Rc<Request> {
    fn rows(&self) -> usize {
        self.sizes.len()
    }

    fn row_size(&self, row: usize) -> RowSize {
        self.sizes[row]
    }

    fn home(&self) -> Option<usize> {
        self.home
    }
}

const BUDGET: Budget = Budget { rows: 8, bytes: 100, draws: 12, cost: 1000 };

/// Of a batch, in the model, while several sources send requests.
const SHARED_COST: u64 = 300;

/// A row that takes no longer than its bytes and draws say.
fn size(bytes: usize, draws: usize) -> RowSize {
    RowSize { bytes, draws, cost: (10 + bytes + draws) as u64 }
}

fn queue(delay: Duration) -> Queue<Rc<Request>> {
    shared_queue(delay, BUDGET.cost)
}

/// One in which batches may cost so much while several sources send requests.
fn shared_queue(delay: Duration, shared_cost: u64) -> Queue<Rc<Request>> {
    Queue::new(Config { budget: BUDGET, shared_cost, delay, passed_over_max: 3 })
}

fn ms(n: u64) -> Duration {
    Duration::from_millis(n)
}

#[derive(Clone, Debug)]
enum Op {
    Push {
        sizes: Vec<RowSize>,
        source: Source,
        priority: Priority,
        deadline_ms: Option<u64>,
        home: Option<usize>,
    },
    Cancel(usize),
    Advance {
        ms: u64,
    },
    Expire,
    /// By one of the devices.
    Take(usize),
    /// From now on, every device takes what is at home there.
    Close(usize),
    /// Returns the last batch if that has not been done.
    GiveBack,
}

fn priority() -> impl Strategy<Value = Priority> {
    prop_oneof![1 => Just(Priority::Low), 2 => Just(Priority::Normal), 1 => Just(Priority::High)]
}

fn sizes() -> impl Strategy<Value = Vec<RowSize>> {
    let dear = |cost| RowSize { cost, ..size(1, 1) };
    prop_oneof![
        3 => (1..40usize, 1..4usize).prop_map(|(bytes, rows)| vec![size(bytes, 1); rows]),
        1 => (1..15usize, 1..40usize).prop_map(|(bytes, rows)| vec![size(bytes, 1); rows]),
        1 => (1..=BUDGET.draws, 1..10usize).prop_map(|(draws, rows)| vec![size(1, draws); rows]),
        1 => (1..2 * BUDGET.cost, 1..10usize).prop_map(move |(cost, rows)| vec![dear(cost); rows]),
        1 => proptest::collection::vec((0..=BUDGET.bytes, 0..=BUDGET.draws), 1..30)
            .prop_map(|rows| rows.into_iter().map(|(bytes, draws)| size(bytes, draws)).collect()),
    ]
}

thread_local! {
    static CONNECTIONS: [ConnectionId; 100] = std::array::from_fn(|_| ConnectionId::next());
}

fn source_of(group: usize, connection: usize) -> Source {
    let connection = CONNECTIONS.with(|connections| connections[connection]);
    Source { group: GroupId::of(group), connection }
}

fn source() -> impl Strategy<Value = Source> {
    (0..2usize, 0..2usize).prop_map(|(group, connection)| source_of(group, connection))
}

fn deadline_ms() -> impl Strategy<Value = Option<u64>> {
    proptest::option::weighted(0.3, 1..20u64)
}

/// Devices that take from the queue.
const DEVICES: usize = 3;

fn home() -> impl Strategy<Value = Option<usize>> {
    proptest::option::weighted(0.3, 0..DEVICES)
}

fn op() -> impl Strategy<Value = Op> {
    prop_oneof![
        6 => (sizes(), source(), priority(), deadline_ms(), home()).prop_map(
            |(sizes, source, priority, deadline_ms, home)| {
                Op::Push { sizes, source, priority, deadline_ms, home }
            },
        ),
        1 => (0..100usize).prop_map(Op::Cancel),
        1 => (1..5u64).prop_map(|ms| Op::Advance { ms }),
        1 => Just(Op::Expire),
        4 => (0..DEVICES).prop_map(Op::Take),
        1 => Just(Op::GiveBack),
    ]
}

/// Often without any home, as on a server with one device.
fn ops() -> impl Strategy<Value = Vec<Op>> {
    let homeless = op().prop_map(|mut op| {
        if let Op::Push { home, .. } = &mut op {
            *home = None;
        }
        op
    });
    let close = prop_oneof![30 => op(), 1 => (0..DEVICES).prop_map(Op::Close)];
    prop_oneof![proptest::collection::vec(homeless, 1..80), proptest::collection::vec(close, 1..80),]
}

/// What should be waiting: entries in order of arrival, and what is known about each.
struct Model {
    queue: Queue<Rc<Request>>,
    now: Instant,
    requests: Vec<(Rc<Request>, Key)>,
    waiting: Vec<Waiting>,
    last_batch: Vec<Part<Rc<Request>>>,
    /// For each request, how often each row was taken, less how often it was given back.
    taken: Vec<Vec<i32>>,
    cancelled: Vec<usize>,
    closed: [bool; DEVICES],
}

#[derive(Clone)]
struct Waiting {
    request: Rc<Request>,
    rows: Range<usize>,
    started: bool,
    returned: bool,
}

impl Waiting {
    fn next_size(&self) -> RowSize {
        self.request.sizes[self.rows.start]
    }
}

impl Model {
    fn new(delay: Duration) -> Self {
        Self {
            queue: shared_queue(delay, SHARED_COST),
            now: Instant::now(),
            requests: Vec::new(),
            waiting: Vec::new(),
            last_batch: Vec::new(),
            taken: Vec::new(),
            cancelled: Vec::new(),
            closed: [false; DEVICES],
        }
    }

    fn run(&mut self, op: Op) {
        match op {
            Op::Push { sizes, source, priority, deadline_ms, home } => {
                let deadline = deadline_ms.map(|n| self.now + ms(n));
                self.push(sizes, source, priority, deadline, home);
            }
            Op::Cancel(i) if !self.requests.is_empty() => self.cancel(i % self.requests.len()),
            Op::Advance { ms: n } => self.now += ms(n),
            Op::Expire => {
                let mut expired = Vec::new();
                self.queue.expire(self.now, &mut expired);
                self.expect_expired(expired);
            }
            Op::Take(device) => self.take(device),
            Op::Close(device) => {
                self.closed[device] = true;
                self.queue.close_home(device);
            }
            Op::GiveBack => self.give_back(),
            Op::Cancel(_) => {}
        }
        self.compare();
    }

    fn push(
        &mut self,
        sizes: Vec<RowSize>,
        source: Source,
        priority: Priority,
        deadline: Option<Instant>,
        home: Option<usize>,
    ) {
        let id = self.requests.len();
        let rows = 0..sizes.len();
        self.taken.push(vec![0; sizes.len()]);
        let request = Rc::new(Request { id, sizes, source, priority, deadline, home });
        let key = self.queue.push(Rc::clone(&request), source, priority, deadline, self.now);
        self.requests.push((Rc::clone(&request), key));
        self.waiting.push(Waiting { request, rows, started: false, returned: false });
    }

    fn cancel(&mut self, id: usize) {
        self.cancelled.push(id);
        let at = self.waiting.iter().position(|w| w.request.id == id && !w.returned);
        let expected = at.map(|at| self.waiting.remove(at).request.id);
        let cancelled = self.queue.cancel(self.requests[id].1).map(|request| request.id);
        assert_eq!(cancelled, expected);
        if self.queue.has_returned() {
            let mut removed = Vec::new();
            self.queue.cancel_returned(|request| request.id != id, &mut removed);
            let before = self.waiting.len();
            self.waiting.retain(|w| !(w.returned && w.request.id == id));
            assert_eq!(removed.len(), before - self.waiting.len());
        }
    }

    fn expect_expired(&mut self, expired: Vec<Rc<Request>>) {
        let is_over = |w: &Waiting| w.request.deadline.is_some_and(|d| d <= self.now);
        let mut expected: Vec<_> =
            self.waiting.iter().filter(|w| is_over(w)).map(|w| w.request.id).collect();
        self.waiting.retain(|w| !is_over(w));
        let mut expired: Vec<_> = expired.iter().map(|request| request.id).collect();
        expected.sort();
        expired.sort();
        assert_eq!(expired, expected);
    }

    fn takes(&self, device: usize, request: &Request) -> bool {
        request.home.is_none_or(|home| home == device || self.closed[home])
    }

    fn take(&mut self, device: usize) {
        let (mut parts, mut expired) = (Vec::new(), Vec::new());
        self.queue.expire(self.now, &mut expired);
        let is_shared = self.queue.is_shared(self.now);
        self.queue.take_batch(device, self.now, &mut parts, &mut expired);
        self.expect_expired(expired);

        let mut room = BUDGET;
        if is_shared {
            room.cost = SHARED_COST;
        }
        for part in &parts {
            let id = part.item.id;
            assert!(self.takes(device, &part.item), "{id} is at home elsewhere");
            let at = self
                .waiting
                .iter()
                .position(|w| w.request.id == id && w.rows.start == part.rows.start)
                .expect("a part continues what waits");
            assert!(!part.rows.is_empty() && part.rows.end <= self.waiting[at].rows.end);
            if !self.waiting[at].started {
                // What came before of the same source and has not begun could not have had this place.
                let overtaken = self.waiting[..at].iter().filter(|w| {
                    w.request.priority == part.item.priority
                        && w.request.source == part.item.source
                        && !w.started
                        && !w.returned
                        && self.takes(device, &w.request)
                });
                for w in overtaken {
                    assert!(!room.fits(w.next_size()), "{} overtook {}", id, w.request.id);
                }
            }
            for row in part.rows.clone() {
                self.taken[id][row] += 1;
                assert!(room.fits(part.item.sizes[row]), "over the budget");
                room.take(part.item.sizes[row]);
            }
            self.waiting[at].started = true;
            self.waiting[at].rows.start = part.rows.end;
            if self.waiting[at].rows.is_empty() {
                self.waiting.remove(at);
            }
        }
        for w in self.waiting.iter().filter(|w| self.takes(device, &w.request)) {
            assert!(!room.fits(w.next_size()), "the batch left {} behind", w.request.id);
        }
        self.last_batch = parts;
    }

    fn give_back(&mut self) {
        for part in std::mem::take(&mut self.last_batch).into_iter().rev() {
            for row in part.rows.clone() {
                self.taken[part.item.id][row] -= 1;
            }
            let Part { item, rows } = part.clone();
            self.waiting.push(Waiting { request: item, rows, started: true, returned: true });
            let (priority, deadline) = (part.item.priority, part.item.deadline);
            self.queue.give_back(part, priority, deadline, self.now);
        }
    }

    fn compare(&self) {
        let mut waiting = Budget::default();
        for w in &self.waiting {
            w.request.sizes[w.rows.clone()].iter().for_each(|&row| waiting.add(row));
        }
        assert_eq!(self.queue.waiting(), waiting);
        let deadline = self.waiting.iter().filter_map(|w| w.request.deadline).min();
        assert_eq!(self.queue.next_deadline(), deadline);
        let mut next_sizes = Sizes::default();
        self.waiting.iter().for_each(|w| next_sizes.add(w.next_size()));
        assert_eq!(self.queue.next_sizes, next_sizes);
        let is_empty = self.queue.ready(self.now) == Ready::Empty;
        assert_eq!(is_empty, self.waiting.is_empty());
        for device in 0..DEVICES {
            let is_empty = self.queue.ready_for(device, self.now) == Ready::Empty;
            assert_eq!(is_empty, !self.waiting.iter().any(|w| self.takes(device, &w.request)));
        }
        let is_kept = |w: &Waiting| w.request.home.is_some_and(|home| !self.closed[home]);
        assert_eq!(self.queue.has_homes(), self.waiting.iter().any(is_kept));
    }
}

proptest! {
    #[test]
    fn nothing_is_lost_doubled_reordered_or_left_behind(
        ops in ops(),
    ) {
        let mut model = Model::new(ms(2));
        for op in ops {
            model.run(op);
        }
        // Whatever is left comes out, each row once.
        model.run(Op::Expire);
        for _ in 0..100_000 {
            let Some(waiting) = model.waiting.first() else { break };
            model.run(Op::Take(waiting.request.home.unwrap_or(0)));
            prop_assert!(!model.last_batch.is_empty());
        }
        prop_assert!(model.waiting.is_empty());
        for ((request, _), taken) in model.requests.iter().zip(&model.taken) {
            prop_assert!(taken.iter().all(|&n| n == 0 || n == 1), "{request:?}: {taken:?}");
            // Rows that never ran belong to requests that expired or were cancelled.
            let ended_early = taken.contains(&0);
            let expired = request.deadline.is_some_and(|d| d <= model.now);
            prop_assert!(!ended_early || expired || model.cancelled.contains(&request.id));
        }
    }

    #[test]
    fn a_request_starts_within_as_many_batches_as_there_are_requests_ahead_and_one(
        batches in proptest::collection::vec(proptest::collection::vec(sizes(), 0..6), 1..30),
    ) {
        let mut queue = queue(Duration::ZERO);
        let now = Instant::now();
        let (mut taken, mut start_by) = (0, Vec::new());
        // How many entries of each request wait, as the queue sees it.
        let mut rows_left: Vec<usize> = Vec::new();
        let mut batches = batches.into_iter();
        loop {
            let pushed = batches.next();
            let done = pushed.is_none();
            for sizes in pushed.unwrap_or_default() {
                let ahead = rows_left.iter().filter(|&&left| left > 0).count();
                start_by.push(Some(taken + ahead + 1));
                rows_left.push(sizes.len());
                let id = start_by.len() - 1;
                let (source, priority) = (Source::default(), Priority::Normal);
                let request = Request { id, sizes, source, priority, deadline: None, home: None };
                queue.push(Rc::new(request), source, priority, None, now);
            }
            let mut parts = Vec::new();
            queue.take_batch(0, now, &mut parts, &mut Vec::new());
            taken += 1;
            for part in &parts {
                rows_left[part.item.id] -= part.rows.len();
                if let Some(by) = start_by[part.item.id].take() {
                    prop_assert!(taken <= by, "{} started in {taken}, not by {by}", part.item.id);
                }
            }
            if done && parts.is_empty() {
                break;
            }
        }
        prop_assert!(start_by.iter().all(Option::is_none));
    }
}

/// A queue at work: `push` with defaults, and the ids of batches.
struct Bench {
    queue: Queue<Rc<Request>>,
    now: Instant,
    keys: Vec<Key>,
}

impl Bench {
    fn new(delay: Duration) -> Self {
        Self { queue: queue(delay), now: Instant::now(), keys: Vec::new() }
    }

    fn push(&mut self, rows: usize, row_bytes: usize, priority: Priority) -> usize {
        self.push_until(rows, row_bytes, priority, None)
    }

    fn push_until(
        &mut self,
        rows: usize,
        bytes: usize,
        priority: Priority,
        deadline: Option<Instant>,
    ) -> usize {
        self.push_as(Source::default(), vec![size(bytes, 1); rows], priority, deadline)
    }

    fn push_from(&mut self, source: Source, rows: usize, draws: usize) -> usize {
        self.push_as(source, vec![size(1, draws); rows], Priority::Normal, None)
    }

    fn push_as(
        &mut self,
        source: Source,
        sizes: Vec<RowSize>,
        priority: Priority,
        deadline: Option<Instant>,
    ) -> usize {
        self.push_at(None, source, sizes, priority, deadline)
    }

    fn push_at(
        &mut self,
        home: Option<usize>,
        source: Source,
        sizes: Vec<RowSize>,
        priority: Priority,
        deadline: Option<Instant>,
    ) -> usize {
        let id = self.keys.len();
        let request = Rc::new(Request { id, sizes, source, priority, deadline, home });
        self.keys.push(self.queue.push(request, source, priority, deadline, self.now));
        id
    }

    /// The next batch: ids and rows.
    fn take(&mut self) -> Vec<(usize, Range<usize>)> {
        self.take_by(0)
    }

    fn take_by(&mut self, device: usize) -> Vec<(usize, Range<usize>)> {
        let mut parts = Vec::new();
        self.queue.take_batch(device, self.now, &mut parts, &mut Vec::new());
        parts.into_iter().map(|part| (part.item.id, part.rows)).collect()
    }
}

use Priority::{High, Low, Normal};

#[test]
fn a_higher_priority_goes_first_and_within_one_the_first_to_come() {
    let mut bench = Bench::new(Duration::ZERO);
    for priority in [Low, Normal, High, Low, Normal, High] {
        bench.push(1, 1, priority);
    }
    assert_eq!(bench.take(), [2, 5, 1, 4, 0, 3].map(|id| (id, 0..1)));
}

#[test]
fn a_request_larger_than_a_batch_takes_turns_with_those_behind_it() {
    let mut bench = Bench::new(Duration::ZERO);
    bench.push(20, 1, Normal);
    bench.push(3, 1, Normal);
    bench.push(20, 1, Normal);
    assert_eq!(bench.take(), [(0, 0..8)]);
    assert_eq!(bench.take(), [(1, 0..3), (2, 0..5)]);
    // The turn of 2 goes on where it was cut off.
    assert_eq!(bench.take(), [(2, 5..8), (0, 8..13)]);
    assert_eq!(bench.take(), [(0, 13..16), (2, 8..13)]);
    assert_eq!(bench.take(), [(2, 13..16), (0, 16..20), (2, 16..17)]);
    assert_eq!(bench.take(), [(2, 17..20)]);
    assert_eq!(bench.queue.ready(bench.now), Ready::Empty);
}

#[test]
fn smaller_rows_fill_what_a_large_one_leaves_and_it_is_first_in_the_next_batch() {
    let mut bench = Bench::new(Duration::ZERO);
    bench.push(1, 70, Normal);
    bench.push(2, 60, Normal);
    bench.push(1, 30, Normal);
    bench.push(1, 30, Normal);
    assert_eq!(bench.take(), [(0, 0..1), (2, 0..1)]);
    assert_eq!(bench.take(), [(1, 0..1), (3, 0..1)]);
    assert_eq!(bench.take(), [(1, 1..2)]);
}

#[test]
fn the_front_of_a_low_list_is_passed_over_a_bounded_number_of_times() {
    let mut bench = Bench::new(Duration::ZERO);
    let low = bench.push(2, 1, Low);
    let normal = bench.push(1, 1, Normal);
    for _ in 0..3 {
        let high = bench.push(8, 1, High);
        assert_eq!(bench.take(), [(high, 0..8)]);
    }
    // Both have waited as long; the higher goes first, and the batch is filled as always.
    let high = bench.push(8, 1, High);
    assert_eq!(bench.take(), [(normal, 0..1), (low, 0..2), (high, 0..5)]);
    assert_eq!(bench.take(), [(high, 5..8)]);
}

#[test]
fn a_large_row_of_low_priority_is_not_starved_by_rows_that_leave_too_little_room() {
    let mut bench = Bench::new(Duration::ZERO);
    let large = bench.push(1, 100, Low);
    let small = bench.push(1, 10, Low);
    let first = bench.push(1, 20, High);
    assert_eq!(bench.take(), [(first, 0..1), (small, 0..1)]);
    for _ in 0..2 {
        let high = bench.push(1, 20, High);
        assert_eq!(bench.take(), [(high, 0..1)]);
    }
    bench.push(1, 20, High);
    assert_eq!(bench.take(), [(large, 0..1)]);
}

#[test]
fn without_a_delay_whatever_waits_is_due() {
    let mut bench = Bench::new(Duration::ZERO);
    assert_eq!(bench.queue.ready(bench.now), Ready::Empty);
    bench.push(1, 1, Normal);
    assert_eq!(bench.queue.ready(bench.now), Ready::Now);
}

#[test]
fn with_a_delay_a_batch_waits_for_the_first_to_come_or_until_it_is_full() {
    let mut bench = Bench::new(ms(10));
    let start = bench.now;
    bench.push(1, 1, Normal);
    assert_eq!(bench.queue.ready(bench.now), Ready::At(start + ms(10)));
    bench.now += ms(4);
    bench.push(6, 1, High);
    assert_eq!(bench.queue.ready(bench.now), Ready::At(start + ms(10)));
    assert_eq!(bench.queue.ready(start + ms(10)), Ready::Now);
    bench.push(3, 1, Low);
    assert_eq!(bench.queue.ready(bench.now), Ready::Now, "full");
    bench.take();
    assert_eq!(bench.queue.waiting().rows, 2);
    assert_eq!(bench.queue.ready(bench.now), Ready::Now, "left behind by a batch");
}

#[test]
fn a_request_that_would_expire_during_the_delay_is_due_at_once() {
    let mut bench = Bench::new(ms(10));
    bench.push_until(1, 1, Normal, Some(bench.now + ms(11)));
    assert_eq!(bench.queue.ready(bench.now), Ready::At(bench.now + ms(10)));
    bench.push_until(1, 1, Normal, Some(bench.now + ms(10)));
    assert_eq!(bench.queue.ready(bench.now), Ready::Now);
}

#[test]
fn a_drain_ends_the_delay() {
    let mut bench = Bench::new(ms(10));
    bench.push(1, 1, Normal);
    bench.queue.end_delay(bench.now);
    assert_eq!(bench.queue.ready(bench.now), Ready::Now);
    bench.take();
    bench.push(1, 1, Normal);
    assert_eq!(bench.queue.ready(bench.now), Ready::Now);
}

#[test]
fn what_was_given_back_is_first_again() {
    let mut bench = Bench::new(ms(10));
    bench.push(6, 1, Normal);
    bench.push(6, 1, Normal);
    bench.push(1, 1, Normal);
    let mut parts = Vec::new();
    bench.queue.take_batch(0, bench.now, &mut parts, &mut Vec::new());
    for part in parts.into_iter().rev() {
        bench.queue.give_back(part, Normal, None, bench.now);
    }
    assert_eq!(bench.queue.ready(bench.now), Ready::Now);
    assert_eq!(bench.take(), [(0, 0..6), (1, 0..2)]);
    assert_eq!(bench.take(), [(1, 2..6), (2, 0..1)]);
    assert!(!bench.queue.has_returned());
}

#[test]
fn what_is_at_home_elsewhere_is_passed_over_and_counts_for_no_priority() {
    let mut bench = Bench::new(Duration::ZERO);
    let low = bench.push_at(Some(1), Source::default(), vec![size(1, 1); 2], Low, None);
    // Low ones of this device are never passed over, so a high one is always first.
    for _ in 0..10 {
        let high = bench.push(8, 1, High);
        assert_eq!(bench.take_by(0), [(high, 0..8)]);
        assert_eq!(bench.queue.ready_for(0, bench.now), Ready::Empty);
    }
    let high = bench.push(7, 1, High);
    assert_eq!(bench.take_by(1), [(high, 0..7), (low, 0..1)]);
    bench.queue.close_home(1);
    assert_eq!(bench.queue.ready_for(0, bench.now), Ready::Now);
    assert_eq!(bench.take_by(0), [(low, 1..2)]);
}

#[test]
fn what_other_devices_take_does_not_hold_up_a_low_row_at_home() {
    let mut bench = Bench::new(Duration::ZERO);
    let row = RowSize { bytes: 1, draws: 1, ..Default::default() };
    let low = bench.push_at(Some(1), Source::default(), vec![row], Low, None);
    // Passed over three times at most by its own device, whatever another takes meanwhile.
    for _ in 0..3 {
        let (high, other) = (bench.push(8, 1, High), bench.push(1, 1, Low));
        assert_eq!(bench.take_by(1), [(high, 0..8)]);
        assert_eq!(bench.take_by(0), [(other, 0..1)]);
    }
    let high = bench.push(8, 1, High);
    assert_eq!(bench.take_by(1), [(low, 0..1), (high, 0..7)]);
}

#[test]
fn draws_fill_a_batch_too() {
    let mut bench = Bench::new(Duration::ZERO);
    let many = bench.push_from(source_of(0, 0), 3, 7);
    let few = bench.push_from(source_of(0, 0), 2, 2);
    // A second row of 7 draws does not fit beside the first; smaller ones do.
    assert_eq!(bench.take(), [(many, 0..1), (few, 0..2)]);
    assert_eq!(bench.take(), [(many, 1..2)]);
    assert_eq!(bench.take(), [(many, 2..3)]);
}

#[test]
fn whoever_asks_for_little_is_not_held_up_by_whoever_asks_for_much() {
    let mut bench = Bench::new(Duration::ZERO);
    let greedy: Vec<usize> = (0..20).map(|_| bench.push_from(source_of(0, 0), 8, 1)).collect();
    assert_eq!(bench.take(), [(greedy[0], 0..8)]);
    let modest = bench.push_from(source_of(0, 1), 1, 1);
    // In the very next batch, and before the rest of those that came before it.
    assert_eq!(bench.take(), [(modest, 0..1), (greedy[1], 0..7)]);
}

#[test]
fn work_is_shared_by_what_it_costs() {
    let mut bench = Bench::new(Duration::ZERO);
    let dear = RowSize { cost: 10 * size(1, 1).cost, ..size(1, 1) };
    for _ in 0..500 {
        bench.push_as(source_of(0, 0), vec![dear], Normal, None);
        bench.push_as(source_of(1, 0), vec![size(1, 1)], Normal, None);
    }
    let counts = rows_of_groups(&mut bench, 50);
    // Ten plain rows for each dear one, but for what a batch is filled with.
    assert!(counts[1] >= 9 * counts[0], "{counts:?}");
}

#[test]
fn a_batch_ends_with_the_row_that_makes_it_too_dear() {
    let mut bench = Bench::new(Duration::ZERO);
    let dear = RowSize { cost: BUDGET.cost * 2 / 5, ..size(1, 1) };
    let first = bench.push_as(source_of(0, 0), vec![dear; 5], Normal, None);
    assert_eq!(bench.queue.ready(bench.now), Ready::Now);
    assert_eq!(bench.take(), [(first, 0..3)]);
    // A row that is dearer than a batch ends one.
    let alone = RowSize { cost: 3 * BUDGET.cost, ..size(1, 1) };
    let alone = bench.push_as(source_of(1, 0), vec![alone], Normal, None);
    let plain = bench.push_as(source_of(2, 0), vec![size(1, 1)], Normal, None);
    assert_eq!(bench.take(), [(plain, 0..1), (first, 3..5), (alone, 0..1)]);
    assert_eq!(bench.queue.ready(bench.now), Ready::Empty);
}

#[test]
fn batches_are_smaller_while_several_sources_send_requests() {
    let (mut bench, cost) = (Bench::new(Duration::ZERO), size(1, 1).cost);
    bench.queue = shared_queue(Duration::ZERO, 2 * cost);
    let (one, other) = (source_of(0, 0), source_of(0, 1));
    let rows = |batch: &[(usize, Range<usize>)]| batch.iter().map(|(_, rows)| rows.len()).sum();
    let large = bench.push_from(one, 20, 1);
    assert_eq!(bench.take(), [(large, 0..8)], "one source has the whole batch");
    let small = bench.push_from(other, 1, 1);
    assert_eq!(bench.take(), [(small, 0..1), (large, 8..9)]);
    // The other is expected to send more.
    assert_eq!(bench.take(), [(large, 9..11)]);
    bench.now += RECENT;
    let whole: usize = rows(&bench.take());
    assert_eq!(whole, 8);
    // Where two have rows that wait, it does not matter when these came.
    bench.push_from(other, 5, 1);
    bench.now += RECENT;
    let shared: usize = rows(&bench.take());
    assert_eq!(shared, 2);
}

#[test]
fn a_row_dearer_than_a_shared_batch_is_taken_all_the_same() {
    let mut bench = Bench::new(Duration::ZERO);
    bench.queue = shared_queue(Duration::ZERO, 1);
    let first = bench.push_from(source_of(0, 0), 2, 1);
    let second = bench.push_from(source_of(1, 0), 1, 1);
    assert_eq!(bench.take(), [(second, 0..1)]);
    assert_eq!(bench.take(), [(first, 0..1)]);
    assert_eq!(bench.take(), [(first, 1..2)]);
}

#[test]
fn a_queue_is_long_from_sixteen_shared_batches_on() {
    let mut queue = shared_queue(Duration::ZERO, 2 * size(1, 1).cost);
    let (source, now) = (source_of(0, 0), Instant::now());
    let mut push = |rows| {
        let sizes = vec![size(1, 1); rows];
        let (priority, deadline, home) = (Normal, None, None);
        let request = Request { id: 0, sizes, source, priority, deadline, home };
        queue.push(Rc::new(request), source, priority, deadline, now);
        queue.is_long()
    };
    assert_eq!([push(1), push(30), push(1)], [false, false, true]);
}

#[test]
fn groups_share_equally_however_many_connections_one_of_them_has() {
    let mut bench = Bench::new(Duration::ZERO);
    for _ in 0..40 {
        for connection in 0..9 {
            bench.push_from(source_of(0, connection), 1, 1);
        }
        for _ in 0..9 {
            bench.push_from(source_of(1, 0), 1, 1);
        }
    }
    let counts = rows_of_groups(&mut bench, 45);
    assert_eq!(counts.iter().sum::<usize>(), 45 * 8);
    assert!(counts[0].abs_diff(counts[1]) <= 20, "{counts:?}");
}

/// How many rows of groups 0 and 1 are in the next batches.
fn rows_of_groups(bench: &mut Bench, batches: usize) -> [usize; 2] {
    let mut counts = [0; 2];
    for _ in 0..batches {
        let mut parts = Vec::new();
        bench.queue.take_batch(0, bench.now, &mut parts, &mut Vec::new());
        for part in parts {
            counts[usize::from(part.item.source.group == GroupId::of(1usize))] += part.rows.len();
        }
    }
    counts
}

#[test]
fn nothing_is_remembered_of_a_source_of_whom_nothing_waits() {
    let mut bench = Bench::new(Duration::ZERO);
    for connection in 0..100 {
        bench.push_from(source_of(connection, connection), 1, 1);
    }
    bench.queue.cancel(bench.keys[3]);
    while !bench.take().is_empty() {}
    assert!(bench.queue.turns.iter().all(Turns::is_forgotten));
}
