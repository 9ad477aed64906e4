//! Arrays of other packages, where they lie: a description of their memory, and their elements as bytes.
//!
//! Two protocols are read. `__array_struct__` is numpy's own (and says whether bytes are swapped); DLPack is what torch
//! and all others have, some of them by a table of C functions too. The buffer protocol is not in the stable ABI of Python 3.10; what has only that becomes a numpy
//! array first, of the same memory. What lies in the memory of a CUDA device is [`device`]'s.
//!
//! All of this crate's `unsafe` is in this folder. What it stands on is said by the owner of the memory and cannot be
//! checked: that the description is true, and that nobody writes while the memory is read. The second is what numpy
//! itself asks of everybody who lets go of the GIL.

mod abi;
pub mod device;
mod dlpack;
mod exchange;
pub mod export;
mod numpy;

use pyo3::exceptions::{PyTypeError, PyValueError};
use pyo3::prelude::*;
use std::fmt;

/// The most dimensions that are read.
const DIMENSIONS_MAX: usize = 2;

/// What the elements of an array are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Element {
    Float(u8),
    Bfloat16,
    Signed(u8),
    Unsigned(u8),
    /// Nothing that is read here.
    Other,
}

impl Element {
    /// Bytes of one.
    pub fn size(self) -> usize {
        match self {
            Self::Float(bits) | Self::Signed(bits) | Self::Unsigned(bits) => usize::from(bits / 8),
            Self::Bfloat16 => 2,
            Self::Other => 0,
        }
    }
}

impl fmt::Display for Element {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Float(bits) => write!(f, "float{bits}"),
            Self::Bfloat16 => f.write_str("bfloat16"),
            Self::Signed(bits) => write!(f, "int{bits}"),
            Self::Unsigned(bits) => write!(f, "uint{bits}"),
            Self::Other => f.write_str("no type of numbers that is read here"),
        }
    }
}

/// An array of one or two dimensions, in memory that its owner keeps for as long as this is here.
pub struct Array<'py> {
    at: *const u8,
    element: Element,
    dimensions: usize,
    /// Those that there are not are 1.
    shape: [usize; DIMENSIONS_MAX],
    /// Bytes from an element to the next.
    strides: [isize; DIMENSIONS_MAX],
    _owner: Owner<'py>,
}

/// What keeps the memory of an array.
#[expect(dead_code, reason = "it is kept, not looked at")]
enum Owner<'py> {
    Object(Bound<'py, PyAny>),
    Tensor(exchange::Managed),
}

impl<'py> Array<'py> {
    /// The array that an object is, if it is one.
    pub fn of(name: &str, object: &Bound<'py, PyAny>) -> PyResult<Option<Self>> {
        // What costs least where it is nothing, first.
        let ways = [exchange::array_of_first, numpy::array, exchange::array, dlpack::array];
        for array in ways {
            if let Some(array) = array(name, object)? {
                return Ok(Some(array));
            }
        }
        Ok(None)
    }

    fn new(
        name: &str,
        at: *const u8,
        element: Element,
        shape: &[isize],
        strides: &[isize],
        owner: Owner<'py>,
    ) -> PyResult<Self> {
        let dimensions = shape.len();
        if !(1..=DIMENSIONS_MAX).contains(&dimensions) {
            return Err(PyValueError::new_err(format!(
                "{name} has {dimensions} dimensions; allowed: 2, or 1 for a single row"
            )));
        }
        let mut array = Self {
            at,
            element,
            dimensions,
            shape: [1; DIMENSIONS_MAX],
            strides: [0; DIMENSIONS_MAX],
            _owner: owner,
        };
        // One dimension is a single row of two.
        let first = DIMENSIONS_MAX - dimensions;
        for (i, (&length, &stride)) in shape.iter().zip(strides).enumerate() {
            array.shape[first + i] = length.try_into()?;
            array.strides[first + i] = stride;
        }
        Ok(array)
    }

    /// What its elements are.
    pub fn element(&self) -> Element {
        self.element
    }

    /// 1 or 2.
    pub fn dimensions(&self) -> usize {
        self.dimensions
    }

    /// How many rows there are.
    pub fn rows(&self) -> usize {
        self.shape[0]
    }

    /// Elements of a row.
    pub fn columns(&self) -> usize {
        self.shape[1]
    }

    /// Whether the elements of a row lie side by side.
    pub fn rows_are_whole(&self) -> bool {
        self.columns() <= 1 || self.rows() == 0 || self.strides[1] == self.element.size() as isize
    }

    /// Where the first element is, and the bytes from a row to the next.
    pub fn place(&self) -> (usize, isize) {
        (self.at as usize, self.strides[0])
    }

    /// The bytes of a row.
    ///
    /// # Panics
    /// If there is no such row, or its elements do not lie side by side.
    pub fn row(&self, row: usize) -> &[u8] {
        assert!(row < self.rows() && self.rows_are_whole(), "a row of this array, in one piece");
        let bytes = self.columns() * self.element.size();
        if bytes == 0 {
            return &[];
        }
        // SAFETY: the row is one of the array's, by the assertion above, and its elements are adjacent. The owner,
        // which is kept, describes memory that holds every element of the array.
        unsafe { std::slice::from_raw_parts(self.at.offset(self.strides[0] * row as isize), bytes) }
    }

    /// The elements of a row as whole numbers, wherever they lie.
    ///
    /// # Errors
    /// A TypeError, if they are none.
    pub fn integers(&self, name: &str, row: usize) -> PyResult<Vec<i128>> {
        assert!(row < self.rows(), "a row of this array");
        let size = self.element.size();
        let (is_signed, is_known) = match self.element {
            Element::Signed(8 | 16 | 32 | 64) => (true, true),
            Element::Unsigned(8 | 16 | 32 | 64) => (false, true),
            _ => (false, false),
        };
        if !is_known {
            return Err(PyTypeError::new_err(format!(
                "{name} is an array of {}; allowed: whole numbers",
                self.element
            )));
        }
        let start = self.strides[0] * row as isize;
        let element = |column: usize| {
            let mut bytes = [0; 16];
            // SAFETY: row and column are within the array, whose owner, which is kept, describes memory that holds
            // every element of it.
            let stored = unsafe {
                std::slice::from_raw_parts(
                    self.at.offset(start + self.strides[1] * column as isize),
                    size,
                )
            };
            bytes[..size].copy_from_slice(stored);
            let is_negative = is_signed && stored[size - 1] >= 0x80;
            bytes[size..].fill(if is_negative { 0xff } else { 0 });
            i128::from_le_bytes(bytes)
        };
        Ok((0..self.columns()).map(element).collect())
    }
}
