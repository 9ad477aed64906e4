//! What is asked for in a call: logits, and how to sample each row of them.

use crate::adjustments;
use crate::controls::Controls;
use crate::each::Each;
use crate::inspect;
use crate::invalid::Invalid;
use crate::logits::Logits;
use crate::memory::device::Reader;
use crate::of::Of;
use logitd_core::adjustments::Adjustments;
use logitd_core::inspection::Inspect;
use logitd_core::params::{ParamsSpec, SamplingParams};
use pyo3::prelude::*;
use pyo3::types::PyDict;

/// A call of `sample`, checked.
pub struct Call<'py> {
    pub logits: Logits<'py>,
    pub asked: Asked,
}

/// How its rows are to be sampled.
pub struct Asked {
    /// One a row.
    pub params: Vec<SamplingParams>,
    pub adjustments: Option<Each<Adjustments>>,
    /// What is asked of each row beside its tokens.
    pub inspect: Option<Each<Inspect>>,
    /// The rows that are wrong, in whose places stands something that is right.
    pub invalid: Invalid,
    pub vocab_size: u32,
}

impl<'py> Call<'py> {
    /// From its array and its keywords.
    pub fn of(x: &Bound<'py, PyAny>, controls: Option<&Bound<'_, PyDict>>) -> PyResult<Self> {
        Self::named(None, "x", x, controls)
    }

    /// The same, of an array that this may read too. Errors call the array `name`.
    pub fn named(
        reader: Option<&Reader>,
        name: &str,
        x: &Bound<'py, PyAny>,
        controls: Option<&Bound<'_, PyDict>>,
    ) -> PyResult<Self> {
        let controls = Controls::of(controls)?;
        let logits = Logits::read_by(reader, name, x, controls.vocab_size.as_ref())?;
        let (rows, vocab_size) = (logits.rows(), logits.vocab_size());
        let mut invalid = Invalid::among(Of::rows(rows), controls.keeps_invalid_rows);
        let mut params = controls.params(&mut invalid)?;
        let mut adjustments =
            adjustments::of_rows(&controls.lists, &params, vocab_size, &mut invalid)?;
        let mut inspect = inspect::of_rows(&controls.asked, vocab_size, &mut invalid)?;
        for row in invalid.rows() {
            params[row] = stand_in();
            leave_out(&mut adjustments, row, adjustments::nothing);
            leave_out(&mut inspect, row, Inspect::default);
        }
        let vocab_size = u32::try_from(vocab_size).unwrap_or(u32::MAX);
        Ok(Self { logits, asked: Asked { params, adjustments, inspect, invalid, vocab_size } })
    }
}

/// What a row that is wrong is sampled with: nothing of it is told.
fn stand_in() -> SamplingParams {
    let first = ParamsSpec { temperature: 0.0, ..Default::default() };
    first.parse(|| 0).expect("greedy is valid")
}

/// What is one a row is nothing for this one. What all rows share does no harm.
fn leave_out<T>(of_rows: &mut Option<Each<T>>, row: usize, nothing: fn() -> T) {
    if let Some(Each::Rows(rows)) = of_rows {
        rows[row] = nothing();
    }
}
