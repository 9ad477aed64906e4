//! `logitd digest`: what remains of rows when token ids are dropped.

use super::Outcome;
use super::output;
use super::positions::{PositionsArgs, threads};
use super::text::grouped;
use crate::config::values;
use std::fs::File;
use std::io::{BufWriter, Write as _, stdout};
use std::path::PathBuf;
use std::process::ExitCode;

/// Write what remains of logits when token ids are dropped: enough for `logitd tune`
///
/// Of each row, the file has its distinct values, how often each occurs, and how many tokens come before the one that
/// came next. Every kept set, probability and entropy of any parameters follows from that, bit for bit. It is some fifty
/// times smaller than f16 logits. It has no token ids. It is not anonymous: whoever has the same model can check a guess
/// of the text against it. Treat it as confidential where the text is.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct Args {
    #[command(flatten)]
    positions: PositionsArgs,

    /// The file to write
    #[arg(long, value_name = "FILE", required = true)]
    out: PathBuf,

    /// What the labels of --groups are called, label 0 first
    #[arg(long, value_name = "NAME,..", value_delimiter = ',', requires = "groups")]
    group_names: Vec<String>,

    /// Where the rows come from, for whoever reads the file
    #[arg(long, value_name = "TEXT", default_value = "")]
    origin: String,

    /// Threads; 0: one for each core
    #[arg(long, value_name = "N", default_value = "0", value_parser = values::threads)]
    threads: usize,
}

const EXAMPLES: &str = "\
Examples:
  logitd digest --logits rows.npy --targets next.npy --out rows.digests
  logitd tune --digests rows.digests";

/// Runs the command.
pub fn run(args: Args) -> Outcome {
    let named = |error: std::io::Error| format!("--out {}: {error}", args.out.display());
    // Where nothing can be written, nothing is read.
    output::check("--out", &args.out)?;
    let digests = args.positions.read(threads(args.threads))?;
    let mut digests = digests
        .ok_or("--logits and --targets are needed: rows of logits, and the token after each")?;
    let label_max = digests.rows.iter().map(|row| row.group).max().unwrap_or(0) as usize;
    if !args.group_names.is_empty() && args.group_names.len() <= label_max {
        return Err(format!(
            "--group-names has {} names, and labels go up to {label_max}; a name for each is needed",
            args.group_names.len()
        )
        .into());
    }
    digests.about.groups = args.group_names;
    digests.about.origin = args.origin;
    let file = File::create(&args.out).map_err(named)?;
    digests.write(BufWriter::new(file)).map_err(named)?;
    let bytes = std::fs::metadata(&args.out).map_err(named)?.len();
    let rows = digests.rows.len() as u64;
    let failed = digests.rows.iter().filter(|row| row.digest.is_err()).count();
    let (of_rows, of_bytes, each) = (grouped(rows), grouped(bytes), grouped(bytes / rows.max(1)));
    writeln!(stdout(), "{}: {of_rows} rows, {of_bytes} bytes, {each} a row", args.out.display())?;
    if failed > 0 {
        writeln!(stdout(), "{failed} of them have no token (NaN, +inf or no candidate)")?;
    }
    Ok(ExitCode::SUCCESS)
}
