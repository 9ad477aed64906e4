//! `logitd bench`: times sampling against one read of the same memory.

mod device;
mod report;

use super::progress::Progress;
use super::{DtypeArg, Outcome};
use crate::config::values::{isa, number, threads as parse_threads};
use crate::devices::BackendName;
use crate::tools::bench::{self, CASES, Case, Rows, Subject, Values};
use clap::builder::{PossibleValue, PossibleValuesParser, TypedValueParser};
use logitd_core::backend::cpu::{Cpu, CpuOptions, Isa};
use logitd_core::batch::{Dtype, VOCAB_SIZE_MAX};
use report::Report;
use std::error::Error;
use std::path::PathBuf;
use std::process::ExitCode;

/// Time sampling against one read of the same memory
///
/// Every case is first compared with the reference, bit by bit, on some of its rows.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  logitd bench                                   every case, on one thread and on all
  logitd bench --case top_p --isa avx2           one case with other instructions
  logitd bench --logits logits.npy --threads 1   rows of your own
  logitd bench --json > record.jsonl             one object a line
  logitd bench --device cuda:0                   launches of a GPU, on its own clock")]
pub struct Args {
    /// Time the launches of this CUDA device instead of the processor: cuda, cuda:1
    #[arg(long, value_name = "DEVICE", conflicts_with_all = ["isa", "threads", "rows"])]
    device: Option<BackendName>,

    /// Rows of a launch; repeatable [default: 1, 8, 32, 64, 256 and 512]
    #[arg(long, value_name = "N", requires = "device", value_delimiter = ',',
        value_parser = number::<u32>(1..=4096))]
    batch: Vec<u32>,

    /// Vector instructions; repeatable [default: the best that this machine has]
    #[arg(long, value_name = "ISA", value_parser = isa())]
    isa: Vec<Isa>,

    /// Threads, up to 1024; repeatable; 0 is one for each core [default: 1 and 0]
    #[arg(long, value_name = "N", value_parser = parse_threads)]
    threads: Vec<usize>,

    /// Rows of a pass out of cache
    #[arg(long, value_name = "N", default_value_t = 256, value_parser = number::<u32>(1..=65_536))]
    rows: u32,

    /// Tokens a row: the first ones of real rows, which are repeated where they are shorter [default:
    /// 128256; of a CUDA device also 262144]
    #[arg(long, value_name = "N", value_parser = number(1..=VOCAB_SIZE_MAX))]
    vocab_size: Option<u32>,

    /// What the logits are converted to
    #[arg(long, value_enum, default_value_t = DtypeArg::F16)]
    dtype: DtypeArg,

    /// Which cases; repeatable [default: all; with --device twelve of them, and no others]
    #[arg(long, value_name = "CASE", value_parser = case())]
    case: Vec<&'static Case>,

    /// Real rows: a .npy file, or raw values with --file-dtype [default: the rows that logitd carries]
    #[arg(long, value_name = "FILE")]
    logits: Option<PathBuf>,

    /// What the values of the file are, where it does not say
    #[arg(long, value_name = "DTYPE", value_enum, requires = "logits")]
    file_dtype: Option<DtypeArg>,

    /// Passes that a median is taken of
    #[arg(long, value_name = "N", default_value_t = 9, value_parser = number::<u32>(1..=1000))]
    passes: u32,

    /// Print one object a line instead of a table
    #[arg(long)]
    json: bool,
}

/// Tokens a row, unless said otherwise.
const VOCAB_SIZE: u32 = 128_256;

/// The name of a case, as a flag takes it.
fn case() -> impl TypedValueParser<Value = &'static Case> {
    let value = |case: &Case| PossibleValue::new(case.name).help(case.about);
    PossibleValuesParser::new(CASES.iter().map(value)).map(|name| {
        CASES.iter().find(|case| case.name == name).expect("one of the possible values")
    })
}

/// Runs the command.
pub fn run(args: Args) -> Outcome {
    if let Some(device) = args.device {
        return device::run(&args, device);
    }
    let mut subjects = subjects(&args)?;
    let cases: Vec<&Case> =
        if args.case.is_empty() { CASES.iter().collect() } else { args.case.clone() };
    let mut report = Report::new(args.json);
    let mut progress = Progress::new((cases.len() * subjects.len()) as u64, "measurements");

    // Values one after another: there is room for one buffer, not for all.
    for values in Values::ALL {
        let cases: Vec<_> = cases.iter().copied().filter(|case| case.values == values).collect();
        if cases.is_empty() {
            continue;
        }
        let rows =
            make_rows(values, &args, args.rows as usize, args.vocab_size.unwrap_or(VOCAB_SIZE))?;
        if report.is_empty() {
            report.head(&rows, &subjects);
        }
        for case in cases {
            for subject in &mut subjects {
                let adjustments = case.adjustments(rows.vocab_size());
                let inspect = case.inspect();
                let batch = rows.batch(case.params()).into_iter().map(|row| {
                    row.with_adjustments(adjustments.as_ref()).with_inspect(inspect.as_ref())
                });
                let mut batch: Vec<_> = batch.collect();
                let drafts = bench::drafts(case, &batch)?.unwrap_or_default();
                for (row, draft) in batch.iter_mut().zip(&drafts) {
                    *row = row.with_draft(draft.as_ref());
                }
                bench::check(case, &batch, subject)?;
                for measurement in bench::measure(case, &batch, subject, args.passes as usize)? {
                    report.line(&measurement)?;
                }
                progress.advance(1);
            }
        }
    }
    report.end();
    Ok(ExitCode::SUCCESS)
}

/// The backends to be timed: every set of instructions with every number of threads.
fn subjects(args: &Args) -> Result<Vec<Subject>, Box<dyn Error>> {
    let isas = if args.isa.is_empty() { vec![Isa::detect()] } else { args.isa.clone() };
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let mut threads = if args.threads.is_empty() { vec![1, 0] } else { args.threads.clone() };
    threads.iter_mut().filter(|n| **n == 0).for_each(|n| *n = cores);
    threads.dedup();
    let mut subjects = Vec::new();
    for isa in isas {
        for &threads in &threads {
            subjects.push(Subject::new(Cpu::new(CpuOptions { isa: Some(isa), threads })?));
        }
    }
    Ok(subjects)
}

fn make_rows(
    values: Values,
    args: &Args,
    count: usize,
    vocab_size: u32,
) -> Result<Rows, Box<dyn Error>> {
    let dtype = args.dtype.into();
    match (values, &args.logits) {
        (Values::Real, Some(path)) => {
            Rows::from_file(path, args.file_dtype.map(Dtype::from), dtype, vocab_size, count)
        }
        (Values::Real, None) => Ok(Rows::carried(dtype, vocab_size, count)),
        (Values::Constant, _) => Ok(Rows::constant(dtype, vocab_size, count)),
        (Values::Normal, _) => Ok(Rows::normal(dtype, vocab_size, count)),
    }
}
