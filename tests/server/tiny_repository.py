"""A model repository of tiny models and its manifest, for tests of the server itself."""

from __future__ import annotations

import json
import socket
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from urllib.error import HTTPError
from urllib.request import Request, urlopen

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper
from tiny_checkpoint import CHECKPOINT

from songstarter.server.launch import Ports

TABLE = np.arange(10, dtype=np.float32) * 10  # what `lookup` answers for 0 to 9; another index fails in the graph

LOOKUP = """
backend: "onnxruntime"
max_batch_size: 16
input [ { name: "index" data_type: TYPE_INT64 dims: [ -1 ] } ]
output [ { name: "value" data_type: TYPE_FP32 dims: [ -1 ] } ]
dynamic_batching { max_queue_delay_microseconds: 50000 }
instance_group [ { kind: KIND_AUTO count: 1 } ]
parameters { key: "intra_op_thread_count" value { string_value: "1" } }
"""

PYTHON = """
backend: "python"
max_batch_size: 0
input [ { name: "seconds" data_type: TYPE_FP32 dims: [ 1 ] optional: true } ]
output [ { name: "slept" data_type: TYPE_FP32 dims: [ 1 ] } ]
instance_group [ { kind: KIND_CPU count: 1 } ]
"""

SLEEPER = """
import time

import numpy as np
import triton_python_backend_utils as pb_utils


class TritonPythonModel:
    def execute(self, requests):
        return [self.answer(pb_utils.get_input_tensor_by_name(r, "seconds").as_numpy()) for r in requests]

    def answer(self, seconds):
        if seconds[0] < 0:
            error = pb_utils.TritonError("seconds: found less than 0", pb_utils.TritonError.INVALID_ARG)
            return pb_utils.InferenceResponse(error=error)
        time.sleep(float(seconds[0]))
        return pb_utils.InferenceResponse([pb_utils.Tensor("slept", seconds)])
"""

BROKEN = """
class TritonPythonModel:
    def initialize(self, args):
        raise ValueError('the manifest says "9" codebooks,\\nthe graph has 8')
"""

SLOW = """
import time


class TritonPythonModel:
    def initialize(self, args):
        time.sleep(60)
"""


def add_lookup(repository: Path) -> None:
    graph = helper.make_graph(
        [helper.make_node("Gather", ["table", "index"], ["value"])],
        "lookup",
        [helper.make_tensor_value_info("index", TensorProto.INT64, ["batch", "length"])],
        [helper.make_tensor_value_info("value", TensorProto.FLOAT, ["batch", "length"])],
        [numpy_helper.from_array(TABLE, "table")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    onnx.save(model, version(repository, "lookup", LOOKUP) / "model.onnx")


def add_python(repository: Path, model: str, source: str) -> None:
    (version(repository, model, PYTHON) / "model.py").write_text(source)


def version(repository: Path, model: str, config: str) -> Path:
    folder = repository / model / "1"
    folder.mkdir(parents=True)
    (folder.parent / "config.pbtxt").write_text(config)
    return folder


def write_manifest(repository: Path, models: Sequence[str]) -> Path:
    replace(CHECKPOINT, models=tuple(models)).write(repository)
    return repository


def free_ports() -> Ports:
    """Three ports that nobody listens on now."""
    with ExitStack() as stack:
        probes = [stack.enter_context(socket.create_server(("127.0.0.1", 0))) for _ in range(3)]
        return Ports(*(probe.getsockname()[1] for probe in probes))


def infer(url: str, model: str, name: str, datatype: str, data: Sequence[object], timeout: float = 30.0) -> list[float]:
    """The first output's values for one input of shape [len(data)], or [1, len(data)] for `lookup`.

    Raises HTTPError with Triton's status.
    """
    shape = [1, len(data)] if model == "lookup" else [len(data)]
    body = {"inputs": [{"name": name, "shape": shape, "datatype": datatype, "data": list(data)}]}
    request = Request(f"{url}/v2/models/{model}/infer", data=json.dumps(body).encode(), method="POST")
    with urlopen(request, timeout=timeout) as answer:
        values: list[float] = json.load(answer)["outputs"][0]["data"]
    return values


def sleep(url: str, seconds: float, timeout: float = 30.0) -> list[float]:
    return infer(url, "sleeper", "seconds", "FP32", [seconds], timeout)


def look_up(url: str, index: Sequence[int]) -> list[float]:
    return infer(url, "lookup", "index", "INT64", index)


def refusal(error: HTTPError) -> str:
    """The message of an error answer."""
    message: str = json.load(error)["error"]
    return message
