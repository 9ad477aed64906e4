//! The logits of a call: rows of bytes, where they lie.

use crate::memory::device::{self, DeviceArray, Reader};
use crate::memory::{Array, Element};
use logitd_core::backend::cuda::tensor::Tensor;
use logitd_core::batch::{Dtype, Loan, LoanError, Row, RowError};
use logitd_core::params::SamplingParams;
use pyo3::exceptions::{PyRuntimeError, PyTypeError, PyValueError};
use pyo3::prelude::*;

/// Rows of logits in memory that is kept for as long as this is here.
pub struct Logits<'py> {
    memory: Memory<'py>,
    dtype: Dtype,
    vocab_size: usize,
}

/// Where they lie.
enum Memory<'py> {
    Host(Array<'py>),
    Device(DeviceArray<'py>),
}

/// The logits of a row, where they lie.
#[derive(Clone, Copy)]
pub enum RowLogits<'a> {
    Here(&'a [u8]),
    Lent { tensor: &'a Tensor, at: usize, bytes: usize },
}

impl<'a> RowLogits<'a> {
    /// The row that they are.
    pub fn row(self, dtype: Dtype, params: SamplingParams) -> Result<Row<'a>, RowError> {
        match self {
            Self::Here(logits) => Row::new(dtype, logits, params),
            Self::Lent { tensor, at, bytes } => Row::lent(dtype, tensor, at, bytes, params),
        }
    }
}

impl<'py> Logits<'py> {
    /// The logits that an object is: `[rows, vocab_size]`, or `[vocab_size]` for a single row. Where `vocab_size` is
    /// given, rows may have padding behind so many logits. Errors call the object `name`.
    pub fn of(
        name: &str,
        x: &Bound<'py, PyAny>,
        vocab_size: Option<&Bound<'_, PyAny>>,
    ) -> PyResult<Self> {
        Self::read_by(None, name, x, vocab_size)
    }

    /// The same, which may lie in the memory of a device where something reads that.
    pub fn read_by(
        reader: Option<&Reader>,
        name: &str,
        x: &Bound<'py, PyAny>,
        vocab_size: Option<&Bound<'_, PyAny>>,
    ) -> PyResult<Self> {
        let on_device = reader.map(|reader| device::array(name, x, reader)).transpose()?.flatten();
        let memory = match on_device {
            Some(array) => Memory::Device(array),
            None => Memory::Host(host_array(name, x)?),
        };
        let (element, columns) = match &memory {
            Memory::Host(array) => (array.element(), array.columns()),
            Memory::Device(array) => (array.element, array.shape[1]),
        };
        let dtype = match element {
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
        let vocab_size = match vocab_size.map(|given| (given, given.extract::<usize>())) {
            None => columns,
            Some((_, Ok(vocab_size))) if (1..=columns).contains(&vocab_size) => vocab_size,
            Some((given, _)) => {
                return Err(PyValueError::new_err(format!(
                    "vocab_size is {given}; allowed: 1 to {columns}, the logits that a row of {name} has"
                )));
            }
        };
        Ok(Self { memory, dtype, vocab_size })
    }

    /// How they are stored.
    pub fn dtype(&self) -> Dtype {
        self.dtype
    }

    /// How many rows there are.
    pub fn rows(&self) -> usize {
        match &self.memory {
            Memory::Host(array) => array.rows(),
            Memory::Device(array) => array.shape[0],
        }
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
        let Memory::Host(array) = &self.memory else { return None };
        let (address, stride) = array.place();
        let stride = match self.rows() {
            0 => return None,
            1 => self.row_bytes(),
            _ => usize::try_from(stride).ok()?,
        };
        (stride >= self.row_bytes()).then_some((address, stride))
    }

    /// The bytes of each row.
    ///
    /// # Panics
    /// If they lie in the memory of a device, which only [`read_by`](Self::read_by) lets in.
    pub fn bytes(&self) -> Vec<&[u8]> {
        let here = |row| match row {
            RowLogits::Here(bytes) => bytes,
            RowLogits::Lent { .. } => panic!("logits of a device have no bytes here"),
        };
        self.each().into_iter().map(here).collect()
    }

    /// The logits of each row, wherever they lie.
    pub fn each(&self) -> Vec<RowLogits<'_>> {
        let bytes = self.row_bytes();
        let row = |row: usize| match &self.memory {
            Memory::Host(array) => RowLogits::Here(&array.row(row)[..bytes]),
            Memory::Device(array) => {
                RowLogits::Lent { tensor: &array.tensor, at: row * array.row_stride, bytes }
            }
        };
        (0..self.rows()).map(row).collect()
    }

    /// Fails where what lay in the memory of a device could not be read.
    pub fn check(&self) -> PyResult<()> {
        match &self.memory {
            Memory::Host(_) => Ok(()),
            Memory::Device(array) => {
                let lost = |error: LoanError| PyRuntimeError::new_err(error.to_string());
                array.tensor.check().map_err(lost)
            }
        }
    }
}

/// An array that the processor reads, whose rows lie in one piece each.
fn host_array<'py>(name: &str, x: &Bound<'py, PyAny>) -> PyResult<Array<'py>> {
    let array = match Array::of(name, x)? {
        Some(array) => array,
        None => array_by_numpy(name, x)?,
    };
    if !array.rows_are_whole() && is_of_logits(&array) {
        return Err(PyValueError::new_err(format!(
            "the logits of a row of {name} do not lie side by side; numpy.ascontiguousarray({name}), or \
             {name}.contiguous() in torch, is a copy in which they do (rows may be any distance apart)"
        )));
    }
    Ok(array)
}

fn is_of_logits(array: &Array<'_>) -> bool {
    matches!(array.element(), Element::Float(16 | 32) | Element::Bfloat16)
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
