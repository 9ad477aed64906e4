//! `logitd sample`: samples a file of logits, in process or on a server.

use super::answer::Printer;
use super::params::ParamsArgs;
use super::progress::Progress;
use super::rows::RowList;
use super::sampler::{Local, RowsOfOne, Sampler};
use super::target::TargetArgs;
use super::{DtypeArg, Outcome};
use crate::config::DeviceConfig;
use crate::config::values::number;
use crate::devices::DeviceChoice;
use crate::files::assets::TokenTexts;
use crate::files::npy::{Declared, LogitsFile};
use crate::files::params::Set;
use crate::wire::params::looks_beyond;
use crate::wire::whole::DOUBLE_END;
use logitd_core::backend::Backend;
use logitd_core::backend::cuda::CudaOptions;
use logitd_core::batch::VOCAB_SIZE_MAX;
use logitd_core::candidates;
use std::error::Error;
use std::io::{BufWriter, IsTerminal, stderr, stdout};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Instant;

/// Sample the rows of a file of logits, in this process or on a running server
///
/// Reads an array of logits, one row a token to sample, and prints a token a row. The same logits,
/// parameters and seed give the same bits here, on a server, on any instruction set, in any batch.
#[derive(Debug, clap::Args)]
#[command(after_long_help = EXAMPLES, allow_negative_numbers = true)]
pub struct Args {
    /// A .npy file of shape (rows, vocab_size) or (vocab_size) (f16 or f32, or bf16 as 16-bit words), C
    /// order, little-endian; or a raw file of such values. Rows are read as they are needed; a pipe
    /// (/dev/stdin) is read whole, up to 4 GiB
    #[arg(long, value_name = "FILE")]
    logits: PathBuf,

    /// What the values are, where the file does not say: bf16 for an array of 16-bit words
    #[arg(long, value_enum)]
    dtype: Option<DtypeArg>,

    /// Tokens a row, 1 to 1048576: of a raw file, or of an array that has padding behind them
    #[arg(long, value_name = "N")]
    vocab_size: Option<u32>,

    /// Sample these rows only, numbered from 0
    #[arg(long, value_name = "3,5-9")]
    rows: Option<RowList>,

    #[command(flatten, next_help_heading = "Sampling parameters")]
    params: ParamsArgs,

    #[command(flatten, next_help_heading = "In this process")]
    device: DeviceConfig,

    #[command(flatten, next_help_heading = "On a server")]
    target: TargetArgs,

    /// Send only the first N tokens of each row: the same answer for fewer bytes, with temperature 0 or a
    /// top-k of 1 to N
    #[arg(long, value_name = "N", requires = "target", help_heading = "On a server",
        value_parser = number(1..=VOCAB_SIZE_MAX))]
    candidates: Option<u32>,

    /// Print a line of JSON a row (a draw, where there are several) instead of a table
    #[arg(long, help_heading = "Output")]
    json: bool,

    /// A JSON array of strings, the text of every token by id; adds the text to the output
    #[arg(long, value_name = "FILE.json", help_heading = "Output")]
    tokens: Option<PathBuf>,
}

const EXAMPLES: &str = "\
Examples:
  logitd sample --logits logits.npy --temperature 0.8 --top-k 50 --seed 7
  logitd sample --logits bf16.npy --dtype bf16 --params params.jsonl --json
  logitd sample --logits logits.npy --target http://127.0.0.1:50051
  logitd sample --logits logits.npy --target http://127.0.0.1:50051 --top-k 50 --candidates 50

  A line of params.jsonl:  {\"temperature\": 0.7, \"top_p\": 0.9, \"seed\": 42, \"position\": 17}
  With adjustments:        {\"repetition_penalty\": 1.1, \"output\": [5, 9, 5], \"banned_ids\": [0]}
  A line of the answer:    {\"row\":0,\"status\":\"OK\",\"token\":563,\"logprob\":-1.3,\"kept\":50,\"seed\":42}

  An answer given as --params replays its seeds, with the other parameters as flags. Seeds of 2^53
  and above are strings in JSON, so that no program rounds them; both forms are read.

A row whose status is not OK (NAN, POSITIVE_INFINITY, NO_CANDIDATE) has no token; the others are
unaffected, and the exit code is 0.";

/// Runs the command.
pub fn run(args: Args) -> Outcome {
    let declared = Declared { dtype: args.dtype.map(Into::into), vocab_size: args.vocab_size };
    let named = |error: &dyn std::fmt::Display| format!("{}: {error}", args.logits.display());
    let file = LogitsFile::open(&args.logits, declared).map_err(|e| named(&e))?;
    let rows = match args.rows {
        Some(rows) => rows.within(file.rows())?,
        None => RowList::all(file.rows()),
    };
    let specs = args.params.specs(rows.numbers(), file.rows())?;
    for (row, set) in rows.numbers().zip(&specs) {
        args.params.check(row, set, file.vocab_size())?;
    }
    if let Some(candidates) = args.candidates {
        enough(candidates, file.vocab_size(), &specs)?;
    }
    let tokens = args.tokens.as_deref().map(read_tokens).transpose()?;
    let sampler: Box<dyn Sampler> = match args.target.connect()? {
        Some(remote) => {
            elsewhere(&args.device)?;
            Box::new(remote.with_candidates(args.candidates))
        }
        None => Box::new(Local::new(here(&args.device)?)),
    };
    let params = || specs.iter().map(|set| set.params);
    let draws_max = params().map(|spec| spec.draws).max().unwrap_or(1);
    let seed_max = params().map(|spec| spec.seed.unwrap_or(DOUBLE_END - 1)).max().unwrap_or(0);
    let out = BufWriter::new(stdout().lock());
    let printer = Printer::new(out, args.json, tokens, file.rows() - 1, draws_max, seed_max);
    sample(file, &rows, &specs, sampler, printer, !args.json)?;
    Ok(ExitCode::SUCCESS)
}

/// Whether every row's answer follows from so many of its first tokens.
fn enough(candidates: u32, vocab_size: u32, sets: &[Set]) -> Result<(), Box<dyn Error>> {
    let wrong = sets.iter().map(|set| set.params).find(|spec| {
        let (n, all) = (candidates.min(vocab_size) as usize, vocab_size as usize);
        !candidates::are_enough(n, all, spec.temperature, spec.top_k)
    });
    let beyond = sets.iter().find_map(|set| looks_beyond(&set.params));
    match wrong {
        None => match beyond.filter(|_| candidates < vocab_size) {
            None => Ok(()),
            Some(name) => Err(format!(
                "--candidates {candidates} leaves out tokens that {name} looks at; allowed: its default, or \
                 {vocab_size} candidates"
            )
            .into()),
        },
        Some(spec) => Err(format!(
            "--candidates {candidates} is not enough for a top_k of {}; allowed: a top_k of 1 to \
             {candidates}, or temperature 0",
            spec.top_k
        )
        .into()),
    }
}

/// The device of this process that the flags name.
fn here(config: &DeviceConfig) -> Result<Box<dyn Backend>, Box<dyn Error>> {
    if let (DeviceChoice::Reference, Some(isa)) = (&config.device, config.isa) {
        return Err(format!(
            "--isa {isa} is for the processor, and --device is {}; leave one out",
            config.device
        )
        .into());
    }
    Ok(config.open(&CudaOptions::default())?.backends.swap_remove(0))
}

/// Flags for this process say nothing to a server; a wish that is dropped in silence is worse than an
/// error.
fn elsewhere(device: &DeviceConfig) -> Result<(), Box<dyn Error>> {
    let DeviceConfig { device, isa, threads } = device;
    if *device == DeviceChoice::Auto && isa.is_none() && *threads == 0 {
        return Ok(());
    }
    Err("--device, --isa and --threads (and LOGITD_DEVICE and so on) are for this process, and --target samples \
         on a server, which has its own; leave them out"
        .into())
}

fn sample(
    mut file: LogitsFile,
    rows: &RowList,
    specs: &[Set],
    mut sampler: Box<dyn Sampler>,
    mut printer: Printer<impl std::io::Write>,
    summary: bool,
) -> Result<(), Box<dyn Error>> {
    let start = Instant::now();
    // Rows that appear on the terminal are progress enough.
    let mut progress = (!stdout().is_terminal()).then(|| Progress::new(rows.len() as u64, "rows"));
    let mut rest = specs;
    for run in rows.runs(sampler.rows_max(file.row_bytes())) {
        let (params, after) = rest.split_at(run.len());
        rest = after;
        let mut logits = Vec::new();
        file.read(run.clone(), &mut logits)?;
        let (dtype, vocab_size) = (file.dtype(), file.vocab_size());
        let answers =
            sampler.sample(RowsOfOne { dtype, vocab_size, logits: logits.into(), params })?;
        for ((row, answer), spec) in run.clone().zip(&answers).zip(params) {
            printer.row(row, spec.params.draws, answer)?;
        }
        if let Some(progress) = &mut progress {
            progress.advance(run.len() as u64);
        }
    }
    printer.end()?;
    drop(progress);
    if summary && stderr().is_terminal() {
        let (rows, name, took) = (rows.len(), sampler.name(), start.elapsed());
        eprintln!(
            "{rows} rows of {} {} logits, {name}, {took:.1?}",
            file.vocab_size(),
            file.dtype()
        );
    }
    Ok(())
}

fn read_tokens(path: &Path) -> Result<TokenTexts, Box<dyn Error>> {
    let json = std::fs::read(path).map_err(|e| format!("{}: {e}", path.display()))?;
    TokenTexts::from_json(&json).map_err(|e| {
        format!("{}: {e}; a JSON array of strings is wanted, token 0 first", path.display()).into()
    })
}
