//! A device, as far as the launcher needs one.

use super::abi::Batch;
use super::plan::{Capacity, Properties};
use crate::backend::DeviceInfo;
use std::time::Duration;

/// Something that runs the kernels: a CUDA device, or the shim.
///
/// It owns a few *slots*, each with room for one launch: input on the host and on the device, output
/// likewise. Launches run one after another in the order in which they were started, and share one
/// scratch memory; copies of one slot may overlap with the launch of another. All memory is taken when
/// the driver is made. An error of any function but the constructor is final.
pub trait Driver: Send {
    /// What it is.
    fn device(&self) -> &DeviceInfo;

    /// What the planner must know.
    fn properties(&self) -> &Properties;

    /// What fits a slot.
    fn capacity(&self) -> &Capacity;

    /// How many slots there are, 1 or more.
    fn slots(&self) -> usize;

    /// The device's addresses of a slot.
    fn addresses(&self, slot: usize) -> Addresses;

    /// The host's memory of a slot's input, to be written while the slot is free.
    fn input(&mut self, slot: usize) -> &mut [u8];

    /// Copies the input to the device, runs the kernel, copies the output back. May return before any of
    /// this is done.
    fn start(&mut self, slot: usize, launch: &Launch) -> Result<(), String>;

    /// Waits until a slot that was started is free again.
    fn finish(&mut self, slot: usize) -> Result<(), String>;

    /// The output of the launch that was finished last in a slot.
    fn output(&self, slot: usize) -> &[u8];

    /// How long the input of the launch finished last took to the device.
    fn upload_time(&self) -> Duration {
        Duration::ZERO
    }
}

/// Where a launch finds its memory on the device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Addresses {
    /// The slot's input; a multiple of 128.
    pub input: u64,
    /// The slot's output; a multiple of 128.
    pub output: u64,
    /// Tickets of the blocks.
    pub control: u64,
    /// Scratch memory of the rows.
    pub scratch: u64,
    /// Maxima and masses of the tiles.
    pub tiles: u64,
}

/// One launch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Launch {
    /// The kernel's argument.
    pub batch: Batch,
    /// Shared memory a block.
    pub shared_bytes: u32,
    /// How much of the input there is.
    pub input_bytes: usize,
    /// How much of the output there will be.
    pub output_bytes: usize,
}
