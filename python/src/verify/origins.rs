//! What drafts were drawn from, one by one, in the order of all sequences.

use crate::call::Call;
use crate::each::Each;
use crate::logits::Logits;
use crate::memory::{Array, Element};
use crate::tokens::whole;
use logitd_core::adjustments::Adjustments;
use logitd_core::batch::{Dtype, Row};
use logitd_core::params::{ParamsSpec, SamplingParams};
use logitd_core::row::{Proposal, Source};
use logitd_core::verify::drafts::{self, DraftError};
use pyo3::exceptions::{PyTypeError, PyValueError};
use pyo3::intern;
use pyo3::prelude::*;
use pyo3::types::PyDict;
use std::sync::Arc;

/// What a draft was drawn from.
#[derive(Debug)]
pub enum Origin {
    Known(Proposal),
    Row(Drafted),
}

/// A row of a draft model, copied: a backend may keep it for longer than an array is known to be there.
#[derive(Clone, Debug)]
pub struct Drafted {
    pub logits: Arc<[u8]>,
    pub params: SamplingParams,
    pub adjustments: Option<Adjustments>,
    dtype: Dtype,
}

impl Source for Drafted {
    fn row(&self) -> Row<'_> {
        let row = Row::new(self.dtype, &self.logits, self.params);
        row.expect("a row of the target's vocabulary").with_adjustments(self.adjustments.as_ref())
    }
}

/// One a draft: of a `DraftLogits` or a matrix of probabilities with a row for each, or of a list with None, a `DraftLogits`
/// of a single row, a dict of weights, or probabilities for each. `like` is what rows of drafts have to be like.
pub fn of(given: &Bound<'_, PyAny>, drafts: usize, like: &Logits<'_>) -> PyResult<Vec<Origin>> {
    let name = "distributions";
    let origins = if is_of_rows(given)? {
        rows(name, given, like)?
    } else if let Some(matrix) = array(name, given)? {
        let one = |row| dense(&format!("{name}[{row}]"), &matrix, row, like.vocab_size());
        (0..matrix.rows()).map(one).collect::<PyResult<_>>()?
    } else {
        let Ok(items) = given.try_iter() else {
            return Err(PyTypeError::new_err(format!(
                "{name} is {given}; allowed: a DraftLogits, an array of probabilities, or a list with one a draft"
            )));
        };
        let one = |(i, item): (usize, PyResult<_>)| one(&format!("{name}[{i}]"), &item?, like);
        items.enumerate().map(one).collect::<PyResult<_>>()?
    };
    match origins.len() {
        count if count == drafts => Ok(origins),
        count => Err(PyValueError::new_err(format!(
            "{name} has {count} for {drafts} drafts; allowed: none, or one a draft of all sequences"
        ))),
    }
}

/// That of a single draft.
fn one(name: &str, given: &Bound<'_, PyAny>, like: &Logits<'_>) -> PyResult<Origin> {
    if given.is_none() {
        return Ok(Origin::Known(Proposal::Point));
    }
    if let Ok(weights) = given.cast::<PyDict>() {
        return sparse(name, weights, like.vocab_size());
    }
    if is_of_rows(given)? {
        let mut rows = rows(name, given, like)?;
        return match (rows.pop(), rows.len()) {
            (Some(row), 0) => Ok(row),
            _ => Err(PyValueError::new_err(format!(
                "{name} has several rows or none; allowed: a single row, that of its draft"
            ))),
        };
    }
    match array(name, given)? {
        Some(array) if array.rows() == 1 => dense(name, &array, 0, like.vocab_size()),
        _ => {
            let kind = given.get_type();
            Err(PyTypeError::new_err(format!(
                "{name} is a {kind}; allowed: None, a DraftLogits, a dict of weights, or an array of probabilities"
            )))
        }
    }
}

/// Whether it is a `DraftLogits`: logits, and the controls that drafts were drawn from them with.
fn is_of_rows(given: &Bound<'_, PyAny>) -> PyResult<bool> {
    given.hasattr(intern!(given.py(), "controls"))
}

fn rows(name: &str, given: &Bound<'_, PyAny>, like: &Logits<'_>) -> PyResult<Vec<Origin>> {
    let controls = given.getattr(intern!(given.py(), "controls"))?;
    let x = given.getattr(intern!(given.py(), "logits"))?;
    let Call { logits, asked } = Call::named(None, name, &x, Some(controls.cast::<PyDict>()?))?;
    let of = |logits: &Logits<'_>| (logits.dtype(), logits.vocab_size());
    if of(&logits) != of(like) {
        let ((dtype, vocab_size), (of_x, tokens_of_x)) = (of(&logits), of(like));
        return Err(PyValueError::new_err(format!(
            "{name} has rows of {vocab_size} {dtype} logits; allowed: as x has them, {tokens_of_x} of {of_x}"
        )));
    }
    if asked.inspect.is_some() || asked.invalid.are_kept() {
        return Err(PyValueError::new_err(format!(
            "{name} asks for more than how drafts are drawn; allowed without logprobs, return_kept and on_invalid_row"
        )));
    }
    let mut origins = Vec::with_capacity(asked.params.len());
    for (i, (bytes, params)) in logits.bytes().into_iter().zip(&asked.params).enumerate() {
        check_params(name, &(*params).into())?;
        let adjustments = asked.adjustments.as_ref().map(|each: &Each<_>| each.get(i).clone());
        let (logits, params, dtype) = (bytes.into(), *params, logits.dtype());
        origins.push(Origin::Row(Drafted { logits, params, adjustments, dtype }));
    }
    Ok(origins)
}

/// Refuses what no row of a sequence can have.
pub fn check_params(name: &str, spec: &ParamsSpec) -> PyResult<()> {
    match drafts::refused(spec) {
        None => Ok(()),
        Some((field, value)) => Err(PyValueError::new_err(format!(
            "{name}: {field} is {value}, in a sequence to be verified; allowed: its default"
        ))),
    }
}

fn sparse(name: &str, given: &Bound<'_, PyDict>, vocab_size: usize) -> PyResult<Origin> {
    let (mut tokens, mut weights) = (vec![], vec![]);
    for (token, weight) in given {
        tokens.push(whole(&format!("{name}: a token"), &token)?);
        weights.push(weight.extract::<u64>().map_err(|_| {
            PyValueError::new_err(format!(
                "{name}[{token}] is {weight}; allowed: whole numbers, whose sum is below 2^60"
            ))
        })?);
    }
    let made = drafts::sparse(tokens, weights, vocab_size as u32);
    made.map(Origin::Known).map_err(|error| wrong(name, &error))
}

fn dense(name: &str, array: &Array<'_>, row: usize, vocab_size: usize) -> PyResult<Origin> {
    let (words, _) = array.row(row).as_chunks();
    let probabilities = words.iter().map(|word| f32::from_ne_bytes(*word)).collect();
    let made = drafts::dense(probabilities, vocab_size as u32);
    made.map(Origin::Known).map_err(|error| wrong(name, &error))
}

/// An array of probabilities, if it is an array.
fn array<'py>(name: &str, given: &Bound<'py, PyAny>) -> PyResult<Option<Array<'py>>> {
    let array = Array::of(name, given)?;
    match &array {
        Some(array) if array.element() != Element::Float(32) || !array.rows_are_whole() => {
            let element = array.element();
            Err(PyTypeError::new_err(format!(
                "{name} is an array of {element}; allowed: float32, a probability a token side by side, or a DraftLogits of \
                 logits"
            )))
        }
        _ => Ok(array),
    }
}

fn wrong(name: &str, error: &DraftError) -> PyErr {
    PyValueError::new_err(format!("{name}: {error}"))
}
