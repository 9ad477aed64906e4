//! `logitd serve`: the daemon.

use super::Outcome;

/// Serve sampling over gRPC.
#[derive(Debug, clap::Args)]
pub struct Args {}

/// Runs the command.
pub fn run(_args: Args) -> Outcome {
    Err("not built yet".into())
}
