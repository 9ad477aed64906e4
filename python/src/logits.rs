//! The logits of a call: rows of bytes, where they lie.

use crate::memory::{Array, Element};
use logitd_core::batch::Dtype;
use pyo3::exceptions::{PyTypeError, PyValueError};
use pyo3::prelude::*;

/// Rows of logits in memory that is kept for as long as this is here.
pub struct Logits<'py> {
    array: Array<'py>,
    dtype: Dtype,
    vocab_size: usize,
}

impl<'py> Logits<'py> {
    /// The logits that an object is: `[rows, vocab_size]`, or `[vocab_size]` for a single row. Where `vocab_size` is
    /// given, rows may have padding behind so many logits. Errors call the object `name`.
    pub fn of(
        name: &str,
        x: &Bound<'py, PyAny>,
        vocab_size: Option<&Bound<'_, PyAny>>,
    ) -> PyResult<Self> {
        let array = match Array::of(name, x)? {
            Some(array) => array,
            None => array_by_numpy(name, x)?,
        };
        let dtype = match array.element() {
            Element::Float(16) => Dtype::F16,
            Element::Bfloat16 => Dtype::Bf16,
            Element::Float(32) => Dtype::F32,
            other => {
                return Err(PyTypeError::new_err(format!(
                    "{name} is an array of {other}; allowed: float16, bfloat16, float32. Logits are sampled as they are \
                     stored: convert them with {name}.astype(numpy.float32), or {name}.float() in torch"
                )));
            }
        };
        if !array.rows_are_whole() {
            return Err(PyValueError::new_err(format!(
                "the logits of a row of {name} do not lie side by side; numpy.ascontiguousarray({name}), or \
                 {name}.contiguous() in torch, is a copy in which they do (rows may be any distance apart)"
            )));
        }
        let columns = array.columns();
        let vocab_size = match vocab_size.map(|given| (given, given.extract::<usize>())) {
            None => columns,
            Some((_, Ok(vocab_size))) if (1..=columns).contains(&vocab_size) => vocab_size,
            Some((given, _)) => {
                return Err(PyValueError::new_err(format!(
                    "vocab_size is {given}; allowed: 1 to {columns}, the logits that a row of {name} has"
                )));
            }
        };
        Ok(Self { array, dtype, vocab_size })
    }

    /// How they are stored.
    pub fn dtype(&self) -> Dtype {
        self.dtype
    }

    /// How many rows there are.
    pub fn rows(&self) -> usize {
        self.array.rows()
    }

    /// Tokens of each.
    pub fn vocab_size(&self) -> usize {
        self.vocab_size
    }

    /// Bytes of the logits of a row.
    pub fn row_bytes(&self) -> usize {
        self.vocab_size * self.dtype.size_bytes()
    }

    /// Where they begin, and the bytes from a row to the next, if rows follow one another.
    pub fn place(&self) -> Option<(usize, usize)> {
        let (address, stride) = self.array.place();
        let stride = match self.rows() {
            0 => return None,
            1 => self.row_bytes(),
            _ => usize::try_from(stride).ok()?,
        };
        (stride >= self.row_bytes()).then_some((address, stride))
    }

    /// The bytes of each row.
    pub fn bytes(&self) -> Vec<&[u8]> {
        let bytes = self.row_bytes();
        (0..self.rows()).map(|row| &self.array.row(row)[..bytes]).collect()
    }
}

/// What is no array may have a buffer, which numpy makes an array of without a copy.
fn array_by_numpy<'py>(name: &str, x: &Bound<'py, PyAny>) -> PyResult<Array<'py>> {
    let array = x.py().import("numpy")?.call_method1("asarray", (x,))?;
    let is_number = array.getattr("ndim")?.extract::<usize>()? == 0;
    match Array::of(name, &array) {
        Ok(Some(array)) if !is_number => Ok(array),
        _ => {
            let kind = x.get_type();
            Err(PyTypeError::new_err(format!("{name} is a {kind}; allowed: an array of logits")))
        }
    }
}
