//! What all calls of a server share.

use super::budget::Budget;
use super::call::Call;
use super::credentials::Credentials;
use super::frames::{Bounds, Gate};
use super::line::Line;
use super::pool::Pool;
use super::room::Rooms;
use super::unread::Patience;
use crate::engine::{Engine, Evaluations};
use crate::plane::Regions;
use crate::record::Recorder;
use logitd_proto as api;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// What all calls of a server share.
pub struct Shared {
    pub engine: Engine,
    pub evaluations: Evaluations,
    /// Of evaluations, which hold their logits for longer than samples do: half of what requests may hold.
    pub evaluating: Arc<Budget>,
    pub limits: api::Limits,
    pub bounds: Bounds,
    /// Of answers that are awaited or unread.
    pub answers: Arc<Budget>,
    /// Of messages that wait for room.
    pub line: Arc<Line>,
    pub patience: Arc<Patience>,
    /// How long the clients of streams may go on sending once the server drains. Ending a stream before they
    /// have ended theirs resets it with requests unread, and a reset can make a client's transport forget
    /// answers that it has received.
    pub stream_goodbye: Duration,
    pub credentials: Arc<Credentials>,
    /// How long a new connection may take to say what it is for.
    pub handshake_timeout: Duration,
    /// How long a connection may be open without a call. Zero is for ever.
    pub idle_timeout: Duration,
    /// Where logits lie until they are sampled.
    pub pool: Pool,
    pub shm: Option<SharedMemory>,
    pub recorder: Option<Arc<Recorder>>,
    /// Finish what has begun, begin nothing new.
    pub draining: CancellationToken,
    /// One a call, until the transport has its answer.
    pub active: TaskTracker,
    /// Requests that were taken and have no answer yet.
    pub working: AtomicUsize,
    /// Turns of answers that take long to encode.
    pub large_answers: Semaphore,
}

/// Memory that callers on this host share with the server.
pub struct SharedMemory {
    pub regions: Regions,
    /// Devices whose memory is offered, with their UUIDs.
    pub uuids: Vec<(String, [u8; 16])>,
    /// Where it is handed over, as clients are told.
    pub control: String,
    /// Whether logits are needed after the answer, when the memory is its owner's again.
    pub copy: bool,
}

impl Shared {
    /// What the messages of a call meet.
    pub fn gate(&self, call: &Call) -> Gate {
        Gate {
            rooms: Some(self.rooms(call)),
            bounds: self.bounds.clone(),
            pool: self.pool.clone(),
            deadline: call.deadline,
            patience: Arc::clone(&self.patience),
        }
    }

    pub fn rooms(&self, call: &Call) -> Rooms {
        let token = call.token.as_ref().map(|token| Arc::clone(&token.bytes));
        Rooms {
            engine: self.engine.clone(),
            shares: [Some(Arc::clone(&call.account.bytes)), token],
            line: Arc::clone(&self.line),
            lane: Arc::clone(&call.account.lane),
        }
    }

    /// Counts a request as taken until it is dropped.
    pub fn working(&self) -> Working<'_> {
        self.working.fetch_add(1, Ordering::Relaxed);
        Working(&self.working)
    }

    /// The UUID of a device whose memory is offered.
    pub fn device_uuid(&self, id: &str) -> Vec<u8> {
        let uuids = self.shm.iter().flat_map(|shm| &shm.uuids);
        uuids.filter(|(device, _)| device == id).flat_map(|(_, uuid)| *uuid).collect()
    }
}

/// A request that was taken and has no answer yet.
pub struct Working<'a>(&'a AtomicUsize);

impl Drop for Working<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}
