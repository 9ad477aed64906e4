//! What a connection holds.

use super::budget::{ANSWERS, Budget, CONNECTION_BYTES_MAX};
use super::line::Lane;
use crate::engine::{ConnectionId, GroupId, Source};
use logitd_proto::Limits;
use std::sync::Arc;
use std::sync::atomic::AtomicUsize;

/// A connection, and what it holds.
#[derive(Debug)]
pub struct Account {
    /// Which it is, and whose where no token says.
    pub source: Source,
    /// Bytes of its requests.
    pub bytes: Arc<Budget>,
    /// Bytes of its answers: it has half of what all connections have, so that it cannot take all.
    pub answers: Arc<Budget>,
    /// Its messages that wait for room, and those that were refused.
    pub lane: Arc<Lane>,
    /// Bytes of answers that the transport has and the client has not taken.
    pub unread: AtomicUsize,
    /// How often the client has taken some.
    pub taken: AtomicUsize,
    /// The part of the unread bytes whose calls cannot be cut off one by one any more.
    pub loose: AtomicUsize,
}

impl Account {
    /// Of a new connection from `address`, within these limits, with this lane.
    pub fn open(address: GroupId, limits: &Limits, lane: Arc<Lane>) -> Arc<Self> {
        let who = "the connection";
        let bytes_max = limits.connection_bytes_max as usize;
        let answers_max = limits.answer_bytes_max.div_ceil(2) as usize;
        let what = "bytes of requests";
        Arc::new(Self {
            source: Source { group: address, connection: ConnectionId::next() },
            bytes: Budget::new(who, what, CONNECTION_BYTES_MAX, bytes_max),
            answers: Budget::new(who, ANSWERS, "answer_bytes_max", answers_max),
            lane,
            unread: AtomicUsize::new(0),
            taken: AtomicUsize::new(0),
            loose: AtomicUsize::new(0),
        })
    }
}
