"""The forms a weight matrix can take in the decoder graph, one per precision.

Every form maps [row, position, in] fp32 or fp16 to [row, position, out], without bias, and lets no row see
another: a song's numbers must not depend on its neighbours in the batch.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import torch

from export.graph import Graph
from export.memory_form import FloatMemory, FoldedMemory, MemoryForm, ScaledMemory
from export.rounding import Rounded

Linear = Callable[[Graph, str, str, np.ndarray], str]

# Activations are uint8 around a zero point of 128. Weights keep to 7 bits because AVX2 without VNNI adds two
# uint8 x int8 products in 16 bits: 2 * 255 * 63 still fits, 2 * 255 * 127 saturates and spoils the sum.
ZERO_POINT = 128
ACTIVATION_LIMIT = 127
WEIGHT_LIMIT = 63


def linear_fp32(graph: Graph, name: str, x: str, weight: np.ndarray) -> str:
    """A plain product with ``weight`` [out, in]."""
    return graph.node("MatMul", [x, graph.weight(f"{name}.weight", weight.T)], name)


def linear_fp16(graph: Graph, name: str, x: str, weight: np.ndarray) -> str:
    """A product in half precision; ``x`` is fp16 already."""
    half = graph.weight(f"{name}.weight", torch.from_numpy(weight).half().t().contiguous().numpy())  # numpy is slow
    return graph.node("MatMul", [x, half], name)


def linear_int8(graph: Graph, name: str, x: str, weight: np.ndarray) -> str:
    """An integer product: one scale per activation row, found on the fly, and one per output channel."""
    return _integer_product(graph, name, x, *quantize_per_channel(weight))


def linear_of_rounded(rounded: Mapping[str, Rounded]) -> Linear:
    """As ``linear_int8``, with weights that were rounded beforehand, by the names of their modules."""

    def linear(graph: Graph, name: str, x: str, weight: np.ndarray) -> str:
        parts = [rounded[module] for module in _modules_of(name, rounded)]
        levels, scales = (np.concatenate([getattr(part, of) for part in parts]) for of in ("levels", "scales"))
        return _integer_product(graph, name, x, levels, scales)

    return linear


def _modules_of(name: str, known: Mapping[str, Rounded]) -> list[str]:
    """The modules that a product of the graph carries out at once."""
    if name.endswith(".qkv"):
        return [f"{name.removesuffix('.qkv')}.{letter}_proj" for letter in "qkv"]
    return [name] if name in known else [f"{name}.{k}" for k in range(sum(key.startswith(name) for key in known))]


def _integer_product(graph: Graph, name: str, x: str, levels: np.ndarray, scales: np.ndarray) -> str:
    row_scale, quantized = _quantize_rows(graph, name, x)
    zero_point = graph.constant(np.array(ZERO_POINT, np.uint8))
    columns = graph.weight(f"{name}.levels", levels.T)
    sums = graph.node("MatMulInteger", [quantized, columns, zero_point], f"{name}.sums")
    floats = graph.node("Cast", [sums], f"{name}.floats", to=1)
    by_channel = graph.node("Mul", [floats, graph.weight(f"{name}.scales", scales)], f"{name}.by_channel")
    return graph.node("Mul", [by_channel, row_scale], name)


def quantize_per_channel(weight: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """``weight`` [out, in] as int8 levels [out, in] and fp32 scales [out]."""
    scales = np.maximum(np.abs(weight).max(axis=1), 1e-12) / WEIGHT_LIMIT
    levels = np.rint(weight / scales[:, None]).clip(-WEIGHT_LIMIT, WEIGHT_LIMIT)
    return levels.astype(np.int8), scales.astype(np.float32)


def _quantize_rows(graph: Graph, name: str, x: str) -> tuple[str, str]:
    magnitude = graph.node("Abs", [x], f"{name}.magnitude")
    last_axis = graph.constant(np.array([-1], np.int64))
    peak = graph.node("ReduceMax", [magnitude, last_axis], f"{name}.peak", keepdims=1)
    floor = graph.node("Max", [peak, graph.constant(np.array(1e-12, np.float32))], f"{name}.floor")
    limit = graph.constant(np.array(ACTIVATION_LIMIT, np.float32))
    row_scale = graph.node("Div", [floor, limit], f"{name}.row_scale")
    scaled = graph.node("Div", [x, row_scale], f"{name}.scaled")
    one = graph.constant(np.array(1.0, np.float32))
    zero_point = graph.constant(np.array(ZERO_POINT, np.uint8))
    return row_scale, graph.node("QuantizeLinear", [scaled, one, zero_point], f"{name}.quantized")


@dataclass(frozen=True)
class Form:
    """How a precision is carried out: its products, the types between them, keys and values, and who samples."""

    linear: Linear
    activation: type[np.generic]  # what products take and give; the residual stream is always fp32
    keeping: type[MemoryForm]
    samples: bool = False  # the graph ends in tokens, so that logits need not leave its device
    rounds: bool = False  # products take weights that were rounded with a look at songs
    adds_in_norm: bool = False  # one kernel fewer for each norm: on a GPU small ones cost what they launch

    @property
    def memory(self) -> type[np.generic]:
        """The type of keys and values."""
        return self.activation if self.keeping.bits is None else np.int8


FORMS: dict[tuple[str, str], Form] = {
    ("fp32", "cpu"): Form(linear_fp32, np.float32, FloatMemory),
    ("int8", "cpu"): Form(linear_int8, np.float32, FloatMemory),
    ("int8_kv8", "cpu"): Form(linear_int8, np.float32, ScaledMemory),
    ("int4_kv8", "cpu"): Form(linear_int8, np.float32, ScaledMemory, rounds=True),
    ("fp16", "cpu"): Form(linear_fp16, np.float16, FloatMemory),
    ("fp16", "cuda"): Form(linear_fp16, np.float16, FloatMemory, samples=True, adds_in_norm=True),
    ("fp16_kv8", "cuda"): Form(linear_fp16, np.float16, FoldedMemory, samples=True, adds_in_norm=True),
}
