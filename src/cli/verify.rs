//! `logitd verify`: runs two backends over the same rows and compares every bit.
//!
//! Rows are generated from a seed, or come from files; both give [`Piece`]s, which are put together
//! into batches of mixed rows. A batch depends on nothing but where it begins, so that a difference
//! which shows only among certain batchmates is replayed as well.

use super::device::{BackendName, describe};
use super::params;
use super::progress::Progress;
use super::text::grouped;
use super::{DtypeArg, Outcome};
use crate::backend::Backend;
use crate::backend::dual::{Difference, first_difference};
use crate::batch::{Dtype, Results, Row, VOCAB_SIZE_MAX};
use crate::generate::{self, Random};
use crate::npy::{Declared, LogitsFile};
use crate::params::{ParamsSpec, SamplingParams};
use std::error::Error;
use std::fmt::Write as _;
use std::io::{Write as _, stdout};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Instant;

/// Compare two backends bit for bit, over generated rows or files
///
/// Runs both over the same rows and compares status, kept, mass, and token and logprob of every draw.
/// Stops at the first difference, and says how to replay it.
#[derive(Debug, clap::Args)]
#[command(after_long_help = EXAMPLES)]
pub struct Args {
    /// One backend: reference, cpu (the best instructions of this machine), cpu:portable, cpu:avx2
    /// or cpu:avx512
    #[arg(long, value_name = "BACKEND", default_value = "cpu")]
    a: BackendName,

    /// The other one
    #[arg(long, value_name = "BACKEND", default_value = "reference")]
    b: BackendName,

    /// Threads of the processor; 0 is one for each core
    #[arg(long, value_name = "N", default_value_t = 0)]
    threads: usize,

    /// Rows to generate: of every dtype and size, with ties, -0.0, subnormals, infinities and NaN, and
    /// cuts aimed at their own borders
    #[arg(long, value_name = "N", default_value_t = 2000, help_heading = "Generated rows")]
    rows: u64,

    /// Generate them from this: 0 to 2^64 - 1. Also of the parameters of files
    #[arg(long, value_name = "S", default_value_t = 0, help_heading = "Generated rows")]
    seed: u64,

    /// Begin with this row of the seed
    #[arg(long, value_name = "I", default_value_t = 0, help_heading = "Generated rows")]
    first_row: u64,

    /// The most tokens a row is generated with: 1 to 1048576
    #[arg(long, value_name = "N", default_value_t = VOCAB_SIZE_MAX, help_heading = "Generated rows",
        value_parser = clap::value_parser!(u32).range(1..=i64::from(VOCAB_SIZE_MAX)))]
    vocab_size_max: u32,

    /// Compare over the rows of this file instead, as `sample` reads it. Repeatable
    #[arg(long, value_name = "FILE", help_heading = "Files")]
    logits: Vec<PathBuf>,

    /// What the values of the files are, where they do not say
    #[arg(long, value_enum, requires = "logits", help_heading = "Files")]
    dtype: Option<DtypeArg>,

    /// Tokens a row, for raw files: 1 to 1048576
    #[arg(long, value_name = "N", requires = "logits", help_heading = "Files")]
    vocab_size: Option<u32>,

    /// Parameters of the files' rows, as `sample` reads them [default: 8 sets a row, aimed at the
    /// borders of the row]
    #[arg(long, value_name = "FILE.jsonl", requires = "logits", help_heading = "Files")]
    params: Option<PathBuf>,

    /// Where the first differing row is written, as logitd-difference.npy, .params.jsonl and .txt
    #[arg(long, value_name = "DIR", default_value = ".")]
    dump: PathBuf,
}

const EXAMPLES: &str = "\
Examples:
  logitd verify                                      this machine's best against the oracle
  logitd verify --a cpu:avx2 --b cpu:portable --rows 100000 --seed 7
  logitd verify --a cpu:avx512 --logits logits.npy

Exit code: 0 no difference, 1 a difference, 2 an error.";

/// Rows of a batch, unless they are large.
const BATCH_ROWS_MAX: usize = 64;
/// Bytes of logits of a batch, unless it is a single row.
const BATCH_BYTES_MAX: usize = 16 << 20;
/// Parameter sets for each row of a file.
const SETS: u64 = 8;

/// Runs the command.
pub fn run(args: Args) -> Outcome {
    let start = Instant::now();
    let mut a = args.a.open(args.threads)?;
    let mut b = args.b.open(args.threads)?;
    let mut out = stdout();
    writeln!(out, "{} against {}", describe(&*a), describe(&*b))?;
    let (total, pieces) = pieces(&args)?;
    let progress = Progress::new(total, "rows");
    let verdict = compare(pieces, &mut *a, &mut *b, progress)?;
    let Verdict { rows, draws, logits, found } = verdict;
    let source = match args.logits.len() {
        0 => format!("generated from seed {}", args.seed),
        1 => "from 1 file".into(),
        n => format!("from {n} files"),
    };
    let counts = format!(
        "{} rows {source}: {} draws and {} logits compared in {:.1?}",
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

/// What was compared, and what was found.
struct Verdict {
    rows: u64,
    draws: u64,
    logits: u64,
    found: Option<Found>,
}

/// The first difference.
struct Found {
    difference: Difference,
    /// Where its row comes from.
    origin: String,
    /// The batch it shows in: the number of its first piece, and how many there are.
    batch: (u64, usize),
}

/// One row of logits, and the parameter sets to sample it with.
struct Piece {
    origin: String,
    dtype: Dtype,
    logits: Vec<u8>,
    params: Vec<SamplingParams>,
}

/// Runs both backends over everything, up to the first difference.
fn compare(
    pieces: impl Iterator<Item = Result<Piece, Box<dyn Error>>>,
    a: &mut dyn Backend,
    b: &mut dyn Backend,
    mut progress: Progress,
) -> Result<Verdict, Box<dyn Error>> {
    let mut verdict = Verdict { rows: 0, draws: 0, logits: 0, found: None };
    let mut first = 0;
    for batch in batches(pieces) {
        let batch = batch?;
        let rows = rows(&batch)?;
        let found = differ(&rows, a, b)?;
        let compared = found.as_ref().map_or(rows.len(), |difference| difference.row_index + 1);
        for row in &rows[..compared] {
            verdict.rows += 1;
            verdict.draws += u64::from(row.params().draws());
            verdict.logits += u64::from(row.vocab_size());
        }
        if let Some(difference) = found {
            verdict.found = Some(locate(difference, &batch, first, a, b)?);
            break;
        }
        first += batch.len() as u64;
        progress.advance(rows.len() as u64);
    }
    Ok(verdict)
}

/// Finds out whether a difference shows without its batchmates.
fn locate(
    difference: Difference,
    batch: &[Piece],
    first: u64,
    a: &mut dyn Backend,
    b: &mut dyn Backend,
) -> Result<Found, Box<dyn Error>> {
    let mut before = 0;
    let piece = batch
        .iter()
        .position(|piece| {
            before += piece.params.len();
            difference.row_index < before
        })
        .expect("the row is one of the batch");
    let alone = differ(&rows(&batch[piece..=piece])?, a, b)?;
    let (difference, batch_rows) = match alone {
        Some(alone) => (alone, (first + piece as u64, 1)),
        None => (difference, (first, batch.len())),
    };
    Ok(Found { difference, origin: batch[piece].origin.clone(), batch: batch_rows })
}

fn differ(
    rows: &[Row<'_>],
    a: &mut dyn Backend,
    b: &mut dyn Backend,
) -> Result<Option<Difference>, Box<dyn Error>> {
    let (mut of_a, mut of_b) = (Results::default(), Results::default());
    a.sample(rows, &mut of_a)?;
    b.sample(rows, &mut of_b)?;
    Ok(first_difference(rows, &of_a, &of_b))
}

impl Found {
    /// Everything about it, and the command that shows it again.
    fn report(&self, args: &Args) -> String {
        let mut report = format!("{}\n{}\n", self.origin, self.difference);
        let name = "logitd-difference";
        let written = self.difference.write(&args.dump, name);
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

/// Batches of neighbouring pieces, within the budgets above.
fn batches(
    pieces: impl Iterator<Item = Result<Piece, Box<dyn Error>>>,
) -> impl Iterator<Item = Result<Vec<Piece>, Box<dyn Error>>> {
    let mut pieces = pieces.peekable();
    std::iter::from_fn(move || {
        let mut batch = Vec::new();
        let (mut rows, mut bytes) = (0, 0);
        loop {
            let piece = pieces.next_if(|piece| match piece {
                Ok(piece) => {
                    rows += piece.params.len();
                    bytes += piece.logits.len();
                    batch.is_empty() || (rows <= BATCH_ROWS_MAX && bytes <= BATCH_BYTES_MAX)
                }
                Err(_) => batch.is_empty(),
            });
            match piece {
                Some(Ok(piece)) => batch.push(piece),
                Some(Err(error)) => return Some(Err(error)),
                None => return (!batch.is_empty()).then_some(Ok(batch)),
            }
        }
    })
}

fn rows(batch: &[Piece]) -> Result<Vec<Row<'_>>, Box<dyn Error>> {
    let of = |piece| {
        let Piece { dtype, logits, params, .. }: &Piece = piece;
        params.iter().map(|&params| Row::new(*dtype, logits, params))
    };
    Ok(batch.iter().flat_map(of).collect::<Result<_, _>>()?)
}

type Pieces = Box<dyn Iterator<Item = Result<Piece, Box<dyn Error>>>>;

/// What is to be compared, and how many rows it is.
fn pieces(args: &Args) -> Result<(u64, Pieces), Box<dyn Error>> {
    if !args.logits.is_empty() {
        return from_files(args);
    }
    let (seed, cap, first) = (args.seed, args.vocab_size_max, args.first_row);
    let end = first
        .checked_add(args.rows)
        .ok_or_else(|| format!("--first-row {first} and --rows {} pass 2^64", args.rows))?;
    let pieces = (first..end).map(move |index| {
        let case = generate::case(seed, index, cap);
        let origin = format!("row {index} of seed {seed}, values {:?}", case.values);
        Ok(Piece { origin, dtype: case.dtype, logits: case.logits, params: vec![case.params] })
    });
    Ok((args.rows, Box::new(pieces)))
}

fn from_files(args: &Args) -> Result<(u64, Pieces), Box<dyn Error>> {
    let declared = Declared { dtype: args.dtype.map(Into::into), vocab_size: args.vocab_size };
    let mut total = 0;
    let mut all: Vec<Pieces> = Vec::new();
    for path in &args.logits {
        let file = LogitsFile::open(path, declared)
            .map_err(|error| format!("{}: {error}", path.display()))?;
        let count = file.rows();
        let given = match &args.params {
            Some(params) => Some(params::read(params, ParamsSpec::default(), count)?),
            None => None,
        };
        total += count as u64 * if given.is_some() { 1 } else { SETS };
        all.push(file_pieces(path, file, given, args.seed));
    }
    Ok((total, Box::new(all.into_iter().flatten())))
}

fn file_pieces(
    path: &Path,
    mut file: LogitsFile,
    given: Option<Vec<ParamsSpec>>,
    seed: u64,
) -> Pieces {
    let path = path.display().to_string();
    Box::new((0..file.rows()).map(move |row| {
        let mut logits = Vec::new();
        file.read(row..row + 1, &mut logits)?;
        let dtype = file.dtype();
        let params = match &given {
            Some(given) => vec![params::parse(given[row])?],
            None => aimed(seed, row as u64, dtype, &logits),
        };
        Ok(Piece { origin: format!("row {row} of {path}"), dtype, logits, params })
    }))
}

/// Parameter sets whose cuts fall on or beside the borders of these logits.
fn aimed(seed: u64, row: u64, dtype: Dtype, logits: &[u8]) -> Vec<SamplingParams> {
    let mut random = Random::new(seed, row);
    (0..SETS)
        .map(|_| {
            let temperature = generate::temperature(&mut random);
            generate::params(&mut random, dtype, logits, temperature)
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backend::reference::Reference;
    use crate::backend::{DeviceError, DeviceInfo};
    use clap::Parser;

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
        let pieces = pieces(args).unwrap().1;
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

    #[test]
    fn batches_keep_to_their_budgets() {
        let piece = |rows: usize, bytes: usize| Piece {
            origin: String::new(),
            dtype: Dtype::F16,
            logits: vec![0; bytes],
            params: vec![ParamsSpec::default().parse(|| 0).unwrap(); rows],
        };
        let pieces = [(8, 2), (56, 2), (1, 2), (1, BATCH_BYTES_MAX + 2), (100, 2), (1, 2)];
        let sizes: Vec<_> = batches(pieces.iter().map(|&(r, b)| Ok(piece(r, b))))
            .map(|batch| batch.unwrap().len())
            .collect();
        assert_eq!(sizes, [2, 1, 1, 1, 1]);
    }
}
