//! What sets of parameters come to over rows whose next token is known: `logitd.evaluate`.
//!
//! Rows are read where they lie, as for a sample, and evaluated some at a time without the GIL; sums of integers add up to
//! the same however they are cut. What was found goes to Python as arrays by their names; `logitd._evaluate` makes one
//! object of them, and means.

mod found;
mod sets;

use crate::logits::Logits;
use crate::tokens;
use logitd_core::backend::cpu::THREADS_MAX;
use logitd_core::batch::Row;
use logitd_core::evaluate::cpu::Cpu;
use logitd_core::evaluate::sets::Sets;
use logitd_core::evaluate::{Answer, Evaluator, Position, Question, TailShare};
use logitd_core::params::ParamsSpec;
use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;
use pyo3::types::PyDict;
use std::collections::BTreeSet;
use std::ops::RangeInclusive;

/// Rows of a call: each adds less than 2^45 to a sum, of which 2^63 fit.
const ROWS_MAX: usize = 1 << 18;
/// Sums of a call, one a label and set: of 64 bytes each.
const SUMS_MAX: usize = 1 << 24;
/// Answers of a call, one a row and set: of 24 bytes each.
const ANSWERS_MAX: usize = 1 << 26;
/// What is evaluated between two looks at signals: a second or two of one thread.
const PAIRS_AT_A_TIME: usize = 1 << 22;
/// Rows of that. Fewer leave threads without work, and of more the digests take much memory (100 KB each).
const ROWS_AT_A_TIME: RangeInclusive<usize> = 64..=1024;

/// What is asked, by the names of `logitd.evaluate`.
#[derive(FromPyObject)]
#[pyo3(from_item_all)]
pub struct Options<'py> {
    sets: Option<Bound<'py, PyAny>>,
    /// The values of a grid, by the parameters' names.
    axes: Bound<'py, PyDict>,
    groups: Option<Bound<'py, PyAny>>,
    tail_share: Bound<'py, PyAny>,
    rows: bool,
    threads: i64,
    vocab_size: Option<Bound<'py, PyAny>>,
}

/// What `logitd.evaluate` is made of: arrays by their names.
#[pyfunction]
#[pyo3(signature = (logits, references, options, /))]
pub fn evaluate<'py>(
    py: Python<'py>,
    logits: &Bound<'py, PyAny>,
    references: &Bound<'py, PyAny>,
    options: Options<'py>,
) -> PyResult<Bound<'py, PyDict>> {
    let logits = Logits::of("logits", logits, options.vocab_size.as_ref())?;
    let references = references_of(references, &logits)?;
    let groups = groups_of(options.groups.as_ref(), logits.rows())?;
    let sets = sets::of(options.sets.as_ref(), &options.axes)?;
    check_size(&groups, &sets, options.rows)?;
    let cpu = Cpu::new(threads(options.threads)?);
    let question = Question { sets: &sets, tail: tail(&options.tail_share)?, rows: options.rows };
    let bytes = logits.bytes();
    let mut positions = Vec::with_capacity(bytes.len());
    for ((bytes, reference), group) in bytes.into_iter().zip(references).zip(groups) {
        let row = Row::new(logits.dtype(), bytes, plain()).map_err(wrong)?;
        positions.push(Position::new(row, reference, group).expect("references were checked"));
    }
    let answer = in_parts(py, &cpu, &positions, &question)?;
    let found = found::arrays(py, &sets, &answer, options.rows)?;
    found.set_item("vocab_size", logits.vocab_size())?;
    Ok(found)
}

/// Everything, a part of the rows at a time; between two of them Python has its signals.
fn in_parts(
    py: Python<'_>,
    cpu: &Cpu,
    positions: &[Position<'_>],
    question: &Question<'_>,
) -> PyResult<Answer> {
    let at_a_time = PAIRS_AT_A_TIME / question.sets.len().max(1);
    let at_a_time = at_a_time.clamp(*ROWS_AT_A_TIME.start(), *ROWS_AT_A_TIME.end());
    let mut all = Answer::default();
    for part in positions.chunks(at_a_time) {
        let Answer { references, sums, rows } = py.detach(|| cpu.evaluate(part, question));
        all.references.extend(references);
        all.sums.merge(sums);
        all.rows.extend(rows);
        py.check_signals()?;
    }
    Ok(all)
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

fn threads(given: i64) -> PyResult<usize> {
    match usize::try_from(given) {
        Ok(0) => Ok(std::thread::available_parallelism().map_or(1, usize::from)),
        Ok(threads @ 1..=THREADS_MAX) => Ok(threads),
        _ => Err(wrong(format!(
            "threads is {given}; allowed: 0 (one for each core) to {THREADS_MAX}"
        ))),
    }
}

fn tail(given: &Bound<'_, PyAny>) -> PyResult<TailShare> {
    // 1e-50 and 0.999999999 are none either: as 32 bits they are 0 and 1.
    let refused =
        || wrong(format!("tail_share is {given}; allowed: above 0 and below 1, as a float32"));
    TailShare::new(given.extract::<f64>()? as f32).ok_or_else(refused)
}

/// Parameters that nobody looks at.
fn plain() -> logitd_core::params::SamplingParams {
    ParamsSpec::DEFAULT.parse(|| 0).expect("the defaults are valid")
}

fn wrong(said: impl std::fmt::Display) -> PyErr {
    PyValueError::new_err(said.to_string())
}
