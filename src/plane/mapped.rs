//! Memory of a client on the same host, read in place and never trusted.
//!
//! It is a descriptor, never a name: a memfd sealed against shrinking and growing, so that a read of it can neither
//! fault nor reach another's memory. It is copied through raw pointers: its owner can write meanwhile, and the bytes are
//! then a mixture, of which nothing is assumed.

#![allow(unsafe_code)] // A mapping, and the copy out of it.

use super::ShmError;
use super::region::Memory;
use rustix::fs::{SealFlags, fcntl_get_seals, fstat, fstatfs};
use rustix::mm::{MapFlags, ProtFlags, mmap, munmap};
use std::os::fd::OwnedFd;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering, fence};

/// Memory files say so in `statfs`. Huge-page files are another kind, and are refused: reading a hole
/// of one can fault when the host has no huge page left.
const TMPFS_MAGIC: u64 = 0x0102_1994;

/// A mapping.
#[derive(Debug)]
pub struct Mapped {
    base: NonNull<u8>,
    bytes: usize,
}

// SAFETY: the mapping is plain memory that any thread may read, and it stays where it is.
unsafe impl Send for Mapped {}
// SAFETY: as above.
unsafe impl Sync for Mapped {}

impl Mapped {
    /// Maps so many bytes, as [`check_descriptor`] has seen that there are.
    pub fn new(descriptor: &OwnedFd, bytes: usize) -> Result<Self, ShmError> {
        // SAFETY: a fresh mapping at an address of the kernel's choice; `check_descriptor` has seen
        // that the file is that long and can no longer shrink.
        let base = unsafe {
            mmap(std::ptr::null_mut(), bytes, ProtFlags::READ, MapFlags::SHARED, descriptor, 0)
        };
        let base = base.map_err(|e| ShmError::Descriptor(format!("it cannot be mapped: {e}")))?;
        let base = NonNull::new(base.cast()).expect("the kernel does not map page 0");
        Ok(Self { base, bytes })
    }

    /// The byte `at`, with so many behind it.
    fn place(&self, at: usize, bytes: usize) -> NonNull<u8> {
        assert!(at <= self.bytes && bytes <= self.bytes - at, "bytes of this mapping");
        // SAFETY: the mapping has that byte, or ends there.
        unsafe { self.base.add(at) }
    }
}

impl Memory for Mapped {
    fn copy(&self, at: usize, into: &mut [u8]) {
        // SAFETY: so many bytes are readable there (`place` asserts it); of them nothing is assumed, no reference to
        // them exists, and they cannot overlap with what we borrow.
        unsafe {
            let from = self.place(at, into.len()).as_ptr();
            std::ptr::copy_nonoverlapping(from, into.as_mut_ptr(), into.len());
        }
    }

    fn read(&self, at: usize, bytes: usize, buffer: &mut Vec<u8>) {
        buffer.clear();
        buffer.reserve(bytes);
        // SAFETY: as in `copy`; so many bytes are writable at the buffer's start (reserved), and a private buffer cannot
        // overlap a mapping.
        unsafe {
            let from = self.place(at, bytes).as_ptr();
            std::ptr::copy_nonoverlapping(from, buffer.as_mut_ptr(), bytes);
            buffer.set_len(bytes);
        }
    }

    fn generation(&self, at: usize) -> Option<u64> {
        // What was copied was copied before this.
        fence(Ordering::Acquire);
        let place = self.place(at, size_of::<u64>()).cast::<AtomicU64>();
        assert!(place.is_aligned(), "slots begin at multiples of 64");
        // SAFETY: eight bytes are readable there (`place` asserts it), aligned; the atomic load is never a data race.
        let generation = unsafe { place.as_ref() };
        Some(u64::from_le(generation.load(Ordering::Acquire)))
    }

    fn mapped(&self, at: usize, bytes: usize) -> Option<&[AtomicU8]> {
        let from = self.place(at, bytes).cast().as_ptr();
        // SAFETY: so many bytes are readable there (`place` asserts it) as long as `self` is; of atomics nothing
        // is assumed but that they can be loaded, and nobody stores to them through this.
        Some(unsafe { std::slice::from_raw_parts(from, bytes) })
    }

    fn is_on_device(&self) -> bool {
        false
    }
}

impl Drop for Mapped {
    fn drop(&mut self) {
        // SAFETY: `new` made this mapping with this length, and nothing refers to it any more.
        // Failure could only mean that it does not exist.
        let _ = unsafe { munmap(self.base.as_ptr().cast(), self.bytes) };
    }
}

/// Whether a descriptor is memory of so many bytes that stays what it is.
pub fn check_descriptor(descriptor: &OwnedFd, bytes: usize) -> Result<(), ShmError> {
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
