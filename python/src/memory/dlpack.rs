//! DLPack's description of a tensor, by which torch, JAX and others share memory.
//!
//! The capsule is only borrowed: it keeps its name, so that it gives the tensor back by itself when it goes.

use super::abi::Tensor;
use super::{Array, DIMENSIONS_MAX, Element, Owner};
use pyo3::exceptions::{PyTypeError, PyValueError};
use pyo3::intern;
use pyo3::prelude::*;
use pyo3::types::PyCapsule;

/// Devices whose memory the processor reads: its own, and what is pinned for CUDA.
const READABLE: [i32; 2] = [1, 3];
/// The memory of a CUDA device, and what such a device shares with the processor.
pub const CUDA: i32 = 2;
pub const CUDA_MANAGED: i32 = 13;

/// The tensor that an object is, if it is one.
pub fn array<'py>(name: &str, object: &Bound<'py, PyAny>) -> PyResult<Option<Array<'py>>> {
    let py = object.py();
    let Some(export) = object.getattr_opt(intern!(py, "__dlpack__"))? else {
        return Ok(None);
    };
    let capsule = export.call0()?.cast_into::<PyCapsule>()?;
    let tensor = capsule.pointer_checked(Some(c"dltensor"))?.cast::<Tensor>();
    // SAFETY: a capsule of that name has a DLManagedTensor, which begins with its DLTensor, until it is consumed.
    let tensor = unsafe { tensor.as_ref() };
    describe(name, tensor)?.array(name, Owner::Object(capsule.into_any())).map(Some)
}

/// What a tensor says of itself.
pub struct Described {
    at: *const u8,
    element: Element,
    shape: Vec<isize>,
    /// In bytes.
    strides: Vec<isize>,
}

impl Described {
    /// The array that it describes, in memory that this owner keeps.
    pub fn array<'py>(self, name: &str, owner: Owner<'py>) -> PyResult<Array<'py>> {
        let Self { at, element, shape, strides } = self;
        Array::new(name, at, element, &shape, &strides, owner)
    }
}

/// What a tensor says of itself, if it is in memory that the processor reads.
pub fn describe(name: &str, tensor: &Tensor) -> PyResult<Described> {
    if !READABLE.contains(&tensor.device_type) {
        return Err(PyTypeError::new_err(format!(
            "{name} is in the memory of another device, and is read by the processor here; allowed: {name}.cpu(); only \
             the x of a logitd.Sampler(device=\"cuda:0\") may lie on its device"
        )));
    }
    let (at, element, shape, strides) = parts(name, tensor)?;
    Ok(Described { at, element, shape, strides })
}

/// Where a tensor begins, its elements, its lengths and its strides in bytes, wherever it is.
pub fn parts(
    name: &str,
    tensor: &Tensor,
) -> PyResult<(*const u8, Element, Vec<isize>, Vec<isize>)> {
    let element = element(tensor);
    let (shape, strides) = geometry(name, tensor, element.size())?;
    let offset = usize::try_from(tensor.byte_offset)?;
    let at = tensor.data.cast::<u8>().wrapping_add(offset).cast_const();
    Ok((at, element, shape, strides))
}

fn element(tensor: &Tensor) -> Element {
    match (tensor.type_code, tensor.type_lanes) {
        (0, 1) => Element::Signed(tensor.type_bits),
        (1, 1) => Element::Unsigned(tensor.type_bits),
        (2, 1) => Element::Float(tensor.type_bits),
        (4, 1) if tensor.type_bits == 16 => Element::Bfloat16,
        _ => Element::Other,
    }
}

/// The lengths of the dimensions, and the bytes from an element to the next in each.
fn geometry(name: &str, tensor: &Tensor, size: usize) -> PyResult<(Vec<isize>, Vec<isize>)> {
    let dimensions = usize::try_from(tensor.ndim)?;
    if !(1..=DIMENSIONS_MAX).contains(&dimensions) {
        return Err(PyValueError::new_err(format!(
            "{name} has {dimensions} dimensions; allowed: 2, or 1 for a single row"
        )));
    }
    // SAFETY: by the protocol there are `ndim` numbers.
    let shape = unsafe { std::slice::from_raw_parts(tensor.shape, dimensions) };
    let shape: Vec<isize> = shape.iter().map(|&n| isize::try_from(n)).collect::<Result<_, _>>()?;
    let strides = if tensor.strides.is_null() {
        let last = shape.last().copied().unwrap_or(1);
        [last, 1][DIMENSIONS_MAX - dimensions..].to_vec()
    } else {
        // SAFETY: by the protocol there are `ndim` numbers, where there are any.
        let strides = unsafe { std::slice::from_raw_parts(tensor.strides, dimensions) };
        strides.iter().map(|&n| isize::try_from(n)).collect::<Result<_, _>>()?
    };
    Ok((shape, strides.iter().map(|stride| stride * size as isize).collect()))
}
