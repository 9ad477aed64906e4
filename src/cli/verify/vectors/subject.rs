//! What is held to the known answers: a backend of this process, or a server.

use crate::cli::answer::RowAnswer;
use crate::cli::drafted::{Sequence, Taken};
use crate::cli::sampler::{RowsOfOne, Sampler};
use crate::files::npy::LogitsFile;
use crate::files::params::Set;
use crate::files::vectors::{RowSource, StoredRow, Vectors};
use logitd_core::batch::Dtype;
use logitd_core::beams::{Step, Stepped};
use logitd_core::params::ParamsSpec;
use serde_json::Value as Json;
use std::error::Error;

/// What samples the rows of the cases.
pub struct Subject {
    sampler: Box<dyn Sampler>,
    /// Whether it tells which tokens were kept.
    pub tells_kept: bool,
    /// The file that rows with a number are of, or why there is none.
    pub numbered: Result<LogitsFile, String>,
}

impl Subject {
    /// `numbered` are the rows that have a number.
    pub fn new(
        sampler: Box<dyn Sampler>,
        tells_kept: bool,
        numbered: Result<LogitsFile, String>,
    ) -> Self {
        Self { sampler, tells_kept, numbered }
    }

    /// What it is, for people.
    pub fn name(&self) -> String {
        self.sampler.name()
    }

    /// The row that a case names.
    pub fn row(&mut self, vectors: &Vectors, named: &Json) -> Result<StoredRow, Box<dyn Error>> {
        let number = match vectors.row(named)? {
            RowSource::Stored(row) => return Ok(row),
            RowSource::Numbered(number) => number,
        };
        let file = self.numbered.as_mut().map_err(|why| format!("row is {number}: {why}"))?;
        if number >= file.rows() {
            let last = file.rows() - 1;
            return Err(format!("row is {number}; the file of logits has 0 to {last}").into());
        }
        let mut logits = Vec::new();
        file.read(number..number + 1, &mut logits)?;
        Ok(StoredRow { dtype: file.dtype(), logits })
    }

    /// The answer to one row.
    pub fn sample(&mut self, row: &StoredRow, set: &Set) -> Result<RowAnswer, Box<dyn Error>> {
        let batch = RowsOfOne {
            dtype: row.dtype,
            vocab_size: row.vocab_size(),
            logits: row.logits.clone().into(),
            params: std::slice::from_ref(set),
        };
        let mut answers = self.sampler.sample(batch)?;
        answers.pop().ok_or_else(|| "there is no answer to the row".into())
    }

    /// A step of a beam search over these rows, with their parameters.
    pub fn step(
        &mut self,
        rows: &[StoredRow],
        sets: &[Set],
        step: &Step,
    ) -> Result<Stepped, Box<dyn Error>> {
        self.sampler.step(rows, sets, step)
    }

    /// Which of its drafts a sequence takes.
    pub fn verify(&mut self, sequence: &Sequence) -> Result<Taken, Box<dyn Error>> {
        self.sampler.verify(sequence)
    }

    /// The mass of a token so far below the maximum: what it adds to that of a row which has nothing else.
    pub fn mass(&mut self, distance: f32, temperature: f32) -> Result<u64, Box<dyn Error>> {
        let of = |x: &[f32]| StoredRow {
            dtype: Dtype::F32,
            logits: x.iter().flat_map(|x| x.to_le_bytes()).collect(),
        };
        let set = ParamsSpec { temperature, seed: Some(0), ..ParamsSpec::DEFAULT }.into();
        let both = self.sample(&of(&[0.0, distance]), &set)?.outcome.kept_mass;
        let first = self.sample(&of(&[0.0]), &set)?.outcome.kept_mass;
        both.checked_sub(first).ok_or_else(|| "a second token takes mass away".into())
    }
}
