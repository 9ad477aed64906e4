//! numpy arrays of elements that are here as bytes.

use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;
use pyo3::types::PyByteArray;

/// An array that is made when it is first looked at.
pub type Array = PyOnceLock<Py<PyAny>>;

/// An array of so many rows and columns.
pub fn by_rows(array: Bound<'_, PyAny>, rows: usize, columns: usize) -> PyResult<Bound<'_, PyAny>> {
    array.call_method1("reshape", (rows, columns))
}

/// The array of these elements, made at the first call.
pub fn array<'py, const N: usize>(
    py: Python<'py>,
    place: &Array,
    dtype: &str,
    elements: impl Iterator<Item = [u8; N]>,
) -> PyResult<Bound<'py, PyAny>> {
    let make = || array_of(py, dtype, elements).map(Bound::unbind);
    Ok(place.get_or_try_init(py, make)?.bind(py).clone())
}

/// The array of these elements.
pub fn array_of<'py, const N: usize>(
    py: Python<'py>,
    dtype: &str,
    elements: impl Iterator<Item = [u8; N]>,
) -> PyResult<Bound<'py, PyAny>> {
    let bytes: Vec<u8> = elements.flatten().collect();
    static FROM_BUFFER: PyOnceLock<Py<PyAny>> = PyOnceLock::new();
    let from_buffer = FROM_BUFFER.import(py, "numpy", "frombuffer")?;
    from_buffer.call1((PyByteArray::new(py, &bytes), dtype))
}
