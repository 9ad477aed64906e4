//! The backends under test, each in every variant that this machine can run.

use logitd_core::backend::Backend;
use logitd_core::backend::cpu::{Cpu, CpuOptions, Isa};
use logitd_core::backend::cuda::plan::{Kernel, Packing};
use logitd_shim::{Build, Order, ShimOptions};
use std::hash::{DefaultHasher, Hash, Hasher};

/// Threads that a variant runs with: alone, as many as rows are split over, and an odd number.
const THREADS: [usize; 3] = [1, 2, 3];

/// Every backend that must return the oracle's bits. A new one is a line here.
///
/// `LOGITD_TEST_BACKENDS` names others than the processor: `shim`, the CUDA kernels on the CPU.
pub fn candidates() -> Vec<Box<dyn Backend>> {
    let names = std::env::var("LOGITD_TEST_BACKENDS").unwrap_or_else(|_| "cpu".into());
    let mut all: Vec<Box<dyn Backend>> = Vec::new();
    for name in names.split(',') {
        match name {
            "cpu" => all.extend(cpus()),
            "shim" => all.extend(shims()),
            _ => panic!("LOGITD_TEST_BACKENDS has {name:?}; there are: cpu, shim"),
        }
    }
    all
}

fn cpus() -> impl Iterator<Item = Box<dyn Backend>> {
    let options = Isa::supported()
        .flat_map(|isa| THREADS.map(|threads| CpuOptions { isa: Some(isa), threads }));
    options.map(|options| -> Box<dyn Backend> {
        Box::new(Cpu::new(options).expect("a supported instruction set and a few threads"))
    })
}

/// Two variants, others for every test.
fn shims() -> impl Iterator<Item = Box<dyn Backend>> {
    let mut hasher = DefaultHasher::new();
    std::thread::current().name().hash(&mut hasher);
    let first = hasher.finish() as usize % 1024;
    [first, first + 1]
        .into_iter()
        .map(|index| -> Box<dyn Backend> { Box::new(logitd_shim::open(shim_options(index))) })
}

/// The shim in one of many variants. Four in a row have each kernel of each build.
pub fn shim_options(index: usize) -> ShimOptions {
    let pick = index / 4;
    ShimOptions {
        build: Build::ALL[index % 2],
        kernel: [Kernel::Grid, Kernel::Cluster][index / 2 % 2],
        order: Order::Shuffled(index as u64),
        resident_blocks: 16,
        team_blocks: [None, Some(2), Some(1), Some(8), Some(4)][(index + pick) % 5],
        stage: [None, Some(true), Some(false)][(index + pick) % 3],
        packing: [Packing::Aligned, Packing::Tight][(index + pick / 2) % 2],
    }
}

/// How reports call a backend.
pub fn name(backend: &dyn Backend) -> String {
    let device = backend.device();
    format!("{} ({}, {} threads)", device.id, device.isa, device.threads)
}
