"""A traced graph's weights in a file beside it, with an index, for those who read them without onnx."""

from __future__ import annotations

from pathlib import Path

import onnx

from export.graph import write_index
from export.tracing import WEIGHTS_FILE


def move_weights_out(path: Path) -> None:
    """Move a graph's weights to its data file; those of its LSTM are also called ``lstm.0.state`` and so on."""
    model = onnx.load(path)
    # The tracer keeps equal weights once and names the others after them.
    names = {node.output[0]: node.input[0] for node in model.graph.node if node.op_type == "Identity"}
    for layer, node in enumerate(node for node in model.graph.node if node.op_type == "LSTM"):
        for given, part in zip(node.input[1:4], ("input", "state", "bias"), strict=True):
            names[f"lstm.{layer}.{part}"] = names.get(given, given)
    onnx.save_model(model, path, save_as_external_data=True, location=WEIGHTS_FILE, size_threshold=0)
    write_index(path, model.graph.initializer, names)
