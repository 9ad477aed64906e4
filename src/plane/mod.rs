//! Where logits may lie: memory that callers on the same host share, instead of bytes on a socket.
//!
//! [`shm`] holds the regions: what was handed over, to whom it belongs, and the one copy out of it.
//! [`device`] holds those that lie in the memory of a device.

pub mod device;
pub mod shm;

use device::{DeviceRegistry, DeviceSlot};
use logitd_core::batch::Loan;
use shm::{Peer, Registry, ShmError, SlotLoan, SlotRef};
use std::sync::Arc;

/// All that clients on this host share with the server.
#[derive(Clone, Debug)]
pub struct Regions {
    /// Memory that they have handed over.
    pub memory: Arc<Registry>,
    /// Memory of devices that was made for them, where that is offered.
    pub device: Option<Arc<DeviceRegistry>>,
}

impl Regions {
    /// Takes what `slot` names on loan, if it is `peer`'s.
    pub fn borrow(&self, slot: SlotRef, peer: Peer) -> Result<Borrowed, ShmError> {
        match (self.memory.borrow(slot, peer), &self.device) {
            (Err(ShmError::UnknownRegion), Some(device)) => {
                device.borrow(slot, peer).map(Borrowed::Device)
            }
            (borrowed, _) => borrowed.map(Borrowed::Memory),
        }
    }

    /// Whether `peer` has a region of either kind.
    pub fn is_owner(&self, peer: Peer) -> bool {
        let on_device = || self.device.as_ref().is_some_and(|device| device.is_owner(peer));
        self.memory.is_owner(peer) || on_device()
    }
}

/// A slot on loan.
#[derive(Debug)]
pub enum Borrowed {
    /// Of memory that was handed over.
    Memory(SlotLoan),
    /// Of memory of a device.
    Device(DeviceSlot),
}

impl Borrowed {
    /// Bytes of logits.
    pub fn length_bytes(&self) -> usize {
        match self {
            Self::Memory(slot) => slot.length_bytes(),
            Self::Device(slot) => slot.length_bytes(),
        }
    }

    /// Reads all of it into a buffer, for what must read it more than once. Blocks where it is of a device.
    pub fn read(&self, buffer: &mut Vec<u8>) -> Result<(), ShmError> {
        match self {
            Self::Memory(slot) => slot.read(buffer),
            Self::Device(slot) => slot.read(buffer),
        }
    }

    /// As whoever samples it takes it.
    pub fn into_loan(self) -> Arc<dyn Loan> {
        match self {
            Self::Memory(slot) => Arc::new(slot),
            Self::Device(slot) => Arc::new(slot),
        }
    }
}
