//! The backends under test, each in every variant that this machine can run.

use logitd::backend::{Backend, reference::Reference};

/// Threads that a variant runs with: alone, as many as rows are split over, and an odd number.
pub const THREADS: [usize; 3] = [1, 2, 3];

/// Every backend that must return the oracle's bits. A new one is a line here.
pub fn candidates() -> Vec<Box<dyn Backend>> {
    vec![Box::new(Reference::default())]
}

/// How reports call a backend.
pub fn name(backend: &dyn Backend) -> String {
    let device = backend.device();
    format!("{} ({}, {} threads)", device.id, device.isa, device.threads)
}
