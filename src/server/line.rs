//! The line of large messages for which there is no room yet.
//!
//! A large message that is refused has cost its sender as much as one that is answered, and comes again. So it is
//! left unread for a while instead, until there is room for all of it. HTTP/2 stops its
//! sender after a window's worth of bytes; since those count against the window of the connection too, the messages
//! of a connection that wait are bounded by its places.
//!
//! The messages of a connection wait in the order of their arrival ([`Lane`]), and only the first of them stands in
//! the line, so connections take turns, and many messages of one do not come before one of another. A message that lacks
//! room of its connection's own share waits for that before it stands in the line. For that of its token it does not wait: where a proxy
//! has one connection for all, the messages of one token would have the places of the others.
//!
//! Waiting is worth something only while room is given back. Clients that announce messages and do not send them can
//! occupy half of the engine's bytes for as long as they are waited for: where little is given back for a
//! [`TICK`], nobody waits any longer, and messages find room as they would without a line.
//! Nobody waits longer than `--room-wait`, so messages that have half arrived cannot wait for one another for ever.

use super::budget::{Budget, CONNECTION_BYTES_MAX};
use super::error::Error;
use super::schedule::Schedule;
use crate::engine::{Freed, Refused};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;
use tokio::sync::Mutex;

/// Smaller messages do not wait: most of one has been sent before a refusal, or a window, could stop it.
pub const WAITING_BYTES_MIN: usize = 2 << 20;
/// How long nothing may be given back before nobody waits any longer. Longer than most batches.
pub const TICK: Duration = Duration::from_millis(250);
/// The part of a connection's window that its waiting messages may fill: three of four.
const WINDOW_PART: (usize, usize) = (3, 4);
/// No room has been seen to be held by those who give nothing back.
const NEVER: u64 = u64::MAX;

/// What a message lacks room of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lack {
    /// Bytes that are reserved and have not arrived.
    Unsent,
    /// Bytes of the engine.
    Queue,
    /// Bytes that its connection may have.
    Share,
}

impl Lack {
    /// That for which a message is refused, where waiting may help.
    pub fn of(error: &Error) -> Option<Self> {
        match error {
            Error::Refused(Refused::Overloaded { .. }) => Some(Self::Queue),
            Error::Full { name: CONNECTION_BYTES_MAX, .. } => Some(Self::Share),
            _ => None,
        }
    }
}

/// Large messages of all connections that wait, the first of each connection.
#[derive(Debug)]
pub struct Line {
    /// For what is reserved and has not arrived.
    pub unsent: Arc<Budget>,
    /// What of that has arrived.
    pub arrived: Freed,
    /// The longest wait.
    pub wait_max: Duration,
    /// Held by the first in the line; the others wait for it in their order.
    pub first: Mutex<()>,
    waiting: AtomicUsize,
    /// By what is lacking: how much had been given back when it was last seen that little was.
    stalled_at: [AtomicU64; 2],
}

impl Line {
    /// Of nobody, before an engine of so many bytes, in which nobody waits longer than this.
    pub fn new(queue_bytes_max: usize, wait_max: Duration) -> Arc<Self> {
        let what = "bytes that have not arrived";
        let unsent_max = queue_bytes_max.div_ceil(2);
        Arc::new(Self {
            unsent: Budget::new("the server", what, "queue_bytes_max", unsent_max),
            arrived: Freed::default(),
            wait_max,
            first: Mutex::new(()),
            waiting: AtomicUsize::new(0),
            stalled_at: [const { AtomicU64::new(NEVER) }; 2],
        })
    }

    /// Whether somebody waits, whom others must not overtake.
    pub fn is_busy(&self) -> bool {
        self.waiting.load(Ordering::Relaxed) > 0
    }

    /// What must be given back in a tick for a message of so many bytes to go on waiting: at that pace there is
    /// room for it in time.
    pub fn least(&self, length: usize) -> u64 {
        let part = TICK.as_secs_f64() / self.wait_max.as_secs_f64();
        ((length as f64 * part.min(1.0)) as u64).max(1)
    }

    /// Little is given back now, when so much has been in all.
    pub fn stalls(&self, lack: Lack, freed: u64) {
        self.stalled_at[lack as usize].store(freed, Ordering::Relaxed);
    }

    /// Whether little has been given back since that was last seen.
    pub fn has_stalled(&self, lack: Lack, freed: u64, length: usize) -> bool {
        let then = self.stalled_at[lack as usize].load(Ordering::Relaxed);
        then != NEVER && freed - then < self.least(length)
    }
}

/// Large messages of one connection that wait, and those that were refused.
#[derive(Debug)]
pub struct Lane {
    /// Places for those that wait.
    pub places: Arc<Budget>,
    /// Held by the first of them; the others wait for it in their order.
    pub first: Mutex<()>,
    /// When those that are refused come again.
    pub schedule: Schedule,
    waiting: AtomicUsize,
    places_max: usize,
}

impl Lane {
    /// Of a connection with these windows.
    pub fn new(connection_window: usize, stream_window: usize) -> Arc<Self> {
        let (part, whole) = WINDOW_PART;
        let places_max = connection_window / whole * part / stream_window.max(1);
        let what = "messages that wait for room";
        Arc::new(Self {
            places: Budget::new("the connection", what, "connection_window_bytes", places_max),
            first: Mutex::new(()),
            schedule: Schedule::default(),
            waiting: AtomicUsize::new(0),
            places_max,
        })
    }

    /// One without places, where a message cannot be left unread.
    pub fn nowhere() -> Arc<Self> {
        Self::new(0, 1)
    }

    /// Whether it has places at all.
    pub fn has_places(&self) -> bool {
        self.places_max > 0
    }

    /// Whether a message waits, which others of the connection must not overtake.
    pub fn is_busy(&self) -> bool {
        self.waiting.load(Ordering::Relaxed) > 0
    }
}

/// A message that waits, counted as long as it does.
pub struct Waiting<'a>(&'a AtomicUsize);

impl<'a> Waiting<'a> {
    /// In the line, from now on.
    pub fn in_line(line: &'a Line) -> Self {
        Self::among(&line.waiting)
    }

    /// Among those of its connection, from now on.
    pub fn in_lane(lane: &'a Lane) -> Self {
        Self::among(&lane.waiting)
    }

    fn among(waiting: &'a AtomicUsize) -> Self {
        waiting.fetch_add(1, Ordering::Relaxed);
        Self(waiting)
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}
