//! What is asked of rows whose next token is known, from arrays and options.

use super::sets::{self, Given};
use super::wrong;
use crate::logits::Logits;
use crate::tokens;
use logitd_core::evaluate::TailShare;
use logitd_core::evaluate::sets::Sets;
use pyo3::prelude::*;
use pyo3::types::PyDict;
use std::collections::BTreeSet;

/// Rows of a call: each adds less than 2^45 to a sum, of which 2^63 fit.
const ROWS_MAX: usize = 1 << 18;
/// Sums of a call, one a label and set: of 64 bytes each.
const SUMS_MAX: usize = 1 << 24;
/// Answers of a call, one a row and set: of 24 bytes each.
const ANSWERS_MAX: usize = 1 << 26;

/// What is asked, by the names of `logitd.evaluate`.
#[derive(FromPyObject)]
#[pyo3(from_item_all)]
pub struct Options<'py> {
    pub sets: Option<Bound<'py, PyAny>>,
    /// The values of a grid, by the parameters' names.
    pub axes: Bound<'py, PyDict>,
    pub groups: Option<Bound<'py, PyAny>>,
    pub tail_share: Bound<'py, PyAny>,
    pub rows: bool,
    pub threads: i64,
    pub vocab_size: Option<Bound<'py, PyAny>>,
}

/// A call of `evaluate`, checked.
pub struct Call<'py> {
    pub logits: Logits<'py>,
    pub asked: Asked,
}

/// What its rows are evaluated by.
pub struct Asked {
    /// The token that came next, of each row.
    pub references: Vec<u32>,
    /// The label that each row is summed under.
    pub groups: Vec<u32>,
    pub sets: Given,
    pub tail: TailShare,
    /// Whether an answer is wanted of each row and set.
    pub rows: bool,
    pub vocab_size: usize,
}

impl<'py> Call<'py> {
    /// From its arrays and its options.
    pub fn of(
        logits: &Bound<'py, PyAny>,
        references: &Bound<'_, PyAny>,
        options: &Options<'_>,
    ) -> PyResult<Self> {
        let logits = Logits::of("logits", logits, options.vocab_size.as_ref())?;
        let references = references_of(references, &logits)?;
        let groups = groups_of(options.groups.as_ref(), logits.rows())?;
        let sets = sets::of(options.sets.as_ref(), &options.axes)?;
        check_size(&groups, &sets.sets, options.rows)?;
        let (tail, rows) = (tail(&options.tail_share)?, options.rows);
        let vocab_size = logits.vocab_size();
        Ok(Self { logits, asked: Asked { references, groups, sets, tail, rows, vocab_size } })
    }
}

fn references_of(given: &Bound<'_, PyAny>, logits: &Logits<'_>) -> PyResult<Vec<u32>> {
    let references = a_value_a_row("references", given, logits.rows())?;
    let vocab_size = logits.vocab_size();
    let beyond = |reference: &u32| *reference as usize >= vocab_size;
    match references.iter().position(beyond) {
        None => Ok(references),
        Some(row) => Err(wrong(format!(
            "references[{row}] is {}; allowed: a token of its row, 0 to {}",
            references[row],
            vocab_size - 1
        ))),
    }
}

fn groups_of(given: Option<&Bound<'_, PyAny>>, rows: usize) -> PyResult<Vec<u32>> {
    given.map_or_else(|| Ok(vec![0; rows]), |given| a_value_a_row("groups", given, rows))
}

fn a_value_a_row(name: &str, given: &Bound<'_, PyAny>, rows: usize) -> PyResult<Vec<u32>> {
    let values = tokens::ids(name, given)?;
    if values.len() == rows {
        return Ok(values);
    }
    Err(wrong(format!("{name} has {} values for {rows} rows; allowed: one a row", values.len())))
}

fn check_size(groups: &[u32], sets: &Sets, rows_are_asked: bool) -> PyResult<()> {
    let (rows, sets) = (groups.len(), sets.len());
    if rows > ROWS_MAX {
        return Err(wrong(format!(
            "logits has {rows} rows; allowed: up to {ROWS_MAX} a call. Sums of several calls add up"
        )));
    }
    let labels = groups.iter().collect::<BTreeSet<_>>().len();
    if labels * sets > SUMS_MAX {
        return Err(wrong(format!(
            "groups has {labels} labels and there are {sets} sets, {} sums; allowed: {SUMS_MAX} a call. Evaluate fewer \
             sets in each of several calls",
            labels * sets
        )));
    }
    if rows_are_asked && rows * sets > ANSWERS_MAX {
        return Err(wrong(format!(
            "rows=True of {rows} rows and {sets} sets are {} answers; allowed: {ANSWERS_MAX} a call. Evaluate fewer rows \
             or sets, or leave rows out",
            rows * sets
        )));
    }
    Ok(())
}

fn tail(given: &Bound<'_, PyAny>) -> PyResult<TailShare> {
    // 1e-50 and 0.999999999 are none either: as 32 bits they are 0 and 1.
    let refused =
        || wrong(format!("tail_share is {given}; allowed: above 0 and below 1, as a float32"));
    TailShare::new(given.extract::<f64>()? as f32).ok_or_else(refused)
}
