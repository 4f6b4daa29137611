"""A torch module as one ONNX file, with the names of the contract.

Torch's older tracer is used on purpose: its successor unrolls an LSTM over the frames of the example and takes
ten seconds where this one takes half of one. What tracing could bake in shows in each graph's check, which
runs on other shapes than the example's.
"""

from __future__ import annotations

import os
import sys
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import onnx
import torch

from songstarter.contract import Tensor

OPSET = 18
WHOLE_FILE_LIMIT = 1_500_000_000  # bytes; a protobuf message ends at 2 GiB
MODEL_FILE = "model.onnx"
WEIGHTS_FILE = MODEL_FILE + ".data"


def trace(
    module: torch.nn.Module,
    examples: Sequence[torch.Tensor],
    folder: Path,
    *,
    inputs: Sequence[Tensor],
    outputs: Sequence[Tensor],
) -> Path:
    """Write ``folder/model.onnx`` and return its path.

    The batch, and every dimension which the contract leaves open, is open in the graph too: Triton refuses a graph
    that is more exact than its configuration.
    """
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / MODEL_FILE
    before = {path, *folder.iterdir()}
    with _unheard(), torch.no_grad():
        torch.onnx.export(
            module.eval(),
            tuple(examples),
            path,
            dynamo=False,
            opset_version=OPSET,
            input_names=[tensor.name for tensor in inputs],
            output_names=[tensor.name for tensor in outputs],
            dynamic_axes={tensor.name: _open_axes(tensor) for tensor in (*inputs, *outputs)},
        )
    model = onnx.load(path)
    for scattered in set(folder.iterdir()) - before:  # the tracer spreads large weights over many files
        scattered.unlink()
    for tensor in outputs:
        _leave_open(model.graph, tensor)
    large = sum(weight.nbytes for weight in module.state_dict().values()) > WHOLE_FILE_LIMIT
    onnx.save_model(model, path, save_as_external_data=large, location=WEIGHTS_FILE)
    return path


@contextmanager
def _unheard() -> Iterator[None]:
    """Without the tracer's warnings: Python's, and those that it writes past Python."""
    sys.stderr.flush()
    kept = os.dup(2)
    try:
        with warnings.catch_warnings(), open(os.devnull, "w") as nowhere:
            warnings.simplefilter("ignore")
            os.dup2(nowhere.fileno(), 2)
            yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)


def _open_axes(tensor: Tensor) -> dict[int, str]:
    sizes = {axis: f"{tensor.name}_{axis}" for axis, size in enumerate(tensor.dims, start=1) if size < 0}
    return {0: "batch", **sizes}


def _leave_open(graph: onnx.GraphProto, tensor: Tensor) -> None:
    """Hide an output's sizes from shape inference, which would close what the contract leaves open.

    A reshape to its own shape costs nothing, and no inference looks through the maximum.
    """
    known, zero, shape, same = (f"{tensor.name}_{part}" for part in ("known", "zero", "shape", "same"))
    for node in graph.node:
        node.output[:] = [known if name == tensor.name else name for name in node.output]
        node.input[:] = [known if name == tensor.name else name for name in node.input]
    graph.initializer.append(onnx.helper.make_tensor(zero, onnx.TensorProto.INT64, [1], [0]))
    graph.node.extend(
        [
            onnx.helper.make_node("Shape", [known], [shape]),
            onnx.helper.make_node("Max", [shape, zero], [same]),
            onnx.helper.make_node("Reshape", [known, same], [tensor.name]),
        ]
    )
