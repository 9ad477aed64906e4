//! What became of the rows of a call, as numpy arrays.

use logitd_core::params::SamplingParams;
use logitd_core::status::RowStatus;
use pyo3::create_exception;
use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;
use pyo3::types::PyByteArray;

create_exception!(
    logitd,
    RowError,
    PyValueError,
    "A row has no token: a logit is NaN or +inf, or no token is left."
);

/// The token where there is none.
const NO_TOKEN: i64 = -1;

/// What became of the rows of a call, in their order. An array is made when it is first looked at.
#[pyclass(frozen, module = "logitd")]
pub struct Results {
    table: Table,
    tokens: Array,
    logprobs: Array,
    seeds: Array,
    status: Array,
    kept: Array,
    kept_mass: Array,
    draws: Array,
    draw_logprobs: Array,
}

type Array = PyOnceLock<Py<PyAny>>;

/// Rows of results, all with as many draws.
pub struct Table {
    rows: Vec<RowOfTable>,
    /// The most that a row has.
    draws: usize,
    /// `draws` of each row: tokens and their logprobs.
    drawn: Vec<(i64, f32)>,
}

/// What is said once about a row.
pub struct RowOfTable {
    pub status: RowStatus,
    pub seed: u64,
    pub kept: u32,
    pub kept_mass: u64,
}

impl Table {
    /// Room for the results of rows with these parameters.
    pub fn new(params: &[SamplingParams]) -> Self {
        let draws = params.iter().map(|params| params.draws() as usize).max().unwrap_or(1);
        let drawn = Vec::with_capacity(params.len() * draws);
        Self { rows: Vec::with_capacity(params.len()), draws, drawn }
    }

    /// Adds a row and what was drawn from it.
    pub fn push(&mut self, row: RowOfTable, drawn: impl Iterator<Item = (u32, f32)>) {
        self.rows.push(row);
        self.drawn.extend(drawn.map(|(token, logprob)| (token.into(), logprob)));
        self.drawn.resize(self.rows.len() * self.draws, (NO_TOKEN, f32::NAN));
    }

    /// The first draw of each row.
    fn first(&self) -> impl Iterator<Item = &(i64, f32)> {
        self.drawn.iter().step_by(self.draws)
    }

    fn failed(&self) -> impl Iterator<Item = (usize, RowStatus)> {
        let rows = self.rows.iter().map(|row| row.status).enumerate();
        rows.filter(|(_, status)| *status != RowStatus::Ok)
    }

    fn check(&self) -> PyResult<()> {
        let mut failed = self.failed();
        let Some((row, status)) = failed.next() else { return Ok(()) };
        let others = match failed.count() {
            0 => String::new(),
            n => format!(" (and {n} more)"),
        };
        Err(RowError::new_err(format!("row {row} has no token: {status}{others}")))
    }
}

impl From<Table> for Results {
    fn from(table: Table) -> Self {
        Self {
            table,
            tokens: Array::new(),
            logprobs: Array::new(),
            seeds: Array::new(),
            status: Array::new(),
            kept: Array::new(),
            kept_mass: Array::new(),
            draws: Array::new(),
            draw_logprobs: Array::new(),
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
        let status = self.table.rows.iter().map(|row| [row.status as u8]);
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
        self.by_rows(array(py, &self.draws, "int64", tokens)?)
    }

    /// Their logprobs, NaN where there is no token. float32.
    #[getter]
    fn draw_logprobs<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        let logprobs = self.table.drawn.iter().map(|(_, logprob)| logprob.to_ne_bytes());
        self.by_rows(array(py, &self.draw_logprobs, "float32", logprobs)?)
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
    fn by_rows<'py>(&self, array: Bound<'py, PyAny>) -> PyResult<Bound<'py, PyAny>> {
        array.call_method1("reshape", (self.table.rows.len(), self.table.draws))
    }
}

/// The array of these elements, made at the first call.
fn array<'py, const N: usize>(
    py: Python<'py>,
    place: &Array,
    dtype: &str,
    elements: impl Iterator<Item = [u8; N]>,
) -> PyResult<Bound<'py, PyAny>> {
    let make = || -> PyResult<Py<PyAny>> {
        let bytes: Vec<u8> = elements.flatten().collect();
        static FROM_BUFFER: PyOnceLock<Py<PyAny>> = PyOnceLock::new();
        let from_buffer = FROM_BUFFER.import(py, "numpy", "frombuffer")?;
        Ok(from_buffer.call1((PyByteArray::new(py, &bytes), dtype))?.unbind())
    };
    Ok(place.get_or_try_init(py, make)?.bind(py).clone())
}
