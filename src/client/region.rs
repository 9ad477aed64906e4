//! Memory shared with a server on the same host: logits are written where the server reads them, and a
//! request says where they are.

#![allow(unsafe_code)] // The mapping that logits are written to.

use super::Error;
use crate::api::SlotRef;
use crate::api::shm::{REGION_ID_BYTES, Register, Registered, SLOT_ALIGN_BYTES, SLOT_HEADER_BYTES};
use rustix::fs::{MemfdFlags, SealFlags, fcntl_add_seals, ftruncate, memfd_create};
use rustix::mm::{MapFlags, ProtFlags, mmap, munmap};
use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags, sendmsg};
use std::io::{self, IoSlice, Read};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// How long the server may take to answer a registration.
const REGISTER_TIMEOUT: Duration = Duration::from_secs(10);

/// Slots of memory that a server reads logits from. The server lets go of it when it is dropped.
///
/// ```no_run
/// # async fn example() -> Result<(), Box<dyn std::error::Error>> {
/// use logitd::api::{Dtype, SampleRequest};
/// use logitd::client::{Client, Region};
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
        let path = control.strip_prefix("unix:").unwrap_or(control);
        let wrong = |reason: String| Error::Region { control: control.to_owned(), reason };
        Self::try_register(path, slot_bytes, slot_count).map_err(|e| wrong(e.to_string()))
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

    fn try_register(path: &str, slot_bytes: usize, slot_count: u32) -> io::Result<Self> {
        let too_large = || io::Error::other(format!("{slot_count} slots of {slot_bytes} bytes"));
        let stride = slot_bytes
            .checked_add(SLOT_HEADER_BYTES)
            .and_then(|bytes| bytes.checked_next_multiple_of(SLOT_ALIGN_BYTES))
            .ok_or_else(too_large)?;
        let bytes = stride.checked_mul(slot_count as usize).ok_or_else(too_large)?;
        let memory = sealed_memory(bytes)?;
        let (control, id) = hand_over(path, &memory, stride, slot_count)?;
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

/// Registers `memory` and returns the connection that keeps it, and the region's id.
fn hand_over(
    path: &str,
    memory: &OwnedFd,
    slot_stride_bytes: usize,
    slot_count: u32,
) -> io::Result<(UnixStream, [u8; REGION_ID_BYTES])> {
    let mut control = UnixStream::connect(path)?;
    control.set_read_timeout(Some(REGISTER_TIMEOUT))?;
    control.set_write_timeout(Some(REGISTER_TIMEOUT))?;
    let frame = Register { slot_stride_bytes: slot_stride_bytes as u64, slot_count }.encode();
    let descriptors = [memory.as_fd()];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut ancillary = SendAncillaryBuffer::new(&mut space);
    ancillary.push(SendAncillaryMessage::ScmRights(&descriptors));
    // So few bytes fit any socket buffer: they go in one piece, with the descriptor.
    sendmsg(&control, &[IoSlice::new(&frame)], &mut ancillary, SendFlags::NOSIGNAL)?;

    let mut answer = [0; REGION_ID_BYTES + 4];
    control.read_exact(&mut answer)?;
    let (id, length) = answer.split_at(REGION_ID_BYTES);
    let length = u32::from_le_bytes(length.try_into().expect("four bytes")) as usize;
    if length > 0 {
        let mut reason = vec![0; length.min(Registered::REASON_BYTES_MAX)];
        control.read_exact(&mut reason)?;
        return Err(io::Error::other(String::from_utf8_lossy(&reason).into_owned()));
    }
    Ok((control, id.try_into().expect("sixteen bytes")))
}
