//! What was found, as numpy arrays by their names.

use super::asked::Asked;
use crate::arrays::{array_of, by_rows};
use crate::table::{NO_TOKEN, Status};
use logitd_core::evaluate::sets::FIELDS_OF_SETS;
use logitd_core::evaluate::sums::{GroupSums, SetSums};
use logitd_core::evaluate::{Evaluation, EvaluationResult, Reference};
use logitd_core::params::{Field, ParamsSpec, SamplingParams, Value};
use logitd_core::status::RowStatus;
use pyo3::prelude::*;
use pyo3::types::PyDict;

/// The first so many of [`FIELDS_OF_SETS`] are in every answer; of the others, what a set has.
const IN_EVERY_ANSWER: usize = 4;

/// A sum of a set, as bytes.
type Sum = fn(&SetSums) -> [u8; 8];
/// The sums by their names, and how numpy has them.
const SUMS: [(&str, &str, Sum); 8] = [
    ("hits", "uint64", |sums| sums.hits.to_ne_bytes()),
    ("kept", "uint64", |sums| sums.kept.to_ne_bytes()),
    ("logprob_q32", "int64", |sums| sums.logprob_q32.to_ne_bytes()),
    ("probability_q32", "uint64", |sums| sums.probability_q32.to_ne_bytes()),
    ("entropy_q32", "uint64", |sums| sums.entropy_q32.to_ne_bytes()),
    ("surprise_q32", "uint64", |sums| sums.surprise_q32.to_ne_bytes()),
    ("collision_q32", "uint64", |sums| sums.collision_q32.to_ne_bytes()),
    ("tail_q32", "uint64", |sums| sums.tail_q32.to_ne_bytes()),
];

/// Everything: the sets' parameters, what is said of each row, the sums of each label, and of each row and set if that
/// was asked for.
pub fn arrays<'py>(
    py: Python<'py>,
    asked: &Asked,
    answer: &EvaluationResult,
) -> PyResult<Bound<'py, PyDict>> {
    let arrays = PyDict::new(py);
    let sets = &asked.sets.sets;
    arrays.set_item("vocab_size", asked.vocab_size)?;
    add_params(&arrays, sets.params())?;
    add_references(&arrays, &answer.references)?;
    add_sums(&arrays, answer, sets.len())?;
    if asked.rows {
        add_rows(&arrays, answer, sets.len())?;
    }
    Ok(arrays)
}

fn add_params(to: &Bound<'_, PyDict>, params: &[SamplingParams]) -> PyResult<()> {
    let columns = PyDict::new(to.py());
    for (i, name) in FIELDS_OF_SETS.into_iter().enumerate() {
        let field = Field::named(name).expect("a parameter");
        let values = || params.iter().map(|own| field.get((*own).into()));
        let default = field.get(ParamsSpec::DEFAULT);
        if i >= IN_EVERY_ANSWER && values().all(|value| value == default) {
            continue;
        }
        let column = match default {
            Value::Whole(_) => array_of(to.py(), "uint32", values().map(whole))?,
            Value::Name(_) => names(to.py(), values())?,
            _ => array_of(to.py(), "float32", values().map(real))?,
        };
        columns.set_item(name, column)?;
    }
    to.set_item("params", columns)
}

fn whole(value: Value) -> [u8; 4] {
    match value {
        Value::Whole(n) => (n as u32).to_ne_bytes(),
        other => unreachable!("{other} is no whole number"),
    }
}

fn real(value: Value) -> [u8; 4] {
    match value {
        Value::Real(x) => x.to_ne_bytes(),
        other => unreachable!("{other} is no number"),
    }
}

/// Names, as numpy has texts.
fn names<'py>(py: Python<'py>, values: impl Iterator<Item = Value>) -> PyResult<Bound<'py, PyAny>> {
    let texts: Vec<String> = values.map(|value| value.to_string()).collect();
    py.import("numpy")?.call_method1("array", (texts,))
}

fn add_references(to: &Bound<'_, PyDict>, all: &[Reference]) -> PyResult<()> {
    let status = all.iter().map(|row| [Status::Sampled(row.status).number()]);
    let rank = all.iter().map(|row| if is_ok(row) { row.rank.into() } else { NO_TOKEN });
    let real = |get: fn(&Reference) -> f32| {
        let number = all.iter().map(|row| if is_ok(row) { get(row) } else { f32::NAN });
        array_of(to.py(), "float32", number.map(f32::to_ne_bytes))
    };
    to.set_item("status", array_of(to.py(), "uint8", status)?)?;
    to.set_item("rank", array_of(to.py(), "int64", rank.map(i64::to_ne_bytes))?)?;
    to.set_item("logprob", real(|row| row.logprob)?)?;
    to.set_item("entropy", real(|row| row.entropy)?)
}

fn add_sums(to: &Bound<'_, PyDict>, answer: &EvaluationResult, sets: usize) -> PyResult<()> {
    let groups: Vec<(u32, &GroupSums)> = answer.sums.groups().collect();
    let labels = groups.iter().map(|(label, _)| label.to_ne_bytes());
    to.set_item("groups", array_of(to.py(), "uint32", labels)?)?;
    let rows = groups.iter().map(|(_, sums)| sums.rows.to_ne_bytes());
    to.set_item("rows", array_of(to.py(), "uint64", rows)?)?;
    let failed = groups.iter().map(|(_, sums)| sums.rows_failed.to_ne_bytes());
    to.set_item("rows_failed", array_of(to.py(), "uint64", failed)?)?;
    for (name, dtype, sum) in SUMS {
        let sums = groups.iter().flat_map(|(_, sums)| sums.sets.iter().map(sum));
        to.set_item(name, by_rows(array_of(to.py(), dtype, sums)?, groups.len(), sets)?)?;
    }
    Ok(())
}

fn add_rows(to: &Bound<'_, PyDict>, answer: &EvaluationResult, sets: usize) -> PyResult<()> {
    let rows = answer.references.len();
    let each = || answer.rows.iter();
    let kept = array_of(to.py(), "uint32", each().map(|own| own.kept.to_ne_bytes()))?;
    let mass = array_of(to.py(), "uint64", each().map(|own| own.kept_mass.to_ne_bytes()))?;
    let logprob = array_of(to.py(), "float32", each().map(|own| logprob(own).to_ne_bytes()))?;
    to.set_item("row_kept", by_rows(kept, rows, sets)?)?;
    to.set_item("row_kept_mass", by_rows(mass, rows, sets)?)?;
    to.set_item("row_logprob", by_rows(logprob, rows, sets)?)
}

/// A reference that is cut has the probability 0; a row without a token has none.
fn logprob(found: &Evaluation) -> f32 {
    match found.kept {
        0 => f32::NAN,
        _ => found.logprob.unwrap_or(f32::NEG_INFINITY),
    }
}

fn is_ok(row: &Reference) -> bool {
    row.status == RowStatus::Ok
}
