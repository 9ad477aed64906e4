//! The command line: one file a command.

mod answer;
pub mod bench;
pub mod demo;
mod device;
pub mod info;
mod params;
mod progress;
mod rows;
pub mod sample;
mod sampler;
pub mod serve;
pub mod verify;

use crate::batch::Dtype;
use clap::{Parser, Subcommand, ValueEnum};
use std::error::Error;
use std::process::ExitCode;

/// What a command ends with. `Ok` with a failing code is a verdict (a difference was found);
/// `Err` is a reason why there is none.
pub type Outcome = Result<ExitCode, Box<dyn Error>>;

/// Samples tokens from logits: exactly, replayably, the same bits on every machine.
#[derive(Debug, Parser)]
#[command(name = "logitd", version, about, max_term_width = 100)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    Serve(serve::Args),
    Demo(demo::Args),
    Sample(sample::Args),
    Verify(verify::Args),
    Bench(bench::Args),
    Info(info::Args),
}

/// Parses the arguments and runs the command.
pub fn main() -> ExitCode {
    let outcome = match Cli::parse().command {
        Command::Serve(args) => serve::run(args),
        Command::Demo(args) => demo::run(args),
        Command::Sample(args) => sample::run(args),
        Command::Verify(args) => verify::run(args),
        Command::Bench(args) => bench::run(args),
        Command::Info(args) => info::run(args),
    };
    outcome.unwrap_or_else(|error| {
        eprintln!("logitd: {error}");
        ExitCode::from(2)
    })
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
