//! Batch forming: a state machine without threads or a clock. Time is passed in.
//!
//! ```text
//! a batch is filled from the lists high, normal, low, each from its front:
//!     take as many of the request's rows as fit the room left, in order
//!     all taken          -> it leaves the list
//!     its turn is over   -> the rest goes to the back of the list
//!     else               -> it keeps its place; smaller rows behind it may fill what is left
//! ```
//!
//! What follows from that:
//! - Rows, not requests, are batched, so a request may be of any size and a batch is never smaller
//!   than it could have been: no row is left behind that would have fitted.
//! - A turn is one batch's worth of rows and bytes. A request of many batches takes turns with those
//!   behind it instead of holding them up: with `n` requests of its priority ahead, a request starts
//!   within `n + 1` batches.
//! - Being overtaken is bounded. A request whose next row is too large for the room left is the first
//!   of its list in the next batch; and the front of a list that [`Config::passed_over_max`] batches
//!   in a row took nothing from opens the next batch, whatever its priority.

use super::Priority;
use super::list::{Key, Lists};
use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::time::{Duration, Instant};

/// Something with rows in it, at least one; a cheap handle.
pub(super) trait Item: Clone {
    /// The number of rows.
    fn rows(&self) -> usize;
    /// Bytes of one row.
    fn row_bytes(&self, row: usize) -> usize;
}

#[derive(Clone, Copy, Debug)]
pub(super) struct Config {
    /// Of one batch.
    pub budget: Budget,
    /// How long a batch that is not full waits for more.
    pub delay: Duration,
    /// How many batches in a row may take nothing from the front of a list.
    pub passed_over_max: u32,
}

/// An amount of rows and of bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Budget {
    pub rows: usize,
    pub bytes: usize,
}

impl Budget {
    fn fits(&self, row_bytes: usize) -> bool {
        self.rows > 0 && self.bytes >= row_bytes
    }

    fn take(&mut self, row_bytes: usize) {
        self.rows -= 1;
        self.bytes -= row_bytes;
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
    /// One a priority.
    lists: Lists<Entry<T>, 3>,
    /// For each list, how many batches in a row took nothing from its front.
    passed_over: [u32; 3],
    deadlines: BTreeSet<(Instant, Key)>,
    /// How many entries have a next row of so many bytes. The smallest says when to stop looking.
    next_sizes: BTreeMap<usize, usize>,
    waiting: Budget,
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
    deadline: Option<Instant>,
    /// What is left of its turn.
    turn: Budget,
    returned: bool,
}

impl<T: Item> Entry<T> {
    fn next_bytes(&self) -> usize {
        self.item.row_bytes(self.rows.start)
    }

    fn bytes(&self) -> usize {
        self.rows.clone().map(|row| self.item.row_bytes(row)).sum()
    }
}

impl<T: Item> Queue<T> {
    pub fn new(config: Config) -> Self {
        Self {
            config,
            lists: Lists::new(),
            passed_over: [0; 3],
            deadlines: BTreeSet::new(),
            next_sizes: BTreeMap::new(),
            waiting: Budget { rows: 0, bytes: 0 },
            due: None,
            returned: 0,
        }
    }

    /// Adds an item, last in its priority. The key cancels it.
    ///
    /// # Panics
    /// If it has no rows, or one that is larger than a batch.
    pub fn push(
        &mut self,
        item: T,
        priority: Priority,
        deadline: Option<Instant>,
        now: Instant,
    ) -> Key {
        assert!((0..item.rows()).all(|row| item.row_bytes(row) <= self.config.budget.bytes));
        let wait_until = now + self.config.delay;
        // A request that cannot afford the wait is not made to.
        let due = if deadline.is_some_and(|d| d <= wait_until) { now } else { wait_until };
        self.due = Some(self.due.map_or(due, |other| other.min(due)));

        let rows = 0..item.rows();
        let entry = Entry { item, rows, deadline, turn: self.config.budget, returned: false };
        let (bytes, next_bytes) = (entry.bytes(), entry.next_bytes());
        let key = self.lists.push_back(priority as usize, entry);
        self.count_in(key, deadline, bytes, next_bytes);
        key
    }

    /// Puts back what was taken but could not be run: first in its priority, due at once.
    pub fn give_back(
        &mut self,
        part: Part<T>,
        priority: Priority,
        deadline: Option<Instant>,
        now: Instant,
    ) {
        let Part { item, rows } = part;
        self.due = Some(now);
        self.returned += 1;
        let entry = Entry { item, rows, deadline, turn: self.config.budget, returned: true };
        let (bytes, next_bytes) = (entry.bytes(), entry.next_bytes());
        let key = self.lists.push_front(priority as usize, entry);
        self.count_in(key, deadline, bytes, next_bytes);
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
        self.remove_where(|entry| entry.returned && !wanted(&entry.item), removed);
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

    /// Whether a batch should be taken.
    pub fn ready(&self, now: Instant) -> Ready {
        let Budget { rows, bytes } = self.config.budget;
        match self.due {
            None => Ready::Empty,
            Some(_) if self.waiting.rows >= rows || self.waiting.bytes >= bytes => Ready::Now,
            Some(due) if due <= now => Ready::Now,
            Some(due) => Ready::At(due),
        }
    }

    /// Takes the next batch, adding its parts to `parts`; what has expired goes to `expired` instead.
    /// Several parts may be of one item.
    pub fn take_batch(&mut self, now: Instant, parts: &mut Vec<Part<T>>, expired: &mut Vec<T>) {
        self.expire(now, expired);
        let mut room = self.config.budget;
        for list in self.order() {
            let had_any = self.lists.front(list).is_some();
            let front_taken = self.take_from(list, &mut room, parts);
            let passed_over = had_any && !front_taken;
            self.passed_over[list] = if passed_over { self.passed_over[list] + 1 } else { 0 };
        }
        // What was left behind has waited long enough.
        self.due = (self.waiting.rows > 0).then_some(now);
    }

    /// The lists in the order in which they fill the batch: those passed over for too long, the
    /// longest first, then by priority.
    fn order(&self) -> [usize; 3] {
        let mut order = [Priority::High, Priority::Normal, Priority::Low].map(|p| p as usize);
        let most = self.config.passed_over_max.max(1);
        order.sort_by_key(|&list| {
            let passed_over = self.passed_over[list];
            Reverse(if passed_over >= most { passed_over } else { 0 })
        });
        order
    }

    /// Fills the room from one list. Says whether its front got a place.
    fn take_from(&mut self, list: usize, room: &mut Budget, parts: &mut Vec<Part<T>>) -> bool {
        let front = self.lists.front(list);
        let mut front_taken = false;
        let mut cursor = front;
        while let Some(key) = cursor {
            if !self.next_sizes.first_key_value().is_some_and(|(&least, _)| room.fits(least)) {
                break;
            }
            let next = self.lists.next(key);
            let (taken, rotated) = self.take_rows(key, room, parts);
            front_taken |= taken && cursor == front;
            // The last of the list may be its next as well.
            cursor = if rotated { next.or(Some(key)) } else { next };
        }
        front_taken
    }

    /// Moves rows of one entry to the batch. Says whether any, and whether the rest, which exists,
    /// went to the back because its turn is over.
    fn take_rows(&mut self, key: Key, room: &mut Budget, parts: &mut Vec<Part<T>>) -> (bool, bool) {
        let entry = self.lists.get_mut(key).expect("the key is that of a list");
        let Range { start, end } = entry.rows;
        let first_bytes = entry.next_bytes();
        let (mut at, mut bytes, mut turn_over) = (start, 0, false);
        while at < end {
            let row_bytes = entry.item.row_bytes(at);
            turn_over = !entry.turn.fits(row_bytes);
            if turn_over || !room.fits(row_bytes) {
                break;
            }
            room.take(row_bytes);
            entry.turn.take(row_bytes);
            bytes += row_bytes;
            at += 1;
        }

        if at == end {
            // Counted out whole: nothing of it waits any more.
            let entry = self.remove(key).expect("it was there above");
            parts.push(Part { item: entry.item, rows: start..end });
            return (true, false);
        }
        let entry = self.lists.get_mut(key).expect("it was there above");
        entry.rows.start = at;
        if at > start {
            parts.push(Part { item: entry.item.clone(), rows: start..at });
        }
        if turn_over {
            entry.turn = self.config.budget;
        }
        let next_bytes = entry.next_bytes();
        self.waiting.rows -= at - start;
        self.waiting.bytes -= bytes;
        self.forget_size(first_bytes);
        *self.next_sizes.entry(next_bytes).or_default() += 1;
        if turn_over {
            self.lists.move_to_back(key);
        }
        (at > start, turn_over)
    }

    fn remove_where(&mut self, which: impl Fn(&Entry<T>) -> bool, removed: &mut Vec<T>) {
        for list in 0..3 {
            let mut cursor = self.lists.front(list);
            while let Some(key) = cursor {
                cursor = self.lists.next(key);
                if self.lists.get(key).is_some_and(&which) {
                    removed.extend(self.cancel(key));
                }
            }
        }
    }

    fn remove(&mut self, key: Key) -> Option<Entry<T>> {
        let entry = self.lists.remove(key)?;
        self.waiting.rows -= entry.rows.len();
        self.waiting.bytes -= entry.bytes();
        self.forget_size(entry.next_bytes());
        self.returned -= usize::from(entry.returned);
        if let Some(deadline) = entry.deadline {
            self.deadlines.remove(&(deadline, key));
        }
        if self.waiting.rows == 0 {
            self.due = None;
        }
        Some(entry)
    }

    fn count_in(&mut self, key: Key, deadline: Option<Instant>, bytes: usize, next_bytes: usize) {
        let entry = self.lists.get(key).expect("it was just added");
        self.waiting.rows += entry.rows.len();
        self.waiting.bytes += bytes;
        *self.next_sizes.entry(next_bytes).or_default() += 1;
        if let Some(deadline) = deadline {
            self.deadlines.insert((deadline, key));
        }
    }

    fn forget_size(&mut self, bytes: usize) {
        let count = self.next_sizes.get_mut(&bytes).expect("every entry is counted");
        *count -= 1;
        if *count == 0 {
            self.next_sizes.remove(&bytes);
        }
    }
}

#[cfg(test)]
mod tests;
