"""A producer of DLPack tensors, as torch is one: what stands in a capsule, written by hand."""

import ctypes

import numpy as np


class Tensor(ctypes.Structure):
    _fields_ = [
        ("data", ctypes.c_void_p),
        ("device_type", ctypes.c_int32),
        ("device_id", ctypes.c_int32),
        ("ndim", ctypes.c_int32),
        ("type_code", ctypes.c_uint8),
        ("type_bits", ctypes.c_uint8),
        ("type_lanes", ctypes.c_uint16),
        ("shape", ctypes.POINTER(ctypes.c_int64)),
        ("strides", ctypes.POINTER(ctypes.c_int64)),
        ("byte_offset", ctypes.c_uint64),
    ]


class Managed(ctypes.Structure):
    _fields_ = [("tensor", Tensor), ("context", ctypes.c_void_p), ("deleter", ctypes.c_void_p)]


new_capsule = ctypes.pythonapi.PyCapsule_New
new_capsule.restype = ctypes.py_object
new_capsule.argtypes = [ctypes.c_void_p, ctypes.c_char_p, ctypes.c_void_p]

CODES = {"i": 0, "u": 1, "f": 2}
BFLOAT = 4


class DLPack:
    """The memory of a numpy array, by DLPack alone. Elements of two bytes can be told to be bfloat16."""

    def __init__(self, array: np.ndarray, bfloat16: bool = False, device_type: int = 1, contiguous: bool = False, offset: int = 0):
        self.array = array
        self.shape = (ctypes.c_int64 * array.ndim)(*array.shape)
        self.strides = (ctypes.c_int64 * array.ndim)(*(stride // array.itemsize for stride in array.strides))
        tensor = Tensor(
            array.ctypes.data - offset,
            device_type,
            0,
            array.ndim,
            BFLOAT if bfloat16 else CODES[array.dtype.kind],
            array.itemsize * 8,
            1,
            self.shape,
            None if contiguous else self.strides,
            offset,
        )
        self.managed = Managed(tensor, None, None)

    def __dlpack__(self) -> object:
        return new_capsule(ctypes.addressof(self.managed), b"dltensor", None)
