//! `logitd info`: says what this machine offers.

use super::Outcome;

/// Show devices, instruction sets and limits.
#[derive(Debug, clap::Args)]
pub struct Args {}

/// Runs the command.
pub fn run(_args: Args) -> Outcome {
    Err("not built yet".into())
}
