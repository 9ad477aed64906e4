//! `logitd man`: the help of a command as a man page.

use super::{Cli, Outcome};
use clap::CommandFactory;
use clap_mangen::Man;
use std::io::Write;
use std::process::ExitCode;

/// Print the man page of logitd, or of one of its commands
///
/// The Debian package has installed them: `man logitd`, `man logitd-serve`.
#[derive(Debug, clap::Args)]
#[command(after_long_help = EXAMPLES)]
pub struct Args {
    /// The command that the page describes; logitd itself unless given
    command: Option<String>,
}

const EXAMPLES: &str = "\
Examples:
  logitd man serve | man -l -
  logitd man > logitd.1";

/// Runs the command.
pub fn run(args: Args) -> Outcome {
    let page = match args.command {
        None => Cli::command(),
        Some(name) => of_command(&name)?,
    };
    let mut text = Vec::new();
    Man::new(page).render(&mut text)?;
    std::io::stdout().lock().write_all(&text)?;
    Ok(ExitCode::SUCCESS)
}

/// The command of that name, under the name of its page.
fn of_command(name: &str) -> Result<clap::Command, String> {
    let mut all = Cli::command().disable_help_subcommand(true);
    all.build();
    let known: Vec<&str> = all.get_subcommands().map(clap::Command::get_name).collect();
    match all.find_subcommand(name) {
        Some(found) => Ok(found.clone().name(format!("logitd-{name}"))),
        None => Err(format!("there is no command {name:?}; the commands are {}", known.join(", "))),
    }
}
