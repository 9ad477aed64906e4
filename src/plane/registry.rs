//! Regions by their ids: whose they are, and how much there may be.

use super::region::RegisteredRegion;
use super::{DeviceLimits, Peer, RegionId, ShmError, ShmLimits};
use logitd_proto::shm::{REGION_ID_BYTES, Register, SLOT_ALIGN_BYTES, SLOT_HEADER_BYTES};
use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// How much there may be, and what errors call it.
#[derive(Debug)]
pub struct Quotas {
    limits: ShmLimits,
    regions_of_peer: &'static str,
    bytes_of_peer: &'static str,
    bytes_of_all: &'static str,
    bytes_of_all_flag: &'static str,
}

impl Quotas {
    /// Memory that clients hand over.
    pub fn of_the_host(limits: ShmLimits) -> Self {
        Self {
            limits,
            regions_of_peer: "regions of this peer",
            bytes_of_peer: "shared bytes of this peer",
            bytes_of_all: "shared bytes of all peers",
            bytes_of_all_flag: "--shm-bytes-max",
        }
    }

    /// Memory that is made for them on devices.
    pub fn of_devices(limits: DeviceLimits) -> Self {
        let DeviceLimits { shm, bytes_max } = limits;
        Self {
            limits: ShmLimits { bytes_max, ..shm },
            regions_of_peer: "regions of this peer on devices",
            bytes_of_peer: "bytes of this peer on devices",
            bytes_of_all: "bytes of all peers on devices",
            bytes_of_all_flag: "--cuda-region-bytes-max",
        }
    }
}

/// Regions of one kind, of all peers.
#[derive(Debug)]
pub struct Registry {
    quotas: Quotas,
    regions: Mutex<HashMap<RegionId, Claim>>,
}

/// A part of the quotas, taken before there is the memory for it.
#[derive(Debug)]
struct Claim {
    peer: Peer,
    bytes: u64,
    region: Option<Arc<RegisteredRegion>>,
}

impl Registry {
    /// An empty registry.
    pub fn new(quotas: Quotas) -> Arc<Self> {
        Arc::new(Self { quotas, regions: Mutex::default() })
    }

    /// The region's bytes, if its layout is possible.
    pub fn check_layout(&self, layout: Register) -> Result<usize, ShmError> {
        let limits = &self.quotas.limits;
        let Register { slot_stride_bytes, slot_count, .. } = layout;
        if slot_count == 0 || slot_count > limits.slots_per_region_max {
            let max = limits.slots_per_region_max;
            let text = format!("slot_count is {slot_count}; allowed: 1 to {max} (--shm-slots-max)");
            return Err(ShmError::Layout(text));
        }
        if slot_stride_bytes <= SLOT_HEADER_BYTES as u64
            || !slot_stride_bytes.is_multiple_of(SLOT_ALIGN_BYTES as u64)
        {
            return Err(ShmError::Layout(format!(
                "slot_stride_bytes is {slot_stride_bytes}; allowed: a multiple of {SLOT_ALIGN_BYTES} \
                 above {SLOT_HEADER_BYTES}"
            )));
        }
        slot_stride_bytes
            .checked_mul(slot_count.into())
            .and_then(|bytes| usize::try_from(bytes).ok())
            .filter(|&bytes| bytes <= isize::MAX as usize)
            .ok_or_else(|| {
                let text = format!("{slot_count} slots of {slot_stride_bytes} bytes do not fit");
                ShmError::Layout(text)
            })
    }

    /// Takes so many bytes of the quotas, for a region that is yet to be [put](Registration::put) there.
    pub fn claim(self: &Arc<Self>, bytes: u64, peer: Peer) -> Result<Registration, ShmError> {
        let mut id = [0; REGION_ID_BYTES];
        getrandom::fill(&mut id)
            .map_err(|e| ShmError::Layout(format!("the system gives no randomness: {e}")))?;
        let mut regions = self.lock();
        self.check_quotas(&regions, bytes, peer)?;
        regions.insert(id, Claim { peer, bytes, region: None });
        Ok(Registration { id, registry: Arc::clone(self) })
    }

    /// The region of that id, if there is one and it is `peer`'s.
    pub fn region(&self, id: RegionId, peer: Peer) -> Option<Arc<RegisteredRegion>> {
        let regions = self.lock();
        regions.get(&id).filter(|claim| claim.peer == peer)?.region.clone()
    }

    /// Whether `peer` has a region.
    pub fn is_owner(&self, peer: Peer) -> bool {
        self.lock().values().any(|claim| claim.peer == peer)
    }

    /// Regions and their bytes, of all peers.
    #[cfg(test)]
    pub fn usage(&self) -> (usize, u64) {
        let regions = self.lock();
        (regions.len(), regions.values().map(|claim| claim.bytes).sum())
    }

    fn check_quotas(
        &self,
        regions: &HashMap<RegionId, Claim>,
        bytes: u64,
        peer: Peer,
    ) -> Result<(), ShmError> {
        let Quotas { limits, regions_of_peer, bytes_of_peer, bytes_of_all, bytes_of_all_flag } =
            &self.quotas;
        let of_peer = || regions.values().filter(|claim| claim.peer == peer);
        let sum = |bytes: u64, claim: &Claim| bytes.saturating_add(claim.bytes);
        let checks = [
            (
                regions_of_peer,
                of_peer().count() as u64 + 1,
                limits.regions_per_peer_max as u64,
                "--shm-regions-per-peer-max",
            ),
            (
                bytes_of_peer,
                of_peer().fold(bytes, sum),
                limits.bytes_per_peer_max,
                "--shm-bytes-per-peer-max",
            ),
            (bytes_of_all, regions.values().fold(bytes, sum), limits.bytes_max, bytes_of_all_flag),
        ];
        match checks.into_iter().find(|(_, asked, limit, _)| asked > limit) {
            Some((what, asked, limit, flag)) => Err(ShmError::Quota { what, asked, limit, flag }),
            None => Ok(()),
        }
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<RegionId, Claim>> {
        self.regions.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A region in the registry; dropping it takes the region out.
#[derive(Debug)]
pub struct Registration {
    id: RegionId,
    registry: Arc<Registry>,
}

impl Registration {
    /// What requests call it.
    pub fn id(&self) -> RegionId {
        self.id
    }

    /// There is memory for it now.
    pub fn put(&self, region: RegisteredRegion) {
        if let Some(claim) = self.registry.lock().get_mut(&self.id) {
            claim.region = Some(Arc::new(region));
        }
    }
}

impl Drop for Registration {
    fn drop(&mut self) {
        // Giving memory back may take a while; it is done when the lock is free again.
        let claim = self.registry.lock().remove(&self.id);
        drop(claim);
    }
}
