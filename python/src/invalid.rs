//! Rows whose parameters are wrong, where the others are to be sampled all the same.

use crate::of::Of;
use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;
use std::collections::BTreeMap;

/// What is wrong with a row.
#[derive(Clone, Debug)]
pub struct Violation {
    /// The field's path in the API, without the index of the row.
    pub field: String,
    pub description: String,
}

/// The rows that are wrong, as far as they are found. Without `on_invalid_row="status"` the first of them is an error of
/// the call.
#[derive(Debug)]
pub struct Invalid {
    of: Of,
    are_kept: bool,
    found: BTreeMap<usize, Violation>,
}

impl Invalid {
    /// Of so many rows, or sequences, none so far.
    pub fn among(of: Of, are_kept: bool) -> Self {
        Self { of, are_kept, found: BTreeMap::new() }
    }

    /// What there are.
    pub fn of(&self) -> Of {
        self.of
    }

    /// Notes an error of a row. What is of the wrong type is wrong with the call, whatever becomes of rows.
    pub fn keep(&mut self, row: usize, field: &str, error: PyErr) -> PyResult<()> {
        match self.violation(field, &error) {
            Some(violation) => {
                self.found.entry(row).or_insert(violation);
                Ok(())
            }
            None => Err(of_one(self.of, row, &error)),
        }
    }

    /// Notes an error of what is for all rows.
    pub fn keep_of_all(&mut self, field: &str, error: PyErr) -> PyResult<()> {
        let Some(violation) = self.violation(field, &error) else { return Err(error) };
        for row in 0..self.of.count {
            self.found.entry(row).or_insert_with(|| violation.clone());
        }
        Ok(())
    }

    /// Whether the rows that are wrong are left out, and their neighbours sampled.
    pub fn are_kept(&self) -> bool {
        self.are_kept
    }

    /// The rows that are wrong.
    pub fn rows(&self) -> impl Iterator<Item = usize> {
        self.found.keys().copied()
    }

    /// What is wrong with a row, if anything is.
    pub fn get(&self, row: usize) -> Option<&Violation> {
        self.found.get(&row)
    }

    fn violation(&self, field: &str, error: &PyErr) -> Option<Violation> {
        Python::attach(|py| {
            (self.are_kept && error.is_instance_of::<PyValueError>(py)).then(|| Violation {
                field: field.to_owned(),
                description: error.value(py).to_string(),
            })
        })
    }
}

/// The path of a parameter in the API: `params.dry.base` of `dry_base`.
pub fn path(name: &str) -> String {
    format!("params.{}", name.replacen("dry_", "dry.", 1))
}

/// An error that says of which row it is, or of which sequence.
pub fn of_one(of: Of, place: usize, error: &PyErr) -> PyErr {
    Python::attach(|py| {
        let said = format!("{} {place}: {}", of.one, error.value(py));
        PyErr::from_type(error.get_type(py), said)
    })
}
