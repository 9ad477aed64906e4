//! Whose turn it is: the order in which requests of one priority are taken.
//!
//! Work is shared out between those who send it, by what it costs, and not by how many requests they
//! make of it. The order is that of self-clocked fair queueing (Golestani, INFOCOM 1994):
//!
//! ```text
//! a turn of a request (up to one batch of it) begins:
//!     tag = max(virtual time, tag of the source's turn before) + cost * sources of its group
//! a turn is taken: the least tag first; virtual time = its tag
//! ```
//!
//! What follows from that:
//! - One source alone is served in the order of arrival.
//! - A source that has asked for little is served before the second turn of one that asks for much,
//!   however much waits: its tag is hardly more than the virtual time.
//! - Sources that always have something waiting get equal shares of the cost within their group, and
//!   groups get equal shares of the whole, however many sources one of them has.
//! - Nothing is remembered of a source of whom nothing waits, so the memory is that of what waits.

use super::slots::Key;
use std::collections::{BTreeSet, HashMap};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::ops::Bound::{Excluded, Unbounded};
use std::sync::atomic::{AtomicU64, Ordering};

/// Who sends a request: between groups, and within each between its connections, work is shared fairly.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Source {
    /// Whom the connection belongs to.
    pub group: GroupId,
    /// The connection.
    pub connection: ConnectionId,
}

/// Whom connections belong to: a token, an address or a process. The default is that of requests which
/// came over no connection.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct GroupId(u64);

impl GroupId {
    /// That of everything that has this name.
    pub fn of(name: impl Hash) -> Self {
        let mut hasher = DefaultHasher::new();
        name.hash(&mut hasher);
        Self(hasher.finish())
    }
}

/// A connection, different from every other of this process. The default is that of requests which came over
/// none.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ConnectionId(u64);

impl ConnectionId {
    /// One that was never given before.
    pub fn next() -> Self {
        static LAST: AtomicU64 = AtomicU64::new(0);
        Self(LAST.fetch_add(1, Ordering::Relaxed) + 1)
    }
}

/// A place in the order. Places are taken from the least.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Place {
    tag: u64,
    /// Equal tags: first come, first served; what was given back before all others.
    arrival: i64,
    key: Key,
}

#[derive(Debug, Default)]
pub(super) struct Turns {
    order: BTreeSet<Place>,
    virtual_time: u64,
    arrivals: i64,
    returns: i64,
    /// Sources of whom something waits.
    sources: HashMap<Source, Waiting>,
    /// How many of them each group has.
    groups: HashMap<GroupId, u64>,
}

#[derive(Debug)]
struct Waiting {
    tag: u64,
    entries: usize,
}

impl Turns {
    /// Adds an entry whose first turn costs so much.
    pub fn enter(&mut self, key: Key, source: Source, cost: u64) -> Place {
        let waiting = self.sources.entry(source).or_insert_with(|| {
            *self.groups.entry(source.group).or_default() += 1;
            Waiting { tag: 0, entries: 0 }
        });
        waiting.entries += 1;
        self.place(key, source, cost)
    }

    /// Adds an entry that was taken and comes back: before all others.
    pub fn enter_first(&mut self, key: Key) -> Place {
        self.returns += 1;
        self.insert(Place { tag: 0, arrival: -self.returns, key })
    }

    /// Its turn is over, and its next one costs so much.
    pub fn next_turn(&mut self, place: Place, source: Option<Source>, cost: u64) -> Place {
        self.order.remove(&place);
        match source {
            Some(source) => self.place(place.key, source, cost),
            None => self.enter_first(place.key),
        }
    }

    /// Something of it is taken.
    pub fn taken(&mut self, place: Place) {
        self.virtual_time = self.virtual_time.max(place.tag);
    }

    /// Removes an entry; one that was given back has no source.
    pub fn leave(&mut self, place: Place, source: Option<Source>) {
        self.order.remove(&place);
        let Some(source) = source else { return };
        let waiting = self.sources.get_mut(&source).expect("it has entered");
        waiting.entries -= 1;
        if waiting.entries == 0 {
            self.sources.remove(&source);
            let group = self.groups.get_mut(&source.group).expect("it has a source");
            *group -= 1;
            if *group == 0 {
                self.groups.remove(&source.group);
            }
        }
    }

    /// The first in the order.
    pub fn first(&self) -> Option<Place> {
        self.order.first().copied()
    }

    /// What follows a place, whether or not it is still taken.
    pub fn after(&self, place: Place) -> Option<Place> {
        self.order.range((Excluded(place), Unbounded)).next().copied()
    }

    /// Sources of whom something waits.
    pub fn sources(&self) -> impl Iterator<Item = Source> {
        self.sources.keys().copied()
    }

    #[cfg(test)]
    pub fn is_forgotten(&self) -> bool {
        self.order.is_empty() && self.sources.is_empty() && self.groups.is_empty()
    }

    fn place(&mut self, key: Key, source: Source, cost: u64) -> Place {
        let shares = self.groups[&source.group];
        let waiting = self.sources.get_mut(&source).expect("it has entered");
        let start = waiting.tag.max(self.virtual_time);
        waiting.tag = start.saturating_add(cost.saturating_mul(shares)).max(1);
        self.arrivals += 1;
        let place = Place { tag: waiting.tag, arrival: self.arrivals, key };
        self.insert(place)
    }

    fn insert(&mut self, place: Place) -> Place {
        self.order.insert(place);
        place
    }
}

impl Place {
    pub fn key(self) -> Key {
        self.key
    }
}
