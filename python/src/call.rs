//! What is asked for in a call: logits, and how to sample each row of them.

use crate::adjustments;
use crate::controls::Controls;
use crate::each::Each;
use crate::logits::Logits;
use logitd_core::adjustments::Adjustments;
use logitd_core::params::SamplingParams;
use pyo3::prelude::*;
use pyo3::types::PyDict;

/// A call of `sample`, checked.
pub struct Call<'py> {
    pub logits: Logits<'py>,
    /// One a row.
    pub params: Vec<SamplingParams>,
    pub adjustments: Option<Each<Adjustments>>,
}

impl<'py> Call<'py> {
    /// From its array and its keywords.
    pub fn of(x: &Bound<'py, PyAny>, controls: Option<&Bound<'_, PyDict>>) -> PyResult<Self> {
        let logits = Logits::of(x)?;
        let controls = Controls::of(controls)?;
        let params = controls.params(logits.rows())?;
        let adjustments = adjustments::of_rows(&controls.lists, &params, logits.vocab_size())?;
        Ok(Self { logits, params, adjustments })
    }
}
