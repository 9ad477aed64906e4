//! The daemon, its client and its command line.

mod adjustments;
mod architecture;
mod beam;
mod cli;
mod columns;
mod connections;
mod cuda;
mod cuts;
mod daemon;
mod direct;
mod engine;
mod evaluate;
#[path = "../fake_cuda/mod.rs"]
mod fake_cuda;
mod faults;
mod goodput;
mod harness;
mod hostile;
mod load;
mod logprobs;
mod operations;
mod planes;
mod recorded;
mod rows;
mod security;
mod server;
mod shm;
mod siege;
mod soak;
mod verify;
