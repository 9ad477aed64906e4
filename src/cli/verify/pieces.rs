//! What is compared: rows generated from a seed, or the rows of files.

use super::Args;
use crate::batch::Dtype;
use crate::cli::params;
use crate::generate::{self, Random};
use crate::npy::{Declared, LogitsFile};
use crate::params::{ParamsSpec, SamplingParams};
use std::error::Error;
use std::path::Path;

/// Parameter sets for each row of a file.
const SETS: u64 = 8;

/// One row of logits, and the parameter sets to sample it with.
pub struct Piece {
    pub origin: String,
    pub dtype: Dtype,
    pub logits: Vec<u8>,
    pub params: Vec<SamplingParams>,
}

/// Rows as they come.
pub type Pieces = Box<dyn Iterator<Item = Result<Piece, Box<dyn Error>>>>;

/// What is to be compared, and how many rows it is.
pub fn pieces(args: &Args) -> Result<(u64, Pieces), Box<dyn Error>> {
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
