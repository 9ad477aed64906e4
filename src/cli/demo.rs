//! `logitd demo`: the main job on real logits, in one command.

use super::Outcome;

/// Start a server, sample real logits over gRPC, and replay the draws.
#[derive(Debug, clap::Args)]
pub struct Args {}

/// Runs the command.
pub fn run(_args: Args) -> Outcome {
    Err("not built yet".into())
}
