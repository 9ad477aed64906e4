//! Memory of a device that somebody else in this process owns, and writes to in a stream of its own: a tensor of a
//! framework.
//!
//! A [`Tensor`] is lent like a region ([`Loan`]): launches copy its rows on the device, and rows that are for the processor come to
//! the host through a lane. What orders that behind whoever writes the tensor is the lane's stream ([`Tensors`]): it
//! follows the writer's ([`Tensors::follow`]; or the writer has it wait, as DLPack's `__dlpack__(stream=..)` does), and the
//! device's launches follow it ([`CudaDriver::follow`](super::CudaDriver::follow)). The host waits for nothing of it.

use super::context::Context;
use super::lane::Lane;
use crate::batch::{Loan, LoanError};
use cudarc::driver::sys::{CUdeviceptr, CUstream};
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

/// Reads tensors of one device.
#[derive(Clone)]
pub struct Tensors {
    device: Arc<str>,
    lane: Arc<Lane>,
}

impl Tensors {
    /// On the device with this number, which has this id.
    pub(super) fn new(ordinal: u32, device: &str, hang_timeout: Duration) -> Result<Self, String> {
        let lane = Lane::new(Context::retain(ordinal)?, hang_timeout)?;
        Ok(Self { device: device.into(), lane: Arc::new(lane) })
    }

    /// The stream that whoever writes a tensor can have wait for it.
    pub fn stream(&self) -> u64 {
        self.lane.stream().expose_provenance() as u64
    }

    /// Has everything that is read from now on come behind what is in a stream now.
    ///
    /// # Safety
    /// That is a stream of the device's primary context, or one of the driver's special ones: 0 or 1 (the legacy default
    /// stream), 2 (that of the calling thread).
    pub unsafe fn follow(&self, stream: u64) -> Result<(), String> {
        let stream: CUstream = std::ptr::with_exposed_provenance_mut(stream as usize);
        // SAFETY: the caller has seen to it.
        unsafe { self.lane.follow(stream) }
    }

    /// Memory of the device with so many bytes.
    ///
    /// # Safety
    /// So many bytes are mapped there for as long as the tensor is here, and nobody writes to them but in streams that
    /// were followed.
    pub unsafe fn tensor(&self, address: u64, bytes: usize) -> Tensor {
        Tensor { from: self.clone(), address, bytes }
    }

    pub(super) fn lane(&self) -> &Lane {
        &self.lane
    }
}

impl fmt::Debug for Tensors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "tensors of {}", self.device)
    }
}

/// Memory of a device, for as long as its owner keeps it.
#[derive(Debug)]
pub struct Tensor {
    from: Tensors,
    address: CUdeviceptr,
    bytes: usize,
}

impl Loan for Tensor {
    fn copy(&self, at: usize, into: &mut [u8]) {
        let all = self.bytes;
        assert!(
            at <= all && into.len() <= all - at,
            "{} bytes from {at} on, of a tensor of {all}",
            into.len()
        );
        if self.from.lane.read(self.address + at as u64, into).is_err() {
            into.fill(0);
        }
    }

    fn check(&self) -> Result<(), LoanError> {
        let Some(reason) = self.from.lane.lost() else { return Ok(()) };
        let device = &self.from.device;
        Err(LoanError::Lost(format!("the tensor on {device} can no longer be read: {reason}")))
    }

    fn address_on(&self, device: &str, at: usize) -> Option<u64> {
        let here = device == &*self.from.device && self.from.lane.lost().is_none();
        here.then(|| self.address + at as u64)
    }
}
