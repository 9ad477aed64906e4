//! Shared regions: memory of a client on the same host, read once, never trusted.
//!
//! The rules, and the holes they close:
//! - A region is a descriptor, never a name: a memfd sealed against shrinking and growing, so that a
//!   read of it can neither fault nor reach another's memory.
//! - Its id is 128 random bits, and resolves only for the user and process that handed it over.
//! - The client can write while the server reads: each row is copied once, through raw pointers, and only the
//!   copy is looked at. The slot's generation is checked before the first row and after the last.
//! - Sizes are checked when a region is registered; a slot's bounds whenever it is named.
//! - A slot that is named is on loan until its answer: nobody can name it again, and its region stays mapped,
//!   whether or not its owner is still there.

#![allow(unsafe_code)] // A mapping, and the copy out of it.

use logitd_core::batch::{Loan, LoanError};
use logitd_proto::shm::{REGION_ID_BYTES, Register, SLOT_ALIGN_BYTES, SLOT_HEADER_BYTES};
use rustix::fs::{SealFlags, fcntl_get_seals, fstat, fstatfs};
use rustix::mm::{MapFlags, ProtFlags, mmap, munmap};
use std::collections::HashMap;
use std::os::fd::OwnedFd;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering, fence};
use std::sync::{Arc, Mutex, MutexGuard};

/// Memory files say so in `statfs`. Huge-page files are another kind, and are refused: reading a hole
/// of one can fault when the host has no huge page left.
const TMPFS_MAGIC: u64 = 0x0102_1994;

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

/// Why memory was not taken or not read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ShmError {
    /// The descriptor is not what it must be.
    #[error("the descriptor cannot be shared: {0}")]
    Descriptor(String),
    /// The geometry is impossible.
    #[error("{0}")]
    Layout(String),
    /// A quota is used up.
    #[error("{what} would be {asked}; the limit is {limit} ({flag})")]
    Quota {
        /// What there would be too much of.
        what: &'static str,
        /// With this request.
        asked: u64,
        /// Without.
        limit: u64,
        /// The flag that raises the limit.
        flag: &'static str,
    },
    /// No region has this id, or it is not this peer's: the two look the same.
    #[error("no such region; register the memory on the control socket of this process first")]
    UnknownRegion,
    /// The slot or its length is out of range.
    #[error("{field} is {value}; allowed: {allowed}")]
    Bounds {
        /// `slot` or `length_bytes`.
        field: &'static str,
        /// What was asked.
        value: u64,
        /// What could have been.
        allowed: String,
    },
    /// The slot is on loan for another request.
    #[error(
        "slot {0} is still in use by an earlier request; wait for its answer or use another slot"
    )]
    Busy(u32),
    /// The header does not say what the request says, before or after it was read.
    #[error(
        "slot {slot} has generation {found}, the request names {asked}; write a slot only while \
             no request that names it is unanswered"
    )]
    Generation {
        /// The slot.
        slot: u32,
        /// In its header.
        found: u64,
        /// In the request.
        asked: u64,
    },
    /// There is no memory of a device.
    #[error("{0}")]
    Device(String),
    /// A slot in memory of a device was used with this generation, or a higher one.
    #[error(
        "slot {slot} was answered with generation {used}, the request names {asked}; name a higher one than \
             before whenever the slot was written"
    )]
    Used {
        /// The slot.
        slot: u32,
        /// The highest so far.
        used: u64,
        /// In the request.
        asked: u64,
    },
    /// Memory of a device that is gone.
    #[error("{0}")]
    Lost(String),
}

/// All regions of a server.
#[derive(Debug)]
pub struct Registry {
    limits: ShmLimits,
    regions: Mutex<HashMap<RegionId, Arc<Region>>>,
}

impl Registry {
    /// An empty registry.
    pub fn new(limits: ShmLimits) -> Self {
        Self { limits, regions: Mutex::default() }
    }

    /// Takes memory over, read-only. The region lives until the returned lease is dropped.
    pub fn register(
        self: &Arc<Self>,
        descriptor: &OwnedFd,
        layout: Register,
        peer: Peer,
    ) -> Result<Registration, ShmError> {
        let bytes = check_layout(layout, &self.limits)?;
        check_descriptor(descriptor, bytes)?;
        let mut regions = self.lock();
        self.check_quotas(&regions, bytes, peer)?;
        let region = Arc::new(Region::map(descriptor, layout, peer)?);
        let mut id = [0; REGION_ID_BYTES];
        getrandom::fill(&mut id)
            .map_err(|e| ShmError::Descriptor(format!("no randomness: {e}")))?;
        regions.insert(id, region);
        Ok(Registration { id, registry: Arc::clone(self) })
    }

    /// Takes what `slot` names on loan, if it is `peer`'s.
    pub fn borrow(&self, slot: SlotRef, peer: Peer) -> Result<SlotLoan, ShmError> {
        let region = {
            let regions = self.lock();
            let region = regions.get(&slot.region).filter(|region| region.peer == peer);
            Arc::clone(region.ok_or(ShmError::UnknownRegion)?)
        };
        SlotLoan::new(region, slot)
    }

    /// Regions and their bytes, of all peers.
    pub fn usage(&self) -> (usize, u64) {
        let regions = self.lock();
        (regions.len(), regions.values().map(|region| region.bytes as u64).sum())
    }

    /// Whether `peer` has a region.
    pub fn is_owner(&self, peer: Peer) -> bool {
        self.lock().values().any(|region| region.peer == peer)
    }

    fn check_quotas(
        &self,
        regions: &HashMap<RegionId, Arc<Region>>,
        bytes: usize,
        peer: Peer,
    ) -> Result<(), ShmError> {
        let of_peer = || regions.values().filter(|region| region.peer == peer);
        let sum = |bytes: u64, region: &Arc<Region>| bytes + region.bytes as u64;
        let checks = [
            (
                "regions of this peer",
                of_peer().count() as u64 + 1,
                self.limits.regions_per_peer_max as u64,
                "--shm-regions-per-peer-max",
            ),
            (
                "shared bytes of this peer",
                of_peer().fold(bytes as u64, sum),
                self.limits.bytes_per_peer_max,
                "--shm-bytes-per-peer-max",
            ),
            (
                "shared bytes of all peers",
                regions.values().fold(bytes as u64, sum),
                self.limits.bytes_max,
                "--shm-bytes-max",
            ),
        ];
        match checks.into_iter().find(|(_, asked, limit, _)| asked > limit) {
            Some((what, asked, limit, flag)) => Err(ShmError::Quota { what, asked, limit, flag }),
            None => Ok(()),
        }
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<RegionId, Arc<Region>>> {
        self.regions.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
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
}

impl Drop for Registration {
    fn drop(&mut self) {
        self.registry.lock().remove(&self.id);
    }
}

/// A mapped region.
#[derive(Debug)]
struct Region {
    base: NonNull<u8>,
    bytes: usize,
    slot_stride_bytes: usize,
    /// One a slot: whether it is on loan.
    busy: Vec<AtomicBool>,
    peer: Peer,
}

// SAFETY: the mapping is plain memory that any thread may read; `busy` is atomic, the rest constant.
unsafe impl Send for Region {}
// SAFETY: as above.
unsafe impl Sync for Region {}

impl Region {
    fn map(descriptor: &OwnedFd, layout: Register, peer: Peer) -> Result<Self, ShmError> {
        let slot_stride_bytes = layout.slot_stride_bytes as usize;
        let bytes = slot_stride_bytes * layout.slot_count as usize;
        // SAFETY: a fresh mapping at an address of the kernel's choice; `check_descriptor` has seen
        // that the file is that long and can no longer shrink, `check_layout` that the size fits.
        let base = unsafe {
            mmap(std::ptr::null_mut(), bytes, ProtFlags::READ, MapFlags::SHARED, descriptor, 0)
        };
        let base = base.map_err(|e| ShmError::Descriptor(format!("it cannot be mapped: {e}")))?;
        let base = NonNull::new(base.cast()).expect("the kernel does not map page 0");
        let busy = (0..layout.slot_count).map(|_| AtomicBool::new(false)).collect();
        Ok(Self { base, bytes, slot_stride_bytes, busy, peer })
    }
}

/// A slot on loan, from the request that names it to its answer.
#[derive(Debug)]
pub struct SlotLoan {
    region: Arc<Region>,
    named: SlotRef,
    length_bytes: usize,
}

impl SlotLoan {
    fn new(region: Arc<Region>, named: SlotRef) -> Result<Self, ShmError> {
        let length_bytes = check_bounds(named, region.busy.len(), region.slot_stride_bytes)?;
        if region.busy[named.slot as usize].swap(true, Ordering::Acquire) {
            return Err(ShmError::Busy(named.slot));
        }
        let loan = Self { region, named, length_bytes };
        loan.check_generation()?;
        Ok(loan)
    }

    /// Bytes of logits.
    pub fn length_bytes(&self) -> usize {
        self.length_bytes
    }

    /// Reads all of it into a buffer, for what must read it more than once.
    pub fn read(&self, buffer: &mut Vec<u8>) -> Result<(), ShmError> {
        buffer.clear();
        buffer.reserve(self.length_bytes);
        // SAFETY: so many bytes are readable (`payload` asserts it) and writable at the buffer's start
        // (reserved); a private buffer cannot overlap a mapping. The client may write meanwhile: the bytes
        // are then a mixture, of which nothing is assumed, and no reference to them exists.
        unsafe {
            let from = self.payload(0, self.length_bytes);
            std::ptr::copy_nonoverlapping(from, buffer.as_mut_ptr(), self.length_bytes);
            buffer.set_len(self.length_bytes);
        }
        self.check_generation()
    }

    /// Where the logits' byte `at` is mapped, with so many bytes behind it.
    fn payload(&self, at: usize, bytes: usize) -> *const u8 {
        assert!(at <= self.length_bytes && bytes <= self.length_bytes - at, "bytes of this slot");
        // SAFETY: the header is followed by at least `length_bytes` bytes, by `new`.
        unsafe { self.header().add(SLOT_HEADER_BYTES + at).as_ptr() }
    }

    fn header(&self) -> NonNull<u8> {
        let Region { base, slot_stride_bytes, .. } = *self.region;
        // SAFETY: the mapping has a stride for each slot, and this is one of them, by `new`; it is there as
        // long as the region.
        unsafe { base.add(self.named.slot as usize * slot_stride_bytes) }
    }

    fn check_generation(&self) -> Result<(), ShmError> {
        // What was copied was copied before this.
        fence(Ordering::Acquire);
        let SlotRef { slot, generation: asked, .. } = self.named;
        // SAFETY: eight bytes are readable there, aligned because mappings start at a page and strides are
        // multiples of 64; the atomic load is never a data race.
        let generation = unsafe { self.header().cast::<AtomicU64>().as_ref() };
        let found = u64::from_le(generation.load(Ordering::Acquire));
        if found == asked { Ok(()) } else { Err(ShmError::Generation { slot, found, asked }) }
    }
}

impl Loan for SlotLoan {
    fn copy(&self, at: usize, into: &mut [u8]) {
        // SAFETY: so many bytes are readable there (`payload` asserts it); as in `read`, nothing is assumed of
        // them, and they cannot overlap with what we borrow.
        unsafe {
            let from = self.payload(at, into.len());
            std::ptr::copy_nonoverlapping(from, into.as_mut_ptr(), into.len());
        }
    }

    fn mapped(&self) -> Option<&[AtomicU8]> {
        let from = self.payload(0, self.length_bytes).cast();
        // SAFETY: so many bytes are readable there (`payload` asserts it) as long as `self` is; of atomics nothing
        // is assumed but that they can be loaded, and nobody stores to them through this.
        Some(unsafe { std::slice::from_raw_parts(from, self.length_bytes) })
    }

    fn check(&self) -> Result<(), LoanError> {
        self.check_generation().map_err(|error| LoanError::Changed(error.to_string()))
    }
}

impl Drop for SlotLoan {
    fn drop(&mut self) {
        self.region.busy[self.named.slot as usize].store(false, Ordering::Release);
    }
}

impl Drop for Region {
    fn drop(&mut self) {
        // SAFETY: `map` made this mapping with this length, and nothing refers to it any more.
        // Failure could only mean that it does not exist.
        let _ = unsafe { munmap(self.base.as_ptr().cast(), self.bytes) };
    }
}

/// The region's bytes, if its geometry is possible.
/// The length of what is named, if it is within a slot that there is.
pub(super) fn check_bounds(
    named: SlotRef,
    slots: usize,
    slot_stride_bytes: usize,
) -> Result<usize, ShmError> {
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

pub(super) fn check_layout(layout: Register, limits: &ShmLimits) -> Result<usize, ShmError> {
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

fn check_descriptor(descriptor: &OwnedFd, bytes: usize) -> Result<(), ShmError> {
    let refuse = |what: String| Err(ShmError::Descriptor(what));
    let Ok(seals) = fcntl_get_seals(descriptor) else {
        return refuse("it is not a memfd made with MFD_ALLOW_SEALING".into());
    };
    if !seals.contains(SealFlags::SHRINK | SealFlags::GROW) {
        return refuse("seal it with F_SEAL_SHRINK and F_SEAL_GROW first".into());
    }
    match fstatfs(descriptor) {
        Ok(fs) if fs.f_type as u64 == TMPFS_MAGIC => {}
        _ => return refuse("it is not ordinary memory (huge pages are not taken)".into()),
    }
    let size = fstat(descriptor).map_or(0, |stat| stat.st_size as u64);
    if size < bytes as u64 {
        return refuse(format!("it has {size} bytes, the slots need {bytes}"));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::fs::{MemfdFlags, fcntl_add_seals, ftruncate, memfd_create};
    use std::os::unix::fs::FileExt;

    const ME: Peer = Peer { uid: 1000, pid: 42 };
    const LIMITS: ShmLimits = ShmLimits {
        regions_per_peer_max: 2,
        bytes_per_peer_max: 1 << 16,
        bytes_max: 1 << 17,
        slots_per_region_max: 8,
    };
    const LAYOUT: Register = Register { slot_stride_bytes: 4096, slot_count: 4, device: None };

    fn memory(bytes: u64, seals: SealFlags) -> OwnedFd {
        let flags = MemfdFlags::ALLOW_SEALING | MemfdFlags::CLOEXEC;
        let descriptor = memfd_create("test", flags).unwrap();
        ftruncate(&descriptor, bytes).unwrap();
        fcntl_add_seals(&descriptor, seals).unwrap();
        descriptor
    }

    fn sealed(bytes: u64) -> OwnedFd {
        memory(bytes, SealFlags::SHRINK | SealFlags::GROW)
    }

    fn write(descriptor: &OwnedFd, slot: u64, generation: u64, payload: &[u8]) {
        let file = std::fs::File::from(descriptor.try_clone().unwrap());
        file.write_all_at(payload, slot * 4096 + 64).unwrap();
        file.write_all_at(&generation.to_le_bytes(), slot * 4096).unwrap();
    }

    fn registry() -> Arc<Registry> {
        Arc::new(Registry::new(LIMITS))
    }

    #[test]
    fn what_was_written_is_what_is_read() {
        let (registry, mut buffer) = (registry(), Vec::new());
        let descriptor = sealed(4 * 4096);
        let registration = registry.register(&descriptor, LAYOUT, ME).unwrap();
        write(&descriptor, 3, 9, b"some logits");
        let named = SlotRef { region: registration.id(), slot: 3, generation: 9, length_bytes: 11 };
        let loan = registry.borrow(named, ME).unwrap();
        loan.read(&mut buffer).unwrap();
        assert_eq!(buffer, b"some logits");
        let mut piece = [0; 4];
        loan.copy(5, &mut piece);
        assert_eq!((&piece, loan.check()), (b"logi", Ok(())));

        let error = |named| registry.borrow(named, ME).unwrap_err();
        assert_eq!(error(named), ShmError::Busy(3));
        write(&descriptor, 3, 10, b"other logits");
        assert!(matches!(loan.check(), Err(LoanError::Changed(_))));
        assert!(matches!(loan.read(&mut buffer), Err(ShmError::Generation { found: 10, .. })));
        drop(loan);
        write(&descriptor, 3, 9, b"some logits");

        let stale = ShmError::Generation { slot: 3, found: 9, asked: 8 };
        assert_eq!(error(SlotRef { generation: 8, ..named }), stale);
        let text = error(SlotRef { slot: 4, ..named }).to_string();
        assert_eq!(text, "slot is 4; allowed: 0 to 3");
        for length_bytes in [0, 4033, u64::MAX] {
            let text = error(SlotRef { length_bytes, ..named }).to_string();
            assert_eq!(text, format!("length_bytes is {length_bytes}; allowed: 1 to 4032"));
        }
    }

    #[test]
    fn nobody_else_s_id_resolves_and_none_outlives_its_registration() {
        let registry = registry();
        let descriptor = sealed(4 * 4096);
        let registration = registry.register(&descriptor, LAYOUT, ME).unwrap();
        write(&descriptor, 0, 1, b"x");
        let named = SlotRef { region: registration.id(), slot: 0, generation: 1, length_bytes: 1 };
        for peer in [Peer { uid: 1001, ..ME }, Peer { pid: 43, ..ME }] {
            assert_eq!(registry.borrow(named, peer).unwrap_err(), ShmError::UnknownRegion);
        }
        let loan = registry.borrow(named, ME).unwrap();
        assert_eq!(registry.usage(), (1, 4 * 4096));
        drop(registration);
        assert_eq!(registry.borrow(named, ME).unwrap_err(), ShmError::UnknownRegion);
        assert_eq!(registry.usage(), (0, 0));
        let mut piece = [0];
        loan.copy(0, &mut piece);
        assert_eq!(&piece, b"x", "what is on loan stays");
    }

    #[test]
    fn what_could_fault_is_not_taken() {
        let registry = registry();
        let refused = |descriptor: &OwnedFd, layout| {
            registry.register(descriptor, layout, ME).unwrap_err().to_string()
        };
        let open = memory(1 << 14, SealFlags::empty());
        assert!(refused(&open, LAYOUT).contains("F_SEAL_SHRINK"));
        let half = memory(1 << 14, SealFlags::SHRINK);
        assert!(refused(&half, LAYOUT).contains("F_SEAL_GROW"));
        assert!(refused(&sealed(100), LAYOUT).contains("has 100 bytes, the slots need 16384"));
        let file = tempfile::tempfile().unwrap();
        assert!(refused(&file.into(), LAYOUT).contains("not a memfd"));
        let good = sealed(1 << 14);
        for (layout, text) in [
            (Register { slot_count: 0, ..LAYOUT }, "slot_count is 0; allowed: 1 to 8"),
            (Register { slot_count: 9, ..LAYOUT }, "slot_count is 9"),
            (Register { slot_stride_bytes: 64, ..LAYOUT }, "slot_stride_bytes is 64"),
            (Register { slot_stride_bytes: 100, ..LAYOUT }, "slot_stride_bytes is 100"),
            (Register { slot_stride_bytes: !63, ..LAYOUT }, "do not fit"),
        ] {
            assert!(refused(&good, layout).contains(text), "{text}");
        }
    }

    #[test]
    fn quotas_name_the_flag() {
        let registry = registry();
        let keep = [0, 1].map(|_| registry.register(&sealed(1 << 14), LAYOUT, ME).unwrap());
        let text = registry.register(&sealed(1 << 14), LAYOUT, ME).unwrap_err().to_string();
        assert!(text.contains("would be 3; the limit is 2 (--shm-regions-per-peer-max)"), "{text}");
        drop(keep);
        let large = Register { slot_stride_bytes: 1 << 15, ..LAYOUT };
        let text = registry.register(&sealed(1 << 17), large, ME).unwrap_err().to_string();
        assert!(text.contains("--shm-bytes-per-peer-max"), "{text}");
    }
}
