"""Arrays on a CUDA device without a framework, over whichever libcuda the loader finds: what each was written with is on its way in a stream of
its own, and nobody waits for it."""

import ctypes
from typing import Any

import numpy as np

TYPES = {"float16": (2, 16), "float32": (2, 32), "uint16": (4, 16)}  # uint16 stands for bfloat16, which numpy has not
POINTER = ctypes.c_void_p


class Tensor(ctypes.Structure):
    """DLPack's `DLTensor`."""

    _fields_ = [
        ("data", POINTER), ("device_type", ctypes.c_int32), ("device_id", ctypes.c_int32), ("ndim", ctypes.c_int32),
        ("code", ctypes.c_uint8), ("bits", ctypes.c_uint8), ("lanes", ctypes.c_uint16), ("shape", POINTER), ("strides", POINTER), ("byte_offset", ctypes.c_uint64),
    ]


class Managed(ctypes.Structure):
    """DLPack's `DLManagedTensor`."""

    _fields_ = [("tensor", Tensor), ("manager", POINTER), ("deleter", POINTER)]


class Device:
    """Its primary context, and a stream of this process's."""

    def __init__(self, ordinal: int = 0) -> None:
        self.cuda = ctypes.CDLL("libcuda.so.1")
        self.ordinal, self.context, self.stream, self.event = ordinal, POINTER(), POINTER(), POINTER()
        self.call("cuInit", 0)
        self.call("cuDevicePrimaryCtxRetain", ctypes.byref(self.context), ordinal)
        self.bind()
        self.call("cuStreamCreate", ctypes.byref(self.stream), 1)
        self.call("cuEventCreate", ctypes.byref(self.event), 2)

    def call(self, name: str, *arguments: Any) -> None:
        code = getattr(self.cuda, name)(*arguments)
        assert code == 0, f"{name}: {code}"

    def bind(self) -> None:
        self.call("cuCtxSetCurrent", self.context)

    def lead(self, stream: int) -> None:
        """Has a stream wait for what is in this one's."""
        self.bind()
        self.call("cuEventRecord", self.event, self.stream)
        self.call("cuStreamWaitEvent", POINTER(stream), self.event, 0)


class DeviceMemory:
    """Rows of an array, `padding` elements apart, on their way to a device."""

    def __init__(self, device: Device, array: np.ndarray, padding: int = 0) -> None:
        self.device, self.shape, self.type = device, array.shape, TYPES[array.dtype.name]
        self.row = array.shape[-1] + padding
        rows = np.ascontiguousarray(np.pad(array, [(0, 0)] * (array.ndim - 1) + [(0, padding)]))
        self.address, self.host, self.bytes = ctypes.c_uint64(), POINTER(), ctypes.c_size_t(rows.nbytes)
        device.bind()
        device.call("cuMemAlloc_v2", ctypes.byref(self.address), self.bytes)
        # Pinned, so that nobody waits for the copy.
        device.call("cuMemHostAlloc", ctypes.byref(self.host), self.bytes, 0)
        ctypes.memmove(self.host, rows.ctypes.data, rows.nbytes)
        self.write()

    def write(self) -> None:
        self.device.bind()
        self.device.call("cuMemcpyHtoDAsync_v2", self.address, self.host, self.bytes, self.device.stream)

    def strides(self) -> list[int]:
        return [self.row, 1][-len(self.shape) :]


class ByDLPack(DeviceMemory):
    """As torch has it: whoever takes it says in which stream it will be read."""

    waits = True

    def __dlpack_device__(self) -> tuple[int, int]:
        return (2, self.device.ordinal)

    def __dlpack__(self, *, stream: int | None = None) -> Any:
        assert stream is not None and stream > 2, "the reader's own stream"
        if self.waits:
            self.device.lead(stream)
        count = len(self.shape)
        self.lengths = (ctypes.c_int64 * (2 * count))(*self.shape, *self.strides())
        at = ctypes.addressof(self.lengths)
        code, bits = self.type
        tensor = Tensor(self.address.value, 2, self.device.ordinal, count, code, bits, 1, at, at + 8 * count, 0)
        self.managed = Managed(tensor, None, None)
        make = ctypes.pythonapi.PyCapsule_New
        make.restype, make.argtypes = ctypes.py_object, [POINTER, ctypes.c_char_p, POINTER]
        return make(ctypes.addressof(self.managed), NAME, None)


NAME = ctypes.c_char_p(b"dltensor")


class ByInterface(DeviceMemory):
    """As CuPy and Numba have it: whoever reads it waits for its stream."""

    says_stream = True

    @property
    def __cuda_array_interface__(self) -> dict[str, Any]:
        size = self.type[1] // 8
        return {
            "version": 3, "shape": self.shape, "typestr": f"<f{size}", "data": (self.address.value, False),
            "strides": None if self.row == self.shape[-1] else tuple(stride * size for stride in self.strides()),
            "stream": self.device.stream.value if self.says_stream else None,
        }
