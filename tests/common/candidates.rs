//! The backends under test, each in every variant that this machine can run.

use logitd::backend::Backend;
use logitd::backend::cpu::{Cpu, CpuOptions, Isa};

/// Threads that a variant runs with: alone, as many as rows are split over, and an odd number.
const THREADS: [usize; 3] = [1, 2, 3];

/// Every backend that must return the oracle's bits. A new one is a line here.
pub fn candidates() -> Vec<Box<dyn Backend>> {
    let mut all: Vec<Box<dyn Backend>> = Vec::new();
    all.extend(cpus());
    all
}

fn cpus() -> impl Iterator<Item = Box<dyn Backend>> {
    let options = Isa::supported()
        .flat_map(|isa| THREADS.map(|threads| CpuOptions { isa: Some(isa), threads }));
    options.map(|options| -> Box<dyn Backend> {
        Box::new(Cpu::new(options).expect("a supported instruction set and a few threads"))
    })
}

/// How reports call a backend.
pub fn name(backend: &dyn Backend) -> String {
    let device = backend.device();
    format!("{} ({}, {} threads)", device.id, device.isa, device.threads)
}
