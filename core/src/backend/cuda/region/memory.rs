//! A physical allocation of a device's memory, its addresses, and the lane that copies to and from it.

use crate::backend::cuda::context::{self, Context, HostMemory, check};
use cudarc::driver::sys::{
    self, CUdevice, CUdeviceptr, CUevent, CUmemAccess_flags, CUmemAccessDesc,
    CUmemAllocationGranularity_flags as Granularity, CUmemAllocationHandleType,
    CUmemAllocationProp, CUmemAllocationType, CUmemGenericAllocationHandle, CUmemLocation,
    CUmemLocationType, CUstream,
};
use std::ffi::c_void;
use std::fmt;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

/// Pinned memory that copies pass through, piece by piece: so much a region.
const BOUNCE_BYTES: usize = 1 << 20;
/// How handles are passed on.
const DESCRIPTOR: CUmemAllocationHandleType =
    CUmemAllocationHandleType::CU_MEM_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR;

/// What the device of a context allocates at once, 1 or more.
pub(super) fn granularity(context: &Context) -> Result<u64, String> {
    let mut granularity = 0;
    let wanted = properties(context.device());
    context.bind()?;
    // SAFETY: it reads the properties and writes one number.
    check("cuMemGetAllocationGranularity", unsafe {
        let flags = Granularity::CU_MEM_ALLOC_GRANULARITY_MINIMUM;
        sys::cuMemGetAllocationGranularity(&mut granularity, &wanted, flags)
    })?;
    Ok((granularity as u64).max(1))
}

/// A piece of device memory, mapped, and what copies to and from it.
pub(super) struct Memory {
    // Before the lane, whose context it needs to go.
    mapping: Mapping,
    lane: Mutex<Lane>,
    hang_timeout: Duration,
    /// Why it is not touched any more.
    lost: OnceLock<String>,
}

impl Memory {
    /// Maps all of an allocation, which has so many bytes.
    pub fn map(
        mut context: Context,
        handle: &Handle,
        bytes: usize,
        hang_timeout: Duration,
    ) -> Result<Self, String> {
        let mapping = Mapping::new(&context, handle, bytes)?;
        let stream = context.stream()?;
        let done = context.signal()?;
        let bounce = context.host_memory(BOUNCE_BYTES)?;
        let lane = Mutex::new(Lane { stream, done, bounce, context });
        Ok(Self { mapping, lane, hang_timeout, lost: OnceLock::new() })
    }

    /// Bytes of it.
    pub fn bytes(&self) -> usize {
        self.mapping.bytes
    }

    /// Where the byte `at` lies.
    pub fn address(&self, at: usize) -> CUdeviceptr {
        self.mapping.address + at as u64
    }

    /// Why it is not touched any more, if it is not.
    pub fn lost(&self) -> Option<&str> {
        self.lost.get().map(String::as_str)
    }

    /// From now on it is not touched, and nothing of it is given back.
    pub fn lose(&self, reason: String) {
        self.lose_lane(&self.lane(), reason);
    }

    /// Copies from the device. On an error it is lost.
    ///
    /// # Panics
    /// If that is beyond the memory.
    pub fn read(&self, at: usize, into: &mut [u8]) -> Result<(), String> {
        self.assert_within(at, into.len());
        self.use_lane(|lane| {
            let mut pieces = into.chunks_mut(BOUNCE_BYTES).zip((at..).step_by(BOUNCE_BYTES));
            pieces.try_for_each(|(piece, at)| lane.read(self.address(at), piece, self.hang_timeout))
        })
    }

    /// Copies to the device, as [`read`](Self::read) copies from it.
    pub fn write(&self, at: usize, from: &[u8]) -> Result<(), String> {
        self.assert_within(at, from.len());
        self.use_lane(|lane| {
            let mut pieces = from.chunks(BOUNCE_BYTES).zip((at..).step_by(BOUNCE_BYTES));
            pieces
                .try_for_each(|(piece, at)| lane.write(self.address(at), piece, self.hang_timeout))
        })
    }

    /// Makes it all zeros.
    pub fn clear(&self) -> Result<(), String> {
        self.use_lane(|lane| lane.clear(self.address(0), self.bytes(), self.hang_timeout))
    }

    fn assert_within(&self, at: usize, bytes: usize) {
        let all = self.bytes();
        assert!(at <= all && bytes <= all - at, "{bytes} bytes from {at} on, of a region of {all}");
    }

    /// Does something in the lane, unless the memory is lost. It is when that fails.
    fn use_lane(&self, work: impl FnOnce(&Lane) -> Result<(), String>) -> Result<(), String> {
        let lane = self.lane();
        if let Some(reason) = self.lost.get() {
            return Err(reason.clone());
        }
        let done = lane.context.bind().and_then(|()| work(&lane));
        done.inspect_err(|reason| self.lose_lane(&lane, reason.clone()))
    }

    fn lose_lane(&self, lane: &Lane, reason: String) {
        lane.context.lose();
        // The first reason is the one that tells.
        let _ = self.lost.set(reason);
    }

    fn lane(&self) -> MutexGuard<'_, Lane> {
        self.lane.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Memory {
    fn drop(&mut self) {
        // The mapping goes next. Whether that needs a context, CUDA's documentation does not say.
        let _ = self.lane().context.bind();
    }
}

impl fmt::Debug for Memory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Mapping { address, bytes, .. } = self.mapping;
        write!(f, "{bytes} bytes at {address:#x} of a device")
    }
}

/// One copy at a time, through pinned memory.
struct Lane {
    stream: CUstream,
    done: CUevent,
    bounce: HostMemory,
    context: Context,
}

// SAFETY: the driver's handles may be used from any thread that has the context bound, which
// `Memory::use_lane` sees to; and the pinned memory is the lane's own.
unsafe impl Send for Lane {}

impl Lane {
    /// From the device; at most [`BOUNCE_BYTES`].
    fn read(&self, from: CUdeviceptr, into: &mut [u8], longest: Duration) -> Result<(), String> {
        let bounce = self.bounce.start;
        assert!(into.len() <= self.bounce.bytes);
        // SAFETY: the callers have asserted that so many bytes are mapped there, and there is room for them; the
        // pinned memory is not touched before the copy is waited for, or never again where that fails.
        check("cuMemcpyDtoHAsync", unsafe {
            sys::cuMemcpyDtoHAsync_v2(bounce.cast(), from, into.len(), self.stream)
        })?;
        self.finish(longest)?;
        // SAFETY: so many bytes were written there just now; nobody else has the lane.
        into.copy_from_slice(unsafe { std::slice::from_raw_parts(bounce, into.len()) });
        Ok(())
    }

    /// To the device; at most [`BOUNCE_BYTES`].
    fn write(&self, to: CUdeviceptr, from: &[u8], longest: Duration) -> Result<(), String> {
        let bounce = self.bounce.start;
        assert!(from.len() <= self.bounce.bytes);
        // SAFETY: there is room for so many bytes, in memory of the lane's own; no copy is on its way, since each
        // is waited for, and where that fails there is no other.
        unsafe { std::ptr::copy_nonoverlapping(from.as_ptr(), bounce, from.len()) };
        // SAFETY: as in `read`, the other way.
        check("cuMemcpyHtoDAsync", unsafe {
            sys::cuMemcpyHtoDAsync_v2(to, bounce.cast(), from.len(), self.stream)
        })?;
        self.finish(longest)
    }

    /// Makes it all zeros.
    fn clear(&self, address: CUdeviceptr, bytes: usize, longest: Duration) -> Result<(), String> {
        // SAFETY: so many bytes are mapped there, and nobody else has them yet.
        check("cuMemsetD8Async", unsafe { sys::cuMemsetD8Async(address, 0, bytes, self.stream) })?;
        self.finish(longest)
    }

    fn finish(&self, longest: Duration) -> Result<(), String> {
        // SAFETY: both are this lane's own and alive.
        check("cuEventRecord", unsafe { sys::cuEventRecord(self.done, self.stream) })?;
        // SAFETY: the event is alive, and `Memory::use_lane` has bound the context.
        unsafe { context::wait(self.done, "a copy", longest) }
    }
}

/// A physical allocation, until it is mapped: the mapping keeps it.
pub(super) struct Handle(CUmemGenericAllocationHandle);

impl Handle {
    /// Makes one on the device of a context.
    pub fn create(context: &Context, bytes: usize) -> Result<Self, String> {
        context.bind()?;
        let mut handle = 0;
        let what = format!("cuMemCreate of {bytes} bytes");
        let wanted = properties(context.device());
        // SAFETY: it reads the properties and writes one handle. 0: no flags.
        check(&what, unsafe { sys::cuMemCreate(&mut handle, bytes, &wanted, 0) })?;
        Ok(Self(handle))
    }

    /// One that another process has made.
    pub fn import(context: &Context, descriptor: BorrowedFd<'_>) -> Result<Self, String> {
        context.bind()?;
        let mut handle = 0;
        // The number of a descriptor goes where another system has a pointer.
        let number = descriptor.as_raw_fd() as usize as *mut c_void;
        // SAFETY: the descriptor is open, and stays its owner's; it writes one handle.
        check("cuMemImportFromShareableHandle", unsafe {
            sys::cuMemImportFromShareableHandle(&mut handle, number, DESCRIPTOR)
        })?;
        Ok(Self(handle))
    }

    /// What another process can import.
    pub fn export(&self) -> Result<OwnedFd, String> {
        let mut descriptor = -1;
        // SAFETY: the handle is alive; of this type it writes one integer. 0: no flags.
        check("cuMemExportToShareableHandle", unsafe {
            let place = (&raw mut descriptor).cast();
            sys::cuMemExportToShareableHandle(place, self.0, DESCRIPTOR, 0)
        })?;
        // SAFETY: it was opened for us just now.
        Ok(unsafe { OwnedFd::from_raw_fd(descriptor) })
    }
}

impl Drop for Handle {
    fn drop(&mut self) {
        // SAFETY: the handle is alive, and used no more. What is mapped of it stays.
        let _ = unsafe { sys::cuMemRelease(self.0) };
    }
}

/// Addresses with memory behind them.
struct Mapping {
    address: CUdeviceptr,
    bytes: usize,
    /// Whether memory is mapped there.
    is_mapped: bool,
    /// Whether it stays for good.
    lost: Arc<AtomicBool>,
}

impl Mapping {
    fn new(context: &Context, handle: &Handle, bytes: usize) -> Result<Self, String> {
        context.bind()?;
        let mut address = 0;
        // SAFETY: it writes one address. Aligned and placed as the driver likes, without flags.
        check("cuMemAddressReserve", unsafe {
            sys::cuMemAddressReserve(&mut address, bytes, 0, 0, 0)
        })?;
        let mut mapping = Self { address, bytes, is_mapped: false, lost: context.lost() };
        // SAFETY: the addresses are ours and nothing is mapped there; the driver refuses what does not fit.
        check("cuMemMap", unsafe { sys::cuMemMap(address, bytes, 0, handle.0, 0) })?;
        mapping.is_mapped = true;
        let access = CUmemAccessDesc {
            location: on(context.device()),
            flags: CUmemAccess_flags::CU_MEM_ACCESS_FLAGS_PROT_READWRITE,
        };
        // SAFETY: it reads one description, of addresses that were mapped just now.
        check("cuMemSetAccess", unsafe { sys::cuMemSetAccess(address, bytes, &access, 1) })?;
        Ok(mapping)
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        if self.lost.load(Ordering::Acquire) {
            return;
        }
        // SAFETY: the addresses are ours, mapped as a whole or not at all. Nothing is using them: copies are waited
        // for, or the memory is lost; a launch holds the loan, or its device was given up, and then so was this.
        unsafe {
            if self.is_mapped {
                let _ = sys::cuMemUnmap(self.address, self.bytes);
            }
            let _ = sys::cuMemAddressFree(self.address, self.bytes);
        }
    }
}

/// Memory of a device that a descriptor can stand for.
fn properties(device: CUdevice) -> CUmemAllocationProp {
    CUmemAllocationProp {
        type_: CUmemAllocationType::CU_MEM_ALLOCATION_TYPE_PINNED,
        requestedHandleTypes: DESCRIPTOR,
        location: on(device),
        win32HandleMetaData: std::ptr::null_mut(),
        allocFlags: sys::CUmemAllocationProp_st__bindgen_ty_1 {
            compressionType: 0,
            gpuDirectRDMACapable: 0,
            usage: 0,
            reserved: [0; 4],
        },
    }
}

fn on(device: CUdevice) -> CUmemLocation {
    CUmemLocation { type_: CUmemLocationType::CU_MEM_LOCATION_TYPE_DEVICE, id: device }
}
