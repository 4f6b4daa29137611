"""Two small graphs through which a device's memory is made and its rows are copied, without a byte on the host.

zeros.onnx      shape [4] -> one block of zeros for each name, each in memory of its own
copy_row.onnx   one row of each block -> the same, elsewhere
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx

from export.graph import Graph, onnx_type
from songstarter.stages.runtime import COPY_FILE, ZEROS_FILE

BLOCK = ["row", "head", "position", "channel"]


def write_memory_graphs(folder: Path, layers: int, dtype: type[np.generic], prefix: str = "") -> list[Path]:
    """Write both graphs for the keys and values of so many layers; ``prefix`` begins the names of files and blocks."""
    names = [f"{prefix}{kind}_{layer}" for kind in ("key", "value") for layer in range(layers)]
    zeros, copy = folder / f"{prefix}{ZEROS_FILE}", folder / f"{prefix}{COPY_FILE}"
    with Graph(zeros) as graph:
        graph.input("shape", np.int64, [len(BLOCK)])
        nothing = onnx.helper.make_tensor("nothing", onnx_type(dtype), [1], [0])
        for name in names:
            graph.node("ConstantOfShape", ["shape"], name, value=nothing)
            graph.output(name, dtype, BLOCK)
    with Graph(copy) as graph:
        for name in names:
            graph.input(name, dtype, BLOCK)
            graph.output(graph.node("Identity", [name], f"{name}_copy"), dtype, BLOCK)
    return [zeros, copy]
