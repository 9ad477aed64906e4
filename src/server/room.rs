//! Room for one message: of the engine, of its connection and of its token.
//!
//! A message says its length before its payload, and saying costs nothing. So a message is first held to what
//! there is room for, and then charged as its bytes arrive. Once a part of it is there (a thirty-second) the rest is
//! reserved, so that what has come so far is not thrown away for want of room; but no more than half of the
//! engine's bytes are ever reserved for what has not arrived, and a message beyond that goes on being charged
//! byte by byte, unless it is large and waits for a while ([`line`](super::line)).

use super::budget::{Budget, Held};
use super::error::Error;
use super::line::{Lack, Lane, Line};
use crate::engine::{Engine, Permit, Refused};
use std::sync::Arc;

/// The part of a message that must have arrived before the rest is reserved: one of so many.
const ARRIVED_PART: usize = 32;

/// Where messages find room.
#[derive(Clone)]
pub struct Rooms {
    /// Gives the permits.
    pub engine: Engine,
    /// Those of the connection, and of the token if there is one.
    pub shares: [Option<Arc<Budget>>; 2],
    /// Where large messages of all connections wait.
    pub line: Arc<Line>,
    /// Those of the connection, and its refused ones.
    pub lane: Arc<Lane>,
}

impl Rooms {
    /// Room for a message of `length` bytes of which so many have arrived, as much as is charged for them;
    /// refused where the whole would not fit now.
    pub fn take(&self, length: usize, arrived: usize) -> Result<Room, Error> {
        self.try_take(length, arrived).map_err(|error| self.told(length, error))
    }

    /// Charges what has arrived of a message; refused where there is no room for it.
    pub fn arrived(&self, room: &mut Room, arrived: usize) -> Result<(), Error> {
        room.arrived(arrived, &self.line).map_err(|error| self.told(room.length, error))
    }

    /// The same as [`take`](Self::take), where the sender need not hear of a refusal.
    pub fn try_take(&self, length: usize, arrived: usize) -> Result<Room, Error> {
        let permit = self.engine.reserve(0, length)?;
        let [connection, token] = &self.shares;
        let share = |of: &Option<Arc<Budget>>| of.as_ref().map(|of| of.take(length)).transpose();
        let shares = Shares([share(connection)?, share(token)?]);
        let mut room = Room {
            reserved: None,
            permit,
            shares,
            lane: Arc::clone(&self.lane),
            length,
            whole: false,
            lack: None,
            waited: false,
        };
        room.arrived(arrived, &self.line)?;
        Ok(room)
    }

    /// A refusal of a message of so many bytes that says when to come again: not before half of what its connection or
    /// token holds is answered, and behind the messages of the connection that were refused before.
    pub fn told(&self, length: usize, mut error: Error) -> Error {
        if let Error::Full { held, retry_after, .. } = &mut error {
            *retry_after = self.engine.time_for(*held / 2).max(*retry_after);
        }
        if let Error::Full { retry_after, .. }
        | Error::Refused(Refused::Overloaded { retry_after, .. }) = &mut error
        {
            let most = self.engine.retry_after_max();
            *retry_after = self.lane.schedule.tell(length, *retry_after, most);
        }
        error
    }
}

/// The shares of a connection and a token that a request holds until it is answered.
#[derive(Debug)]
pub struct Shares([Option<Held>; 2]);

/// Room for a message that arrives.
#[derive(Debug)]
pub struct Room {
    /// For what is charged and has not arrived. Given back first: whoever waits looks when the permit is.
    reserved: Option<Held>,
    permit: Permit,
    shares: Shares,
    lane: Arc<Lane>,
    length: usize,
    /// Whether all of it is charged.
    whole: bool,
    /// Why not, where waiting may help.
    lack: Option<Lack>,
    waited: bool,
}

impl Room {
    /// So many of its bytes are here. Refused where there is no room for them.
    pub fn arrived(&mut self, arrived: usize, line: &Line) -> Result<(), Error> {
        let missing = self.length - arrived;
        if let Some(reserved) = &mut self.reserved {
            let before = reserved.amount();
            reserved.resize(missing)?;
            line.arrived.add(before - missing);
            return Ok(());
        }
        self.lack = None;
        if missing > 0 && arrived >= self.length.div_ceil(ARRIVED_PART) {
            self.lack = self.reserve(missing, line);
            if self.whole {
                return Ok(());
            }
        }
        self.whole = missing == 0;
        let held = self.hold(arrived);
        if let Err(error) = &held {
            self.lack = self.lack.or(Lack::of(error)).filter(|_| missing > 0);
        }
        held
    }

    /// Charges all of it, if there is room, or says what is lacking.
    fn reserve(&mut self, missing: usize, line: &Line) -> Option<Lack> {
        let reserved = match line.unsent.take(missing) {
            Ok(reserved) => reserved,
            Err(Error::Full { .. }) => return Some(Lack::Unsent),
            Err(_) => return None,
        };
        match self.hold(self.length) {
            Ok(()) => (self.whole, self.reserved) = (true, Some(reserved)),
            Err(error) => return Lack::of(&error),
        }
        None
    }

    fn hold(&mut self, bytes: usize) -> Result<(), Error> {
        if bytes == self.permit.bytes() {
            return Ok(());
        }
        self.permit.resize(0, bytes)?;
        self.shares.0.iter_mut().flatten().try_for_each(|share| share.resize(bytes))
    }

    /// Bytes of it that are not charged yet.
    pub fn uncharged(&self) -> usize {
        self.length - self.permit.bytes()
    }

    /// Whether there is room for all of it, or only for what is here.
    pub fn is_whole(&self) -> bool {
        self.whole
    }

    /// What it lacks to be reserved as a whole, where waiting for that may help. A message waits once.
    pub fn lack(&self) -> Option<Lack> {
        self.lack.filter(|_| !self.waited)
    }

    /// It need not wait again.
    pub fn has_waited(&mut self) {
        self.waited = true;
    }

    /// The parts that go on with the request.
    pub fn into_parts(self) -> (Permit, Shares) {
        self.lane.schedule.taken(self.length);
        (self.permit, self.shares)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::EngineConfig;
    use logitd_core::backend::{Backend, reference::Reference};
    use std::time::Duration;

    fn rooms(queue_bytes_max: usize, share: usize) -> Rooms {
        let config = EngineConfig { queue_bytes_max, ..Default::default() };
        let engine =
            Engine::start(config, vec![Box::new(Reference::default()) as Box<dyn Backend>]);
        let share = Budget::new("the connection", "bytes", "connection_bytes_max", share);
        let line = Line::new(queue_bytes_max, Duration::ZERO);
        Rooms { engine, shares: [Some(share), None], line, lane: Lane::nowhere() }
    }

    fn held(room: &Room) -> usize {
        room.permit.bytes()
    }

    #[test]
    fn what_is_announced_is_not_held_before_a_part_of_it_is_there() {
        let rooms = rooms(1600, 1600);
        // As many as there are, and none of them holds anything.
        let announced: Vec<Room> = (0..100).map(|_| rooms.take(1600, 0).unwrap()).collect();
        assert_eq!(announced.iter().map(held).sum::<usize>(), 0);
        let mut room = rooms.take(160, 4).unwrap();
        assert_eq!(held(&room), 4);
        room.arrived(5, &rooms.line).unwrap();
        assert!(room.is_whole());
        assert_eq!(held(&room), 160);
        assert!(rooms.take(1500, 0).is_err(), "it would not fit");
        drop(room);
        assert!(rooms.take(1600, 1600).is_ok());
    }

    #[test]
    fn half_of_all_bytes_may_be_reserved_for_what_has_not_arrived() {
        let rooms = rooms(1600, 1600);
        let mut sent_little: Vec<Room> =
            (0..8).map(|_| rooms.take(160, 10).expect("a part is there")).collect();
        let whole = sent_little.iter().filter(|room| room.is_whole()).count();
        assert_eq!(whole, 5, "of 150 bytes each, 800 in all");
        assert_eq!(sent_little.iter().map(held).sum::<usize>(), 5 * 160 + 3 * 10);
        // The others go on by what they send, and the rest is reserved when there is room again.
        sent_little[7].arrived(100, &rooms.line).unwrap();
        assert_eq!(held(&sent_little[7]), 100, "60 are missing, and 50 are left to reserve");
        sent_little[7].arrived(110, &rooms.line).unwrap();
        assert_eq!(held(&sent_little[7]), 160);
    }

    #[test]
    fn a_message_that_finds_no_room_on_its_way_is_refused_and_holds_nothing() {
        let rooms = rooms(1600, 200);
        let mut room = rooms.take(200, 5).unwrap();
        let other = rooms.take(150, 150).unwrap();
        let refused = room.arrived(100, &rooms.line).unwrap_err();
        assert!(refused.to_string().contains("--connection-bytes-max"), "{refused}");
        drop((room, other));
        assert!(rooms.take(200, 200).is_ok());
        assert!(matches!(rooms.take(201, 0), Err(Error::OverLimit { limit: 200, .. })));
    }
}
