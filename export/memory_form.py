"""How a graph's attention keeps keys and values: as floats, or in 8 bits, whose scales lie in one of two places.

A scale is the step between two levels, one for each layer and channel. Attention on the CPU takes all of them as
inputs. On CUDA attention reads 8-bit memory as it is in one kernel alone, which takes one scale for everything and
wants at least four queries for each key; others copy the whole memory to fp16 with every step. So there the scales
are moved into the weights around it, which changes no product:

    query . key = (query * scale) . (key / scale)        shares x value = (shares x (value / scale)) * scale

and each query stands four times, the copies' results being left out.
"""

from __future__ import annotations

from typing import Any, Protocol, Self

import numpy as np
import torch

from export.calibration import MemoryScales, memory_scales
from export.graph import Graph

UNUSED_INPUTS = 5  # of GroupQueryAttention, between the lengths and the scales: rotation, bias, sink
STEP = 2.0**-5  # the one step of folded memory: it leaves keys and values about as large as they were

Kinds = dict[str, Any]


class MemoryForm(Protocol):
    """What a layer's attention needs beside queries, keys and values."""

    bits: int | None  # None: memory holds what products give
    query_copies: int  # how often each query stands

    @classmethod
    def of(cls, model: torch.nn.Module) -> Self:
        """Calibrate for a model, where that is needed."""

    def fold(self, layer: int, packed: np.ndarray, out: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Weights for queries, keys and values [3 x hidden, in], and for the result [out, hidden], as they are used."""

    def extras(self, graph: Graph, layer: int) -> tuple[list[str], Kinds]:
        """Further inputs and attributes of a layer's attention."""


class FloatMemory:
    """Keys and values in the type that products give."""

    bits = None
    query_copies = 1

    @classmethod
    def of(cls, model: torch.nn.Module) -> Self:
        return cls()

    def fold(self, layer: int, packed: np.ndarray, out: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        return packed, out

    def extras(self, graph: Graph, layer: int) -> tuple[list[str], Kinds]:
        return [], {}


class ScaledMemory:
    """8 bits, with a scale for each channel as an input of attention."""

    bits = 8
    query_copies = 1

    def __init__(self, scales: list[MemoryScales]) -> None:
        self._scales = scales

    @classmethod
    def of(cls, model: torch.nn.Module) -> Self:
        return cls(memory_scales(model))

    def fold(self, layer: int, packed: np.ndarray, out: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        return packed, out

    def extras(self, graph: Graph, layer: int) -> tuple[list[str], Kinds]:
        key = graph.weight(f"key_scale_{layer}", self._scales[layer].key)
        value = graph.weight(f"value_scale_{layer}", self._scales[layer].value)
        return _quantized("PER_CHANNEL", key, value)


class FoldedMemory(ScaledMemory):
    """8 bits, with the scales in the weights around attention and one known step in it."""

    query_copies = 4

    def fold(self, layer: int, packed: np.ndarray, out: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        queries, keys, values = np.split(packed, 3)
        key, value = self._scales[layer].key / STEP, self._scales[layer].value / STEP
        folded = [queries * key[:, None], keys / key[:, None], values / value[:, None]]
        return np.concatenate(folded), out * value

    def extras(self, graph: Graph, layer: int) -> tuple[list[str], Kinds]:
        # Releases differ in whether the two scales may be two tensors; one tensor suits all.
        step = graph.weight("memory_step", np.array([STEP], np.float32))
        return _quantized("PER_TENSOR", step, step)


def _quantized(kind: str, key: str, value: str) -> tuple[list[str], Kinds]:
    kinds = {"k_quant_type": kind, "v_quant_type": kind, "kv_cache_bit_width": 8}
    return [""] * UNUSED_INPUTS + [key, value], kinds
