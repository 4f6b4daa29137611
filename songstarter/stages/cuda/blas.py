"""The doorway to cuBLAS: products of many rows."""

from __future__ import annotations

import ctypes
from ctypes import byref, c_float, c_int, c_size_t, c_void_p
from dataclasses import dataclass
from typing import Any

from songstarter.stages.cuda.driver import Driver
from songstarter.stages.cuda.libraries import PRODUCTS, Calls, Opener, returned_words

WORKSPACE_BYTES = 32 << 20  # what NVIDIA asks for from Hopper on
AS_IS, FLOAT, HALF, IN_FLOAT, ANY_ALGORITHM = 0, 0, 2, 68, -1  # of cublasGemmEx

_MATRIX = (c_void_p, c_int, c_int)
FUNCTIONS: dict[str, tuple[Any, ...]] = {
    "cublasCreate_v2": (ctypes.POINTER(c_void_p),),
    "cublasDestroy_v2": (c_void_p,),
    "cublasSetStream_v2": (c_void_p, c_void_p),
    "cublasSetWorkspace_v2": (c_void_p, c_void_p, c_size_t),
    "cublasGemmEx": (
        *(c_void_p, c_int, c_int, c_int, c_int, c_int, ctypes.POINTER(c_float)),
        *_MATRIX,
        *_MATRIX,
        ctypes.POINTER(c_float),
        *_MATRIX,
        *(c_int, c_int),
    ),
}


@dataclass(frozen=True)
class Gemm:
    """out [row, column] = x [row, in] weight [in, column], halves but for a sum in fp32; addresses on the device."""

    x: int
    weight: int
    out: int
    rows: int
    inner: int
    columns: int
    in_floats: bool = False  # what comes out
    adds: bool = False  # to what is there


class Blas:
    """cuBLAS on a driver's stream."""

    def __init__(self, opener: Opener, driver: Driver) -> None:
        self._call = Calls(opener(PRODUCTS), FUNCTIONS, returned_words("cublasGetStatusString"))
        self._handle = c_void_p()
        self._call("cublasCreate_v2", byref(self._handle))
        self._call("cublasSetStream_v2", self._handle, driver.stream)
        workspace = driver.allocate(WORKSPACE_BYTES)  # its own could not be captured
        self._call("cublasSetWorkspace_v2", self._handle, workspace, WORKSPACE_BYTES)

    def close(self) -> None:
        """Give back what cuBLAS took for itself."""
        self._call("cublasDestroy_v2", self._handle)

    def launch(self, gemm: Gemm) -> None:
        """Put a product on the stream; to cuBLAS, whose columns are our rows, it is the transposed one."""
        shape = (AS_IS, AS_IS, gemm.columns, gemm.rows, gemm.inner)
        one, kept = c_float(1), c_float(1 if gemm.adds else 0)
        self._call(
            "cublasGemmEx",
            *(self._handle, *shape, byref(one)),
            *(gemm.weight, HALF, gemm.columns),
            *(gemm.x, HALF, gemm.inner),
            byref(kept),
            *(gemm.out, FLOAT if gemm.in_floats else HALF, gemm.columns),
            *(IN_FLOAT, ANY_ALGORITHM),
        )
