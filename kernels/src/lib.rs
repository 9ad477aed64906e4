//! The CUDA kernels of logitd as a binary carries them: their sources, and their code for GPUs where the build
//! found nvcc.
//!
//! The host's half, which launches them, is `backend::cuda` of the package `logitd-core`. How the kernels work
//! stands in this package's README.

#![warn(missing_docs)]
#![forbid(unsafe_code)]

include!(concat!(env!("OUT_DIR"), "/kernels.rs"));

/// Aligned as the driver reads it.
#[repr(C, align(64))]
struct Aligned<T: ?Sized>(T);

/// The kernels' code for every chip that they are compiled for, where the build had nvcc.
pub fn fatbin() -> Option<&'static [u8]> {
    FATBIN.map(|aligned| &aligned.0)
}
