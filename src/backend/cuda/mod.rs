//! The CUDA kernels as a backend, on a device or on the CPU.
//!
//! `kernels/` has the device code and its design. Here is the host's half: [`abi`] (what crosses over),
//! [`plan`] (how many blocks share a row), [`driver`] (the one small trait that stands for a device) and
//! [`launcher`] (rows in, launches out, results back). The launcher is the same for every driver; the
//! [`shim`] is one that runs the very kernels on the CPU, so that all of this is proven without a device.

// Device memory and foreign functions: each block says which check it stands on.
#![allow(unsafe_code)]

pub mod abi;
pub mod driver;
pub mod launcher;
pub mod plan;
pub mod shim;
