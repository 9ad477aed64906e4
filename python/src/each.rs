//! Values that are one for all rows, or one a row.

use crate::invalid::Invalid;
use crate::of::Of;
use pyo3::exceptions::PyValueError;
use pyo3::intern;
use pyo3::prelude::*;
use pyo3::types::{PyBool, PyBytes, PyDict, PyFloat, PyInt, PyList, PyString, PyTuple};

/// One value for all rows, or one a row.
pub enum Each<T> {
    All(T),
    Rows(Vec<T>),
}

impl<T> Each<T> {
    /// What holds for a row.
    pub fn get(&self, row: usize) -> &T {
        match self {
            Self::All(value) => value,
            Self::Rows(values) => &values[row],
        }
    }

    /// What is made of each value of this field; what is wrong is noted, and this instead.
    pub fn try_map<U: Clone>(
        self,
        field: &str,
        invalid: &mut Invalid,
        instead: &U,
        mut make: impl FnMut(T) -> PyResult<U>,
    ) -> PyResult<Each<U>> {
        match self {
            Self::All(value) => match make(value) {
                Ok(made) => Ok(Each::All(made)),
                Err(error) => {
                    invalid.keep_of_all(field, error)?;
                    Ok(Each::All(instead.clone()))
                }
            },
            Self::Rows(values) => {
                let make = |(row, value)| match make(value) {
                    Ok(made) => Ok(made),
                    Err(error) => {
                        invalid.keep(row, field, error)?;
                        Ok(instead.clone())
                    }
                };
                values.into_iter().enumerate().map(make).collect::<PyResult<_>>().map(Each::Rows)
            }
        }
    }
}

impl<'py> Each<Bound<'py, PyAny>> {
    /// A value that is one for all rows if lists are nested in it `depth` deep, and one a row if once more.
    pub fn split(name: &str, value: &Bound<'py, PyAny>, depth: usize, of: Of) -> PyResult<Self> {
        if depth_of(value)? <= depth {
            return Ok(Self::All(value.clone()));
        }
        let values = value.try_iter()?.collect::<PyResult<Vec<_>>>()?;
        let Of { count, one } = of;
        if values.len() != count {
            return Err(PyValueError::new_err(format!(
                "{name} has {} values for {count} {one}s; allowed: one for all of them, or one a {one}",
                values.len()
            )));
        }
        Ok(Self::Rows(values))
    }
}

/// The lists of a value that has one for each of some sequences, or is the list of a single one.
pub fn lists<'py>(value: &Bound<'py, PyAny>) -> PyResult<Vec<Bound<'py, PyAny>>> {
    match depth_of(value)? {
        0 | 1 => Ok(vec![value.clone()]),
        _ => value.try_iter()?.collect(),
    }
}

/// Whether a value is no list of anything.
pub fn is_single(value: &Bound<'_, PyAny>) -> bool {
    value.is_none()
        || value.is_instance_of::<PyFloat>()
        || value.is_instance_of::<PyInt>()
        || value.is_instance_of::<PyBool>()
        || value.is_instance_of::<PyString>()
}

/// How deep lists are nested in a value: 0 is none, and a dict has pairs, 2. Where nothing but None is in a list, it is
/// a list of what each row has.
fn depth_of(value: &Bound<'_, PyAny>) -> PyResult<usize> {
    if is_single(value) {
        return Ok(0);
    }
    if value.is_instance_of::<PyBytes>() {
        return Ok(1);
    }
    if value.is_instance_of::<PyDict>() {
        return Ok(2);
    }
    if value.is_instance_of::<PyList>() || value.is_instance_of::<PyTuple>() {
        return depth_of_list(value);
    }
    match value.getattr_opt(intern!(value.py(), "ndim"))? {
        Some(dimensions) => dimensions.extract(),
        None => depth_of_list(value),
    }
}

fn depth_of_list(value: &Bound<'_, PyAny>) -> PyResult<usize> {
    let Ok(items) = value.try_iter() else { return Ok(0) };
    let (mut deepest, mut is_empty) = (0, true);
    for item in items {
        let item = item?;
        is_empty = false;
        if item.is_none() {
            continue;
        }
        match depth_of(&item)? {
            0 => return Ok(1),
            depth => deepest = deepest.max(depth),
        }
    }
    // Only None: deeper than anything that is for all rows.
    let only_none = !is_empty && deepest == 0;
    Ok(if only_none { usize::MAX } else { 1 + deepest })
}
