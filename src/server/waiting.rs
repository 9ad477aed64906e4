//! Large messages that wait for room.
//!
//! A large message that is refused has cost its sender as much as one that is answered, and comes again. So it is
//! left unread for a while instead, in its turn ([`line`](super::line)), until there is room for all of it.

use super::budget::Held;
use super::error::Error;
use super::line::{Lack, TICK, WAITING_BYTES_MIN, Waiting};
use super::room::{Room, Rooms};
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
        let looked = match &mut self.room {
            Some(room) => room.arrived(self.arrived, &rooms.line),
            None => rooms.try_take(self.length, self.arrived).map(|room| self.room = Some(room)),
        };
        match looked {
            Ok(()) => Ok(self.room.as_ref().and_then(Room::lack)),
            Err(error) => Lack::of(&error).ok_or(error).map(Some),
        }
    }

    /// Bytes of it that are not charged yet.
    fn uncharged(&self) -> usize {
        self.room.as_ref().map_or(self.length, Room::uncharged)
    }
}

impl Rooms {
    /// Room for a message of `length` bytes of which so many have arrived; or, where it is large, a wait for room.
    pub fn find(&self, length: usize, arrived: usize) -> Result<Found, Error> {
        let found = self.try_find(length, arrived);
        found.map_err(|error| self.told(length, error))
    }

    fn try_find(&self, length: usize, arrived: usize) -> Result<Found, Error> {
        if (self.line.is_busy() || self.lane.is_busy()) && self.may_wait(length, arrived) {
            // One without a place must not overtake those that wait.
            let place = self.lane.places.take(1)?;
            return Ok(Found::Wait(self.wait(None, length, arrived, place)));
        }
        let wait = |room, place| Found::Wait(self.wait(room, length, arrived, place));
        match self.try_take(length, arrived) {
            Ok(room) if room.lack().is_some() => Ok(match self.place(length, arrived) {
                Some(place) => wait(Some(room), place),
                None => Found::Room(room),
            }),
            Err(error) if Lack::of(&error).is_some() => {
                self.place(length, arrived).map(|place| wait(None, place)).ok_or(error)
            }
            found => found.map(Found::Room),
        }
    }

    /// A place to wait at, for a message that is large and not all here.
    pub fn place(&self, length: usize, arrived: usize) -> Option<Held> {
        self.may_wait(length, arrived).then(|| self.lane.places.take(1).ok()).flatten()
    }

    fn may_wait(&self, length: usize, arrived: usize) -> bool {
        let large = length >= WAITING_BYTES_MIN && arrived < length;
        large && self.lane.has_places() && !self.line.wait_max.is_zero()
    }

    /// Waits, at a place, until there is room for all of the message or waiting is in vain; then it has whatever room
    /// there is, or is refused.
    pub fn wait(&self, room: Option<Room>, length: usize, arrived: usize, place: Held) -> Wait {
        Box::pin(self.clone().waited(Arriving { room, length, arrived }, place))
    }

    async fn waited(self, mut message: Arriving, place: Held) -> Result<Room, Error> {
        let waiting = Waiting::in_lane(&self.lane);
        let in_turn = async {
            let _first = self.lane.first.lock().await;
            loop {
                self.share_has_room(&message).await;
                if self.wait_in_line(&mut message).await != Some(Lack::Share) {
                    return;
                }
            }
        };
        let _ = timeout_at(Instant::now() + self.line.wait_max, in_turn).await;
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

    /// Waits, as the first of its connection, until the connection has room for the rest of a message.
    async fn share_has_room(&self, message: &Arriving) {
        let [Some(share), _] = &self.shares else { return };
        loop {
            // Listens before it looks, so that no news falls between the two.
            let news = share.news();
            if share.has_room(message.uncharged()) {
                return;
            }
            news.await;
        }
    }

    /// Waits as the first of its connection, and in the line; what is lacking then, where waiting has ended for that.
    async fn wait_in_line(&self, message: &mut Arriving) -> Option<Lack> {
        let (line, _waiting) = (&self.line, Waiting::in_line(&self.line));
        let _first = line.first.lock().await;
        while let Ok(Some(lack)) = message.look(self) {
            if lack == Lack::Share {
                return Some(lack);
            }
            let before = self.freed(lack);
            if line.has_stalled(lack, before, message.length) {
                return None;
            }
            if !self.finds_room_within_a_tick(message).await {
                let freed = self.freed(lack);
                if freed - before < line.least(message.length) {
                    line.stalls(lack, freed);
                    return None;
                }
            }
        }
        None
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
            if !matches!(message.look(self), Ok(Some(Lack::Unsent | Lack::Queue))) {
                return true;
            }
        }
    }

    fn freed(&self, lack: Lack) -> u64 {
        match lack {
            Lack::Unsent => self.line.arrived.bytes(),
            Lack::Queue | Lack::Share => self.engine.freed().bytes(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::line::{Lane, Line};
    use super::*;
    use crate::engine::{Engine, EngineConfig, Refused};
    use crate::server::budget::{Budget, CONNECTION_BYTES_MAX};
    use logitd_core::backend::{Backend, reference::Reference};
    use std::time::Duration;

    const MIB: usize = 1 << 20;
    const QUEUE: usize = 16 * MIB;
    const WAIT_MAX: Duration = Duration::from_secs(5);

    /// Of another connection to the same server.
    fn beside(rooms: &Rooms) -> Rooms {
        Rooms { lane: Lane::new(16, 3), ..rooms.clone() }
    }

    fn retry_after(found: Result<Found, Error>) -> Duration {
        match found.err().expect("it is refused") {
            Error::Full { retry_after, .. } => retry_after,
            Error::Refused(Refused::Overloaded { retry_after, .. }) => retry_after,
            error => panic!("{error}"),
        }
    }

    /// Of a connection with four places, before an engine of 16 MiB.
    fn rooms() -> Rooms {
        let config = EngineConfig { queue_bytes_max: QUEUE, ..Default::default() };
        let engine =
            Engine::start(config, vec![Box::new(Reference::default()) as Box<dyn Backend>]);
        let line = Line::new(QUEUE, WAIT_MAX);
        Rooms { engine, shares: [None, None], line, lane: Lane::new(16, 3) }
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
    async fn connections_take_turns_however_many_messages_of_one_wait() {
        let many = rooms();
        let one = beside(&many);
        let full = whole(&many, QUEUE);
        let mut of_many = Vec::new();
        for _ in 0..3 {
            of_many.push(tokio::spawn(wait(&many, 8 * MIB, 4 * MIB)));
            tokio::task::yield_now().await;
        }
        let of_one = tokio::spawn(wait(&one, 8 * MIB, 4 * MIB));
        tokio::task::yield_now().await;
        drop(full);
        // There is room for two.
        let of_one = of_one.await.unwrap().expect("there is room");
        let first = of_many.remove(0).await.unwrap().expect("there is room");
        assert!(first.is_whole() && of_one.is_whole());
        assert!(of_many.iter().all(|other| !other.is_finished()));
        drop((first, of_one));
        for other in of_many {
            assert!(other.await.unwrap().expect("there is room").is_whole());
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_message_waits_for_a_share_and_in_nobodys_way() {
        let share = Budget::new("the connection", "bytes", CONNECTION_BYTES_MAX, 6 * MIB);
        let bounded = Rooms { shares: [Some(share), None], ..rooms() };
        let other = Rooms { shares: [None, None], ..beside(&bounded) };

        let first = whole(&bounded, 4 * MIB);
        let second = tokio::spawn(wait(&bounded, 4 * MIB, MIB));
        tokio::task::yield_now().await;
        assert!(!bounded.line.is_busy() && bounded.lane.is_busy());
        assert!(matches!(other.find(4 * MIB, MIB), Ok(Found::Room(_))));
        assert!(matches!(bounded.find(2 * MIB, MIB), Ok(Found::Wait(_))), "it would overtake");
        drop(first);
        assert!(second.await.unwrap().expect("the connection has room").is_whole());
    }

    #[tokio::test(start_paused = true)]
    async fn nobody_waits_for_the_share_of_a_token() {
        let share = Budget::new("token Ann", "bytes", "token_bytes_max", 6 * MIB);
        let bounded = Rooms { shares: [None, Some(share)], ..rooms() };
        let _first = whole(&bounded, 4 * MIB);
        // Its messages would have the places of other tokens, where a proxy has one connection for all.
        assert!(matches!(bounded.find(4 * MIB, MIB), Err(Error::Full { .. })));
        assert!(!bounded.lane.is_busy());
    }

    #[tokio::test(start_paused = true)]
    async fn a_message_that_grows_beyond_a_share_waits_for_it() {
        let share = Budget::new("the connection", "bytes", CONNECTION_BYTES_MAX, 10 * MIB);
        let rooms = Rooms { shares: [Some(share), None], ..rooms() };
        // Both are announced before either has come.
        let [mut first, mut second] = [0, 0].map(|_| rooms.take(6 * MIB, 0).unwrap());
        rooms.arrived(&mut first, MIB).unwrap();
        assert!(first.is_whole());
        rooms.arrived(&mut second, MIB).unwrap();
        assert!(rooms.arrived(&mut second, 5 * MIB).is_err());
        assert_eq!(second.lack(), Some(Lack::Share));
        let place = rooms.place(6 * MIB, 5 * MIB).expect("a place");
        let second = tokio::spawn(rooms.wait(Some(second), 6 * MIB, 5 * MIB, place));
        tokio::task::yield_now().await;
        drop(first);
        assert!(second.await.unwrap().expect("there is room").is_whole());
    }

    #[tokio::test(start_paused = true)]
    async fn refused_messages_are_told_to_come_one_after_another() {
        let rooms = rooms();
        let _waiting: Vec<_> = (0..4).map(|_| rooms.lane.places.take(1).unwrap()).collect();
        let busy = Waiting::in_lane(&rooms.lane);
        let refused = || retry_after(rooms.find(4 * MIB, 0));
        let least = refused();
        // 40 messages a second are taken of this connection, and none of another.
        for _ in 0..4 {
            let (_, _) = whole(&rooms, 4 * MIB).into_parts();
        }
        sleep(Duration::from_millis(100)).await;
        let told: Vec<u128> = (0..4).map(|_| refused().as_millis()).collect();
        assert_eq!(told, [25, 50, 75, 100], "though there is room");
        let beside = beside(&rooms);
        let _full = whole(&rooms, QUEUE);
        let _places: Vec<_> = (0..4).map(|_| beside.lane.places.take(1).unwrap()).collect();
        assert!(retry_after(beside.find(4 * MIB, 0)) <= least);
        drop(busy);
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
