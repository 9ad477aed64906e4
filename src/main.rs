//! The `logitd` command.

use std::process::ExitCode;

fn main() -> ExitCode {
    logitd::cli::main()
}
