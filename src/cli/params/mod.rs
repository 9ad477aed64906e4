//! Sampling parameters as flags, and as a file with one set a row.

mod file;
mod line;

use crate::wire::whole;
use file::Sets;
use logitd_core::params::written;
use logitd_core::params::{ParamsSpec, SamplingParams};
use std::error::Error;
use std::path::{Path, PathBuf};

/// What to do with each row.
#[derive(Clone, Debug, clap::Args)]
pub struct ParamsArgs {
    /// 0 is greedy: the most likely token. Otherwise 1e-30 to 10000
    #[arg(long, value_name = "T", default_value = "1", allow_hyphen_values = true)]
    temperature: String,

    /// Keep the first K tokens, exactly K: 0 to 4294967295. 0 is off
    #[arg(long, value_name = "K", default_value = "0", allow_hyphen_values = true)]
    top_k: String,

    /// Keep the shortest prefix with this share of what top-k left: above 0, up to 1. 1 is off. An f32: 0.1 is
    /// 0.100000001, so of ten equal logits it keeps two
    #[arg(long, value_name = "P", default_value = "1", allow_hyphen_values = true)]
    top_p: String,

    /// Keep tokens at least this likely relative to the first: 0 to 1. 0 is off
    #[arg(long, value_name = "P", default_value = "0", allow_hyphen_values = true)]
    min_p: String,

    /// Key of the random stream, for every row the same: 0 to 2^64 - 1 [default: one a row below 2^53, taken
    /// from the system and shown]
    #[arg(long, value_name = "N", allow_hyphen_values = true)]
    seed: Option<String>,

    /// The token's index in its sequence: 0 to 2^64 - 1
    #[arg(long, value_name = "N", default_value = "0", allow_hyphen_values = true)]
    position: String,

    /// Independent draws from each row: 1 to 1024
    #[arg(long, value_name = "N", default_value = "1", allow_hyphen_values = true)]
    draws: String,

    /// One parameter set a row of the file (the first line is row 0's, whatever --rows names), or one for all
    /// rows: a JSON object a line, with the keys temperature, top_k, top_p, min_p, seed, position, draws. A
    /// key left out has its flag's value. An answer of --json is read for its seeds
    #[arg(long, value_name = "FILE.jsonl")]
    params: Option<PathBuf>,
}

impl ParamsArgs {
    /// The parameters of these rows of a file of `rows_all`, each checked.
    pub fn specs(
        &self,
        rows: impl ExactSizeIterator<Item = usize>,
        rows_all: usize,
    ) -> Result<Vec<ParamsSpec>, Box<dyn Error>> {
        let flags = self.flags()?;
        match &self.params {
            None => Ok(vec![flags; rows.len()]),
            Some(path) => read(path, flags, rows, rows_all),
        }
    }

    fn flags(&self) -> Result<ParamsSpec, Box<dyn Error>> {
        let mut spec = ParamsSpec::default();
        for (name, text) in [
            ("temperature", Some(&self.temperature)),
            ("top_k", Some(&self.top_k)),
            ("top_p", Some(&self.top_p)),
            ("min_p", Some(&self.min_p)),
            ("seed", self.seed.as_ref()),
            ("position", Some(&self.position)),
            ("draws", Some(&self.draws)),
        ] {
            if let Some(text) = text {
                written::set(&mut spec, name, text).map_err(|error| flagged(&error))?;
            }
        }
        Ok(spec)
    }
}

/// The parameters of some rows of a file of `rows_all`, from a file with one set a line: for each row of the
/// file, for each of these rows, or a single one for all.
pub fn read(
    path: &Path,
    flags: ParamsSpec,
    rows: impl ExactSizeIterator<Item = usize>,
    rows_all: usize,
) -> Result<Vec<ParamsSpec>, Box<dyn Error>> {
    let count = rows.len();
    match file::read(path, flags)? {
        Sets::Each(sets) => match sets[..] {
            [one] => Ok(vec![one; count]),
            _ if sets.len() == rows_all => Ok(rows.map(|row| sets[row]).collect()),
            _ if sets.len() == count => Ok(sets),
            _ => Err(mismatch(path, sets.len(), count, rows_all).into()),
        },
        Sets::OfRows(sets) => rows
            .map(|row| match sets.get(&row) {
                Some(spec) => Ok(*spec),
                None => Err(format!("{}: holds no answer of row {row}", path.display()).into()),
            })
            .collect(),
    }
}

fn mismatch(path: &Path, sets: usize, rows: usize, rows_all: usize) -> String {
    let path = path.display();
    let selected = match rows == rows_all {
        true => String::new(),
        false => format!(", of which --rows names {rows}"),
    };
    format!(
        "{path}: holds {sets} parameter sets, and there are {rows_all} rows{selected}; give one a row, or one \
         for all"
    )
}

/// Checked parameters, with a seed from the operating system where none was given.
pub fn parse(spec: ParamsSpec) -> Result<SamplingParams, Box<dyn Error>> {
    let fresh = match spec.seed {
        Some(seed) => seed,
        None => whole::fresh_seeds(1)
            .map_err(|e| format!("the system gives no random seed: {e}"))?
            .remove(0),
    };
    Ok(spec.parse(|| fresh)?)
}

/// `top_k is ..` as `--top-k is ..`.
pub fn flagged(error: &logitd_core::params::ParamsError) -> String {
    let rest = error.to_string()[error.field.len()..].to_owned();
    format!("--{}{rest}", error.field.replace('_', "-"))
}
