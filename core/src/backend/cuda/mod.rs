//! The CUDA kernels as a backend.
//!
//! `kernels/` has the device code and its design. Here is the host's half: [`abi`] (what crosses over),
//! [`plan`] (how many blocks share a row), [`driver`] (the one small trait that stands for a device) and
//! [`launcher`] (rows in, launches out, results back). The launcher is the same for every driver. [`device`]
//! is that of a GPU, with its kernels from [`kernels`] and checked by [`self_test`] before it takes work.
//! Tests have another, in `kernels/host/`, which runs the very kernels on the CPU, so that all of this is
//! proven without a GPU. [`region`] is memory of a device that another process writes its logits to, [`tensor`] memory of
//! somebody else in this process.

// Device memory and foreign functions: each block says which check it stands on.
#![allow(unsafe_code)]

pub mod abi;
pub mod adjust;
mod context;
pub mod cuts;
pub mod device;
pub mod driver;
pub mod inspect;
pub mod kernels;
mod lane;
pub mod launcher;
mod nvrtc;
pub mod plan;
pub mod region;
pub mod self_test;
pub mod tensor;

use launcher::Launcher;
use std::panic::catch_unwind;

pub use context::count;
pub use device::{COPY_THREADS_MAX, CudaDriver, CudaOptions};
pub use kernels::Tier;

/// A CUDA device as a backend: `cuda:0` and so on.
pub type Cuda = Launcher<CudaDriver>;

/// Why a device cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{device}: {reason}")]
pub struct Unavailable {
    /// As flags name it.
    pub device: String,
    /// What is missing or wrong.
    pub reason: String,
}

impl Cuda {
    /// Opens the device with this number, and has it prove itself.
    pub fn open(ordinal: u32, options: &CudaOptions) -> Result<Self, Unavailable> {
        let open = || {
            let driver = CudaDriver::new(ordinal, options)?;
            let mut cuda = Self::new(driver).with_copy_threads(options.copy_threads())?;
            cuda.driver_mut().probe().and_then(|()| self_test::run(&mut cuda)).map_err(
                |reason| format!("{} fails its self-test: {reason}", cuda.driver().device_name()),
            )?;
            Ok(cuda)
        };
        unavailable(ordinal, guarded(open))
    }
}

/// What can be said of a device before it samples.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Found {
    /// The chip's name.
    pub name: String,
    /// The chip, where its kernels come from, and which of them it runs: `sm_90 fatbin cluster`.
    pub isa: String,
    /// Where its kernels come from.
    pub tier: Tier,
    /// What is not as it is on most such devices, and why.
    pub notes: Vec<String>,
}

/// Looks at the device with this number: whether the kernels load there, and which of them it runs.
pub fn look(ordinal: u32) -> Result<Found, Unavailable> {
    unavailable(ordinal, guarded(|| device::look(ordinal)))
}

fn unavailable<T>(ordinal: u32, result: Result<T, String>) -> Result<T, Unavailable> {
    result.map_err(|reason| Unavailable { device: format!("cuda:{ordinal}"), reason })
}

/// cudarc panics where the library lacks a function; that is a reason like any other.
fn guarded<T>(
    open: impl FnOnce() -> Result<T, String> + std::panic::UnwindSafe,
) -> Result<T, String> {
    catch_unwind(open).unwrap_or_else(|panic| {
        let text = panic.downcast_ref::<String>().map_or("it panicked", String::as_str);
        Err(text.to_owned())
    })
}
