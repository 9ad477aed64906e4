//! Times sampling against one read of the same memory: what `logitd bench` runs.
//!
//! Rows are laid out one after another in one buffer. A pass samples every row of it as one batch,
//! and is followed by a pass that only reads it, with the same instructions and threads: that is
//! the floor, and what a pass took is compared with the read beside it, because machines drift.
//! Medians of all passes are taken. *Out of cache*, the buffer is far larger than the caches of
//! the cores; *in cache*, a batch of one row a thread is sampled again and again.
//!
//! Of a CUDA device launches are timed instead, on the device's clock ([`launches`]).
//!
//! Before anything is timed, some rows of every case are compared with the reference, bit by bit.

mod cases;
mod drafts;
pub mod launches;
mod measure;
mod rows;

pub use cases::{CASES, Case, Values};
pub use drafts::drafts;
pub use measure::{Measurement, Subject, check, measure};
pub use rows::Rows;

fn median(values: &mut [f64]) -> f64 {
    values.sort_unstable_by(f64::total_cmp);
    values[values.len() / 2]
}
