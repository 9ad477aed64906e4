//! `logitd sample`: samples a file of logits, in process or on a server.

use super::Outcome;

/// Sample the rows of a .npy file.
#[derive(Debug, clap::Args)]
pub struct Args {}

/// Runs the command.
pub fn run(_args: Args) -> Outcome {
    Err("not built yet".into())
}
