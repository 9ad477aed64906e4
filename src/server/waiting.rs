//! Large messages that wait for room.
//!
//! A large message that is refused has cost its sender as much as one that is answered, and comes again. So it is
//! left unread for a while instead, in the order of arrival ([`line`](super::line)), until there is room for all of it.

use super::account::Held;
use super::error::Error;
use super::line::{Lack, TICK, WAITING_BYTES_MIN, Waiting};
use super::room::{Room, Rooms};
use crate::engine::Refused;
use std::future::Future;
use std::pin::Pin;
use tokio::time::{Instant, sleep, timeout_at};

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
                    self.line.stalls(lack, freed);
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
    use super::super::line::Line;
    use super::*;
    use crate::engine::{Engine, EngineConfig};
    use logitd_core::backend::{Backend, reference::Reference};
    use std::time::Duration;

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
