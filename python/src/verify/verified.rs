//! What came of sequences with drafts, as numpy arrays.

use crate::arrays::{Array, array, array_of, by_rows};
use crate::results::Results;
use crate::table::{NO_TOKEN, RowError, Status, Table};
use logitd_core::status::RowStatus;
use pyo3::exceptions::PyIndexError;
use pyo3::prelude::*;

/// What came of a sequence.
pub struct Found {
    pub status: Status,
    /// How many drafts were taken.
    pub accepted: u32,
    /// What it goes on with: these drafts, and one more token where the status is OK.
    pub tokens: Vec<u32>,
    /// One a token.
    pub logprobs: Vec<f32>,
    /// Of a tree: the nodes of the drafts that were taken.
    pub path: Vec<u32>,
    pub seed: u64,
}

/// What came of sequences with drafts, in their order. An array is made when it is first looked at.
#[pyclass(frozen, module = "logitd")]
pub struct Verified {
    all: Vec<Found>,
    rows: Option<Py<Results>>,
    status: Array,
    accepted: Array,
    tokens: Array,
    logprobs: Array,
    path: Array,
    seeds: Array,
}

impl Verified {
    /// Of all sequences, with the rows of their tokens where more than these was asked for.
    pub fn new(py: Python<'_>, found: (Vec<Found>, Option<Table>)) -> PyResult<Self> {
        let (all, rows) = found;
        Ok(Self {
            all,
            rows: rows.map(|rows| Py::new(py, Results::from(rows))).transpose()?,
            status: Array::new(),
            accepted: Array::new(),
            tokens: Array::new(),
            logprobs: Array::new(),
            path: Array::new(),
            seeds: Array::new(),
        })
    }

    /// Values of all sequences, as many of each as the longest has.
    fn padded<'py, const N: usize>(
        &self,
        place: (Python<'py>, &Array, &str),
        of: impl Fn(&Found) -> Vec<[u8; N]>,
        nothing: [u8; N],
    ) -> PyResult<Bound<'py, PyAny>> {
        let each: Vec<Vec<[u8; N]>> = self.all.iter().map(of).collect();
        let most = each.iter().map(Vec::len).max().unwrap_or(0);
        let padded = each.into_iter().flat_map(|mut one| {
            one.resize(most, nothing);
            one
        });
        let (py, made, dtype) = place;
        by_rows(array(py, made, dtype, padded)?, self.all.len(), most)
    }
}

#[pymethods]
impl Verified {
    /// What became of each sequence, a `Status`: where it is not OK, the row behind the last token has none. uint8.
    #[getter]
    fn status<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        array(py, &self.status, "uint8", self.all.iter().map(|one| [one.status.number()]))
    }

    /// How many drafts of each sequence were taken. uint32.
    #[getter]
    fn accepted<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        array(py, &self.accepted, "uint32", self.all.iter().map(|one| one.accepted.to_ne_bytes()))
    }

    /// What the sequences go on with, `[sequences, most]`: the drafts that were taken, and behind them a token of the target
    /// where the status is OK; -1 behind those of a sequence. int64.
    #[getter]
    fn tokens<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        let of = |one: &Found| one.tokens.iter().map(|&id| i64::from(id).to_ne_bytes()).collect();
        self.padded((py, &self.tokens, "int64"), of, NO_TOKEN.to_ne_bytes())
    }

    /// The natural logarithms of the tokens' probabilities among the kept tokens of their rows, NaN where there is no
    /// token; -inf for a draft that was taken and whose probability is too small for the arithmetic. float32.
    #[getter]
    fn logprobs<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        let of = |one: &Found| one.logprobs.iter().map(|logprob| logprob.to_ne_bytes()).collect();
        self.padded((py, &self.logprobs, "float32"), of, f32::NAN.to_ne_bytes())
    }

    /// Of trees: the nodes of the drafts that were taken, in order, `[sequences, most]`; -1 behind those of a sequence. int64.
    #[getter]
    fn path<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        let of = |one: &Found| one.path.iter().map(|&node| i64::from(node).to_ne_bytes()).collect();
        self.padded((py, &self.path, "int64"), of, NO_TOKEN.to_ne_bytes())
    }

    /// The seed of each sequence. uint64.
    #[getter]
    fn seeds<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        array(py, &self.seeds, "uint64", self.all.iter().map(|one| one.seed.to_ne_bytes()))
    }

    /// The results of the tokens' rows, a row for each token of the first sequence, then of the next, where `logprobs` or
    /// `return_kept` asked for them, else None.
    #[getter]
    fn rows(&self, py: Python<'_>) -> Option<Py<Results>> {
        self.rows.as_ref().map(|rows| rows.clone_ref(py))
    }

    /// The tokens that a sequence goes on with: `history.extend(verified.tokens_of(0))`. uint32.
    fn tokens_of<'py>(&self, py: Python<'py>, sequence: usize) -> PyResult<Bound<'py, PyAny>> {
        let Some(one) = self.all.get(sequence) else {
            let text = match self.all.len() {
                0 => "there are no sequences".to_owned(),
                count => format!("sequence is {sequence}; allowed: 0 to {}", count - 1),
            };
            return Err(PyIndexError::new_err(text));
        };
        array_of(py, "uint32", one.tokens.iter().map(|id| id.to_ne_bytes()))
    }

    /// Raises a RowError that names the first sequence whose status is not OK, if there is one.
    ///
    /// Returns the answer itself, so that it can stand behind a call.
    fn raise_for_status(this: Bound<'_, Self>) -> PyResult<Bound<'_, Self>> {
        let is_ok = |one: &Found| one.status == Status::Sampled(RowStatus::Ok);
        match this.get().all.iter().position(|one| !is_ok(one)) {
            None => Ok(this),
            Some(i) => {
                let Found { status, accepted, .. } = &this.get().all[i];
                let status = status.name();
                Err(RowError::new_err(format!(
                    "sequence {i} has no token behind {accepted} drafts: {status}"
                )))
            }
        }
    }

    fn __len__(&self) -> usize {
        self.all.len()
    }

    fn __repr__(&self) -> String {
        let accepted: u32 = self.all.iter().map(|one| one.accepted).sum();
        format!("Verified(sequences={}, accepted={accepted})", self.all.len())
    }
}
