//! A connection whose logits lie in shared memory, of the host or of a device.

use super::call;
use crate::tools::load::message::{Request, Response};
use logitd_client::{Client, DeviceRegion, Direct, Error, Region};
use logitd_core::backend::cuda::region::ImportedRegion;
use logitd_proto::{Device, SlotRef};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::sync::Semaphore;

/// How long a copy to a device may take.
const COPY_TIMEOUT: Duration = Duration::from_secs(10);

/// A region of slots, each taken by one request at a time.
#[derive(Debug)]
pub(super) struct SharedLane {
    client: Client,
    direct: bool,
    room: Semaphore,
    slots: Mutex<Slots>,
}

#[derive(Debug)]
struct Slots {
    memory: Memory,
    free: Vec<u32>,
    /// Connections for direct calls that have none.
    idle: Vec<Direct>,
}

/// Where the logits are written.
#[derive(Debug)]
enum Memory {
    Host(Region),
    Device(Box<OnDevice>),
}

/// A region of the server's, and this program's way to it.
#[derive(Debug)]
struct OnDevice {
    region: DeviceRegion,
    imported: ImportedRegion,
}

impl SharedLane {
    /// Hands the server at `control` a region of `slots` slots. Blocks until it has answered.
    pub(super) fn new(
        client: Client,
        direct: bool,
        control: &str,
        slot_bytes: usize,
        slots: u32,
    ) -> Result<Self, Error> {
        let region = Region::register_with(control, client.token(), slot_bytes, slots)?;
        Ok(Self::over(client, direct, Memory::Host(region), slots))
    }

    /// Has the server make the region, in the memory of this device of its own.
    pub(super) fn on_device(
        client: Client,
        direct: bool,
        control: &str,
        device: &Device,
        slot_bytes: usize,
        slots: u32,
    ) -> Result<Self, Error> {
        let number = device.id.strip_prefix("cuda:").and_then(|number| number.parse().ok());
        let wrong = |reason| Error::Region { control: control.to_owned(), reason };
        let number = number.ok_or_else(|| wrong(format!("{} is no CUDA device", device.id)))?;
        let region =
            DeviceRegion::register_with(control, client.token(), number, slot_bytes, slots)?;
        let (uuid, bytes) = (region.uuid(), region.allocation_bytes());
        let imported = ImportedRegion::open(uuid, region.descriptor(), bytes, COPY_TIMEOUT);
        let imported = imported.map_err(|reason| wrong(format!("{}: {reason}", device.id)))?;
        let memory = Memory::Device(Box::new(OnDevice { region, imported }));
        Ok(Self::over(client, direct, memory, slots))
    }

    fn over(client: Client, direct: bool, memory: Memory, slots: u32) -> Self {
        let room = Semaphore::new(slots as usize);
        let slots = Mutex::new(Slots { memory, free: (0..slots).collect(), idle: Vec::new() });
        Self { client, direct, room, slots }
    }

    /// Writes the logits into a slot, as whoever makes them would, and asks for what is asked of them.
    ///
    /// Given up before it is answered, the slot is lost to this run: the server may still read it.
    pub(super) async fn send(&self, mut request: Request) -> Result<Response, Error> {
        let Ok(room) = self.room.acquire().await else { return Err(Error::Closed) };
        let (logits, named) = match &mut request {
            Request::Sample(request) => (&mut request.logits, &mut request.slot),
            Request::Verify(request) => (&mut request.logits, &mut request.slot),
            Request::BeamStep(request) => (&mut request.logits, &mut request.slot),
        };
        let logits = std::mem::take(logits);
        let slot = {
            let mut slots = self.lock();
            let slot = slots.free.pop().expect("a permit is a free slot");
            match slots.memory.write(slot, &logits) {
                Ok(written) => *named = Some(written),
                Err(error) => {
                    slots.free.push(slot);
                    return Err(error);
                }
            }
            slot
        };
        room.forget();
        let answer = match self.direct {
            true => self.call_directly(request).await,
            false => call(&self.client, request).await,
        };
        self.lock().free.push(slot);
        self.room.add_permits(1);
        answer
    }

    async fn call_directly(&self, request: Request) -> Result<Response, Error> {
        match request {
            Request::Sample(request) => {
                let mut calls = self.calls().await?;
                let answer = calls.sample(&request).await;
                self.keep(calls);
                answer.map(Into::into)
            }
            Request::Verify(request) => {
                let mut calls = self.calls().await?;
                let answer = calls.verify(&request).await;
                self.keep(calls);
                answer.map(Into::into)
            }
            // There are no direct calls for steps of beams.
            step @ Request::BeamStep(_) => call(&self.client, step).await,
        }
    }

    /// A connection for direct calls: one that has none, or a new one.
    async fn calls(&self) -> Result<Direct, Error> {
        let idle = self.lock().idle.pop();
        match idle {
            Some(calls) => Ok(calls),
            None => self.client.direct().await,
        }
    }

    fn keep(&self, calls: Direct) {
        if calls.is_open() {
            self.lock().idle.push(calls);
        }
    }

    fn lock(&self) -> MutexGuard<'_, Slots> {
        self.slots.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Memory {
    /// Writes logits into a slot that is free, and names it.
    fn write(&mut self, slot: u32, logits: &[u8]) -> Result<SlotRef, Error> {
        match self {
            Self::Host(region) => {
                region.slot_mut(slot)[..logits.len()].copy_from_slice(logits);
                Ok(region.commit(slot, logits.len()))
            }
            Self::Device(on_device) => {
                let OnDevice { region, imported } = on_device.as_mut();
                let written = imported.write(region.slot_offset(slot), logits);
                let control = "memory of a device".to_owned();
                written.map_err(|reason| Error::Region { control, reason })?;
                Ok(region.commit(slot, logits.len()))
            }
        }
    }
}
