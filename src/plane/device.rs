//! Regions in the memory of a device: made here, handed to a client, which writes logits there.
//!
//! What a device is, this room does not know: whoever does implements [`DeviceMemory`], and the memory that it
//! makes is a [`Loan`] like any other. Here is whose it is, what a slot of it is, and how much of it there may be.
//! The rules are those of [`shm`](super::shm), but for two:
//! - The memory is ours, of a size that nobody can change, so there is no descriptor to distrust. A client that
//!   keeps what it was given after it has hung up keeps its own copy of it alive, which holds memory of the device
//!   but reaches nobody.
//! - A header in the memory of a device cannot be looked at in passing. So the highest generation of each slot
//!   that was answered is remembered, and one that is not higher is refused. That keeps a request from being
//!   answered twice by mistake; what a client writes too early is a mixture, and hurts only itself.

use super::shm::{Peer, RegionId, ShmError, ShmLimits, SlotRef, check_bounds, check_layout};
use logitd_core::batch::{Loan, LoanError};
use logitd_proto::shm::{Allocation, REGION_ID_BYTES, Register, SLOT_HEADER_BYTES};
use std::collections::HashMap;
use std::fmt;
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Whoever can make memory on devices. Reasons are for clients.
pub trait DeviceMemory: fmt::Debug + Send + Sync {
    /// What so many bytes take of the memory of the device with this number.
    fn rounded(&self, device: u32, bytes: u64) -> Result<u64, String>;

    /// Makes so many bytes, all zeros. May take a while.
    fn make(&self, device: u32, bytes: u64) -> Result<Made, String>;
}

/// Memory of a device, and what another process needs to reach it.
#[derive(Debug)]
pub struct Made {
    /// The memory, as long as it is kept.
    pub memory: Arc<dyn Loan>,
    /// Stands for it in another process.
    pub descriptor: OwnedFd,
    /// All of it.
    pub bytes: u64,
    /// The device's UUID.
    pub uuid: [u8; 16],
}

/// What clients may have made.
#[derive(Clone, Copy, Debug)]
pub struct DeviceLimits {
    /// Of one region, and of one peer: the same numbers as for memory of the host, counted by themselves.
    pub shm: ShmLimits,
    /// Bytes on all devices, of all peers.
    pub bytes_max: u64,
}

/// All regions on devices.
#[derive(Debug)]
pub struct DeviceRegistry {
    memory: Arc<dyn DeviceMemory>,
    limits: DeviceLimits,
    regions: Mutex<HashMap<RegionId, Claim>>,
}

/// A part of the quotas, taken before the memory is made.
#[derive(Debug)]
struct Claim {
    peer: Peer,
    bytes: u64,
    region: Option<Arc<Region>>,
}

impl DeviceRegistry {
    /// An empty registry.
    pub fn new(memory: Arc<dyn DeviceMemory>, limits: DeviceLimits) -> Self {
        Self { memory, limits, regions: Mutex::default() }
    }

    /// Makes a region on a device. It lives until the returned lease is dropped. Blocks as long as that takes.
    pub fn register(
        self: &Arc<Self>,
        device: u32,
        layout: Register,
        peer: Peer,
    ) -> Result<(DeviceRegistration, Allocation, OwnedFd), ShmError> {
        let bytes = check_layout(layout, &self.limits.shm)? as u64;
        let rounded = self.memory.rounded(device, bytes).map_err(ShmError::Device)?;
        let registration = self.claim(rounded, peer)?;
        let made = self.memory.make(device, bytes).map_err(ShmError::Device)?;
        let Made { memory, descriptor, bytes, uuid } = made;
        let slot = || SlotState { busy: AtomicBool::new(false), used: AtomicU64::new(0) };
        let region = Region {
            memory,
            slot_stride_bytes: layout.slot_stride_bytes as usize,
            slots: (0..layout.slot_count).map(|_| slot()).collect(),
        };
        if let Some(claim) = self.lock().get_mut(&registration.id) {
            claim.region = Some(Arc::new(region));
        }
        Ok((registration, Allocation { bytes, uuid }, descriptor))
    }

    /// Takes what `slot` names on loan, if it is `peer`'s.
    pub fn borrow(&self, slot: SlotRef, peer: Peer) -> Result<DeviceSlot, ShmError> {
        let region = {
            let regions = self.lock();
            let claim = regions.get(&slot.region).filter(|claim| claim.peer == peer);
            claim.and_then(|claim| claim.region.clone()).ok_or(ShmError::UnknownRegion)?
        };
        DeviceSlot::new(region, slot)
    }

    /// Regions and their bytes, of all peers.
    pub fn usage(&self) -> (usize, u64) {
        let regions = self.lock();
        (regions.len(), regions.values().map(|claim| claim.bytes).sum())
    }

    /// Whether `peer` has a region.
    pub fn is_owner(&self, peer: Peer) -> bool {
        self.lock().values().any(|claim| claim.peer == peer)
    }

    fn claim(self: &Arc<Self>, bytes: u64, peer: Peer) -> Result<DeviceRegistration, ShmError> {
        let mut id = [0; REGION_ID_BYTES];
        getrandom::fill(&mut id).map_err(|e| ShmError::Device(format!("no randomness: {e}")))?;
        let mut regions = self.lock();
        self.check_quotas(&regions, bytes, peer)?;
        regions.insert(id, Claim { peer, bytes, region: None });
        Ok(DeviceRegistration { id, registry: Arc::clone(self) })
    }

    fn check_quotas(
        &self,
        regions: &HashMap<RegionId, Claim>,
        bytes: u64,
        peer: Peer,
    ) -> Result<(), ShmError> {
        let DeviceLimits { shm, bytes_max } = self.limits;
        let of_peer = || regions.values().filter(|claim| claim.peer == peer);
        let sum = |bytes: u64, claim: &Claim| bytes.saturating_add(claim.bytes);
        let checks = [
            (
                "regions of this peer on devices",
                of_peer().count() as u64 + 1,
                shm.regions_per_peer_max as u64,
                "--shm-regions-per-peer-max",
            ),
            (
                "bytes of this peer on devices",
                of_peer().fold(bytes, sum),
                shm.bytes_per_peer_max,
                "--shm-bytes-per-peer-max",
            ),
            (
                "bytes of all peers on devices",
                regions.values().fold(bytes, sum),
                bytes_max,
                "--cuda-region-bytes-max",
            ),
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
pub struct DeviceRegistration {
    id: RegionId,
    registry: Arc<DeviceRegistry>,
}

impl DeviceRegistration {
    /// What requests call it.
    pub fn id(&self) -> RegionId {
        self.id
    }
}

impl Drop for DeviceRegistration {
    fn drop(&mut self) {
        // Giving memory back takes a while; it is done when the lock is free again.
        let claim = self.registry.lock().remove(&self.id);
        drop(claim);
    }
}

#[derive(Debug)]
struct Region {
    memory: Arc<dyn Loan>,
    slot_stride_bytes: usize,
    slots: Vec<SlotState>,
}

#[derive(Debug)]
struct SlotState {
    /// Whether it is on loan.
    busy: AtomicBool,
    /// The highest generation that was answered.
    used: AtomicU64,
}

/// A slot in memory of a device on loan, from the request that names it to its answer.
#[derive(Debug)]
pub struct DeviceSlot {
    region: Arc<Region>,
    named: SlotRef,
    length_bytes: usize,
}

impl DeviceSlot {
    fn new(region: Arc<Region>, named: SlotRef) -> Result<Self, ShmError> {
        let length_bytes = check_bounds(named, region.slots.len(), region.slot_stride_bytes)?;
        region.memory.check().map_err(|error| ShmError::Lost(error.to_string()))?;
        let state = &region.slots[named.slot as usize];
        if state.busy.swap(true, Ordering::Acquire) {
            return Err(ShmError::Busy(named.slot));
        }
        // Dropping it ends the loan.
        let loan = Self { region, named, length_bytes };
        let used = loan.state().used.load(Ordering::Relaxed);
        if named.generation <= used {
            let SlotRef { slot, generation: asked, .. } = named;
            return Err(ShmError::Used { slot, used, asked });
        }
        Ok(loan)
    }

    /// Bytes of logits.
    pub fn length_bytes(&self) -> usize {
        self.length_bytes
    }

    /// Reads all of it into a buffer, for what must read it more than once. Blocks.
    pub fn read(&self, buffer: &mut Vec<u8>) -> Result<(), ShmError> {
        buffer.clear();
        buffer.resize(self.length_bytes, 0);
        self.copy(0, buffer);
        self.check().map_err(|error| ShmError::Lost(error.to_string()))
    }

    fn state(&self) -> &SlotState {
        &self.region.slots[self.named.slot as usize]
    }

    /// Where the logits' byte `at` lies in the region.
    fn place(&self, at: usize) -> usize {
        self.named.slot as usize * self.region.slot_stride_bytes + SLOT_HEADER_BYTES + at
    }
}

impl Loan for DeviceSlot {
    fn copy(&self, at: usize, into: &mut [u8]) {
        let all = self.length_bytes;
        assert!(at <= all && into.len() <= all - at, "bytes of this slot");
        self.region.memory.copy(self.place(at), into);
    }

    fn check(&self) -> Result<(), LoanError> {
        self.region.memory.check()
    }

    /// From here on the generation is used.
    fn settle(&self) {
        self.state().used.fetch_max(self.named.generation, Ordering::Relaxed);
    }

    fn address_on(&self, device: &str, at: usize) -> Option<u64> {
        self.region.memory.address_on(device, self.place(at))
    }
}

impl Drop for DeviceSlot {
    fn drop(&mut self) {
        self.state().busy.store(false, Ordering::Release);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ME: Peer = Peer { uid: 1000, pid: 42 };
    const LAYOUT: Register = Register { slot_stride_bytes: 4096, slot_count: 4, device: Some(0) };
    /// What the device allocates at once.
    const PIECE: u64 = 1 << 16;
    const LIMITS: DeviceLimits = DeviceLimits {
        shm: ShmLimits {
            regions_per_peer_max: 2,
            bytes_per_peer_max: 3 * PIECE,
            bytes_max: 0,
            slots_per_region_max: 8,
        },
        bytes_max: 4 * PIECE,
    };

    /// Device 0 works, device 1 is full.
    #[derive(Debug)]
    struct Devices;

    impl DeviceMemory for Devices {
        fn rounded(&self, device: u32, bytes: u64) -> Result<u64, String> {
            let known = device < 2;
            known.then(|| bytes.next_multiple_of(PIECE)).ok_or("no such device".into())
        }

        fn make(&self, device: u32, bytes: u64) -> Result<Made, String> {
            if device == 1 {
                return Err("out of memory".into());
            }
            let bytes = self.rounded(device, bytes)?;
            Ok(Made {
                memory: Arc::new(Memory::default()),
                descriptor: tempfile::tempfile().unwrap().into(),
                bytes,
                uuid: [9; 16],
            })
        }
    }

    /// Each byte says which it is.
    #[derive(Debug, Default)]
    struct Memory(AtomicBool);

    impl Loan for Memory {
        fn copy(&self, at: usize, into: &mut [u8]) {
            (at..).zip(into).for_each(|(at, byte)| *byte = at as u8);
        }

        fn check(&self) -> Result<(), LoanError> {
            let lost = self.0.load(Ordering::Relaxed);
            if lost { Err(LoanError::Lost("it is gone".into())) } else { Ok(()) }
        }

        fn address_on(&self, device: &str, at: usize) -> Option<u64> {
            (device == "cuda:0").then_some(1 << 40 | at as u64)
        }
    }

    fn registry() -> Arc<DeviceRegistry> {
        Arc::new(DeviceRegistry::new(Arc::new(Devices), LIMITS))
    }

    #[test]
    fn a_slot_is_a_part_of_the_memory_and_is_answered_once_a_generation() {
        let (registry, mut buffer) = (registry(), Vec::new());
        let (registration, allocation, _) = registry.register(0, LAYOUT, ME).unwrap();
        assert_eq!(allocation, Allocation { bytes: PIECE, uuid: [9; 16] });
        let named = SlotRef { region: registration.id(), slot: 2, generation: 5, length_bytes: 9 };
        let error = |named| registry.borrow(named, ME).unwrap_err();

        let loan = registry.borrow(named, ME).unwrap();
        assert_eq!(loan.address_on("cuda:0", 3), Some(1 << 40 | (2 * 4096 + 64 + 3)));
        assert_eq!(loan.address_on("cuda:1", 3), None);
        assert_eq!(error(named), ShmError::Busy(2));
        drop(loan);
        // It was never answered, so it can be asked for again.
        let loan = registry.borrow(named, ME).unwrap();
        let bytes: Vec<u8> = (64..73).collect();
        loan.read(&mut buffer).unwrap();
        assert_eq!(buffer, bytes);
        assert_eq!(loan.check(), Ok(()));
        drop(loan);
        // It was read and checked, and still not answered.
        let loan = registry.borrow(named, ME).unwrap();
        loan.settle();
        drop(loan);

        for generation in [0, 4, 5] {
            let used = ShmError::Used { slot: 2, used: 5, asked: generation };
            assert_eq!(error(SlotRef { generation, ..named }), used);
        }
        assert!(registry.borrow(SlotRef { generation: 6, ..named }, ME).is_ok());
        assert!(registry.borrow(SlotRef { slot: 1, generation: 1, ..named }, ME).is_ok());
        assert!(error(SlotRef { slot: 4, ..named }).to_string().contains("allowed: 0 to 3"));
        let text = error(SlotRef { length_bytes: 4033, ..named }).to_string();
        assert_eq!(text, "length_bytes is 4033; allowed: 1 to 4032");
    }

    #[test]
    fn nobody_else_s_id_resolves_and_what_is_on_loan_stays() {
        let registry = registry();
        let (registration, ..) = registry.register(0, LAYOUT, ME).unwrap();
        let named = SlotRef { region: registration.id(), slot: 0, generation: 1, length_bytes: 1 };
        for peer in [Peer { uid: 1001, ..ME }, Peer { pid: 43, ..ME }] {
            assert_eq!(registry.borrow(named, peer).unwrap_err(), ShmError::UnknownRegion);
        }
        let loan = registry.borrow(named, ME).unwrap();
        drop(registration);
        assert_eq!(registry.borrow(named, ME).unwrap_err(), ShmError::UnknownRegion);
        let mut piece = [0];
        loan.copy(0, &mut piece);
        assert_eq!((piece, loan.check()), ([64], Ok(())));
    }

    #[test]
    fn quotas_count_what_the_device_gives_and_name_the_flag() {
        let registry = registry();
        let refused =
            |device, layout, peer| registry.register(device, layout, peer).unwrap_err().to_string();
        let keep = [0, 1].map(|_| registry.register(0, LAYOUT, ME).unwrap().0);
        assert!(refused(0, LAYOUT, ME).contains("--shm-regions-per-peer-max"));
        drop(keep);
        let large = Register { slot_stride_bytes: 3 * PIECE / 4 + 64, ..LAYOUT };
        assert!(refused(0, large, ME).contains("--shm-bytes-per-peer-max"));
        let large = Register { slot_stride_bytes: 3 * PIECE / 4, ..LAYOUT };
        let _keep = registry.register(0, large, ME).unwrap();
        let other = Peer { pid: 43, ..ME };
        let _keep = registry.register(0, LAYOUT, other).unwrap();
        let text = refused(0, LAYOUT, other);
        assert!(text.contains("would be 327680; the limit is 262144"), "{text}");
        assert!(text.contains("--cuda-region-bytes-max"), "{text}");
    }

    #[test]
    fn what_could_not_be_made_leaves_nothing_behind() {
        let registry = registry();
        let refused =
            |device, layout| registry.register(device, layout, ME).unwrap_err().to_string();
        assert_eq!(refused(1, LAYOUT), "out of memory");
        assert_eq!(refused(2, LAYOUT), "no such device");
        assert!(refused(0, Register { slot_count: 9, ..LAYOUT }).contains("slot_count is 9"));
        assert_eq!(registry.usage(), (0, 0));
    }

    #[test]
    fn memory_that_is_lost_is_refused_with_the_reason() {
        let registry = registry();
        let (registration, ..) = registry.register(0, LAYOUT, ME).unwrap();
        let memory = Arc::new(Memory(AtomicBool::new(true)));
        let slots = vec![SlotState { busy: AtomicBool::new(false), used: AtomicU64::new(0) }];
        let lost = Region { memory, slot_stride_bytes: 4096, slots };
        registry.lock().get_mut(&registration.id()).unwrap().region = Some(Arc::new(lost));
        let named = SlotRef { region: registration.id(), slot: 0, generation: 1, length_bytes: 1 };
        let error = registry.borrow(named, ME).unwrap_err();
        assert_eq!(error, ShmError::Lost("it is gone".into()));
    }
}
