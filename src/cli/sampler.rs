//! What turns rows into answers for the command line: a device of this process, or a server.

use super::answer::RowAnswer;
use super::drafted::{Sequence, Taken};
use super::params;
use crate::devices::describe;
use crate::files::params::Set;
use crate::files::vectors::StoredRow;
use bytes::Bytes;
use logitd_core::adjustments::Adjustments;
use logitd_core::backend::Backend;
use logitd_core::batch::{Dtype, Results, Row, RowError};
use logitd_core::beams::{self, Step, Stepped};
use logitd_core::inspection::Inspect;
use logitd_core::params::SamplingParams;
use std::error::Error;

/// Bytes of logits read at a time when this process samples them.
const LOCAL_BYTES_MAX: usize = 64 << 20;
/// Rows sampled at a time when this process does it.
const LOCAL_ROWS_MAX: usize = 4096;

/// Rows that belong together.
pub struct RowsOfOne<'a> {
    /// How the logits are stored.
    pub dtype: Dtype,
    /// Tokens a row.
    pub vocab_size: u32,
    /// The rows, one after another.
    pub logits: Bytes,
    /// One a row.
    pub params: &'a [Set],
}

/// Something that samples batches of at most [`rows_max`](Self::rows_max) rows.
pub trait Sampler {
    /// For people: what samples, and where.
    fn name(&self) -> String;

    /// How many rows of so many bytes a batch may have, 1 or more.
    fn rows_max(&self, row_bytes: usize) -> usize;

    /// The answers, in the order of the rows.
    fn sample(&mut self, batch: RowsOfOne<'_>) -> Result<Vec<RowAnswer>, Box<dyn Error>>;

    /// A step of a beam search over these rows, with their parameters.
    fn step(
        &mut self,
        rows: &[StoredRow],
        sets: &[Set],
        step: &Step,
    ) -> Result<Stepped, Box<dyn Error>>;

    /// Which of its drafts a sequence takes.
    fn verify(&mut self, sequence: &Sequence) -> Result<Taken, Box<dyn Error>>;
}

/// A device of this process.
pub struct Local {
    backend: Box<dyn Backend>,
    results: Results,
}

impl Local {
    /// Samples on that device.
    pub fn new(backend: Box<dyn Backend>) -> Self {
        Self { backend, results: Results::default() }
    }
}

impl Sampler for Local {
    fn name(&self) -> String {
        describe(&*self.backend)
    }

    fn rows_max(&self, row_bytes: usize) -> usize {
        (LOCAL_BYTES_MAX / row_bytes).clamp(1, LOCAL_ROWS_MAX)
    }

    fn sample(&mut self, batch: RowsOfOne<'_>) -> Result<Vec<RowAnswer>, Box<dyn Error>> {
        let parsed: Vec<SamplingParams> =
            batch.params.iter().map(|set| params::parse(set.params)).collect::<Result<_, _>>()?;
        let adjusted = |(set, parsed)| params::adjustments(set, parsed, batch.vocab_size);
        let adjusted: Vec<Option<Adjustments>> =
            batch.params.iter().zip(&parsed).map(adjusted).collect::<Result<_, _>>()?;
        let inspected: Vec<Option<Inspect>> = batch
            .params
            .iter()
            .map(|set| params::inspect(set, batch.vocab_size))
            .collect::<Result<_, _>>()?;
        let row_bytes = batch.vocab_size as usize * batch.dtype.size_bytes();
        let rows: Vec<Row<'_>> = batch
            .logits
            .chunks_exact(row_bytes)
            .zip(parsed.iter().zip(&adjusted).zip(&inspected))
            .map(|(logits, ((&params, adjusted), inspect))| {
                let row = Row::new(batch.dtype, logits, params)?;
                Ok(row.with_adjustments(adjusted.as_ref()).with_inspect(inspect.as_ref()))
            })
            .collect::<Result<_, RowError>>()?;
        self.backend.sample(&rows, &mut self.results)?;
        let answer =
            |(result, params): (logitd_core::batch::RowResult<'_>, &SamplingParams)| RowAnswer {
                outcome: result.outcome,
                draws: result.draws.to_vec(),
                inspection: result.inspection.cloned().unwrap_or_default(),
                state: result.state,
                seed: params.seed(),
            };
        Ok(self.results.iter().zip(&parsed).map(answer).collect())
    }

    fn step(
        &mut self,
        rows: &[StoredRow],
        sets: &[Set],
        step: &Step,
    ) -> Result<Stepped, Box<dyn Error>> {
        let mut parsed = Vec::with_capacity(rows.len());
        for (row, set) in rows.iter().zip(sets) {
            let params = params::parse(set.params)?;
            parsed.push((params, params::adjustments(set, &params, row.vocab_size())?));
        }
        let asked = step.inspect();
        let rows: Vec<Row<'_>> = rows
            .iter()
            .zip(&parsed)
            .map(|(row, (params, adjusted))| {
                let row = Row::new(row.dtype, &row.logits, *params)?;
                Ok(row.with_adjustments(adjusted.as_ref()).with_inspect(Some(&asked)))
            })
            .collect::<Result<_, RowError>>()?;
        self.backend.sample(&rows, &mut self.results)?;
        Ok(beams::merged([step], &self.results).remove(0))
    }

    fn verify(&mut self, sequence: &Sequence) -> Result<Taken, Box<dyn Error>> {
        sequence.verify(&mut *self.backend)
    }
}
