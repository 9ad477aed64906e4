//! A device, as far as the launcher needs one.

use super::abi::Batch;
use super::adjust::AdjustBatch;
use super::cuts::CutBatch;
use super::inspect::InspectBatch;
use super::plan::{Capacity, Kernel, Properties};
use crate::backend::DeviceInfo;
use std::time::Duration;

/// Something that runs the kernels: a CUDA device, or in tests the processor.
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

    /// Brings the parts of the input together on the device, runs the kernels, copies the output back. May
    /// return before any of this is done.
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
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Launch {
    /// What is done to rows before, if anything is.
    pub adjust: Option<AdjustBatch>,
    /// What is cut of rows before those are sampled, if anything is.
    pub cut: Option<CutBatch>,
    /// The kernel's argument.
    pub batch: Batch,
    /// The kernel.
    pub kernel: Kernel,
    /// Shared memory a block.
    pub shared_bytes: u32,
    /// What is asked afterwards: of logits as they were sampled, and of stored ones.
    pub inspect: [Option<InspectBatch>; 2],
    /// How much of the input there is.
    pub input_bytes: usize,
    /// What it is made of, by ascending place.
    pub input: Vec<Part>,
    /// How much of the output there will be.
    pub output_bytes: usize,
}

impl Launch {
    /// Shared memory a block of the kernels before and after that have the same teams: nothing is staged there.
    pub fn unstaged_shared_bytes(&self) -> u32 {
        self.shared_bytes - self.batch.stage_bytes
    }

    /// Whether the parts are within the input, and none is over another.
    pub fn has_its_input(&self) -> bool {
        let mut end = 0;
        self.input.iter().all(|part| {
            let (Part::Host { at, bytes } | Part::Device { at, bytes, .. }) = *part;
            let fits = at >= end && bytes <= self.input_bytes.saturating_sub(at);
            end = at.saturating_add(bytes);
            fits
        })
    }
}

/// A part of a launch's input.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    /// Lies at the same place of the host's memory of the slot's input.
    Host {
        /// Where it begins.
        at: usize,
        /// How long it is.
        bytes: usize,
    },
    /// Lies elsewhere in the memory of the same device, where others may write to it.
    Device {
        /// Its address there.
        from: u64,
        /// Where it goes.
        at: usize,
        /// How long it is.
        bytes: usize,
    },
}

impl Part {
    /// Adds a part behind the others, or makes the last one longer where it goes on: what is between two parts of
    /// the host is nobody's.
    pub fn push(parts: &mut Vec<Self>, part: Self) {
        match (parts.last_mut(), part) {
            (Some(Self::Host { at, bytes }), Self::Host { at: next, bytes: more }) => {
                *bytes = next + more - *at;
            }
            (
                Some(Self::Device { from, at, bytes }),
                Self::Device { from: next_from, at: next, bytes: more },
            ) if *from + *bytes as u64 == next_from && *at + *bytes == next => *bytes += more,
            _ => parts.push(part),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_are_joined_where_they_go_on() {
        let mut parts = Vec::new();
        for part in [
            Part::Host { at: 0, bytes: 72 },
            Part::Host { at: 128, bytes: 100 },
            Part::Device { from: 4096, at: 256, bytes: 256 },
            Part::Device { from: 4352, at: 512, bytes: 200 },
            // Beside the row before in the region, but not in the input, where rows are aligned.
            Part::Device { from: 4552, at: 768, bytes: 200 },
            Part::Host { at: 1024, bytes: 10 },
        ] {
            Part::push(&mut parts, part);
        }
        let joined = [
            Part::Host { at: 0, bytes: 228 },
            Part::Device { from: 4096, at: 256, bytes: 456 },
            Part::Device { from: 4552, at: 768, bytes: 200 },
            Part::Host { at: 1024, bytes: 10 },
        ];
        assert_eq!(parts, joined);
    }
}
