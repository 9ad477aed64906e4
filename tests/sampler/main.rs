//! The sampler: what it must say, that every implementation says it to the bit, and that a wrong one would be noticed.

mod adjustments;
mod common;
mod continuations;
mod distribution;
mod evaluate;
mod exhaustive;
mod golden;
mod inspections;
mod invariance;
mod kernels;
mod loans;
mod page;
mod parity;
mod positions;
mod proof;
mod ptx;
#[path = "../../benches/regret/regrets.rs"]
mod regret;
mod sums;
mod traps;
mod verify;
