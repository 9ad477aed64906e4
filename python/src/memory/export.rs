//! Memory of ours, given to others by DLPack.

use super::Element;
use super::abi::{Delete, Managed, ManagedVersioned, Tensor};
use pyo3::exceptions::PyMemoryError;
use pyo3::ffi;
use pyo3::prelude::*;
use pyo3::types::PyCapsule;
use std::ffi::{CStr, c_void};

const UNVERSIONED: &CStr = c"dltensor";
const VERSIONED: &CStr = c"dltensor_versioned";
/// The version of the protocol that is written here.
const VERSION: [u32; 2] = [1, 0];
const CPU: i32 = 1;

/// Who keeps memory that others read and write.
///
/// As long as this lives the memory stays where it is, and no reference is held to it while others have it: whoever takes a
/// tensor of it reads and writes there, from any thread.
pub trait Keeps: Send + 'static {
    fn memory(&self) -> *mut [u8];
}

/// Rows of elements, one behind the other, in memory that its owner keeps.
pub struct Matrix<O> {
    owner: O,
    element: Element,
    shape: [usize; 2],
}

/// What a tensor lives by, until whoever took it has no more use for it.
struct Kept {
    shape: [i64; 2],
    strides: [i64; 2],
    _owner: Box<dyn Send>,
}

impl<O: Keeps> Matrix<O> {
    /// # Panics
    /// If the owner has less memory than that.
    pub fn new(owner: O, element: Element, shape: [usize; 2]) -> Self {
        let bytes = shape.iter().try_fold(element.size(), |bytes, n| bytes.checked_mul(*n));
        let is_within = bytes.is_some_and(|bytes| bytes <= owner.memory().len());
        assert!(is_within, "a matrix is within the memory of its owner");
        Self { owner, element, shape }
    }

    /// A capsule with it, which keeps the owner of its memory. Versioned ones say that it may be written.
    pub fn capsule<'py>(
        self,
        py: Python<'py>,
        is_versioned: bool,
    ) -> PyResult<Bound<'py, PyCapsule>> {
        let [rows, columns] = self.shape.map(|n| n as i64);
        let data = self.owner.memory().cast::<c_void>();
        let kept = Box::into_raw(Box::new(Kept {
            shape: [rows, columns],
            strides: [columns, 1],
            _owner: Box::new(self.owner),
        }));
        // SAFETY: it was made above, and goes nowhere until the tensor is deleted.
        let (shape, strides) = unsafe { (&raw mut (*kept).shape, &raw mut (*kept).strides) };
        let (type_code, type_bits) = match self.element {
            Element::Signed(bits) => (0, bits),
            Element::Unsigned(bits) => (1, bits),
            Element::Float(bits) => (2, bits),
            Element::Bfloat16 => (4, 16),
            Element::Other => unreachable!("memory of ours has elements that are known"),
        };
        let tensor = Tensor {
            data,
            device_type: CPU,
            device_id: 0,
            ndim: 2,
            type_code,
            type_bits,
            type_lanes: 1,
            shape: shape.cast(),
            strides: strides.cast(),
            byte_offset: 0,
        };
        let manager = kept.cast();
        let (made, name, drop): (*mut c_void, _, Delete<ffi::PyObject>) = match is_versioned {
            false => {
                let managed = Managed { tensor, manager, deleter: Some(delete) };
                (Box::into_raw(Box::new(managed)).cast(), UNVERSIONED, drop_capsule)
            }
            true => {
                let (version, deleter, flags) = (VERSION, Some(delete_versioned as Delete<_>), 0);
                let managed = ManagedVersioned { version, manager, deleter, flags, tensor };
                (Box::into_raw(Box::new(managed)).cast(), VERSIONED, drop_versioned)
            }
        };

        // SAFETY: the pointer is that of a struct as the name says, made above; the name lives for ever, and the
        // destructor reads it before it takes the struct back.
        unsafe {
            let capsule = ffi::PyCapsule_New(made, name.as_ptr(), Some(drop));
            if capsule.is_null() {
                match is_versioned {
                    false => delete(made.cast()),
                    true => delete_versioned(made.cast()),
                }
                return Err(PyErr::take(py).unwrap_or_else(|| PyMemoryError::new_err(())));
            }
            Ok(Bound::from_owned_ptr(py, capsule).cast_into_unchecked())
        }
    }
}

/// What whoever took the tensor calls in the end, from any thread.
///
/// # Safety
/// Once, with what `capsule` made.
unsafe extern "C" fn delete(managed: *mut Managed) {
    if managed.is_null() {
        return;
    }

    // SAFETY: `capsule` made both boxes, and nobody takes them again.
    unsafe {
        let managed = Box::from_raw(managed);
        drop(Box::from_raw(managed.manager.cast::<Kept>()));
    }
}

/// The same.
///
/// # Safety
/// As above.
unsafe extern "C" fn delete_versioned(managed: *mut ManagedVersioned) {
    if managed.is_null() {
        return;
    }

    // SAFETY: as above.
    unsafe {
        let managed = Box::from_raw(managed);
        drop(Box::from_raw(managed.manager.cast::<Kept>()));
    }
}

/// Gives back a tensor that nobody took: its capsule has the name still that it began with.
///
/// # Safety
/// With a capsule that Python destroys.
unsafe extern "C" fn drop_capsule(capsule: *mut ffi::PyObject) {
    // SAFETY: a capsule of this name has what `capsule` made for it.
    unsafe {
        if ffi::PyCapsule_IsValid(capsule, UNVERSIONED.as_ptr()) == 1 {
            delete(ffi::PyCapsule_GetPointer(capsule, UNVERSIONED.as_ptr()).cast());
        }
    }
}

/// The same.
///
/// # Safety
/// As above.
unsafe extern "C" fn drop_versioned(capsule: *mut ffi::PyObject) {
    // SAFETY: as above.
    unsafe {
        if ffi::PyCapsule_IsValid(capsule, VERSIONED.as_ptr()) == 1 {
            delete_versioned(ffi::PyCapsule_GetPointer(capsule, VERSIONED.as_ptr()).cast());
        }
    }
}
