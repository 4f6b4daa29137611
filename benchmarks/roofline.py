"""What the memory bus allows: every step reads every weight once, and the keys and values of every row.

Sizes come from the exported graph itself, so that a new precision needs no line here.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper

from songstarter.stages.kv_memory import ROWS_PER_SLOT
from songstarter.stages.native_session import open_native

TEXT_PLACES = 256  # of a family that has any; it changes no weight


@dataclass(frozen=True)
class Traffic:
    """The bytes that a decoder graph reads per step."""

    weights: int
    per_position: int  # keys and values of one position of one row

    def bytes_per_step(self, songs: int, context: int, shared: int = 0) -> int:
        """The first ``shared`` positions are the same for all rows, and need to be read once."""
        return self.weights + (shared + songs * ROWS_PER_SLOT * (context - shared)) * self.per_position


def milliseconds(size: float, bandwidth: float) -> float:
    """How long ``size`` bytes take at ``bandwidth`` bytes per second."""
    return size / bandwidth * 1e3


def traffic_of(graph_path: Path) -> Traffic:
    """Read a decoder graph's weights and memory; a table that is only looked up costs a few rows, taken as none."""
    graph = onnx.load(graph_path, load_external_data=False).graph
    looked_up = {node.input[0] for node in graph.node if node.op_type.startswith("Gather")}
    native = open_native(graph_path, threads=1, text_places=TEXT_PLACES)  # it may read weights in a shorter form
    weights = native.weight_bytes if native else _weights(graph, looked_up)
    memory = [value.type.tensor_type for value in graph.input if value.name.startswith(("key_", "value_"))]
    return Traffic(weights, sum(map(_bytes_per_position, memory)))


def _weights(graph: onnx.GraphProto, looked_up: set[str]) -> int:
    return sum(_bytes(tensor) for tensor in graph.initializer if tensor.name not in looked_up)


def _bytes(tensor: TensorProto) -> int:
    if tensor.data_location == TensorProto.EXTERNAL:
        return next(int(entry.value) for entry in tensor.external_data if entry.key == "length")
    return int(np.prod(tensor.dims)) * _itemsize(tensor.data_type)


def _bytes_per_position(memory: onnx.TypeProto.Tensor) -> int:
    """Of a block [row, head, position, head size]."""
    _, heads, _, head_size = (dim.dim_value for dim in memory.shape.dim)
    values: int = heads * head_size
    return values * _itemsize(memory.elem_type)


def _itemsize(element_type: int) -> int:
    dtype = np.dtype(helper.tensor_dtype_to_np_dtype(element_type))
    return dtype.itemsize
