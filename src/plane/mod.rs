//! Where logits may lie: memory that callers on the same host share, instead of bytes on a socket.
//!
//! A client hands memory over ([`mapped`]), or has it made on a device ([`device`]). Either is a [`region`] of slots in
//! a [`registry`], which knows whose it is and how much there may be. The rules, and the holes they close:
//!
//! - Its id is 128 random bits, and resolves only for the user and process that handed it over.
//! - Sizes are checked when a region is registered; a slot's bounds whenever it is named.
//! - The client can write while the server reads: each row is copied once, and only the copy is looked at.
//! - A slot that is named is on loan until its answer: nobody can name it again, and its region stays there,
//!   whether or not its owner is still there.

mod device;
mod error;
mod mapped;
mod region;
mod registry;

pub use device::{DeviceMemory, Made};
pub use error::ShmError;
pub use region::Slot;
pub use registry::Registration;

use logitd_proto::shm::{Allocation, REGION_ID_BYTES, Register};
use mapped::Mapped;
use region::RegisteredRegion;
use registry::{Quotas, Registry};
use std::os::fd::OwnedFd;
use std::sync::Arc;

/// Unguessable name of a region.
pub type RegionId = [u8; REGION_ID_BYTES];

/// Who is on the other end of a Unix socket, by the kernel's word.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Peer {
    /// User id.
    pub uid: u32,
    /// Process id.
    pub pid: i32,
}

/// What all clients together, and each of them, may hand over.
#[derive(Clone, Copy, Debug)]
pub struct ShmLimits {
    /// Regions a peer.
    pub regions_per_peer_max: usize,
    /// Bytes a peer.
    pub bytes_per_peer_max: u64,
    /// Bytes of all peers.
    pub bytes_max: u64,
    /// Slots a region.
    pub slots_per_region_max: u32,
}

/// Which slot a request names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SlotRef {
    /// The region's id.
    pub region: RegionId,
    /// Index below the region's slot count.
    pub slot: u32,
    /// What the slot's header must say.
    pub generation: u64,
    /// Bytes of logits behind the header.
    pub length_bytes: u64,
}

/// What clients may have made on devices.
#[derive(Clone, Copy, Debug)]
pub struct DeviceLimits {
    /// Of one region, and of one peer: the same numbers as for memory of the host, counted by themselves.
    pub shm: ShmLimits,
    /// Bytes on all devices, of all peers.
    pub bytes_max: u64,
}

/// All that clients on this host share with a server.
#[derive(Clone, Debug)]
pub struct Regions {
    /// Memory that they have handed over.
    memory: Arc<Registry>,
    /// Memory of devices that was made for them, and who makes it, where that is offered.
    devices: Option<(Arc<Registry>, Arc<dyn DeviceMemory>)>,
}

impl Regions {
    /// None yet, of the host; and on devices, if somebody makes them.
    pub fn new(limits: ShmLimits, devices: Option<(Arc<dyn DeviceMemory>, DeviceLimits)>) -> Self {
        let devices =
            devices.map(|(memory, limits)| (Registry::new(Quotas::of_devices(limits)), memory));
        Self { memory: Registry::new(Quotas::of_the_host(limits)), devices }
    }

    /// Takes memory over, read-only. The region lives until what is returned is dropped.
    pub fn take(
        &self,
        descriptor: &OwnedFd,
        layout: Register,
        peer: Peer,
    ) -> Result<Registration, ShmError> {
        let bytes = self.memory.check_layout(layout)?;
        mapped::check_descriptor(descriptor, bytes)?;
        let registration = self.memory.claim(bytes as u64, peer)?;
        registration.put(RegisteredRegion::new(Box::new(Mapped::new(descriptor, bytes)?), layout));
        Ok(registration)
    }

    /// Whether memory of devices is offered.
    pub fn has_devices(&self) -> bool {
        self.devices.is_some()
    }

    /// Makes a region on a device. It lives until the registration is dropped. Blocks as long as that takes.
    pub fn make(
        &self,
        device: u32,
        layout: Register,
        peer: Peer,
    ) -> Result<(Registration, Allocation, OwnedFd), ShmError> {
        let Some((registry, maker)) = &self.devices else {
            return Err(ShmError::Device("memory of devices is not offered".into()));
        };
        let bytes = registry.check_layout(layout)? as u64;
        let rounded = maker.rounded(device, bytes).map_err(ShmError::Device)?;
        let registration = registry.claim(rounded, peer)?;
        let made = maker.make(device, bytes).map_err(ShmError::Device)?;
        let Made { memory, descriptor, bytes, uuid } = made;
        registration.put(RegisteredRegion::new(Box::new(memory), layout));
        Ok((registration, Allocation { bytes, uuid }, descriptor))
    }

    /// Takes what `slot` names on loan, if it is `peer`'s.
    pub fn borrow(&self, slot: SlotRef, peer: Peer) -> Result<Slot, ShmError> {
        let mut registries =
            std::iter::once(&self.memory).chain(self.devices.iter().map(|(on, _)| on));
        let region = registries.find_map(|registry| registry.region(slot.region, peer));
        Slot::new(region.ok_or(ShmError::UnknownRegion)?, slot)
    }

    /// Whether `peer` has a region of either kind.
    pub fn is_owner(&self, peer: Peer) -> bool {
        let on_device =
            || self.devices.as_ref().is_some_and(|(registry, _)| registry.is_owner(peer));
        self.memory.is_owner(peer) || on_device()
    }
}

#[cfg(test)]
mod tests;
