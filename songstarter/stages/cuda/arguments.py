"""The kernels' arguments as C has them: addresses on the device, and sizes."""

from __future__ import annotations

import ctypes
from ctypes import c_float, c_int, c_void_p


class Embed(ctypes.Structure):
    """``Embed`` of ``stream.h``."""

    _fields_ = (
        *((name, c_void_p) for name in ("tokens", "positions", "table", "sinusoid", "stream")),
        *((name, c_int) for name in ("codebooks", "table_rows", "hidden")),
    )


class Norm(ctypes.Structure):
    """``Norm`` of ``stream.h``."""

    _fields_ = (
        *((name, c_void_p) for name in ("stream", "scale", "shift", "out")),
        ("hidden", c_int),
        ("epsilon", c_float),
    )


class Gelu(ctypes.Structure):
    """``Gelu`` of ``stream.h``."""

    _fields_ = (("values", c_void_p), ("quads", c_int))


class Product(ctypes.Structure):
    """``Product`` of ``products.h``."""

    _fields_ = (
        *((name, c_void_p) for name in ("x", "scale", "shift", "weight", "out", "partial", "arrived")),
        *((name, c_int) for name in ("inner", "columns")),
        ("epsilon", c_float),
    )


class Attend(ctypes.Structure):
    """``Attend`` of ``attention.h``."""

    _fields_ = (
        *((name, c_void_p) for name in ("packed", "out", "keys", "values", "lengths", "shared", "partial", "arrived")),
        *((name, c_int) for name in ("heads", "positions")),
        ("level", c_float),
    )


class Sample(ctypes.Structure):
    """``Sample`` of ``sampler.h``."""

    _fields_ = (
        *((name, c_void_p) for name in ("logits", "settings", "uniforms", "columns")),
        *((name, c_int) for name in ("slots", "codebooks", "vocabulary")),
    )
