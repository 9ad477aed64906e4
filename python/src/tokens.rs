//! Lists and arrays of tokens.

use crate::memory::Array;
use pyo3::exceptions::{PyTypeError, PyValueError};
use pyo3::prelude::*;
use pyo3::types::{PyList, PyTuple};

/// The tokens of a list or an array.
pub fn ids(name: &str, value: &Bound<'_, PyAny>) -> PyResult<Vec<u32>> {
    if let Some(array) = array(name, value)? {
        let numbers = array.integers(name, 0)?.into_iter().enumerate();
        return numbers
            .map(|(i, n)| u32::try_from(n).map_err(|_| no_token(&format!("{name}[{i}]"), n)))
            .collect();
    }
    let each = items(name, value)?;
    each.iter().enumerate().map(|(i, id)| whole_at(name, i, id)).collect()
}

/// An array of one dimension. Lists and what is iterated over are none.
pub fn array<'py>(name: &str, value: &Bound<'py, PyAny>) -> PyResult<Option<Array<'py>>> {
    if value.is_instance_of::<PyList>() || value.is_instance_of::<PyTuple>() {
        return Ok(None);
    }
    let array = Array::of(name, value)?;
    match &array {
        Some(array) if array.dimensions() != 1 => {
            Err(PyValueError::new_err(format!("{name} of a row has 2 dimensions; allowed: 1")))
        }
        _ => Ok(array),
    }
}

/// What a list has.
pub fn items<'py>(name: &str, value: &Bound<'py, PyAny>) -> PyResult<Vec<Bound<'py, PyAny>>> {
    let Ok(items) = value.try_iter() else {
        return Err(PyTypeError::new_err(format!(
            "{name} is {value}; allowed: a list, or one a row"
        )));
    };
    items.collect()
}

fn whole_at(name: &str, i: usize, value: &Bound<'_, PyAny>) -> PyResult<u32> {
    value.extract().or_else(|_| whole(&format!("{name}[{i}]"), value))
}

/// A number of 32 bits.
pub fn whole(name: &str, value: &Bound<'_, PyAny>) -> PyResult<u32> {
    value.extract().map_err(|_| no_token(name, value))
}

fn no_token(name: &str, given: impl std::fmt::Display) -> PyErr {
    PyValueError::new_err(format!("{name} is {given}; allowed: whole numbers, 0 to {}", u32::MAX))
}
