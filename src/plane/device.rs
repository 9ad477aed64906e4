//! Memory of devices: made here, handed to a client, which writes logits there.
//!
//! What a device is, this room does not know: whoever does implements [`DeviceMemory`], and the memory that it
//! makes is a [`Loan`] like any other. It is ours, of a size that nobody can change, so there is no descriptor to
//! distrust. A client that keeps what it was given after it has hung up keeps its own copy of it alive, which holds
//! memory of the device but reaches nobody.

use super::region::Memory;
use logitd_core::batch::{Loan, LoanError};
use std::fmt;
use std::os::fd::OwnedFd;
use std::sync::Arc;

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

impl Memory for Arc<dyn Loan> {
    fn copy(&self, at: usize, into: &mut [u8]) {
        Loan::copy(&**self, at, into);
    }

    fn check(&self) -> Result<(), LoanError> {
        Loan::check(&**self)
    }

    fn address_on(&self, device: &str, at: usize) -> Option<u64> {
        Loan::address_on(&**self, device, at)
    }

    fn is_on_device(&self) -> bool {
        true
    }
}
