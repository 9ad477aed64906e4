//! A physical allocation of a device's memory, its addresses, and the lane that copies to and from it.

use crate::backend::cuda::context::{Context, check};
use crate::backend::cuda::lane::Lane;
use cudarc::driver::sys::{
    self, CUdevice, CUdeviceptr, CUmemAccess_flags, CUmemAccessDesc,
    CUmemAllocationGranularity_flags as Granularity, CUmemAllocationHandleType,
    CUmemAllocationProp, CUmemAllocationType, CUmemGenericAllocationHandle, CUmemLocation,
    CUmemLocationType,
};
use std::ffi::c_void;
use std::fmt;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

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
    lane: Lane,
}

impl Memory {
    /// Maps all of an allocation, which has so many bytes.
    pub fn map(
        context: Context,
        handle: &Handle,
        bytes: usize,
        hang_timeout: Duration,
    ) -> Result<Self, String> {
        let mapping = Mapping::new(&context, handle, bytes)?;
        Ok(Self { mapping, lane: Lane::new(context, hang_timeout)? })
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
        self.lane.lost()
    }

    /// From now on it is not touched, and nothing of it is given back.
    pub fn lose(&self, reason: String) {
        self.lane.lose(reason);
    }

    /// Copies from the device. On an error it is lost.
    ///
    /// # Panics
    /// If that is beyond the memory.
    pub fn read(&self, at: usize, into: &mut [u8]) -> Result<(), String> {
        self.assert_within(at, into.len());
        self.lane.read(self.address(at), into)
    }

    /// Copies to the device, as [`read`](Self::read) copies from it.
    pub fn write(&self, at: usize, from: &[u8]) -> Result<(), String> {
        self.assert_within(at, from.len());
        self.lane.write(self.address(at), from)
    }

    /// Makes it all zeros.
    pub fn clear(&self) -> Result<(), String> {
        self.lane.clear(self.address(0), self.bytes())
    }

    fn assert_within(&self, at: usize, bytes: usize) {
        let all = self.bytes();
        assert!(at <= all && bytes <= all - at, "{bytes} bytes from {at} on, of a region of {all}");
    }
}

impl Drop for Memory {
    fn drop(&mut self) {
        // The mapping goes next. Whether that needs a context, CUDA's documentation does not say.
        let _ = self.lane.bind();
    }
}

impl fmt::Debug for Memory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Mapping { address, bytes, .. } = self.mapping;
        write!(f, "{bytes} bytes at {address:#x} of a device")
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
