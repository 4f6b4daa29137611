"""A torch module as one ONNX file, with the names of the contract.

Torch's older tracer is used on purpose: its successor unrolls an LSTM over the frames of the example and takes
ten seconds where this one takes half of one. What tracing could bake in shows in each graph's check, which
runs on other shapes than the example's.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from pathlib import Path

import onnx
import torch

from songstarter.contract import Tensor

OPSET = 18
WHOLE_FILE_LIMIT = 1_500_000_000  # bytes; a protobuf message ends at 2 GiB
MODEL_FILE = "model.onnx"
WEIGHTS_FILE = MODEL_FILE + ".data"

Axes = dict[int, str]


def trace(
    module: torch.nn.Module,
    examples: Sequence[torch.Tensor],
    folder: Path,
    *,
    inputs: Sequence[Tensor],
    outputs: Sequence[Tensor],
    axes: dict[str, Axes],
) -> Path:
    """Write ``folder/model.onnx`` and return its path.

    ``axes`` names the axes of inputs and outputs that may be of any length; batch is one of them.
    """
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / MODEL_FILE
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            module.eval(),
            tuple(examples),
            path,
            dynamo=False,
            opset_version=OPSET,
            input_names=[tensor.name for tensor in inputs],
            output_names=[tensor.name for tensor in outputs],
            dynamic_axes=axes,
        )
    if sum(weight.nbytes for weight in module.state_dict().values()) > WHOLE_FILE_LIMIT:
        _move_weights_out(path)
    return path


def _move_weights_out(path: Path) -> None:
    """Put the weights, which the tracer may have spread over many files, into one beside the graph."""
    model = onnx.load(path)
    for scattered in path.parent.iterdir():
        scattered.unlink()
    onnx.save_model(model, path, save_as_external_data=True, location=WEIGHTS_FILE)
