//! numpy's description of an array: the C struct behind `__array_struct__`.

use super::{Array, Element, Owner};
use pyo3::exceptions::{PyTypeError, PyValueError};
use pyo3::intern;
use pyo3::prelude::*;
use pyo3::types::PyCapsule;
use std::ffi::{c_char, c_int, c_void};

/// Set where the bytes of an element are in the order of this machine.
const NOT_SWAPPED: c_int = 0x200;

/// `PyArrayInterface`, as numpy's manual has it.
#[repr(C)]
struct ArrayInterface {
    /// 2, by which the struct is known.
    two: c_int,
    nd: c_int,
    typekind: c_char,
    itemsize: c_int,
    flags: c_int,
    shape: *const isize,
    strides: *const isize,
    data: *const c_void,
    descr: *const c_void,
}

/// The array that an object is, if it has this description of itself.
pub fn array<'py>(name: &str, object: &Bound<'py, PyAny>) -> PyResult<Option<Array<'py>>> {
    let py = object.py();
    let Some(capsule) = object.getattr_opt(intern!(py, "__array_struct__"))? else {
        return Ok(None);
    };
    let capsule = capsule.cast_into::<PyCapsule>()?;
    let interface = capsule.pointer_checked(None)?.cast::<ArrayInterface>();
    // SAFETY: the protocol has a PyArrayInterface in a capsule without a name, for as long as the capsule is there.
    let interface = unsafe { interface.as_ref() };
    if interface.two != 2 {
        return Err(PyValueError::new_err(format!("the __array_struct__ of {name} is none")));
    }
    let element = element(name, object, interface)?;
    let dimensions = usize::try_from(interface.nd)?;
    let (shape, strides) = match dimensions {
        0 => (&[][..], &[][..]),
        // SAFETY: by the protocol both have `nd` numbers, as long as the capsule is there.
        n => unsafe {
            (
                std::slice::from_raw_parts(interface.shape, n),
                std::slice::from_raw_parts(interface.strides, n),
            )
        },
    };
    let at = interface.data.cast();
    let owner = Owner::Object(capsule.into_any());
    Array::new(name, at, element, shape, strides, owner).map(Some)
}

fn element(name: &str, object: &Bound<'_, PyAny>, interface: &ArrayInterface) -> PyResult<Element> {
    let bits = u8::try_from(interface.itemsize * 8).unwrap_or(0);
    let element = match interface.typekind as u8 {
        b'f' => Element::Float(bits),
        b'i' => Element::Signed(bits),
        b'u' => Element::Unsigned(bits),
        // numpy knows no bfloat16; the package ml_dtypes adds it.
        b'V' if bits == 16 && is_named_bfloat16(object)? => Element::Bfloat16,
        _ => Element::Other,
    };
    if element != Element::Other && interface.flags & NOT_SWAPPED == 0 {
        return Err(PyTypeError::new_err(format!(
            "{name} is a big-endian array; x.astype(x.dtype.newbyteorder('=')) is one of this machine"
        )));
    }
    Ok(element)
}

fn is_named_bfloat16(object: &Bound<'_, PyAny>) -> PyResult<bool> {
    object.getattr("dtype")?.getattr("name")?.eq("bfloat16")
}
