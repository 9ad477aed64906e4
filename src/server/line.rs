//! The line of large messages for which there is no room yet.
//!
//! A large message that is refused has cost its sender as much as one that is answered, and comes again. So it is
//! left unread for a while instead, in the order of arrival, until there is room for all of it. HTTP/2 stops its
//! sender after a window's worth of bytes; since those count against the window of the connection too, the messages
//! of a connection that wait are bounded by its places.
//!
//! Waiting is worth something only while room is given back. Clients that announce messages and do not send them can
//! occupy half of the engine's bytes for as long as they are waited for: where little is given back for a
//! [`TICK`], nobody waits any longer, and messages find room as they would without a line.
//! Nobody waits longer than `--room-wait`, so messages that have half arrived cannot wait for one another for ever.

use super::account::{Budget, Held};
use super::error::Error;
use super::room::{Room, Rooms};
use crate::engine::{Freed, Refused};
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;
use tokio::sync::Mutex;
use tokio::time::{Instant, sleep, timeout_at};

/// Smaller messages do not wait: most of one has been sent before a refusal, or a window, could stop it.
const WAITING_BYTES_MIN: usize = 2 << 20;
/// How long nothing may be given back before nobody waits any longer. Longer than most batches.
const TICK: Duration = Duration::from_millis(250);
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
}

/// Large messages of all connections that wait.
#[derive(Debug)]
pub struct Line {
    /// For what is reserved and has not arrived.
    pub unsent: Arc<Budget>,
    /// What of that has arrived.
    pub arrived: Freed,
    wait_max: Duration,
    /// Held by the first in the line; the others wait for it in their order.
    first: Mutex<()>,
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

    /// Places for the waiting messages of one connection with these windows.
    pub fn places(connection_window: usize, stream_window: usize) -> Arc<Budget> {
        let (part, whole) = WINDOW_PART;
        let places_max = connection_window / whole * part / stream_window.max(1);
        let what = "messages that wait for room";
        Budget::new("the connection", what, "connection_window_bytes", places_max)
    }

    /// No places, where a message cannot be left unread.
    pub fn nowhere() -> Arc<Budget> {
        Self::places(0, 1)
    }

    /// Whether somebody waits, whom others must not overtake.
    pub fn is_busy(&self) -> bool {
        self.waiting.load(Ordering::Relaxed) > 0
    }

    /// What must be given back in a tick for a message of so many bytes to go on waiting: at that pace there is
    /// room for it in time.
    fn least(&self, length: usize) -> u64 {
        let part = TICK.as_secs_f64() / self.wait_max.as_secs_f64();
        ((length as f64 * part.min(1.0)) as u64).max(1)
    }

    fn has_stalled(&self, lack: Lack, freed: u64, length: usize) -> bool {
        let then = self.stalled_at[lack as usize].load(Ordering::Relaxed);
        then != NEVER && freed - then < self.least(length)
    }
}

/// A message that waits, counted as long as it does.
struct Waiting(Arc<Line>);

impl Waiting {
    fn begin(line: &Arc<Line>) -> Self {
        line.waiting.fetch_add(1, Ordering::Relaxed);
        Self(Arc::clone(line))
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        self.0.waiting.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Resolves when a message has waited for room.
pub type Wait = Pin<Box<dyn Future<Output = Result<Room, Error>> + Send>>;

/// What an announced message finds.
pub enum Found {
    /// Room.
    Room(Room),
    /// The line.
    Wait(Wait),
}

/// A message of which a part is here: with its room, or without where the whole did not fit.
#[derive(Debug)]
struct Arriving {
    room: Option<Room>,
    length: usize,
    arrived: usize,
}

impl Arriving {
    /// Looks for room, and says what is lacking; an error is a refusal for which waiting is no help.
    fn look(&mut self, rooms: &Rooms) -> Result<Option<Lack>, Error> {
        match &mut self.room {
            Some(room) => room.arrived(self.arrived, &rooms.line)?,
            None => match rooms.take(self.length, self.arrived) {
                Ok(room) => self.room = Some(room),
                Err(Error::Refused(Refused::Overloaded { .. })) => return Ok(Some(Lack::Queue)),
                Err(error) => return Err(error),
            },
        }
        Ok(self.room.as_ref().and_then(Room::lack))
    }
}

impl Rooms {
    /// Room for a message of `length` bytes of which so many have arrived; or, where it is large, a wait for room.
    pub fn find(&self, length: usize, arrived: usize) -> Result<Found, Error> {
        if self.line.is_busy()
            && let Some(place) = self.place(length, arrived)
        {
            return Ok(Found::Wait(self.wait(None, length, arrived, place)));
        }
        let wait = |room, place| Found::Wait(self.wait(room, length, arrived, place));
        match self.take(length, arrived) {
            Ok(room) if room.lack().is_some() => Ok(match self.place(length, arrived) {
                Some(place) => wait(Some(room), place),
                None => Found::Room(room),
            }),
            Err(error @ Error::Refused(Refused::Overloaded { .. })) => {
                self.place(length, arrived).map(|place| wait(None, place)).ok_or(error)
            }
            found => found.map(Found::Room),
        }
    }

    /// A place to wait at, for a message that is large and not all here.
    pub fn place(&self, length: usize, arrived: usize) -> Option<Held> {
        let large = length >= WAITING_BYTES_MIN && arrived < length;
        let waits = large && !self.line.wait_max.is_zero();
        waits.then(|| self.places.take(1).ok()).flatten()
    }

    /// Waits, at a place, until there is room for all of the message or waiting is in vain; then it has whatever room
    /// there is, or is refused.
    pub fn wait(&self, room: Option<Room>, length: usize, arrived: usize, place: Held) -> Wait {
        Box::pin(self.clone().waited(Arriving { room, length, arrived }, place))
    }

    async fn waited(self, mut message: Arriving, place: Held) -> Result<Room, Error> {
        let (line, waiting) = (&self.line, Waiting::begin(&self.line));
        let in_turn = async {
            let _first = line.first.lock().await;
            self.wait_first(&mut message).await
        };
        let _ = timeout_at(Instant::now() + line.wait_max, in_turn).await;
        drop((waiting, place));
        let Arriving { room, length, arrived } = message;
        match room {
            Some(mut room) => {
                // One of which too little is here to reserve the rest waits again when there is more.
                if room.lack().is_some() {
                    room.has_waited();
                }
                Ok(room)
            }
            None => self.take(length, arrived),
        }
    }

    /// Waits as the first in the line.
    async fn wait_first(&self, message: &mut Arriving) {
        while let Ok(Some(lack)) = message.look(self) {
            let before = self.freed(lack);
            if self.line.has_stalled(lack, before, message.length) {
                return;
            }
            if !self.finds_room_within_a_tick(message).await {
                let freed = self.freed(lack);
                if freed - before < self.line.least(message.length) {
                    self.line.stalled_at[lack as usize].store(freed, Ordering::Relaxed);
                    return;
                }
            }
        }
    }

    /// Looks for room whenever some is given back. False when the time is over.
    async fn finds_room_within_a_tick(&self, message: &mut Arriving) -> bool {
        let mut tick = std::pin::pin!(sleep(TICK));
        loop {
            tokio::select! {
                () = &mut tick => return false,
                () = self.line.arrived.news() => {}
                () = self.engine.freed().news() => {}
            }
            if !matches!(message.look(self), Ok(Some(_))) {
                return true;
            }
        }
    }

    fn freed(&self, lack: Lack) -> u64 {
        match lack {
            Lack::Unsent => self.line.arrived.bytes(),
            Lack::Queue => self.engine.freed().bytes(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::{Engine, EngineConfig};
    use logitd_core::backend::{Backend, reference::Reference};

    const MIB: usize = 1 << 20;
    const QUEUE: usize = 16 * MIB;
    const WAIT_MAX: Duration = Duration::from_secs(5);

    /// Of a connection with four places, before an engine of 16 MiB.
    fn rooms() -> Rooms {
        let config = EngineConfig { queue_bytes_max: QUEUE, ..Default::default() };
        let engine =
            Engine::start(config, vec![Box::new(Reference::default()) as Box<dyn Backend>]);
        let line = Line::new(QUEUE, WAIT_MAX);
        Rooms { engine, shares: [None, None], line, places: Line::places(16, 3) }
    }

    fn wait(rooms: &Rooms, length: usize, arrived: usize) -> Wait {
        match rooms.find(length, arrived) {
            Ok(Found::Wait(wait)) => wait,
            Ok(Found::Room(room)) => panic!("{room:?}"),
            Err(error) => panic!("{error}"),
        }
    }

    fn whole(rooms: &Rooms, bytes: usize) -> Room {
        rooms.take(bytes, bytes).expect("there is room")
    }

    #[tokio::test(start_paused = true)]
    async fn large_messages_get_room_in_the_order_of_their_arrival() {
        let rooms = rooms();
        let full = whole(&rooms, QUEUE);
        let first = tokio::spawn(wait(&rooms, 6 * MIB, MIB));
        tokio::task::yield_now().await;
        let second = tokio::spawn(wait(&rooms, 12 * MIB, 0));
        tokio::task::yield_now().await;
        drop(full);
        let first = first.await.unwrap().expect("there is room");
        assert!(first.is_whole());
        // There would be room for a third, but the second is before it.
        tokio::task::yield_now().await;
        let third = tokio::spawn(wait(&rooms, 4 * MIB, MIB));
        tokio::task::yield_now().await;
        assert!(!second.is_finished() && !third.is_finished());
        drop(first);
        let second = second.await.unwrap().expect("there is room");
        assert!(third.await.unwrap().expect("there is room").is_whole());
        assert!(!second.is_whole(), "nothing of it is here");
        assert!(!rooms.line.is_busy());
    }

    #[tokio::test(start_paused = true)]
    async fn nobody_waits_for_room_that_is_not_given_back() {
        let rooms = rooms();
        let full = whole(&rooms, QUEUE);
        let begun = Instant::now();
        let (first, second) = (wait(&rooms, 4 * MIB, 0), wait(&rooms, 4 * MIB, 0));
        let (first, second) = tokio::join!(first, second);
        assert!(first.is_err() && second.is_err());
        assert_eq!(begun.elapsed().as_millis(), TICK.as_millis(), "once for all who wait");
        assert!(wait(&rooms, 4 * MIB, 0).await.is_err());
        assert_eq!(begun.elapsed().as_millis(), TICK.as_millis(), "and for those who come later");
        drop(full);
        assert!(matches!(rooms.find(4 * MIB, MIB), Ok(Found::Room(_))));
    }

    #[tokio::test(start_paused = true)]
    async fn who_sends_nothing_of_what_is_reserved_keeps_nobody_waiting() {
        let rooms = rooms();
        // 7.5 MiB of the 8 that may be reserved.
        let _silent = rooms.take(8 * MIB, MIB / 2).unwrap();
        let begun = Instant::now();
        let room = wait(&rooms, 4 * MIB, MIB).await.expect("there is room");
        assert_eq!(begun.elapsed().as_millis(), TICK.as_millis());
        assert!(!room.is_whole() && room.lack().is_none(), "charged as it arrives, and waits once");
        drop(room);
        wait(&rooms, 4 * MIB, MIB).await.expect("there is room");
        assert_eq!(begun.elapsed().as_millis(), TICK.as_millis());
    }

    #[tokio::test(start_paused = true)]
    async fn a_wait_is_bounded_while_room_is_given_to_others() {
        let rooms = rooms();
        let _most = whole(&rooms, QUEUE - 3 * MIB);
        let others = tokio::spawn({
            let rooms = rooms.clone();
            async move {
                loop {
                    let other = whole(&rooms, MIB);
                    sleep(TICK / 5).await;
                    drop(other);
                }
            }
        });
        let begun = Instant::now();
        assert!(wait(&rooms, 4 * MIB, 0).await.is_err());
        assert_eq!(begun.elapsed().as_millis(), WAIT_MAX.as_millis());
        others.abort();
    }

    #[tokio::test(start_paused = true)]
    async fn small_messages_and_those_without_a_place_do_not_wait() {
        let rooms = rooms();
        let _full = whole(&rooms, QUEUE);
        assert!(rooms.find(MIB, 0).is_err());
        assert!(rooms.find(4 * MIB, 4 * MIB).is_err(), "all of it is here");
        let waiting: Vec<Wait> = (0..4).map(|_| wait(&rooms, 4 * MIB, 0)).collect();
        assert!(rooms.find(4 * MIB, 0).is_err(), "no place is left");
        drop(waiting);
        drop(wait(&rooms, 4 * MIB, 0));
    }

    #[tokio::test(start_paused = true)]
    async fn a_call_that_is_cancelled_leaves_the_line() {
        let rooms = rooms();
        let full = whole(&rooms, QUEUE);
        let first = tokio::spawn(wait(&rooms, 4 * MIB, MIB));
        tokio::task::yield_now().await;
        let second = tokio::spawn(wait(&rooms, 4 * MIB, MIB));
        tokio::task::yield_now().await;
        first.abort();
        drop(full);
        assert!(second.await.unwrap().expect("there is room").is_whole());
        assert!(!rooms.line.is_busy());
    }
}
