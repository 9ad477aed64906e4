//! A region: slots in a piece of memory, and who has them on loan.
//!
//! Whether a slot was rewritten shows in its header, where that can be looked at. In the memory of a device it cannot,
//! not in passing. There the highest generation of each slot that was answered is remembered, and one that is not
//! higher is refused. That keeps a request from being answered twice by mistake; what a client writes too early is a
//! mixture, and hurts only itself.

use super::{ShmError, SlotRef};
use logitd_core::batch::{Loan, LoanError};
use logitd_proto::shm::{Register, SLOT_HEADER_BYTES};
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering};

/// The memory of a region, whoever made it.
pub trait Memory: fmt::Debug + Send + Sync {
    /// Copies what begins `at` so many bytes.
    fn copy(&self, at: usize, into: &mut [u8]);

    /// Reads so many bytes from `at` on into an empty buffer.
    fn read(&self, at: usize, bytes: usize, buffer: &mut Vec<u8>) {
        buffer.resize(bytes, 0);
        self.copy(at, buffer);
    }

    /// Whether everything that was copied so far could be read.
    fn check(&self) -> Result<(), LoanError> {
        Ok(())
    }

    /// The generation that stands `at` the beginning of a slot, where it can be looked at.
    fn generation(&self, at: usize) -> Option<u64> {
        let _ = at;
        None
    }

    /// So many bytes from `at` on, where this process can read them in place.
    fn mapped(&self, at: usize, bytes: usize) -> Option<&[AtomicU8]> {
        let _ = (at, bytes);
        None
    }

    /// Where the byte `at` lies in the memory of a device, if it is one's.
    fn address_on(&self, device: &str, at: usize) -> Option<u64> {
        let _ = (device, at);
        None
    }

    /// Whether it is of a device.
    fn is_on_device(&self) -> bool;
}

/// Slots in a piece of memory.
#[derive(Debug)]
pub struct RegisteredRegion {
    memory: Box<dyn Memory>,
    slot_stride_bytes: usize,
    slots: Vec<State>,
}

/// What is known of a slot.
#[derive(Debug, Default)]
struct State {
    /// Whether it is on loan.
    busy: AtomicBool,
    /// The highest generation that was answered.
    used: AtomicU64,
}

impl RegisteredRegion {
    /// The memory has a stride for each slot of a layout that was checked.
    pub fn new(memory: Box<dyn Memory>, layout: Register) -> Self {
        let slots = (0..layout.slot_count).map(|_| State::default()).collect();
        Self { memory, slot_stride_bytes: layout.slot_stride_bytes as usize, slots }
    }
}

/// A slot on loan, from the request that names it to its answer.
#[derive(Debug)]
pub struct Slot {
    region: Arc<RegisteredRegion>,
    named: SlotRef,
    length_bytes: usize,
}

impl Slot {
    /// Takes it on loan, if nobody has it and it is what the request says.
    pub fn new(region: Arc<RegisteredRegion>, named: SlotRef) -> Result<Self, ShmError> {
        let length_bytes = check_bounds(named, region.slots.len(), region.slot_stride_bytes)?;
        region.memory.check().map_err(|error| ShmError::Lost(error.to_string()))?;
        if region.slots[named.slot as usize].busy.swap(true, Ordering::Acquire) {
            return Err(ShmError::Busy(named.slot));
        }
        // Dropping it ends the loan.
        let slot = Self { region, named, length_bytes };
        slot.check_generation()?;
        slot.check_unused()?;
        Ok(slot)
    }

    /// Bytes of logits.
    pub fn length_bytes(&self) -> usize {
        self.length_bytes
    }

    /// Whether it lies in the memory of a device.
    pub fn is_on_device(&self) -> bool {
        self.region.memory.is_on_device()
    }

    /// Reads all of it into a buffer, for what must read it more than once. Blocks where it is of a device.
    pub fn read(&self, buffer: &mut Vec<u8>) -> Result<(), ShmError> {
        buffer.clear();
        self.region.memory.read(self.place(0), self.length_bytes, buffer);
        self.region.memory.check().map_err(|error| ShmError::Lost(error.to_string()))?;
        self.check_generation()
    }

    fn state(&self) -> &State {
        &self.region.slots[self.named.slot as usize]
    }

    /// Where its header lies in the region.
    fn header(&self) -> usize {
        self.named.slot as usize * self.region.slot_stride_bytes
    }

    /// Where the logits' byte `at` lies in the region.
    fn place(&self, at: usize) -> usize {
        self.header() + SLOT_HEADER_BYTES + at
    }

    fn check_generation(&self) -> Result<(), ShmError> {
        let SlotRef { slot, generation: asked, .. } = self.named;
        match self.region.memory.generation(self.header()) {
            Some(found) if found != asked => Err(ShmError::Generation { slot, found, asked }),
            _ => Ok(()),
        }
    }

    /// Whether its generation was not answered yet, where its header does not say.
    fn check_unused(&self) -> Result<(), ShmError> {
        let SlotRef { slot, generation: asked, .. } = self.named;
        let used = self.state().used.load(Ordering::Relaxed);
        let headers = self.region.memory.generation(self.header()).is_some();
        if headers || asked > used { Ok(()) } else { Err(ShmError::Used { slot, used, asked }) }
    }
}

impl Loan for Slot {
    fn copy(&self, at: usize, into: &mut [u8]) {
        let all = self.length_bytes;
        assert!(at <= all && into.len() <= all - at, "bytes of this slot");
        self.region.memory.copy(self.place(at), into);
    }

    fn check(&self) -> Result<(), LoanError> {
        self.region.memory.check()?;
        self.check_generation().map_err(|error| LoanError::Changed(error.to_string()))
    }

    /// From here on its generation is used.
    fn settle(&self) {
        self.state().used.fetch_max(self.named.generation, Ordering::Relaxed);
    }

    fn mapped(&self) -> Option<&[AtomicU8]> {
        self.region.memory.mapped(self.place(0), self.length_bytes)
    }

    fn address_on(&self, device: &str, at: usize) -> Option<u64> {
        self.region.memory.address_on(device, self.place(at))
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        self.state().busy.store(false, Ordering::Release);
    }
}

/// The length of what is named, if it is within a slot that there is.
fn check_bounds(named: SlotRef, slots: usize, slot_stride_bytes: usize) -> Result<usize, ShmError> {
    let bounds = |field, value, allowed| Err(ShmError::Bounds { field, value, allowed });
    if named.slot as usize >= slots {
        return bounds("slot", named.slot.into(), format!("0 to {}", slots - 1));
    }
    let room = slot_stride_bytes - SLOT_HEADER_BYTES;
    match usize::try_from(named.length_bytes) {
        Ok(length) if length > 0 && length <= room => Ok(length),
        _ => bounds("length_bytes", named.length_bytes, format!("1 to {room}")),
    }
}
