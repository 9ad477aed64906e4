//! `logitd verify`: runs two backends over the same rows and compares every bit.

use super::Outcome;

/// Compare two backends bit for bit.
#[derive(Debug, clap::Args)]
pub struct Args {}

/// Runs the command.
pub fn run(_args: Args) -> Outcome {
    Err("not built yet".into())
}
