//! A connection whose logits lie in shared memory.

use crate::api::{SampleRequest, SampleResponse};
use crate::client::{Client, Error, Region};
use std::sync::{Mutex, MutexGuard, PoisonError};
use tokio::sync::Semaphore;

/// A region of slots, each taken by one request at a time.
#[derive(Debug)]
pub(super) struct SharedLane {
    client: Client,
    room: Semaphore,
    slots: Mutex<Slots>,
}

#[derive(Debug)]
struct Slots {
    region: Region,
    free: Vec<u32>,
}

impl SharedLane {
    /// Hands the server at `control` a region. Blocks until it has answered.
    pub(super) fn new(
        client: Client,
        control: &str,
        slot_bytes: usize,
        slots: u32,
    ) -> Result<Self, Error> {
        let region = Region::register(control, slot_bytes, slots)?;
        let slots = Mutex::new(Slots { free: (0..region.slot_count()).collect(), region });
        let count = slots.lock().unwrap_or_else(PoisonError::into_inner).free.len();
        Ok(Self { client, room: Semaphore::new(count), slots })
    }

    /// Writes the logits into a slot, as whoever makes them would, and asks for them to be sampled.
    ///
    /// Given up before it is answered, the slot is lost to this run: the server may still read it.
    pub(super) async fn sample(&self, mut request: SampleRequest) -> Result<SampleResponse, Error> {
        let Ok(room) = self.room.acquire().await else { return Err(Error::Closed) };
        let logits = std::mem::take(&mut request.logits);
        let slot = {
            let mut slots = self.lock();
            let slot = slots.free.pop().expect("a permit is a free slot");
            slots.region.slot_mut(slot)[..logits.len()].copy_from_slice(&logits);
            request.slot = Some(slots.region.commit(slot, logits.len()));
            slot
        };
        room.forget();
        let answer = self.client.sample(request).await;
        self.lock().free.push(slot);
        self.room.add_permits(1);
        answer
    }

    fn lock(&self) -> MutexGuard<'_, Slots> {
        self.slots.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
