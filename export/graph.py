"""A small writer of ONNX graphs whose weights stream to a file beside them.

The decoder is written node by node instead of traced: the operators that make it fast (GroupQueryAttention
over shared memory, integer matrix products) have no torch counterpart. Weights never gather in memory, so a
10 GB checkpoint is exported in the memory that its torch module takes.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
import onnx
from onnx import TensorProto, helper

from songstarter.stages.graph_weights import INDEX_SUFFIX

OPSET = 18
IR_VERSION = 9
MICROSOFT = "com.microsoft"
PAGE = 4096  # onnxruntime maps weights that start on a page

Shape = Sequence[int | str]


class Graph:
    """An ONNX graph under construction, and the file its weights stream to.

    Use it as a context manager; leaving it without an error writes ``path`` and closes ``path + '.data'``.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._data_path = path.with_name(path.name + ".data")
        self._data = self._data_path.open("wb")
        self._nodes: list[onnx.NodeProto] = []
        self._weights: dict[str, onnx.TensorProto] = {}
        self._inputs: list[onnx.ValueInfoProto] = []
        self._outputs: list[onnx.ValueInfoProto] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        empty = not self._data.tell()
        self._data.close()
        if empty:
            self._data_path.unlink()
        if error is None:
            self._write()

    def input(self, name: str, dtype: type[np.generic], shape: Shape) -> str:
        self._inputs.append(helper.make_tensor_value_info(name, onnx_type(dtype), shape))
        return name

    def output(self, name: str, dtype: type[np.generic], shape: Shape) -> None:
        self._outputs.append(helper.make_tensor_value_info(name, onnx_type(dtype), shape))

    def weight(self, name: str, array: np.ndarray) -> str:
        """Stream an array to the data file; a name that was given before is used again."""
        if name not in self._weights:
            self._weights[name] = self._stream(name, np.ascontiguousarray(array))
        return name

    def constant(self, array: np.ndarray) -> str:
        """A small array that lives in the graph itself; equal ones are one."""
        name = f"constant_{array.dtype}_{'x'.join(map(str, array.shape))}_{array.tobytes().hex()}"
        if name not in self._weights:
            self._weights[name] = onnx.numpy_helper.from_array(array, name)
        return name

    def node(self, operator: str, inputs: Sequence[str], name: str, **attributes: Any) -> str:
        """Add a node of the standard operators with one output, called like the node."""
        self._nodes.append(helper.make_node(operator, list(inputs), [name], name=name, **attributes))
        return name

    def node_of_many(self, operator: str, inputs: Sequence[str], outputs: Sequence[str], **attributes: Any) -> None:
        """Add a node of the standard operators with several outputs, called like the first."""
        self._nodes.append(helper.make_node(operator, list(inputs), list(outputs), name=outputs[0], **attributes))

    def contrib(self, operator: str, inputs: Sequence[str], outputs: Sequence[str], **attributes: Any) -> Sequence[str]:
        """Add a node of onnxruntime's own operators."""
        node = helper.make_node(operator, list(inputs), list(outputs), name=outputs[0], domain=MICROSOFT, **attributes)
        self._nodes.append(node)
        return outputs

    def _stream(self, name: str, array: np.ndarray) -> onnx.TensorProto:
        self._data.write(b"\0" * (-self._data.tell() % PAGE))
        tensor = TensorProto(name=name, data_type=onnx_type(array.dtype.type), dims=array.shape)
        tensor.data_location = TensorProto.EXTERNAL
        facts = {"location": self._data_path.name, "offset": self._data.tell(), "length": array.nbytes}
        for key, value in facts.items():
            tensor.external_data.add(key=key, value=str(value))
        array.tofile(self._data)
        return tensor

    def _write(self) -> None:
        write_index(self._path, self._weights.values(), {})
        graph = helper.make_graph(
            self._nodes, self._path.stem, self._inputs, self._outputs, list(self._weights.values())
        )
        opsets = [helper.make_opsetid("", OPSET), helper.make_opsetid(MICROSOFT, 1)]
        model = helper.make_model(graph, opset_imports=opsets, ir_version=IR_VERSION, producer_name="songstarter")
        onnx.save_model(model, self._path)


def write_index(path: Path, tensors: Iterable[TensorProto], names: Mapping[str, str]) -> None:
    """Name -> type, shape and offset of what is in a graph's data file, for those who read it without onnx.

    ``names`` are others for the same tensors, with their own.
    """
    index = {
        tensor.name: (helper.tensor_dtype_to_np_dtype(tensor.data_type).name, list(tensor.dims), offset_of(tensor))
        for tensor in tensors
        if tensor.external_data
    }
    index |= {name: index[own] for name, own in names.items() if own in index}
    path.with_name(path.name + INDEX_SUFFIX).write_text(json.dumps(index))


def offset_of(tensor: TensorProto) -> int:
    return next(int(entry.value) for entry in tensor.external_data if entry.key == "offset")


def onnx_type(dtype: type[np.generic]) -> int:
    return helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
