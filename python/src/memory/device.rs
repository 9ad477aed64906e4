//! Arrays in the memory of a CUDA device: DLPack's, and those of `__cuda_array_interface__`.
//!
//! Nothing of them comes to the host, and the host waits for nothing: whoever writes an array has our stream wait for its
//! own, as `__dlpack__(stream=..)` asks, or says which stream is to be followed.

use super::abi::Tensor as Dlpack;
use super::dlpack::{self, CUDA, CUDA_MANAGED};
use super::{DIMENSIONS_MAX, Element};
use logitd_core::backend::cuda::tensor::{Tensor, Tensors};
use pyo3::exceptions::{PyRuntimeError, PyTypeError, PyValueError};
use pyo3::intern;
use pyo3::prelude::*;
use pyo3::types::{PyCapsule, PyDict};

/// What reads arrays of one device.
pub struct Reader {
    pub tensors: Tensors,
    /// The device's number.
    pub ordinal: i32,
}

/// An array of one or two dimensions on a device, in memory that its owner keeps for as long as this is here.
pub struct DeviceArray<'py> {
    pub element: Element,
    /// Rows, and the elements of each.
    pub shape: [usize; DIMENSIONS_MAX],
    /// Bytes from a row to the next.
    pub row_stride: usize,
    pub tensor: Tensor,
    _owner: Bound<'py, PyAny>,
}

/// The array on a device that an object is, if it is one.
pub fn array<'py>(
    name: &str,
    object: &Bound<'py, PyAny>,
    reader: &Reader,
) -> PyResult<Option<DeviceArray<'py>>> {
    match place(object)? {
        Some((CUDA | CUDA_MANAGED, ordinal)) if ordinal != reader.ordinal => {
            let own = reader.ordinal;
            Err(PyValueError::new_err(format!(
                "{name} is on cuda:{ordinal}, and the sampler on cuda:{own}; allowed: on the same device"
            )))
        }
        Some((CUDA | CUDA_MANAGED, _)) => exported(name, object, reader).map(Some),
        Some(_) => Ok(None),
        None => described(name, object, reader),
    }
}

/// Where an object says that it is, in DLPack's terms.
pub fn place(object: &Bound<'_, PyAny>) -> PyResult<Option<(i32, i32)>> {
    let py = object.py();
    match object.getattr_opt(intern!(py, "__dlpack_device__"))? {
        None => Ok(None),
        // torch's device types are an enumeration.
        Some(device) => {
            let (kind, ordinal): (Bound<'_, PyAny>, i32) = device.call0()?.extract()?;
            Ok(Some((kind.call_method0(intern!(py, "__int__"))?.extract()?, ordinal)))
        }
    }
}

/// By DLPack: the exporter has our stream wait for its own.
fn exported<'py>(
    name: &str,
    object: &Bound<'py, PyAny>,
    reader: &Reader,
) -> PyResult<DeviceArray<'py>> {
    let py = object.py();
    let keywords = PyDict::new(py);
    keywords.set_item(intern!(py, "stream"), reader.tensors.stream())?;
    let capsule = object.call_method(intern!(py, "__dlpack__"), (), Some(&keywords))?;
    let capsule = capsule.cast_into::<PyCapsule>()?;
    let tensor = capsule.pointer_checked(Some(c"dltensor"))?.cast::<Dlpack>();
    // SAFETY: a capsule of that name has a DLManagedTensor, which begins with its DLTensor, until it is consumed.
    let tensor = unsafe { tensor.as_ref() };
    let (at, element, shape, strides) = dlpack::parts(name, tensor)?;
    made(name, Parts { at: at as u64, element, shape, strides }, reader, capsule.into_any())
}

/// By `__cuda_array_interface__`, whose stream is followed here.
fn described<'py>(
    name: &str,
    object: &Bound<'py, PyAny>,
    reader: &Reader,
) -> PyResult<Option<DeviceArray<'py>>> {
    let py = object.py();
    let Some(interface) = object.getattr_opt(intern!(py, "__cuda_array_interface__"))? else {
        return Ok(None);
    };
    let interface = interface.cast_into::<PyDict>()?;
    let get = |key: &str| interface.get_item(key).map(|item| item.filter(|item| !item.is_none()));
    let required = |key: &str| {
        get(key)?.ok_or_else(|| {
            PyTypeError::new_err(format!("the __cuda_array_interface__ of {name} has no {key}"))
        })
    };
    let element = match required("typestr")?.extract::<String>()?.as_str() {
        "<f2" => Element::Float(16),
        "<f4" => Element::Float(32),
        other => {
            return Err(PyTypeError::new_err(format!(
                "{name} is an array of {other} on a device; allowed: <f2, <f4, and bfloat16 by DLPack"
            )));
        }
    };
    let shape: Vec<isize> = required("shape")?.extract()?;
    dimensions(name, shape.len())?;
    let strides = match get("strides")? {
        Some(strides) => strides.extract()?,
        None => {
            let last = shape.last().copied().unwrap_or(1) * element.size() as isize;
            [last, element.size() as isize][DIMENSIONS_MAX - shape.len()..].to_vec()
        }
    };
    let (at, _): (u64, bool) = required("data")?.extract()?;
    // None is an array that nobody writes to any more.
    if let Some(stream) = get("stream")? {
        let stream: u64 = stream.extract()?;
        // SAFETY: by the protocol it is 1, 2 or a stream of the array's device, and alive.
        let followed = unsafe { reader.tensors.follow(stream) };
        followed.map_err(PyRuntimeError::new_err)?;
    }
    let parts = Parts { at, element, shape, strides };
    made(name, parts, reader, object.clone()).map(Some)
}

/// What an array says of itself; strides in bytes.
struct Parts {
    at: u64,
    element: Element,
    shape: Vec<isize>,
    strides: Vec<isize>,
}

fn made<'py>(
    name: &str,
    parts: Parts,
    reader: &Reader,
    owner: Bound<'py, PyAny>,
) -> PyResult<DeviceArray<'py>> {
    let Parts { at, element, shape, strides } = parts;
    dimensions(name, shape.len())?;
    let first = DIMENSIONS_MAX - shape.len();
    let (mut lengths, mut steps) = ([1; DIMENSIONS_MAX], [0; DIMENSIONS_MAX]);
    for (i, (&length, &stride)) in shape.iter().zip(&strides).enumerate() {
        (lengths[first + i], steps[first + i]) = (usize::try_from(length)?, stride);
    }
    let [rows, columns] = lengths;
    let size = element.size();
    if columns > 1 && rows > 0 && steps[1] != size as isize {
        return Err(PyValueError::new_err(format!(
            "the logits of a row of {name} do not lie side by side; {name}.contiguous() is a copy in which they do"
        )));
    }
    if rows > 1 && steps[0] < 0 {
        return Err(PyValueError::new_err(format!(
            "the rows of {name} follow one another backwards; allowed on a device: forwards, as in {name}.copy() \
             (torch: {name}.contiguous())"
        )));
    }
    let bounds = || {
        let row_bytes = columns.checked_mul(size)?;
        let row_stride = if rows > 1 { usize::try_from(steps[0]).ok()? } else { row_bytes };
        let last = rows.saturating_sub(1).checked_mul(row_stride)?;
        Some((row_stride, last.checked_add(if rows > 0 { row_bytes } else { 0 })?))
    };
    let (row_stride, bytes) = bounds().ok_or_else(|| {
        PyValueError::new_err(format!("{name} is said to have more bytes than there are addresses"))
    })?;
    // SAFETY: the owner, which is kept, describes memory that holds every element of the array, and the writer's stream
    // was followed; that nobody writes meanwhile is what is asked of every caller.
    let tensor = unsafe { reader.tensors.tensor(at, bytes) };
    Ok(DeviceArray { element, shape: lengths, row_stride, tensor, _owner: owner })
}

fn dimensions(name: &str, count: usize) -> PyResult<()> {
    match (1..=DIMENSIONS_MAX).contains(&count) {
        true => Ok(()),
        false => Err(PyValueError::new_err(format!(
            "{name} has {count} dimensions; allowed: 2, or 1 for a single row"
        ))),
    }
}
