//! Memory shared with a server on the same host: logits are written where the server reads them, and a
//! request says where they are.

#![allow(unsafe_code)] // The mapping that logits are written to.

use super::Error;
use super::control::{self, Registration};
use logitd_proto::SlotRef;
use logitd_proto::shm::{REGION_ID_BYTES, Register, SLOT_HEADER_BYTES};
use rustix::fs::{MemfdFlags, SealFlags, fcntl_add_seals, ftruncate, memfd_create};
use rustix::mm::{MapFlags, ProtFlags, mmap, munmap};
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU64, Ordering};

/// Slots of memory that a server reads logits from. The server lets go of it when it is dropped.
///
/// ```no_run
/// # async fn example() -> Result<(), Box<dyn std::error::Error>> {
/// use logitd_proto::{Dtype, SampleRequest};
/// use logitd_client::{Client, Region};
///
/// let client = Client::connect("unix:/run/logitd.sock").await?;
/// let control = client.info().await?.shm_control;
/// let mut region = Region::register(&control, 2 * 64 * 128_256, 4)?;
/// region.slot_mut(0)[..6].copy_from_slice(&[0, 0x3c, 0, 0x40, 0, 0x38]);
/// let request = SampleRequest {
///     dtype: Dtype::F16.into(),
///     vocab_size: 3,
///     slot: Some(region.commit(0, 6)),
///     ..Default::default()
/// };
/// println!("{:?}", client.sample(request).await?.rows[0].token);
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
pub struct Region {
    base: NonNull<u8>,
    slot_stride_bytes: usize,
    generations: Vec<u64>,
    id: [u8; REGION_ID_BYTES],
    /// The region is the server's as long as this is open.
    _control: UnixStream,
}

// SAFETY: the mapping is memory that only this value writes, through `&mut self`.
unsafe impl Send for Region {}

impl Region {
    /// Makes `slot_count` slots with room for `slot_bytes` of logits each, and hands them over on the
    /// control socket (`unix:PATH`, as in `GetInfoResponse.shm_control`). Blocks until the server has
    /// answered.
    pub fn register(control: &str, slot_bytes: usize, slot_count: u32) -> Result<Self, Error> {
        Self::register_with(control, None, slot_bytes, slot_count)
    }

    /// The same with a bearer token, where the server asks for one.
    pub fn register_with(
        control: &str,
        token: Option<&str>,
        slot_bytes: usize,
        slot_count: u32,
    ) -> Result<Self, Error> {
        let region = Self::try_register(control, token, slot_bytes, slot_count);
        region.map_err(|e| control::error(control, &e))
    }

    /// Slots in the region.
    pub fn slot_count(&self) -> u32 {
        self.generations.len() as u32
    }

    /// The logits of a slot, to be written. Not while a request that names the slot is unanswered: it
    /// would be refused, or answered from a mixture.
    ///
    /// # Panics
    /// If there is no such slot.
    pub fn slot_mut(&mut self, slot: u32) -> &mut [u8] {
        let header = self.header(slot);
        // SAFETY: `header` asserts that the slot exists, and behind its header lie its logits up to
        // the stride, inside the mapping. Nobody else writes there, and `&mut self` is exclusive; the
        // server's reads of it are no concern of this program's.
        unsafe {
            let logits = header.add(SLOT_HEADER_BYTES).as_ptr();
            std::slice::from_raw_parts_mut(logits, self.slot_stride_bytes - SLOT_HEADER_BYTES)
        }
    }

    /// Marks a slot's first `length_bytes` as written, and names them for a request.
    ///
    /// # Panics
    /// If there is no such slot.
    pub fn commit(&mut self, slot: u32, length_bytes: usize) -> SlotRef {
        let header = self.header(slot);
        let generation = self.generations[slot as usize] + 1;
        self.generations[slot as usize] = generation;
        // SAFETY: eight aligned bytes in the mapping (`header` asserts it), only ever accessed
        // atomically. Release: the logits are there before the generation is.
        let place = unsafe { header.cast::<AtomicU64>().as_ref() };
        place.store(generation.to_le(), Ordering::Release);
        let region = bytes::Bytes::copy_from_slice(&self.id);
        SlotRef { region, slot, generation, length_bytes: length_bytes as u64 }
    }

    fn try_register(
        control: &str,
        token: Option<&str>,
        slot_bytes: usize,
        slot_count: u32,
    ) -> io::Result<Self> {
        let (stride, bytes) = control::layout(slot_bytes, slot_count)?;
        let memory = sealed_memory(bytes)?;
        let layout = Register { slot_stride_bytes: stride as u64, slot_count, device: None };
        let Registration { control, id, .. } =
            control::register(control, token, layout, Some(memory.as_fd()))?;
        // SAFETY: a fresh mapping, at an address of the kernel's choice, of a file that is `bytes`
        // long and sealed against shrinking.
        let base = unsafe {
            let access = ProtFlags::READ | ProtFlags::WRITE;
            mmap(std::ptr::null_mut(), bytes, access, MapFlags::SHARED, &memory, 0)
        }?;
        let base = NonNull::new(base.cast()).expect("the kernel does not map page 0");
        let generations = vec![0; slot_count as usize];
        Ok(Self { base, slot_stride_bytes: stride, generations, id, _control: control })
    }

    fn header(&self, slot: u32) -> NonNull<u8> {
        let count = self.slot_count();
        assert!(slot < count, "slot {slot} of a region of {count}");
        // SAFETY: the mapping has `count` strides, and `slot` is below it.
        unsafe { self.base.add(slot as usize * self.slot_stride_bytes) }
    }
}

impl Drop for Region {
    fn drop(&mut self) {
        let bytes = self.slot_stride_bytes * self.generations.len();
        // SAFETY: the mapping that `try_register` made, with its length; borrows of it have ended.
        let _ = unsafe { munmap(self.base.as_ptr().cast(), bytes) };
    }
}

/// Memory whose size nobody can change any more.
fn sealed_memory(bytes: usize) -> io::Result<OwnedFd> {
    let memory = memfd_create("logitd", MemfdFlags::ALLOW_SEALING | MemfdFlags::CLOEXEC)?;
    ftruncate(&memory, bytes as u64)?;
    fcntl_add_seals(&memory, SealFlags::SHRINK | SealFlags::GROW | SealFlags::SEAL)?;
    Ok(memory)
}
