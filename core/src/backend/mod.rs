//! What samples a batch: one trait, several implementations, the same bits from each.

pub mod adjusted;
pub mod cpu;
#[cfg(feature = "cuda")]
pub mod cuda;
pub mod dual;
pub mod reference;
#[cfg(test)]
mod skipped;
mod team;

use crate::batch::{Results, Row};
use std::time::Duration;

/// Something that samples batches. A worker thread owns it.
pub trait Backend: Send {
    /// What it is and what it runs on.
    fn device(&self) -> &DeviceInfo;

    /// Samples every row, writing the results in the order of the rows. `results` is reset first.
    ///
    /// A row with NaN, +inf or no candidate gets a status; only the device itself can fail.
    fn sample(&mut self, rows: &[Row<'_>], results: &mut Results) -> Result<(), DeviceError>;

    /// How long the last batch took to be copied to the device; 0 where rows are read in place.
    fn copy_time(&self) -> Duration {
        Duration::ZERO
    }
}

/// What a backend runs on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeviceInfo {
    /// The name used by flags, responses and metrics: `cpu`, `reference`, `cuda:0`.
    pub id: String,
    /// For people: the chip's name.
    pub name: String,
    /// What the code was chosen for: an instruction set, a compute capability.
    pub isa: String,
    /// Threads it computes with; 0 where that means nothing.
    pub threads: usize,
}

/// A device that can no longer be trusted with work.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("device {device} failed: {reason}")]
pub struct DeviceError {
    /// [`DeviceInfo::id`].
    pub device: String,
    /// What it said.
    pub reason: String,
}
