"""The doorway to CUDA's driver: memory, kernels in a row on one stream, and the same again as a captured graph."""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from contextlib import suppress
from ctypes import byref, c_int, c_size_t, c_uint, c_void_p
from dataclasses import dataclass
from typing import Any

import numpy as np

from songstarter.array import Array
from songstarter.errors import DeviceError
from songstarter.stages.cuda.libraries import DRIVER, Calls, Opener

POINTER, OUT = c_void_p, ctypes.POINTER(c_void_p)
COMPUTE_CAPABILITY = (75, 76)  # attributes of a device: major, minor
OVERLAPPING = 9  # the major compute capability from which a kernel may begin while another ends
NON_BLOCKING = 1  # a stream that does not wait for the default one
RELAXED = 2  # while capturing, calls that are not captured are allowed
PROGRAMMATIC_SERIALIZATION = 6  # attribute of a launch

FUNCTIONS: dict[str, tuple[Any, ...]] = {
    "cuInit": (c_uint,),
    "cuDeviceGet": (ctypes.POINTER(c_int), c_int),
    "cuDeviceGetAttribute": (ctypes.POINTER(c_int), c_int, c_int),
    "cuDevicePrimaryCtxRetain": (OUT, c_int),
    "cuCtxSetCurrent": (POINTER,),
    "cuModuleLoadData": (OUT, ctypes.c_char_p),
    "cuModuleGetFunction": (OUT, POINTER, ctypes.c_char_p),
    "cuMemAlloc_v2": (OUT, c_size_t),
    "cuMemFree_v2": (POINTER,),
    "cuMemFreeHost": (POINTER,),
    "cuMemHostAlloc": (OUT, c_size_t, c_uint),
    "cuMemcpyHtoD_v2": (POINTER, POINTER, c_size_t),
    "cuMemcpyDtoH_v2": (POINTER, POINTER, c_size_t),
    "cuMemcpyHtoDAsync_v2": (POINTER, POINTER, c_size_t, POINTER),
    "cuMemcpyDtoHAsync_v2": (POINTER, POINTER, c_size_t, POINTER),
    "cuMemsetD8_v2": (POINTER, ctypes.c_ubyte, c_size_t),
    "cuMemsetD8Async": (POINTER, ctypes.c_ubyte, c_size_t, POINTER),
    "cuMemGetInfo_v2": (ctypes.POINTER(c_size_t), ctypes.POINTER(c_size_t)),
    "cuCtxSynchronize": (),
    "cuStreamCreate": (OUT, c_uint),
    "cuStreamSynchronize": (POINTER,),
    "cuStreamBeginCapture_v2": (POINTER, c_int),
    "cuStreamEndCapture": (POINTER, OUT),
    "cuGraphInstantiateWithFlags": (OUT, POINTER, ctypes.c_ulonglong),
    "cuGraphDestroy": (POINTER,),
    "cuGraphLaunch": (POINTER, POINTER),
    "cuLaunchKernelEx": (POINTER, POINTER, OUT, POINTER),
}


class _Attribute(ctypes.Structure):
    """``CUlaunchAttribute``."""

    _fields_ = (("id", c_int), ("padding", c_int), ("value", c_int), ("rest", ctypes.c_byte * 60))


class _Config(ctypes.Structure):
    """``CUlaunchConfig``."""

    _fields_ = (
        ("grid", c_uint * 3),
        ("block", c_uint * 3),
        ("shared_bytes", c_uint),
        ("stream", c_void_p),
        ("attributes", ctypes.POINTER(_Attribute)),
        ("attribute_count", c_uint),
    )


@dataclass(frozen=True)
class Launch:
    """A kernel with what it runs on; where it ``overlaps`` it may begin while the launch before it ends."""

    kernel: str
    grid: tuple[int, int, int]
    threads: int
    arguments: ctypes.Structure
    shared_bytes: int = 0
    overlaps: bool = True


def _words(library: ctypes.CDLL, result: int) -> str:
    """What the driver calls a result."""
    name = ctypes.c_char_p()
    library.cuGetErrorName(ctypes.c_int(result), byref(name))
    return (name.value or b"unknown").decode(errors="replace")


class Driver:
    """Device 0 in the context that onnxruntime uses too, and one stream of its own."""

    def __init__(self, opener: Opener) -> None:
        """Open the device.

        Raises:
            DeviceError: there is no driver or no device.
        """
        self._call = Calls(opener(DRIVER), FUNCTIONS, _words)
        self._call("cuInit", 0)
        device = c_int()
        self._call("cuDeviceGet", byref(device), 0)
        self.capability = self._attribute(COMPUTE_CAPABILITY[0], device), self._attribute(COMPUTE_CAPABILITY[1], device)
        self._context = self._made("cuDevicePrimaryCtxRetain", device.value)
        self.make_current()
        self.stream = self._made("cuStreamCreate", NON_BLOCKING)
        self._kernels: dict[str, c_void_p] = {}
        self._allocated: list[tuple[str, int]] = []  # and what frees it

    def make_current(self) -> None:
        """Let this thread call the driver."""
        self._call("cuCtxSetCurrent", self._context)

    def load(self, cubin: bytes, kernels: tuple[str, ...]) -> None:
        """Make compiled kernels known by their names."""
        module = self._made("cuModuleLoadData", cubin)
        for name in kernels:
            self._kernels[name] = self._made("cuModuleGetFunction", module, name.encode())

    def allocate(self, size: int) -> int:
        """The address of so many bytes, all zero, which stay until all are given back."""
        address = self._made("cuMemAlloc_v2", size).value
        assert address is not None
        self._allocated.append(("cuMemFree_v2", address))
        self._call("cuMemsetD8_v2", address, 0, size)
        return address

    def give_back(self) -> None:
        """Free all memory, pinned too, as far as the device lets us."""
        while self._allocated:
            with suppress(DeviceError):
                self._call(*self._allocated.pop())

    def free_bytes(self) -> int:
        """What nobody has taken of the device's memory."""
        free, whole = c_size_t(), c_size_t()
        self._call("cuMemGetInfo_v2", byref(free), byref(whole))
        return free.value

    def settle(self) -> None:
        """Until all is done that was asked beside the stream: zeros and uploads may come after their calls."""
        self._call("cuCtxSynchronize")

    def clear(self, address: int, size: int) -> None:
        """Put so many bytes of zeros on the stream."""
        self._call("cuMemsetD8Async", address, 0, size, self.stream)

    def upload(self, array: Array) -> int:
        """The address of a copy."""
        address = self.allocate(array.nbytes)
        self._call("cuMemcpyHtoD_v2", address, array.ctypes.data, array.nbytes)
        return address

    def download(self, address: int, array: Array) -> None:
        """Fill an array with what lies there."""
        self._call("cuMemcpyDtoH_v2", array.ctypes.data, address, array.nbytes)

    def pinned(self, size: int) -> Array:
        """So many bytes of the host, all zero, that the device reads and writes by itself."""
        address = self._made("cuMemHostAlloc", size, 0).value
        assert address is not None
        self._allocated.append(("cuMemFreeHost", address))
        bytes_there = np.ctypeslib.as_array((ctypes.c_uint8 * size).from_address(address))
        bytes_there[:] = 0
        return bytes_there

    def send(self, array: Array, address: int) -> None:
        """Put a copy from pinned memory to the device on the stream."""
        self._call("cuMemcpyHtoDAsync_v2", address, array.ctypes.data, array.nbytes, self.stream)

    def fetch(self, address: int, array: Array) -> None:
        """Put a copy from the device to pinned memory on the stream."""
        self._call("cuMemcpyDtoHAsync_v2", array.ctypes.data, address, array.nbytes, self.stream)

    def launch(self, launch: Launch) -> None:
        """Put a kernel on the stream."""
        overlaps = launch.overlaps and self.capability[0] >= OVERLAPPING
        attribute = _Attribute(id=PROGRAMMATIC_SERIALIZATION, value=1)
        config = _Config(
            grid=launch.grid,
            block=(launch.threads, 1, 1),
            shared_bytes=launch.shared_bytes,
            stream=self.stream,
            attributes=ctypes.pointer(attribute),
            attribute_count=int(overlaps),
        )
        arguments = (c_void_p * 1)(ctypes.addressof(launch.arguments))
        self._call("cuLaunchKernelEx", byref(config), self._kernels[launch.kernel], arguments, None)

    def capture(self, work: Callable[[], None]) -> Callable[[], None]:
        """What repeats, as one graph, all that ``work`` puts on the stream; it returns when that is done."""
        self._call("cuStreamBeginCapture_v2", self.stream, RELAXED)
        try:
            work()
        except BaseException:
            with suppress(DeviceError):  # what went wrong is told already
                self._made("cuStreamEndCapture", after=self.stream)
            raise
        graph = self._made("cuStreamEndCapture", after=self.stream)
        try:
            captured = self._made("cuGraphInstantiateWithFlags", graph, 0)
        finally:
            self._call("cuGraphDestroy", graph)

        def run() -> None:
            self._call("cuGraphLaunch", captured, self.stream)
            self.wait()

        return run

    def wait(self) -> None:
        """Until all that was put on the stream is done."""
        self._call("cuStreamSynchronize", self.stream)

    def _attribute(self, which: int, device: c_int) -> int:
        value = c_int()
        self._call("cuDeviceGetAttribute", byref(value), which, device)
        return value.value

    def _made(self, function: str, *arguments: Any, after: c_void_p | None = None) -> c_void_p:
        """What a function hands back through its first argument, or through the one after ``after``."""
        made = c_void_p()
        self._call(function, *([] if after is None else [after]), byref(made), *arguments)
        return made
