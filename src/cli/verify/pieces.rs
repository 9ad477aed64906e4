//! What is compared: rows generated from a seed, or the rows of files.

use super::Args;
use crate::cli::params;
use crate::files::npy::{Declared, LogitsFile};
use crate::files::params::Set;
use crate::tools::generate::{self, Random};
use logitd_core::adjustments::Adjustments;
use logitd_core::batch::Dtype;
use logitd_core::inspection::Inspect;
use logitd_core::params::SamplingParams;
use logitd_core::row::Draft;
use std::error::Error;
use std::ops::Range;
use std::path::Path;

/// Rows that are generated, unless said otherwise.
const ROWS: u64 = 2000;
/// Parameter sets for each row of a file.
const SETS: u64 = 8;

/// One row of logits, and the parameter sets to sample it with.
pub struct Piece {
    pub origin: String,
    pub dtype: Dtype,
    pub logits: Vec<u8>,
    pub params: Vec<SamplingParams>,
    /// Those of every set.
    pub adjustments: Option<Adjustments>,
    /// What is asked beside tokens.
    pub inspect: Option<Inspect>,
    /// What is decided about.
    pub draft: Option<Draft>,
}

/// Rows as they come.
pub type Pieces = Box<dyn Iterator<Item = Result<Piece, Box<dyn Error>>>>;

/// What is to be compared.
pub struct Source {
    /// How many rows it is, each parameter set counted.
    pub total: u64,
    /// Where they come from, for people.
    pub what: String,
    pub pieces: Pieces,
}

/// What these flags say is to be compared: at least one row.
pub fn pieces(args: &Args) -> Result<Source, Box<dyn Error>> {
    if !args.logits.is_empty() {
        return from_files(args);
    }
    let (seed, cap, first) = (args.seed, args.vocab_size_max, args.first_row);
    let rows = args.rows.unwrap_or(ROWS);
    let end = first
        .checked_add(rows)
        .ok_or_else(|| format!("--first-row {first} and --rows {rows} pass 2^64"))?;
    let pieces = (first..end).map(move |index| {
        let case = generate::case(seed, index, cap);
        let origin = format!("row {index} of seed {seed}, values {:?}", case.values);
        let generate::Case { dtype, logits, params, adjustments, inspect, draft, .. } = case;
        Ok(Piece { origin, dtype, logits, params: vec![params], adjustments, inspect, draft })
    });
    let what = format!("generated from seed {seed}");
    Ok(Source { total: rows, what, pieces: Box::new(pieces) })
}

fn from_files(args: &Args) -> Result<Source, Box<dyn Error>> {
    let declared = Declared { dtype: args.dtype.map(Into::into), vocab_size: args.vocab_size };
    let files: Vec<(&Path, LogitsFile)> = (args.logits.iter())
        .map(|path| match LogitsFile::open(path, declared) {
            Ok(file) => Ok((path.as_path(), file)),
            Err(error) => Err(format!("{}: {error}", path.display())),
        })
        .collect::<Result<_, _>>()?;
    let all = files.iter().map(|(_, file)| file.rows()).sum();
    let selected = selected(args, all)?;
    let count = selected.len() as u64;

    let mut first = 0;
    let mut pieces: Vec<Pieces> = Vec::new();
    for (path, file) in files {
        let rows = file.rows();
        let within = |row: usize| row.clamp(first, first + rows) - first;
        let chosen = within(selected.start)..within(selected.end);
        first += rows;
        let given = match &args.params {
            Some(params) => Some(params::read(params, &Set::default(), 0..rows, rows)?),
            None => None,
        };
        pieces.push(file_pieces(path, file, chosen, given, args.seed));
    }
    let from = match args.logits.len() {
        1 => "from 1 file".into(),
        n => format!("from {n} files"),
    };
    let (total, what) = match args.params {
        Some(_) => (count, from),
        None => (count * SETS, format!("{from} ({count} of them, {SETS} parameter sets each)")),
    };
    Ok(Source { total, what, pieces: Box::new(pieces.into_iter().flatten()) })
}

/// Which rows of the files, all of them together.
fn selected(args: &Args, all: usize) -> Result<Range<usize>, String> {
    let first = usize::try_from(args.first_row).unwrap_or(usize::MAX);
    if first >= all {
        return Err(format!("--first-row is {first}; the files hold {all} rows: 0 to {}", all - 1));
    }
    let most = all - first;
    match args.rows.map(|rows| usize::try_from(rows).unwrap_or(usize::MAX)) {
        None => Ok(first..all),
        Some(rows) if rows <= most => Ok(first..first + rows),
        Some(rows) => Err(format!(
            "--rows is {rows}; the files hold {most} from row {first} on: allowed: 1 to {most}"
        )),
    }
}

fn file_pieces(
    path: &Path,
    mut file: LogitsFile,
    rows: Range<usize>,
    given: Option<Vec<Set>>,
    seed: u64,
) -> Pieces {
    let path = path.display().to_string();
    Box::new(rows.map(move |row| {
        let mut logits = Vec::new();
        file.read(row..row + 1, &mut logits)?;
        let dtype = file.dtype();
        let (params, adjustments, inspect) = match &given {
            Some(given) => {
                let (set, vocab_size) = (&given[row], file.vocab_size());
                let params = params::parse(set.params)?;
                let adjustments = params::adjustments(set, &params, vocab_size)?;
                (vec![params], adjustments, params::inspect(set, vocab_size)?)
            }
            None => (aimed(seed, row as u64, dtype, &logits), None, None),
        };
        let origin = format!("row {row} of {path}");
        Ok(Piece { origin, dtype, logits, params, adjustments, inspect, draft: None })
    }))
}

/// Parameter sets whose cuts fall on or beside the borders of these logits.
fn aimed(seed: u64, row: u64, dtype: Dtype, logits: &[u8]) -> Vec<SamplingParams> {
    let mut random = Random::new(seed, row);
    (0..SETS)
        .map(|_| {
            let temperature = generate::temperature(&mut random);
            let params = generate::params(&mut random, dtype, logits, temperature);
            generate::shaped(&mut random, dtype, logits, params)
        })
        .collect()
}
