//! Memory of a device that another process writes to: made here and handed over as a descriptor, or taken over
//! from there.
//!
//! An [`ExportedRegion`] is made by whoever samples, with [`RegionExporter`]: a physical allocation of its own, of which another
//! process gets nothing but itself (the older `cuIpc` handles share the whole block around it, and end with its
//! maker). An [`ImportedRegion`] is the same memory on the other side, found by the device's UUID, since
//! processes can number devices differently.
//!
//! A region outlives the backend that it was made with: it retains the device's context itself, and has a
//! stream and some pinned memory, so that [`copy`](Loan::copy) works from any thread and after its device was
//! taken out, as long as the memory can be read. Where it cannot, or where a copy does not end in time, the
//! region is *lost*: from then on the device is not touched, and nothing of it is given back.

mod memory;

use super::context::{self, Context};
use crate::batch::{Loan, LoanError};
use cudarc::driver::sys::CUdevice_attribute as Attribute;
use memory::{Handle, Memory, granularity};
use std::os::fd::{BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

/// Makes regions on one device.
#[derive(Clone, Debug)]
pub struct RegionExporter {
    device: String,
    ordinal: u32,
    uuid: [u8; 16],
    granularity: u64,
    hang_timeout: Duration,
    /// Whether the backend of the device has given it up.
    given_up: Arc<AtomicBool>,
}

impl RegionExporter {
    /// For the device of a context; the reason says why it has no such memory.
    pub(super) fn new(
        context: &Context,
        device: &str,
        hang_timeout: Duration,
    ) -> Result<Self, String> {
        for (attribute, what) in [
            (
                Attribute::CU_DEVICE_ATTRIBUTE_VIRTUAL_ADDRESS_MANAGEMENT_SUPPORTED,
                "map memory by itself",
            ),
            (
                Attribute::CU_DEVICE_ATTRIBUTE_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR_SUPPORTED,
                "hand memory over as a descriptor",
            ),
        ] {
            if context.attribute(attribute)? == 0 {
                return Err(format!("{device} cannot {what} on this system"));
            }
        }
        Ok(Self {
            device: device.to_owned(),
            ordinal: context.ordinal(),
            uuid: context::uuid(context.ordinal())?,
            granularity: granularity(context)?,
            hang_timeout,
            given_up: context.lost(),
        })
    }

    /// The device's id: `cuda:0`.
    pub fn device(&self) -> &str {
        &self.device
    }

    /// The device's UUID.
    pub fn uuid(&self) -> [u8; 16] {
        self.uuid
    }

    /// What a region of so many bytes takes of the device's memory; `None` beyond 64 bits.
    pub fn rounded(&self, bytes: u64) -> Option<u64> {
        bytes.max(1).checked_next_multiple_of(self.granularity)
    }

    /// Makes a region of so many bytes, rounded up and all zeros, and a descriptor of it for another process.
    pub fn make(&self, bytes: u64) -> Result<(ExportedRegion, OwnedFd), String> {
        if self.given_up.load(Ordering::Acquire) {
            return Err("it was taken out".into());
        }
        let bytes = self.rounded(bytes).and_then(|bytes| usize::try_from(bytes).ok());
        let bytes = bytes.ok_or("so many bytes cannot be addressed")?;
        let context = Context::retain(self.ordinal)?;
        let handle = Handle::create(&context, bytes)?;
        let descriptor = handle.export()?;
        let memory = Memory::map(context, &handle, bytes, self.hang_timeout)?;
        // Whoever had this memory before may have left something behind.
        memory.clear()?;
        let (device, given_up) = (self.device.clone(), Arc::clone(&self.given_up));
        Ok((ExportedRegion { memory, device, given_up }, descriptor))
    }
}

/// Memory that was made here, and that another process writes to.
#[derive(Debug)]
pub struct ExportedRegion {
    memory: Memory,
    device: String,
    given_up: Arc<AtomicBool>,
}

impl ExportedRegion {
    /// Bytes of it.
    pub fn bytes(&self) -> usize {
        self.memory.bytes()
    }
}

impl Loan for ExportedRegion {
    fn copy(&self, at: usize, into: &mut [u8]) {
        if self.memory.read(at, into).is_err() {
            into.fill(0);
        }
    }

    fn check(&self) -> Result<(), LoanError> {
        let Some(reason) = self.memory.lost() else { return Ok(()) };
        Err(LoanError::Lost(format!(
            "the region's memory on {} can no longer be read: {reason}; send the logits as bytes, or register \
             memory on a device that is up (GetInfo lists them)",
            self.device
        )))
    }

    fn address_on(&self, device: &str, at: usize) -> Option<u64> {
        let here = device == self.device && self.memory.lost().is_none();
        here.then(|| self.memory.address(at))
    }
}

impl Drop for ExportedRegion {
    fn drop(&mut self) {
        // A device that was given up may still be about to read it.
        if self.given_up.load(Ordering::Acquire) {
            self.memory.lose("its device was taken out".into());
        }
    }
}

/// Memory that was made in another process, to be written here.
#[derive(Debug)]
pub struct ImportedRegion {
    memory: Memory,
}

impl ImportedRegion {
    /// Maps memory of the device with this UUID, as large as its maker says.
    pub fn open(
        uuid: [u8; 16],
        descriptor: BorrowedFd<'_>,
        bytes: u64,
        hang_timeout: Duration,
    ) -> Result<Self, String> {
        let bytes = usize::try_from(bytes).map_err(|_| "so many bytes cannot be addressed")?;
        let context = with_uuid(uuid)?;
        let handle = Handle::import(&context, descriptor)?;
        Ok(Self { memory: Memory::map(context, &handle, bytes, hang_timeout)? })
    }

    /// Writes, and waits until it is done: from then on the other process may read it.
    ///
    /// # Panics
    /// If that is beyond the region.
    pub fn write(&self, at: usize, from: &[u8]) -> Result<(), String> {
        self.memory.write(at, from)
    }

    /// What was written, for tests.
    ///
    /// # Panics
    /// If that is beyond the region.
    pub fn read(&self, at: usize, into: &mut [u8]) -> Result<(), String> {
        self.memory.read(at, into)
    }
}

/// The context of the device that has this UUID.
fn with_uuid(uuid: [u8; 16]) -> Result<Context, String> {
    for ordinal in 0..context::count()? {
        if context::uuid(ordinal)? == uuid {
            return Context::retain(ordinal);
        }
    }
    let uuid = uuid.map(|byte| format!("{byte:02x}")).concat();
    Err(format!("the device with the UUID {uuid} is not visible here; see CUDA_VISIBLE_DEVICES"))
}
