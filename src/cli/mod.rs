//! The command line: one file a command.

mod answer;
pub mod bench;
mod chart;
pub mod completions;
pub mod demo;
pub mod digest;
mod drafted;
pub mod info;
pub mod load;
pub mod man;
mod output;
mod params;
pub mod play;
mod positions;
mod progress;
mod rows;
pub mod sample;
mod sampler;
pub mod serve;
mod service;
mod target;
mod text;
pub mod tune;
pub mod verify;

use crate::config::{self, ConfigError};
use anstyle::{AnsiColor, Style};
use clap::{CommandFactory, FromArgMatches, Parser, Subcommand, ValueEnum};
use logitd_core::batch::Dtype;
use std::error::Error;
use std::io;
use std::process::ExitCode;
use std::time::Duration;

/// What a command ends with. `Ok` with a failing code is a verdict (a difference was found);
/// `Err` is a reason why there is none.
pub type Outcome = Result<ExitCode, Box<dyn Error>>;

/// Samples tokens from logits: exactly, replayably, the same bits on every machine
///
/// A daemon that takes batches of f16, bf16 or f32 logits over gRPC and returns tokens, and the tools
/// around it. The same logits, parameters and seed give the same token and the same logprob on every
/// processor, in every batch, on any number of threads.
#[derive(Debug, Parser)]
#[command(
    name = "logitd",
    version,
    long_version = concat!(
        env!("CARGO_PKG_VERSION"), "\ncommit ", env!("BUILD_COMMIT"), "\nbuilt  ", env!("BUILD_FACTS")
    ),
    max_term_width = 100,
    subcommand_required = true,
    arg_required_else_help = true,
    after_help = AFTER_HELP
)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

const AFTER_HELP: &str = "\
First steps:
  logitd demo                                      see it work, on real logits
  logitd play                                      move the controls in a browser
  logitd serve                                     listen on 127.0.0.1:50051
  logitd sample --logits logits.npy --top-k 50     sample a file, here or on a server
  logitd verify                                    check this machine, bit for bit
  logitd tune                                      find the best parameters, by experiment

Exit code: 0 fine, 1 a verdict (a difference was found), 2 an error.
`logitd COMMAND --help` explains every flag of a command.";

#[derive(Debug, Subcommand)]
enum Command {
    Serve(serve::Args),
    Demo(demo::Args),
    Play(play::Args),
    Sample(Box<sample::Args>),
    Verify(Box<verify::Args>),
    Bench(bench::Args),
    Load(Box<load::LoadArgs>),
    Tune(Box<tune::TuneArgs>),
    Digest(digest::Args),
    Info(info::Args),
    Completions(completions::Args),
    Man(man::Args),
}

/// Parses the arguments and runs the command.
pub fn main() -> ExitCode {
    parse().and_then(run).unwrap_or_else(|error| {
        // Whoever read the output has enough of it: `logitd sample .. | head`.
        if error.downcast_ref().is_some_and(is_broken_pipe) {
            return ExitCode::SUCCESS;
        }
        complain(error.to_string());
        ExitCode::from(2)
    })
}

/// Says why there is no outcome. A reader of stderr that is stuck does not keep the process.
fn complain(error: String) {
    let (said, heard) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        anstream::eprintln!("{ERROR}logitd:{ERROR:#} {error}");
        let _ = said.send(());
    });
    let _ = heard.recv_timeout(LAST_WORDS);
}

/// How long the end of the process waits for its last words to be written.
const LAST_WORDS: Duration = Duration::from_secs(1);

/// What the arguments say. Help, and what is wrong with a flag, is printed here and ends the program.
fn parse() -> Result<Command, Box<dyn Error>> {
    // So that a number below 0 is refused as a value of its flag, and not as an unknown flag.
    let mut command = Cli::command().mut_subcommands(|command| {
        command.mut_args(|arg| match arg.get_action().takes_values() {
            true => arg.allow_negative_numbers(true),
            false => arg,
        })
    });
    let matches = command.try_get_matches_from_mut(std::env::args_os());
    let cli = match matches.and_then(|matches| Cli::from_arg_matches(&matches)) {
        Ok(cli) => cli,
        Err(error) => match config::blame(error, &std::env::args_os().collect::<Vec<_>>(), None) {
            ConfigError::Args(error) => error.exit(),
            error => return Err(error.into()),
        },
    };
    config::check_variables(std::env::vars_os())?;
    Ok(cli.command)
}

fn run(command: Command) -> Outcome {
    match command {
        Command::Serve(args) => serve::run(args),
        Command::Demo(args) => demo::run(args),
        Command::Play(args) => play::run(args),
        Command::Sample(args) => sample::run(*args),
        Command::Verify(args) => verify::run(*args),
        Command::Bench(args) => bench::run(args),
        Command::Load(args) => load::run_command(*args),
        Command::Tune(args) => tune::run_command(*args),
        Command::Digest(args) => digest::run(args),
        Command::Info(args) => info::run(args),
        Command::Completions(args) => completions::run(args),
        Command::Man(args) => man::run(args),
    }
}

const ERROR: Style = AnsiColor::Red.on_default().bold();

fn is_broken_pipe(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::BrokenPipe
}

/// A dtype as a flag.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum DtypeArg {
    /// IEEE binary16
    F16,
    /// bfloat16
    Bf16,
    /// IEEE binary32
    F32,
}

impl From<DtypeArg> for Dtype {
    fn from(arg: DtypeArg) -> Self {
        match arg {
            DtypeArg::F16 => Self::F16,
            DtypeArg::Bf16 => Self::Bf16,
            DtypeArg::F32 => Self::F32,
        }
    }
}
