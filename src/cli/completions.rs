//! `logitd completions`: what a shell needs to complete commands and flags.

use super::{Cli, Outcome};
use clap::CommandFactory;
use clap_complete::Shell;
use std::io::Write;
use std::process::ExitCode;

/// Print what a shell needs to complete commands and flags
///
/// The Debian package has installed it for bash, zsh and fish.
#[derive(Debug, clap::Args)]
#[command(after_long_help = EXAMPLES)]
pub struct Args {
    /// The shell that is to complete
    shell: Shell,
}

const EXAMPLES: &str = "\
Examples:
  source <(logitd completions bash)
  logitd completions zsh > ~/.zfunc/_logitd
  logitd completions fish > ~/.config/fish/completions/logitd.fish";

/// Runs the command.
pub fn run(args: Args) -> Outcome {
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut Cli::command(), "logitd", &mut script);
    std::io::stdout().lock().write_all(&script)?;
    Ok(ExitCode::SUCCESS)
}
