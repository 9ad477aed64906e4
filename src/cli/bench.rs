//! `logitd bench`: times the backends against one read of the same memory.

use super::Outcome;

/// Time sampling against one read of the same memory.
#[derive(Debug, clap::Args)]
pub struct Args {}

/// Runs the command.
pub fn run(_args: Args) -> Outcome {
    Err("not built yet".into())
}
