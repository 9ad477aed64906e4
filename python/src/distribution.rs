//! What was found of a distribution of each row, as numpy arrays.

use crate::arrays::{Array, array, by_rows};
use crate::table::{NO_TOKEN, Table};
use logitd_core::inspection::{Distribution as Of, Logprobs, TokenLogprob};
use pyo3::exceptions::PyAttributeError;
use pyo3::prelude::*;
use std::sync::Arc;

/// The status of a row of which the distribution was not asked for.
const NOT_ASKED: u8 = u8::MAX;

/// One of the distributions that `logprobs` asked for, of each row. An array is made when it is first looked at.
///
/// Ranks are counted from 1, in the order of the distribution; 0 is a token that is not in it, with a logprob of -inf.
/// Where a row has no such token, it is -1, its rank 0 and its logprob NaN.
#[pyclass(frozen, module = "logitd")]
pub struct Distribution {
    table: Arc<Table>,
    of: Of,
    status: Array,
    entropy: Array,
    logprobs: Array,
    ranks: Array,
    draw_logprobs: Array,
    draw_ranks: Array,
    top_tokens: Array,
    top_logprobs: Array,
    id_logprobs: Array,
    id_ranks: Array,
}

/// A token where there is none.
const NONE: Entry = Entry { token: NO_TOKEN, rank: 0, logprob: f32::NAN };

/// A list of each row, and how many columns it has where that does not follow from the lists.
type List = (fn(&Logprobs) -> &[TokenLogprob], Option<usize>);

/// The first tokens.
const TOP: List = (|found| &found.top, None);
/// Those that were named.
const IDS: List = (|found| &found.ids, None);

#[derive(Clone, Copy)]
struct Entry {
    token: i64,
    rank: u32,
    logprob: f32,
}

impl From<&TokenLogprob> for Entry {
    fn from(found: &TokenLogprob) -> Self {
        Self { token: found.token.into(), rank: found.rank, logprob: found.logprob }
    }
}

impl Distribution {
    /// An error, if no row was asked for it.
    pub fn of(table: &Arc<Table>, of: Of) -> PyResult<Self> {
        let found = Self {
            table: Arc::clone(table),
            of,
            status: Array::new(),
            entropy: Array::new(),
            logprobs: Array::new(),
            ranks: Array::new(),
            draw_logprobs: Array::new(),
            draw_ranks: Array::new(),
            top_tokens: Array::new(),
            top_logprobs: Array::new(),
            id_logprobs: Array::new(),
            id_ranks: Array::new(),
        };
        if found.rows().all(|row| row.is_none()) {
            return Err(PyAttributeError::new_err(format!(
                "nothing was asked of the {of} distribution: logprobs={:?} asks for it",
                of.name()
            )));
        }
        Ok(found)
    }

    fn rows(&self) -> impl Iterator<Item = Option<&Logprobs>> {
        let of = self.of;
        self.table.rows.iter().map(move |row| {
            let found = row.inspection.as_ref()?;
            found.logprobs.iter().find(|logprobs| logprobs.of == of)
        })
    }

    /// The lists of all rows, each of so many columns; without a number, each as long as the longest.
    fn columns(
        &self,
        list: fn(&Logprobs) -> &[TokenLogprob],
        columns: Option<usize>,
    ) -> (usize, Vec<Entry>) {
        let lists = || self.rows().map(|row| row.map_or(&[][..], list));
        let longest = || lists().map(<[_]>::len).max().unwrap_or(0);
        let columns = columns.unwrap_or_else(longest);
        let padded = |list: &[TokenLogprob]| -> Vec<Entry> {
            let entries = list.iter().map(Entry::from);
            entries.chain(std::iter::repeat(NONE)).take(columns).collect()
        };
        (columns, lists().flat_map(padded).collect())
    }

    /// What was drawn: as many columns as the results have, whatever was asked of which row.
    fn drawn(&self) -> List {
        (|found| &found.drawn, Some(self.table.draws))
    }

    fn first(&self) -> impl Iterator<Item = Entry> {
        self.rows().map(|row| row.and_then(|row| row.drawn.first()).map_or(NONE, Entry::from))
    }

    /// What is in a list of each row: `[rows, columns]`.
    fn listed<'py, const N: usize>(
        &self,
        py: Python<'py>,
        place: &Array,
        dtype: &str,
        (list, columns): List,
        bytes: fn(Entry) -> [u8; N],
    ) -> PyResult<Bound<'py, PyAny>> {
        if let Some(made) = place.get(py) {
            return Ok(made.bind(py).clone());
        }
        let (columns, entries) = self.columns(list, columns);
        let made = array(py, &Array::new(), dtype, entries.into_iter().map(bytes))?;
        let made = by_rows(made, self.table.rows.len(), columns)?;
        Ok(place.get_or_init(py, || made.unbind()).bind(py).clone())
    }
}

#[pymethods]
impl Distribution {
    /// Whether each row has it, a `Status`; 255 where it was not asked for. uint8.
    ///
    /// It is by itself: a row whose tokens are all banned has no token, and its raw distribution all the same.
    #[getter]
    fn status<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        let status = self.rows().map(|row| [row.map_or(NOT_ASKED, |row| row.status as u8)]);
        array(py, &self.status, "uint8", status)
    }

    /// The entropy of each row, in nats; NaN where the status is not OK. float32.
    #[getter]
    fn entropy<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        let is_ok = |row: &&Logprobs| row.status as u8 == 0;
        let entropy = |row: Option<&Logprobs>| row.filter(is_ok).map_or(f32::NAN, |r| r.entropy.0);
        array(py, &self.entropy, "float32", self.rows().map(|row| entropy(row).to_ne_bytes()))
    }

    /// The logprob of each row's token. float32.
    #[getter]
    fn logprobs<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        let logprobs = self.first().map(|entry| entry.logprob.to_ne_bytes());
        array(py, &self.logprobs, "float32", logprobs)
    }

    /// The rank of each row's token. uint32.
    #[getter]
    fn ranks<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        array(py, &self.ranks, "uint32", self.first().map(|entry| entry.rank.to_ne_bytes()))
    }

    /// The logprobs of every draw: `[rows, draws]`, as `Results.draws` has them. float32.
    #[getter]
    fn draw_logprobs<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        self.listed(py, &self.draw_logprobs, "float32", self.drawn(), |entry| {
            entry.logprob.to_ne_bytes()
        })
    }

    /// The ranks of every draw: `[rows, draws]`. uint32.
    #[getter]
    fn draw_ranks<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        self.listed(py, &self.draw_ranks, "uint32", self.drawn(), |entry| entry.rank.to_ne_bytes())
    }

    /// The first tokens of each row, most likely first: `[rows, top]`. int64.
    #[getter]
    fn top_tokens<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        self.listed(py, &self.top_tokens, "int64", TOP, |entry| entry.token.to_ne_bytes())
    }

    /// Their logprobs: `[rows, top]`. float32.
    #[getter]
    fn top_logprobs<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        self.listed(py, &self.top_logprobs, "float32", TOP, |entry| entry.logprob.to_ne_bytes())
    }

    /// The logprobs of the tokens that were asked for by `ids`, in that order: `[rows, ids]`. float32.
    #[getter]
    fn id_logprobs<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        self.listed(py, &self.id_logprobs, "float32", IDS, |entry| entry.logprob.to_ne_bytes())
    }

    /// The ranks of these: `[rows, ids]`. uint32.
    #[getter]
    fn id_ranks<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        self.listed(py, &self.id_ranks, "uint32", IDS, |entry| entry.rank.to_ne_bytes())
    }

    fn __repr__(&self) -> String {
        format!("Distribution({:?}, rows={})", self.of.name(), self.table.rows.len())
    }
}
