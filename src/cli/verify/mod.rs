//! `logitd verify`: runs two backends over the same rows and compares every bit.
//!
//! Rows are generated from a seed, or come from files; both give `Piece`s, which are put together
//! into batches of mixed rows. A batch depends on nothing but where it begins, so that a difference
//! which shows only among certain batchmates is replayed as well.

mod compare;
mod drift;
mod pieces;
mod recorded;
mod vectors;

use super::progress::Progress;
use super::text::grouped;
use super::{DtypeArg, Outcome};
use crate::cli::params::DriftFlags;
use crate::config::values::{number, threads, timeout};
use crate::devices::{BackendName, describe};
use crate::files::difference;
use clap::ArgGroup;
use compare::{Found, Verdict, compare};
use logitd_core::backend::Backend;
use logitd_core::backend::cuda::CudaOptions;
use logitd_core::batch::{Dtype, VOCAB_SIZE_MAX};
use pieces::{Source, pieces};
use std::error::Error;
use std::fmt::Write as _;
use std::io::{Write as _, stdout};
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{Duration, Instant};
use vectors::VectorsArgs;

/// Compare two backends bit for bit, over generated rows or files
///
/// Runs both over the same rows and compares status, kept, mass, and token and logprob of every draw.
/// Stops at the first difference, and says how to replay it. With --recorded, checks what a server has
/// answered. With --vectors, compares a backend or a running server with a file of known answers.
#[derive(Debug, clap::Args)]
#[command(
    after_long_help = EXAMPLES,
    group(ArgGroup::new("files").args(["logits", "drift"]).multiple(true)),
    group(ArgGroup::new("counted").args(["vectors", "drift"]).multiple(true))
)]
pub struct Args {
    /// One backend: reference, cpu (the best instructions of this machine), cpu:portable, cpu:avx2,
    /// cpu:avx512 or cuda:0 (and so on)
    #[arg(long, visible_alias = "device", value_name = "BACKEND", default_value = "cpu")]
    a: BackendName,

    /// The other one
    #[arg(long, value_name = "BACKEND", default_value = "reference")]
    b: BackendName,

    /// Threads of the processor, up to 1024; 0 is one for each core
    #[arg(long, value_name = "N", default_value = "0", value_parser = threads)]
    threads: usize,

    /// How long a launch of a CUDA device may take: more beside a program that watches every access to memory, such
    /// as compute-sanitizer
    #[arg(long, value_name = "TIME", default_value = "10s", value_parser = timeout)]
    cuda_hang_timeout: Duration,

    /// Rows to compare, 1 or more [default: 2000 generated ones, or all of the files]. Generated rows are of
    /// every dtype and size, with ties, -0.0, subnormals, infinities and NaN, and cuts aimed at their own
    /// borders
    #[arg(long, value_name = "N", value_parser = number(1..=u64::MAX))]
    rows: Option<u64>,

    /// Begin with this row: of the seed, or of the files together
    #[arg(long, value_name = "I", default_value_t = 0, value_parser = number(0..=u64::MAX))]
    first_row: u64,

    /// Generate rows, or the parameters of the files' rows, from this: 0 to 2^64 - 1
    #[arg(long, value_name = "S", default_value_t = 0, conflicts_with = "params", value_parser = number(0..=u64::MAX))]
    seed: u64,

    /// The most tokens a row is generated with: 1 to 1048576
    #[arg(long, value_name = "N", default_value_t = VOCAB_SIZE_MAX, help_heading = "Generated rows",
        value_parser = number(1..=VOCAB_SIZE_MAX))]
    vocab_size_max: u32,

    /// Compare over the rows of this file instead, as `sample` reads it. Repeatable
    #[arg(long, value_name = "FILE", conflicts_with = "vocab_size_max", help_heading = "Files")]
    logits: Vec<PathBuf>,

    /// What the values of the files are, where they do not say
    #[arg(long, value_enum, requires = "files", help_heading = "Files")]
    dtype: Option<DtypeArg>,

    /// Tokens a row, 1 to 1048576: of raw files, or of arrays that have padding behind them
    #[arg(long, value_name = "N", requires = "files", help_heading = "Files")]
    vocab_size: Option<u32>,

    /// Parameters of the files' rows, as `sample` reads them [default: 8 sets a row, aimed at the
    /// borders of the row]
    #[arg(long, value_name = "FILE.jsonl", requires = "logits", help_heading = "Files")]
    params: Option<PathBuf>,

    /// Check the answers in this trace instead (logitd serve --record FILE): every request, of drafts and beams
    /// too, is sampled again on --a, with the seed that was used. Needs no server, and not the device that
    /// answered
    #[arg(long, value_name = "FILE", help_heading = "Recorded answers",
        conflicts_with_all = ["b", "rows", "seed", "first_row", "vocab_size_max", "logits"])]
    recorded: Option<PathBuf>,

    #[command(flatten, next_help_heading = "Known answers")]
    known_answers: VectorsArgs,

    /// Measure how much of what is drawn differs between two files of the same positions (the same prompts in
    /// another batch, by another kernel or model), with the same seeds under either draw rule; and how many drafts the
    /// model of A would take of B's, were B a draft model. Row i is drawn at --position + i
    #[arg(long, num_args = 2, value_names = ["A.npy", "B.npy"], help_heading = "Drift",
        conflicts_with_all = ["b", "rows", "first_row", "vocab_size_max", "logits", "params", "recorded", "vectors"])]
    drift: Vec<PathBuf>,

    #[command(flatten, next_help_heading = "Drift")]
    sampling: DriftFlags,

    /// Print the counts of the known answers, or the drift, as one line of JSON
    #[arg(long, requires = "counted", help_heading = "Output")]
    json: bool,

    /// Where the first differing row is written, as logitd-difference.npy, .params.jsonl and .txt
    #[arg(long, value_name = "DIR", default_value = ".", help_heading = "Output")]
    dump: PathBuf,
}

impl Args {
    /// A backend as it was asked for.
    fn open(&self, name: BackendName) -> Result<Box<dyn Backend>, Box<dyn Error>> {
        let cuda = CudaOptions { hang_timeout: self.cuda_hang_timeout, ..CudaOptions::default() };
        name.open(self.threads, &cuda)
    }
}

const EXAMPLES: &str = "\
Examples:
  logitd verify                                      this machine's best against the oracle
  logitd verify --a cpu:avx2 --b cpu:portable --rows 100000 --seed 7
  logitd verify --a cpu:avx512 --logits logits.npy
  logitd verify --a cuda:0 --b cpu                   a GPU against the processor
  logitd verify --recorded today.trace               what a server has answered, checked here
  logitd verify --vectors known.json --a cpu:avx2    a backend against known answers
  logitd verify --vectors known.json --target HOST   a server against them
  logitd verify --drift alone.npy batched.npy --temperature 0.8 --top-k 50 --draws 512

Exit code: 0 no difference, 1 a difference, 2 an error, or nothing was compared.";

/// Runs the command.
pub fn run(args: Args) -> Outcome {
    let start = Instant::now();
    args.known_answers.check()?;
    if let Some(path) = &args.known_answers.vectors {
        return vectors::run(&args, path);
    }
    let mut a = args.open(args.a)?;
    if let Some(path) = &args.recorded {
        return recorded::run(&args, path, &mut *a);
    }
    if let [first, second] = &args.drift[..] {
        return drift::run(&args, [first, second], &mut *a);
    }
    if args.a.is_same(args.b) {
        return Err(format!(
            "--a {} and --b {} are the same backend here, and nothing would be compared; name another, or leave \
             --b out for the reference",
            args.a, args.b
        )
        .into());
    }
    let mut b = args.open(args.b)?;
    let mut out = stdout();
    let Source { total, what, pieces } = pieces(&args)?;
    writeln!(out, "{} against {}", describe(&*a), describe(&*b))?;
    let progress = Progress::new(total, "rows");
    let verdict = compare(pieces, &mut *a, &mut *b, progress)?;
    let Verdict { rows, draws, logits, found } = verdict;
    let counts = format!(
        "{} rows {what}: {} draws and {} logits compared in {:.1?}",
        grouped(rows),
        grouped(draws),
        grouped(logits),
        start.elapsed()
    );
    match found {
        None => {
            writeln!(out, "{counts}: 0 differences")?;
            Ok(ExitCode::SUCCESS)
        }
        Some(found) => {
            writeln!(out, "{counts}: a DIFFERENCE\n{}", found.report(&args))?;
            Ok(ExitCode::FAILURE)
        }
    }
}

impl Found {
    /// Everything about it, and the command that shows it again.
    fn report(&self, args: &Args) -> String {
        let mut report = format!("{}\n{}\n", self.origin, self.difference);
        let name = "logitd-difference";
        let written = difference::write(&self.difference, &args.dump, name);
        let path = args.dump.join(name);
        match &written {
            Ok(text) => writeln!(report, "written:  {}", text.display()),
            Err(e) => writeln!(report, "not written to {}: {e}", args.dump.display()),
        }
        .expect("a string takes everything");
        let (first, count) = self.batch;
        let backends =
            format!("logitd verify --a {} --b {} --threads {}", args.a, args.b, args.threads);
        let which = if args.logits.is_empty() {
            let Args { seed, vocab_size_max, first_row, .. } = args;
            let cap = match *vocab_size_max {
                VOCAB_SIZE_MAX => String::new(),
                cap => format!(" --vocab-size-max {cap}"),
            };
            format!("--seed {seed} --first-row {} --rows {count}{cap}", first_row + first)
        } else {
            let path = path.display();
            let dtype = match self.difference.dtype {
                Dtype::Bf16 => " --dtype bf16",
                _ => "",
            };
            format!("--logits {path}.npy{dtype} --params {path}.params.jsonl")
        };
        write!(report, "replay:   {backends} {which}").expect("a string takes everything");
        if count > 1 {
            report.push_str("\nIt does not show when the row is sampled alone.");
        }
        report
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;
    use logitd_core::backend::reference::Reference;
    use logitd_core::backend::{Backend, DeviceError, DeviceInfo};
    use logitd_core::batch::{Results, Row};

    /// The oracle, wrong in one bit of one draw of every row of 999 tokens or more: always, or only
    /// among at least so many rows.
    struct Wrong(Reference, usize);

    impl Backend for Wrong {
        fn device(&self) -> &DeviceInfo {
            self.0.device()
        }

        fn sample(&mut self, rows: &[Row<'_>], results: &mut Results) -> Result<(), DeviceError> {
            self.0.sample(rows, results)?;
            for (row, slot) in rows.iter().zip(results.slots()) {
                if row.vocab_size() >= 999 && rows.len() >= self.1 {
                    slot.draws[0].logprob = f32::from_bits(slot.draws[0].logprob.to_bits() ^ 1);
                }
            }
            Ok(())
        }
    }

    #[derive(Parser)]
    struct Wrapper {
        #[command(flatten)]
        args: Args,
    }

    fn args(flags: &str) -> Args {
        Wrapper::parse_from(format!("verify {flags}").split_whitespace()).args
    }

    fn verdict(args: &Args, wrong_from: usize) -> Verdict {
        let mut a = Wrong(Reference::default(), wrong_from);
        let pieces = pieces(args).unwrap().pieces;
        compare(pieces, &mut a, &mut Reference::default(), Progress::new(1, "rows")).unwrap()
    }

    #[test]
    fn equal_backends_are_compared_to_the_end() {
        let verdict = verdict(&args("--rows 300 --vocab-size-max 900"), 1);
        assert!(verdict.found.is_none());
        assert_eq!(verdict.rows, 300);
        assert!(verdict.draws > 300 && verdict.logits > 300);
    }

    #[test]
    fn a_difference_is_found_and_its_replay_shows_it_again() {
        for wrong_from in [1, 2] {
            let folder = tempfile::tempdir().unwrap();
            let dump = folder.path().display();
            let first = args(&format!("--rows 300 --seed 5 --vocab-size-max 2000 --dump {dump}"));
            let found = verdict(&first, wrong_from).found.expect("a row of 999 tokens comes up");
            let report = found.report(&first);
            assert!(report.contains("of seed 5, values"), "{report}");
            assert_eq!(report.contains("sampled alone"), wrong_from == 2, "{report}");
            let replay = report.split("logitd verify ").nth(1).unwrap().lines().next().unwrap();
            let again = verdict(&args(replay), wrong_from).found.expect("the replay differs");
            assert_eq!(again.difference.a, found.difference.a);
            assert_eq!(again.difference.logits, found.difference.logits);

            let written = format!(
                "--logits {dump}/logitd-difference.npy --params {dump}/logitd-difference.params.jsonl{}",
                if found.difference.dtype == Dtype::Bf16 { " --dtype bf16" } else { "" }
            );
            let again = verdict(&args(&written), 1).found.expect("the written row differs");
            assert_eq!(again.difference.a, found.difference.a);
        }
    }
}
