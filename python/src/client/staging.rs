//! Memory that logits are written to where the server reads them.

use super::caller::Failure;
use super::planes::Link;
use super::pool::Lease;
use crate::memory::Element;
use crate::memory::export::{self, Keeps};
use logitd_core::batch::Dtype;
use pyo3::exceptions::{PyMemoryError, PyValueError};
use pyo3::prelude::*;
use pyo3::types::{PyCapsule, PyDict};
use std::sync::{Arc, Mutex, PoisonError};

/// The memory of the processor, as DLPack has it.
const DLPACK_CPU: (i32, i32) = (1, 0);

/// How logits lie in it: rows of them, one behind the other.
#[derive(Clone, Copy)]
pub struct Shape {
    rows: usize,
    columns: usize,
    dtype: Dtype,
}

impl Shape {
    pub fn of((rows, columns): (usize, usize), dtype: &str) -> PyResult<Self> {
        let Some(dtype) = Dtype::ALL.into_iter().find(|known| known.name() == dtype) else {
            let names = Dtype::ALL.map(Dtype::name).join(", ");
            return Err(PyValueError::new_err(format!("dtype is {dtype}; allowed: {names}")));
        };
        let bytes = rows.checked_mul(columns).and_then(|n| n.checked_mul(dtype.size_bytes()));
        match bytes {
            Some(1..) if bytes <= Some(isize::MAX as usize) => Ok(Self { rows, columns, dtype }),
            _ => Err(PyValueError::new_err(format!(
                "the shape is ({rows}, {columns}); allowed: rows and logits, 1 or more of each"
            ))),
        }
    }

    pub fn bytes(self) -> usize {
        self.rows * self.columns * self.dtype.size_bytes()
    }
}

/// Memory with room for these rows: shared with the server, or this process's own where that is not shared.
pub fn lease(link: &Link, shape: Shape) -> Result<Arc<Lease>, Failure> {
    if link.shared().is_none() {
        return private(link, shape);
    }
    match link.memory(shape.bytes()) {
        Ok(memory) => Ok(Lease::of(&link.pool, memory)),
        Err(error) if link.can_do_without(&error) => private(link, shape),
        Err(error) => Err(error.into()),
    }
}

fn private(link: &Link, shape: Shape) -> Result<Arc<Lease>, Failure> {
    Lease::private(&link.pool, shape.bytes()).map_err(|_| {
        let Shape { rows, columns, dtype } = shape;
        let (dtype, bytes) = (dtype.name(), shape.bytes());
        let said = format!("the shape ({rows}, {columns}) of {dtype} has {bytes} bytes, which this process does not get");
        Failure::Python(PyMemoryError::new_err(said))
    })
}

/// Memory to write logits to, `[rows, vocab_size]`, until the end of a `with` block. `client.sample` of it, or of an array
/// of it, sends no copy where the server shares memory.
///
/// `numpy.asarray(buf)` is an array of it (uint16 for bf16: `.view(ml_dtypes.bfloat16)`), `torch.from_dlpack(buf)` a tensor.
/// Arrays that outlive the block keep the memory for themselves; the next block has other memory then.
#[pyclass(frozen, module = "logitd")]
pub struct Staging {
    lease: Mutex<Option<Arc<Lease>>>,
    shape: Shape,
}

/// What an array of numpy holds the memory by.
#[pyclass(frozen, module = "logitd")]
struct Hold {
    lease: Arc<Lease>,
    shape: Shape,
}

#[pymethods]
impl Hold {
    #[getter(__array_interface__)]
    fn array_interface<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyDict>> {
        let Shape { rows, columns, dtype } = self.shape;
        let kind = match dtype {
            Dtype::F16 => "<f2",
            // numpy has none by itself.
            Dtype::Bf16 => "<u2",
            Dtype::F32 => "<f4",
        };
        let described = PyDict::new(py);
        described.set_item("version", 3)?;
        described.set_item("shape", (rows, columns))?;
        described.set_item("typestr", kind)?;
        described.set_item("data", (self.lease.memory().addr(), false))?;
        Ok(described)
    }
}

impl Staging {
    pub fn new(lease: Arc<Lease>, shape: Shape) -> Self {
        Self { lease: Mutex::new(Some(lease)), shape }
    }

    fn lease(&self) -> PyResult<Arc<Lease>> {
        let lease = self.lease.lock().unwrap_or_else(PoisonError::into_inner);
        lease.clone().ok_or_else(|| {
            PyValueError::new_err(
                "this memory was given back at the end of its with block; client.staging(..) lends other memory",
            )
        })
    }
}

#[pymethods]
impl Staging {
    /// Rows and logits of each.
    #[getter]
    fn shape(&self) -> (usize, usize) {
        (self.shape.rows, self.shape.columns)
    }

    /// How logits are stored: f16, bf16 or f32.
    #[getter]
    fn dtype(&self) -> &str {
        self.shape.dtype.name()
    }

    /// A numpy array of it: float16, float32, or uint16 for bf16.
    #[getter]
    fn array<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        let hold = Hold { lease: self.lease()?, shape: self.shape };
        py.import("numpy")?.call_method1("asarray", (hold,))
    }

    #[pyo3(signature = (dtype=None, copy=None))]
    fn __array__<'py>(
        &self,
        py: Python<'py>,
        dtype: Option<&Bound<'py, PyAny>>,
        copy: Option<bool>,
    ) -> PyResult<Bound<'py, PyAny>> {
        let array = self.array(py)?;
        let own = array.getattr("dtype")?;
        let wanted = match dtype {
            Some(dtype) => py.import("numpy")?.call_method1("dtype", (dtype,))?,
            None => own.clone(),
        };
        if copy == Some(false) && !wanted.eq(&own)? {
            return Err(PyValueError::new_err(format!(
                "this memory is an array of {own}, and one of {wanted} is a copy; allowed with copy=False: {own}"
            )));
        }
        let options = PyDict::new(py);
        options.set_item("copy", copy == Some(true))?;
        array.call_method("astype", (wanted,), Some(&options))
    }

    #[pyo3(signature = (*, stream=None, max_version=None, dl_device=None, copy=None))]
    fn __dlpack__<'py>(
        &self,
        py: Python<'py>,
        stream: Option<&Bound<'py, PyAny>>,
        max_version: Option<(u32, u32)>,
        dl_device: Option<(i32, i32)>,
        copy: Option<bool>,
    ) -> PyResult<Bound<'py, PyCapsule>> {
        let _ = stream;
        if dl_device.is_some_and(|device| device != DLPACK_CPU) || copy == Some(true) {
            let said = "this memory is the processor's, and is exported as it is";
            return Err(pyo3::exceptions::PyBufferError::new_err(said));
        }
        let Shape { rows, columns, dtype } = self.shape;
        let element = match dtype {
            Dtype::F16 => Element::Float(16),
            Dtype::Bf16 => Element::Bfloat16,
            Dtype::F32 => Element::Float(32),
        };
        let tensor = export::Matrix::new(self.lease()?, element, [rows, columns]);
        tensor.capsule(py, max_version.is_some_and(|(major, _)| major >= 1))
    }

    fn __dlpack_device__(&self) -> (i32, i32) {
        DLPACK_CPU
    }

    fn __enter__(this: Bound<'_, Self>) -> PyResult<Bound<'_, Self>> {
        this.get().lease()?;
        Ok(this)
    }

    fn __exit__(
        &self,
        _kind: &Bound<'_, PyAny>,
        _error: &Bound<'_, PyAny>,
        _traceback: &Bound<'_, PyAny>,
    ) {
        self.lease.lock().unwrap_or_else(PoisonError::into_inner).take();
    }

    fn __repr__(&self) -> String {
        let Shape { rows, columns, dtype } = self.shape;
        format!("Staging(({rows}, {columns}), {:?})", dtype.name())
    }
}
