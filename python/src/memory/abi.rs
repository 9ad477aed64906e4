//! DLPack's structs, as `dlpack.h` has them.

use pyo3::ffi;
use std::ffi::{c_int, c_void};

/// `DLTensor`.
#[repr(C)]
pub struct Tensor {
    pub data: *mut c_void,
    pub device_type: i32,
    pub device_id: i32,
    pub ndim: i32,
    pub type_code: u8,
    pub type_bits: u8,
    pub type_lanes: u16,
    pub shape: *mut i64,
    /// In elements; null where the tensor is contiguous.
    pub strides: *mut i64,
    pub byte_offset: u64,
}

/// What gives a tensor back.
///
/// # Safety
/// It is called once, with the tensor that it came with.
pub type Delete<T> = unsafe extern "C" fn(*mut T);

/// `DLManagedTensor`.
#[repr(C)]
pub struct Managed {
    pub tensor: Tensor,
    pub manager: *mut c_void,
    pub deleter: Option<Delete<Managed>>,
}

/// `DLManagedTensorVersioned`.
#[repr(C)]
pub struct ManagedVersioned {
    pub version: [u32; 2],
    pub manager: *mut c_void,
    pub deleter: Option<Delete<ManagedVersioned>>,
    pub flags: u64,
    pub tensor: Tensor,
}

/// What makes a tensor of an object; not 0 is an exception.
///
/// # Safety
/// It is called with the GIL, with an object of the type that the table is of.
pub type Export = unsafe extern "C" fn(*mut ffi::PyObject, *mut *mut ManagedVersioned) -> c_int;

/// `DLPackExchangeAPI`, as far as it is used.
#[repr(C)]
pub struct Exchange {
    pub version: [u32; 2],
    pub previous: *const c_void,
    pub allocate: *const c_void,
    pub export: Option<Export>,
}
