//! What became of the rows of a call, as numpy arrays.

use crate::arrays::{Array, array, array_of, by_rows};
use crate::distribution::Distribution;
use crate::invalid::Violation;
use crate::table::{RowOfTable, Table};
use logitd_core::inspection::Distribution as Of;
use logitd_core::status::State;
use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;
use std::collections::BTreeMap;
use std::sync::Arc;

/// What became of the rows of a call, in their order. An array is made when it is first looked at.
#[pyclass(frozen, module = "logitd")]
pub struct Results {
    table: Arc<Table>,
    tokens: Array,
    logprobs: Array,
    seeds: Array,
    status: Array,
    kept: Array,
    kept_mass: Array,
    draws: Array,
    draw_logprobs: Array,
    kept_bitmask: Array,
    mirostat_mu: Array,
    adaptive_sum: Array,
    adaptive_weight: Array,
    distributions: [PyOnceLock<Py<Distribution>>; 3],
}

impl From<Table> for Results {
    fn from(table: Table) -> Self {
        Self {
            table: Arc::new(table),
            tokens: Array::new(),
            logprobs: Array::new(),
            seeds: Array::new(),
            status: Array::new(),
            kept: Array::new(),
            kept_mass: Array::new(),
            draws: Array::new(),
            draw_logprobs: Array::new(),
            kept_bitmask: Array::new(),
            mirostat_mu: Array::new(),
            adaptive_sum: Array::new(),
            adaptive_weight: Array::new(),
            distributions: [const { PyOnceLock::new() }; 3],
        }
    }
}

#[pymethods]
impl Results {
    /// The token of each row, the first one where it has several draws; -1 where there is none. int64.
    #[getter]
    fn tokens<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        let tokens = self.table.first().map(|(token, _)| token.to_ne_bytes());
        array(py, &self.tokens, "int64", tokens)
    }

    /// The natural logarithm of the token's probability among the kept tokens; NaN where there is none. float32.
    #[getter]
    fn logprobs<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        let logprobs = self.table.first().map(|(_, logprob)| logprob.to_ne_bytes());
        array(py, &self.logprobs, "float32", logprobs)
    }

    /// The seed of each row: given again, with the same logits and parameters, it gives the same bits. uint64.
    #[getter]
    fn seeds<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        let seeds = self.table.rows.iter().map(|row| row.seed.to_ne_bytes());
        array(py, &self.seeds, "uint64", seeds)
    }

    /// What became of each row, a `Status`. uint8.
    #[getter]
    fn status<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        let status = self.table.rows.iter().map(|row| [row.status.number()]);
        array(py, &self.status, "uint8", status)
    }

    /// How many tokens the cuts left. uint32.
    #[getter]
    fn kept<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        let kept = self.table.rows.iter().map(|row| row.kept.to_ne_bytes());
        array(py, &self.kept, "uint32", kept)
    }

    /// The mass of the kept tokens, in units of 2^-40 of the first token's. uint64.
    #[getter]
    fn kept_mass<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        let mass = self.table.rows.iter().map(|row| row.kept_mass.to_ne_bytes());
        array(py, &self.kept_mass, "uint64", mass)
    }

    /// Every draw: `[rows, draws]`, where draws is the most that a row asked for; -1 behind those of a row. int64.
    #[getter]
    fn draws<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        let tokens = self.table.drawn.iter().map(|(token, _)| token.to_ne_bytes());
        by_rows(array(py, &self.draws, "int64", tokens)?, self.table.rows.len(), self.table.draws)
    }

    /// Their logprobs, NaN where there is no token. float32.
    #[getter]
    fn draw_logprobs<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        let logprobs = self.table.drawn.iter().map(|(_, logprob)| logprob.to_ne_bytes());
        let logprobs = array(py, &self.draw_logprobs, "float32", logprobs)?;
        by_rows(logprobs, self.table.rows.len(), self.table.draws)
    }

    /// The model's own distribution, the logits as they came, where `logprobs` asked for it.
    #[getter]
    fn raw(&self, py: Python<'_>) -> PyResult<Py<Distribution>> {
        self.distribution(py, Of::Raw)
    }

    /// The distribution that the cuts are given, where `logprobs` asked for it.
    #[getter]
    fn adjusted(&self, py: Python<'_>) -> PyResult<Py<Distribution>> {
        self.distribution(py, Of::Adjusted)
    }

    /// The distribution that tokens are drawn from, where `logprobs` asked for it.
    #[getter]
    fn sampled(&self, py: Python<'_>) -> PyResult<Py<Distribution>> {
        self.distribution(py, Of::Sampled)
    }

    /// The kept tokens of each row, ascending, where `return_kept` asked for them and the row has a token, else None.
    #[getter]
    fn kept_ids<'py>(&self, py: Python<'py>) -> PyResult<Vec<Option<Bound<'py, PyAny>>>> {
        let ids = |row| self.table.kept_ids(row);
        let array = |ids: Vec<u32>| array_of(py, "uint32", ids.iter().map(|id| id.to_ne_bytes()));
        self.table.rows.iter().map(|row| ids(row).map(array).transpose()).collect()
    }

    /// The same as `[rows, words]` of 32 tokens each, the first in the lowest bit, as `allowed_bitmask` takes it; all 0
    /// where there are none. uint32.
    #[getter]
    fn kept_bitmask<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        let table = &self.table;
        let words = table.rows.iter().flat_map(|row| table.kept_words(row)).map(u32::to_ne_bytes);
        let words = array(py, &self.kept_bitmask, "uint32", words)?;
        by_rows(words, table.rows.len(), table.vocab_size.div_ceil(32) as usize)
    }

    /// The state of mirostat after each row: what the next row of its sequence has as `mirostat_mu`; NaN where a row has
    /// none. float32.
    #[getter]
    fn mirostat_mu<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        self.states(py, &self.mirostat_mu, |state| match state {
            State::Mirostat { mu } => Some(mu),
            State::Adaptive { .. } => None,
        })
    }

    /// The state of adaptive-p after each row: what the next row of its sequence has as `adaptive_sum`; NaN where a row
    /// has none. float32.
    #[getter]
    fn adaptive_sum<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        self.states(py, &self.adaptive_sum, |state| match state {
            State::Adaptive { sum, .. } => Some(sum),
            State::Mirostat { .. } => None,
        })
    }

    /// The rest of that state: what the next row has as `adaptive_weight`. float32.
    #[getter]
    fn adaptive_weight<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        self.states(py, &self.adaptive_weight, |state| match state {
            State::Adaptive { weight, .. } => Some(weight),
            State::Mirostat { .. } => None,
        })
    }

    /// What is wrong with rows whose status is INVALID_PARAMETERS: the field and what is allowed, by row.
    #[getter]
    fn violations(&self) -> BTreeMap<usize, (String, String)> {
        let said = |violation: &Violation| (violation.field.clone(), violation.description.clone());
        self.table.violations.iter().map(|(row, violation)| (*row, said(violation))).collect()
    }

    /// Raises a RowError that names the first row without a token, if there is one.
    ///
    /// Returns the results themselves, so that it can stand behind a call.
    fn raise_for_status(this: Bound<'_, Self>) -> PyResult<Bound<'_, Self>> {
        this.get().table.check()?;
        Ok(this)
    }

    fn __len__(&self) -> usize {
        self.table.rows.len()
    }

    fn __repr__(&self, py: Python<'_>) -> PyResult<String> {
        let rows = self.table.rows.len();
        let failed = self.table.failed().count();
        let tokens = py.import("numpy")?.call_method1("array2string", (self.tokens(py)?,))?;
        Ok(format!("Results(rows={rows}, failed={failed}, tokens={tokens})"))
    }
}

impl Results {
    fn states<'py>(
        &self,
        py: Python<'py>,
        made: &Array,
        part: fn(State) -> Option<f32>,
    ) -> PyResult<Bound<'py, PyAny>> {
        let of_row = |row: &RowOfTable| row.state.and_then(part).unwrap_or(f32::NAN);
        array(py, made, "float32", self.table.rows.iter().map(|row| of_row(row).to_ne_bytes()))
    }

    fn distribution(&self, py: Python<'_>, of: Of) -> PyResult<Py<Distribution>> {
        let make = || Distribution::of(&self.table, of).and_then(|found| Py::new(py, found));
        self.distributions[of as usize].get_or_try_init(py, make).map(|found| found.clone_ref(py))
    }
}
