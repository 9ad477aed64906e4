//! DLPack's table of C functions, by which torch gives a tensor away in a tenth of the time that its `__dlpack__`, which is
//! written in Python, takes.

use super::abi::{Exchange, ManagedVersioned};
use super::dlpack;
use super::{Array, Owner};
use pyo3::exceptions::PyBufferError;
use pyo3::intern;
use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;
use pyo3::types::{PyCapsule, PyType};
use std::ptr::{NonNull, null_mut};

/// The major version of the protocol that is read here.
const MAJOR: u32 = 1;

/// A tensor that was given away, until it is given back.
pub struct Managed(NonNull<ManagedVersioned>);

impl Drop for Managed {
    fn drop(&mut self) {
        // SAFETY: it is ours until its deleter is called, which happens here alone.
        unsafe {
            if let Some(delete) = self.0.as_ref().deleter {
                delete(self.0.as_ptr());
            }
        }
    }
}

/// The table of a type, which lives as long as the process.
#[derive(Clone, Copy)]
struct Table(&'static Exchange);

// SAFETY: nobody writes to the table.
unsafe impl Send for Table {}
// SAFETY: as above.
unsafe impl Sync for Table {}

/// The type that was seen first, which most tensors have.
static FIRST: PyOnceLock<(Py<PyType>, Table)> = PyOnceLock::new();

/// The tensor that an object is, if it is of the type that was seen first.
pub fn array_of_first<'py>(name: &str, object: &Bound<'py, PyAny>) -> PyResult<Option<Array<'py>>> {
    match FIRST.get(object.py()) {
        Some((first, table)) if object.get_type().is(first) => array_by(*table, name, object),
        _ => Ok(None),
    }
}

/// The tensor that an object is, if its type has such a table.
pub fn array<'py>(name: &str, object: &Bound<'py, PyAny>) -> PyResult<Option<Array<'py>>> {
    match table(&object.get_type())? {
        Some(table) => array_by(table, name, object),
        None => Ok(None),
    }
}

/// None if it is more than its memory.
fn array_by<'py>(
    table: Table,
    name: &str,
    object: &Bound<'py, PyAny>,
) -> PyResult<Option<Array<'py>>> {
    let py = object.py();
    // What torch would not give away by `__dlpack__`, which says why.
    let grad = object.getattr_opt(intern!(py, "requires_grad"))?;
    let is_neg = object.getattr_opt(intern!(py, "is_neg"))?;
    if grad.is_some_and(|grad| grad.is_truthy().unwrap_or(true)) {
        return Ok(None);
    }
    if let Some(is_neg) = is_neg
        && is_neg.call0()?.is_truthy()?
    {
        return Ok(None);
    }
    let Some(export) = table.0.export else { return Ok(None) };
    let mut made = null_mut();

    // SAFETY: by the protocol this function takes an object of the type that has the table, with the GIL, and makes a
    // tensor, or an exception.
    let failed = unsafe { export(object.as_ptr(), &mut made) } != 0;
    let managed = match NonNull::new(made) {
        Some(made) if !failed => Managed(made),
        _ => {
            let said = format!("{name} cannot be given away by DLPack");
            return Err(PyErr::take(py).unwrap_or_else(|| PyBufferError::new_err(said)));
        }
    };
    // SAFETY: a tensor that was just made, and is given back at the end of the array.
    let tensor = unsafe { &managed.0.as_ref().tensor };
    let described = dlpack::describe(name, tensor)?;
    described.array(name, Owner::Tensor(managed)).map(Some)
}

fn table(of: &Bound<'_, PyType>) -> PyResult<Option<Table>> {
    let py = of.py();
    let Some(capsule) = of.getattr_opt(intern!(py, "__dlpack_c_exchange_api__"))? else {
        return Ok(None);
    };
    let Ok(capsule) = capsule.cast_into::<PyCapsule>() else { return Ok(None) };
    let table = capsule.pointer_checked(Some(c"dlpack_exchange_api"))?.cast::<Exchange>();
    // SAFETY: a capsule of that name has such a table, whose version is in its first field and which lives as long as
    // the process.
    let table = unsafe { table.as_ref() };
    if table.version[0] != MAJOR {
        return Ok(None);
    }
    let table = Table(table);
    let _ = FIRST.set(py, (of.clone().unbind(), table));
    Ok(Some(table))
}
