//! Batch forming: a state machine without threads or a clock. Time is passed in.
//!
//! ```text
//! a batch is filled from the priorities high, normal, low, each in the order of its turns:
//!     take as many of the request's rows as fit the room left, in order
//!     all taken          -> it leaves the queue
//!     its turn is over   -> the rest has a new turn, later in the order
//!     else               -> it keeps its place; smaller rows behind it may fill what is left
//! ```
//!
//! What follows from that:
//! - Rows, not requests, are batched, so a request may be of any size and a batch is never smaller
//!   than it could have been: no row is left behind that would have fitted.
//! - A turn is one batch's worth of rows, bytes, draws and work. A request of many batches takes turns with
//!   those behind it instead of holding them up: with `n` requests of its source and priority ahead, a
//!   request starts within `n + 1` batches.
//! - While several sources send requests a batch has less work ([`Config::shared_cost`]), and a turn is several batches: whoever
//!   comes next waits for the batch that runs, whoever's it is.
//! - Between sources the order is fair by cost ([`turns`](super::turns)): whoever asks for little is not
//!   held up by those who ask for much.
//! - Being overtaken is bounded. A request whose next row is too large for the room left is the first
//!   of its priority in the next batch; and the first of a priority that [`Config::passed_over_max`]
//!   batches in a row took nothing from opens the next batch, whatever its priority.
//! - Rows in the memory of a device that takes work are passed over by others ([`homes`](super::homes)): for these, they are
//!   not there.

use super::Priority;
use super::homes::Homes;
use super::slots::{Key, Slots};
use super::turns::{Place, Source, Turns};
use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::time::{Duration, Instant};

/// A source that has sent a request is expected to send another within this time.
const RECENT: Duration = Duration::from_secs(1);

/// A queue is long from so many batches of [`Config::shared_cost`] on.
const LONG_BATCHES: u64 = 16;

/// Something with rows in it, at least one; a cheap handle.
pub(super) trait Item: Clone {
    /// The number of rows.
    fn rows(&self) -> usize;
    /// What one row takes of a batch.
    fn row_size(&self, row: usize) -> RowSize;
    /// The one of several devices in whose memory the rows lie.
    fn home(&self) -> Option<usize> {
        None
    }
}

/// What one row takes of a batch.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct RowSize {
    pub bytes: usize,
    pub draws: usize,
    /// How long it takes a device ([`cost`](super::cost)).
    pub cost: u64,
}

#[derive(Clone, Copy, Debug)]
pub(super) struct Config {
    /// Of one batch.
    pub budget: Budget,
    /// What the rows of a batch may cost together while several sources send requests: whoever comes next waits for the
    /// batch that runs.
    pub shared_cost: u64,
    /// How long a batch that is not full waits for more.
    pub delay: Duration,
    /// How many batches in a row may take nothing from the front of a list.
    pub passed_over_max: u32,
}

/// An amount of rows, of bytes, of draws and of work.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Budget {
    pub rows: usize,
    pub bytes: usize,
    pub draws: usize,
    /// Of a batch, the last row may exceed it: a row may be dearer than a batch.
    pub cost: u64,
}

impl Budget {
    fn fits(&self, row: RowSize) -> bool {
        self.rows > 0 && self.bytes >= row.bytes && self.draws >= row.draws && self.cost > 0
    }

    fn take(&mut self, row: RowSize) {
        self.rows -= 1;
        self.bytes -= row.bytes;
        self.draws -= row.draws;
        self.cost = self.cost.saturating_sub(row.cost);
    }

    /// Takes back what was added.
    fn remove(&mut self, other: Self) {
        self.rows -= other.rows;
        self.bytes -= other.bytes;
        self.draws -= other.draws;
        self.cost -= other.cost;
    }

    fn add(&mut self, row: RowSize) {
        self.rows += 1;
        self.bytes += row.bytes;
        self.draws += row.draws;
        self.cost += row.cost;
    }

    fn is_full(&self, waiting: &Budget) -> bool {
        waiting.rows >= self.rows
            || waiting.bytes >= self.bytes
            || waiting.draws >= self.draws
            || waiting.cost >= self.cost
    }
}

/// Some rows of an item, in a batch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Part<T> {
    pub item: T,
    pub rows: Range<usize>,
}

/// Whether there is a batch to be taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Ready {
    Now,
    /// From then on, or as soon as it is full.
    At(Instant),
    Empty,
}

#[derive(Debug)]
pub(super) struct Queue<T> {
    config: Config,
    entries: Slots<Entry<T>>,
    /// One a priority.
    turns: [Turns; 3],
    /// For each priority, how many batches in a row took nothing from its first.
    passed_over: [u32; 3],
    /// The same of each device's own batches: what is at home there waits for these alone.
    passed_over_by: Vec<[u32; 3]>,
    deadlines: BTreeSet<(Instant, Key)>,
    next_sizes: Sizes,
    waiting: Budget,
    homes: Homes,
    senders: Senders,
    /// When the first of the waiting has waited long enough.
    due: Option<Instant>,
    /// Entries that were given back.
    returned: usize,
}

#[derive(Debug)]
struct Entry<T> {
    item: T,
    /// Those that wait.
    rows: Range<usize>,
    /// Where its turn ends.
    turn_end: usize,
    priority: Priority,
    /// Whose it is; of what was given back nobody's.
    source: Option<Source>,
    place: Option<Place>,
    deadline: Option<Instant>,
}

impl<T: Item> Entry<T> {
    fn next_size(&self) -> RowSize {
        self.item.row_size(self.rows.start)
    }

    fn size(&self) -> Budget {
        let mut size = Budget::default();
        self.rows.clone().for_each(|row| size.add(self.item.row_size(row)));
        size
    }

    /// Begins a turn of up to so much, and says what it costs.
    fn begin_turn(&mut self, mut budget: Budget) -> u64 {
        let mut cost = 0;
        self.turn_end = self.rows.start;
        while self.turn_end < self.rows.end {
            let row = self.item.row_size(self.turn_end);
            if !budget.fits(row) {
                break;
            }
            budget.take(row);
            cost += row.cost;
            self.turn_end += 1;
        }
        cost
    }
}

/// How many entries have a next row of so many bytes, or draws. The smallest say when to stop looking.
#[derive(Debug, Default, PartialEq)]
struct Sizes {
    bytes: BTreeMap<usize, usize>,
    draws: BTreeMap<usize, usize>,
}

impl Sizes {
    fn add(&mut self, row: RowSize) {
        *self.bytes.entry(row.bytes).or_default() += 1;
        *self.draws.entry(row.draws).or_default() += 1;
    }

    fn remove(&mut self, row: RowSize) {
        for (counts, size) in [(&mut self.bytes, row.bytes), (&mut self.draws, row.draws)] {
            let count = counts.get_mut(&size).expect("every entry is counted");
            *count -= 1;
            if *count == 0 {
                counts.remove(&size);
            }
        }
    }

    /// No row takes less than this; `None` if there are none.
    fn least(&self) -> Option<RowSize> {
        let (&bytes, _) = self.bytes.first_key_value()?;
        let (&draws, _) = self.draws.first_key_value()?;
        Some(RowSize { bytes, draws, ..Default::default() })
    }
}

/// The two sources that sent requests last, and when: whether there is more than one takes no more.
#[derive(Debug, Default)]
struct Senders([Option<(Source, Instant)>; 2]);

impl Senders {
    fn saw(&mut self, source: Source, now: Instant) {
        if self.0[0].is_some_and(|(last, _)| last != source) {
            self.0.swap(0, 1);
        }
        self.0[0] = Some((source, now));
    }

    fn recent(&self, now: Instant) -> impl Iterator<Item = Source> {
        let is_recent = move |&(_, at): &(Source, Instant)| now < at + RECENT;
        self.0.iter().flatten().copied().filter(is_recent).map(|(source, _)| source)
    }
}

impl<T: Item> Queue<T> {
    pub fn new(config: Config) -> Self {
        Self {
            config,
            entries: Slots::new(),
            turns: Default::default(),
            passed_over: [0; 3],
            passed_over_by: Vec::new(),
            deadlines: BTreeSet::new(),
            next_sizes: Sizes::default(),
            waiting: Budget::default(),
            homes: Homes::default(),
            senders: Senders::default(),
            due: None,
            returned: 0,
        }
    }

    /// Adds an item, last of its source and priority. The key cancels it.
    ///
    /// # Panics
    /// If it has no rows, or one that is larger than a batch.
    pub fn push(
        &mut self,
        item: T,
        source: Source,
        priority: Priority,
        deadline: Option<Instant>,
        now: Instant,
    ) -> Key {
        let budget = self.config.budget;
        assert!((0..item.rows()).all(|row| budget.fits(item.row_size(row))));
        let wait_until = now + self.config.delay;
        // A request that cannot afford the wait is not made to.
        let due = if deadline.is_some_and(|d| d <= wait_until) { now } else { wait_until };
        self.due = Some(self.due.map_or(due, |other| other.min(due)));

        self.senders.saw(source, now);
        let rows = 0..item.rows();
        self.insert(item, rows, Some(source), priority, deadline)
    }

    /// Puts back what was taken but could not be run: first in its priority, due at once.
    pub fn give_back(
        &mut self,
        part: Part<T>,
        priority: Priority,
        deadline: Option<Instant>,
        now: Instant,
    ) {
        self.due = Some(now);
        self.returned += 1;
        self.insert(part.item, part.rows, None, priority, deadline);
    }

    /// Removes what still waits of an item. `None` if nothing does.
    pub fn cancel(&mut self, key: Key) -> Option<T> {
        Some(self.remove(key)?.item)
    }

    /// Whether anything waits that was given back: such entries have no key outside.
    pub fn has_returned(&self) -> bool {
        self.returned > 0
    }

    /// Removes what was given back and is not wanted any more.
    pub fn cancel_returned(&mut self, wanted: impl Fn(&T) -> bool, removed: &mut Vec<T>) {
        self.remove_where(|entry| entry.source.is_none() && !wanted(&entry.item), removed);
    }

    /// Removes everything.
    pub fn clear(&mut self, removed: &mut Vec<T>) {
        self.remove_where(|_| true, removed);
    }

    /// Removes what has a deadline that is not after `now`.
    pub fn expire(&mut self, now: Instant, expired: &mut Vec<T>) {
        while let Some(&(deadline, key)) = self.deadlines.first() {
            if deadline > now {
                return;
            }
            expired.extend(self.cancel(key));
        }
    }

    /// The first deadline of all that waits.
    pub fn next_deadline(&self) -> Option<Instant> {
        self.deadlines.first().map(|&(deadline, _)| deadline)
    }

    /// What waits.
    pub fn waiting(&self) -> Budget {
        self.waiting
    }

    /// Stops waiting for fuller batches.
    pub fn end_delay(&mut self, now: Instant) {
        self.config.delay = Duration::ZERO;
        self.due = self.due.map(|due| due.min(now));
    }

    /// From now on, every device takes what lies in the memory of this one.
    pub fn close_home(&mut self, device: usize) {
        self.homes.close(device);
    }

    /// Whether anything waits for one device alone.
    pub fn has_homes(&self) -> bool {
        self.homes.any()
    }

    /// Whether a device should take a batch. While rows wait for a busy device, the others wait for no fuller batches.
    pub fn ready_for(&self, device: usize, now: Instant) -> Ready {
        if self.homes.left_to_others(device) == self.waiting.rows {
            return Ready::Empty;
        }
        self.ready(now)
    }

    /// Whether a batch should be taken, by whichever device.
    pub fn ready(&self, now: Instant) -> Ready {
        match self.due {
            None => Ready::Empty,
            Some(_) if self.config.budget.is_full(&self.waiting) => Ready::Now,
            Some(due) if due <= now => Ready::Now,
            Some(due) => Ready::At(due),
        }
    }

    /// Takes the next batch of a device, adding its parts to `parts`; what has expired goes to `expired` instead.
    /// Several parts may be of one item.
    pub fn take_batch(
        &mut self,
        device: usize,
        now: Instant,
        parts: &mut Vec<Part<T>>,
        expired: &mut Vec<T>,
    ) {
        self.expire(now, expired);
        let mut room = self.config.budget;
        if self.is_shared(now) {
            room.cost = room.cost.min(self.config.shared_cost);
        }
        if self.passed_over_by.len() <= device {
            self.passed_over_by.resize(device + 1, [0; 3]);
        }
        for priority in self.order(device) {
            let taken = self.take_from(priority, device, &mut room, parts);
            let is_empty = self.turns[priority].first().is_none();
            for count in
                [&mut self.passed_over[priority], &mut self.passed_over_by[device][priority]]
            {
                match taken {
                    Some(false) => *count += 1,
                    None if !is_empty => {}
                    _ => *count = 0,
                }
            }
        }
        // What was left behind has waited long enough.
        self.due = (self.waiting.rows > 0).then_some(now);
    }

    /// Whether more than one source sends requests: has some that wait, or has sent one of late.
    pub fn is_shared(&self, now: Instant) -> bool {
        let waiting = self.turns.iter().flat_map(Turns::sources);
        let mut sources = self.senders.recent(now).chain(waiting);
        let first = sources.next();
        sources.any(|source| Some(source) != first)
    }

    /// Whether more waits than many batches have while several sources send requests.
    pub fn is_long(&self) -> bool {
        self.waiting.cost / LONG_BATCHES >= self.config.shared_cost
    }

    /// The priorities in the order in which they fill the batch: those passed over for too long, the
    /// longest first, then the highest.
    fn order(&self, device: usize) -> [usize; 3] {
        let mut order = [Priority::High, Priority::Normal, Priority::Low].map(|p| p as usize);
        let most = self.config.passed_over_max.max(1);
        order.sort_by_key(|&priority| {
            let passed_over = self.passed_over[priority].max(self.passed_over_by[device][priority]);
            Reverse(if passed_over >= most { passed_over } else { 0 })
        });
        order
    }

    /// Fills the room from one priority. Says whether the first for this device got a place, if there is one.
    fn take_from(
        &mut self,
        priority: usize,
        device: usize,
        room: &mut Budget,
        parts: &mut Vec<Part<T>>,
    ) -> Option<bool> {
        let first = self.skip(self.turns[priority].first(), priority, device)?;
        let mut first_taken = false;
        let mut cursor = Some(first);
        while let Some(place) = cursor {
            if !self.next_sizes.least().is_some_and(|least| room.fits(least)) {
                break;
            }
            let taken = self.take_rows(place, priority, room, parts);
            first_taken |= taken && place == first;
            // Where its turn is over, what is left of it may be next again.
            cursor = self.skip(self.turns[priority].after(place), priority, device);
        }
        Some(first_taken)
    }

    /// The next place, from one on, of what a device takes.
    fn skip(&self, from: Option<Place>, priority: usize, device: usize) -> Option<Place> {
        let mut cursor = from;
        while let Some(place) = cursor {
            let entry = self.entries.get(place.key()).expect("it has a place");
            if self.homes.takes(device, entry.item.home()) {
                break;
            }
            cursor = self.turns[priority].after(place);
        }
        cursor
    }

    /// Moves rows of one entry to the batch, up to the end of its turn. Says whether any.
    fn take_rows(
        &mut self,
        place: Place,
        priority: usize,
        room: &mut Budget,
        parts: &mut Vec<Part<T>>,
    ) -> bool {
        let key = place.key();
        let entry = self.entries.get_mut(key).expect("it has a place");
        let (start, first_size) = (entry.rows.start, entry.next_size());
        let mut taken = Budget::default();
        while entry.rows.start < entry.turn_end {
            let row = entry.next_size();
            if !room.fits(row) {
                break;
            }
            room.take(row);
            taken.add(row);
            entry.rows.start += 1;
        }
        if taken.rows == 0 {
            return false;
        }
        self.turns[priority].taken(place);
        let rows = start..entry.rows.start;
        let item = entry.item.clone();
        self.homes.remove(item.home(), taken.rows);
        parts.push(Part { item, rows });
        self.waiting.remove(taken);
        self.next_sizes.remove(first_size);
        if entry.rows.is_empty() {
            self.forget(key);
            return true;
        }
        self.next_sizes.add(entry.next_size());
        if entry.rows.start == entry.turn_end {
            let cost = entry.begin_turn(self.config.budget);
            entry.place = Some(self.turns[priority].next_turn(place, entry.source, cost));
        }
        true
    }

    fn insert(
        &mut self,
        item: T,
        rows: Range<usize>,
        source: Option<Source>,
        priority: Priority,
        deadline: Option<Instant>,
    ) -> Key {
        let turn_end = rows.start;
        let mut entry = Entry { item, rows, turn_end, priority, source, place: None, deadline };
        let cost = entry.begin_turn(self.config.budget);
        let size = entry.size();
        self.homes.add(entry.item.home(), size.rows);
        self.waiting.rows += size.rows;
        self.waiting.bytes += size.bytes;
        self.waiting.draws += size.draws;
        self.waiting.cost += size.cost;
        self.next_sizes.add(entry.next_size());
        let key = self.entries.insert(entry);
        let turns = &mut self.turns[priority as usize];
        let place = match source {
            Some(source) => turns.enter(key, source, cost),
            None => turns.enter_first(key),
        };
        self.entries.get_mut(key).expect("it was just added").place = Some(place);
        if let Some(deadline) = deadline {
            self.deadlines.insert((deadline, key));
        }
        key
    }

    fn remove_where(&mut self, which: impl Fn(&Entry<T>) -> bool, removed: &mut Vec<T>) {
        for priority in 0..3 {
            let mut cursor = self.turns[priority].first();
            while let Some(place) = cursor {
                cursor = self.turns[priority].after(place);
                if self.entries.get(place.key()).is_some_and(&which) {
                    removed.extend(self.cancel(place.key()));
                }
            }
        }
    }

    /// Takes an entry out with the rows of it that wait.
    fn remove(&mut self, key: Key) -> Option<Entry<T>> {
        let entry = self.entries.get(key)?;
        let (size, next_size) = (entry.size(), entry.next_size());
        self.homes.remove(entry.item.home(), size.rows);
        self.waiting.remove(size);
        self.next_sizes.remove(next_size);
        self.forget(key)
    }

    /// Takes an entry out whose rows are counted out.
    fn forget(&mut self, key: Key) -> Option<Entry<T>> {
        let entry = self.entries.remove(key)?;
        let place = entry.place.expect("every entry in the queue has one");
        self.turns[entry.priority as usize].leave(place, entry.source);
        self.returned -= usize::from(entry.source.is_none());
        if let Some(deadline) = entry.deadline {
            self.deadlines.remove(&(deadline, key));
        }
        if self.waiting.rows == 0 {
            self.due = None;
        }
        Some(entry)
    }
}

#[cfg(test)]
mod tests;
