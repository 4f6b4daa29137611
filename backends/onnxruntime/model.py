"""A Python-based Triton backend named onnxruntime: serves <model>/<version>/model.onnx through the wheel.

Triton prefers a native libtriton_onnxruntime.so of the same name, so that one model repository works in the
official container, with its native backend, and wherever pip works, with this one. Honoured of config.pbtxt:
max_batch_size, input, output, dynamic_batching, instance_group, default_model_filename and the parameters
intra_op_thread_count, inter_op_thread_count, execution_mode, enable_mem_arena, session.* (any onnxruntime session
entry), and one that the native backend passes over:

    twin    a Python module whose open_twin(graph) gives something that computes the same on a CPU, by run(feeds) ->
            outputs by name; or None where it cannot, and then onnxruntime does
"""

from __future__ import annotations

import importlib
import json
import re
from collections.abc import Hashable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
import triton_python_backend_utils as pb_utils

Feed = dict[str, np.ndarray]

ELEMENTS = {"float": "FP32", "float16": "FP16", "int32": "INT32", "int64": "INT64", "bool": "BOOL", "string": "STRING"}
INVALID = {
    "InvalidArgument",
    "KeyError",
    "ValueError",
}  # what onnxruntime and numpy raise for a caller's mistake


class TritonPythonModel:
    def initialize(self, args: dict[str, str]) -> None:
        config = json.loads(args["model_config"])
        device = int(args["model_instance_device_id"])
        session = open_session(config, args["model_instance_kind"], device)
        self.batched = config["max_batch_size"] > 0
        check("input", config["input"], session.get_inputs(), self.batched)
        check("output", config["output"], session.get_outputs(), self.batched)
        outputs = [output["name"] for output in config["output"]]
        twin = open_twin(config) if args["model_instance_kind"] == "CPU" else None
        self.compute = twin.run if twin else partial(run_session, session, outputs)

    def execute(self, requests: Sequence[Any]) -> list[Any]:
        """Answer every request; those whose tensors agree in all but the batch dimension share one run."""
        feeds = [{tensor.name(): tensor.as_numpy() for tensor in request.inputs()} for request in requests]
        crowds: dict[Hashable, list[int]] = {}
        for index, feed in enumerate(feeds):
            shapes = tuple(sorted((name, array.shape[1:]) for name, array in feed.items()))
            crowds.setdefault(shapes if self.batched else index, []).append(index)
        responses: list[Any] = [None] * len(requests)
        for crowd in crowds.values():
            answers = self.answer([feeds[index] for index in crowd])
            for index, answer in zip(crowd, answers, strict=True):
                responses[index] = response(answer, requests[index].requested_output_names())
        return responses

    def answer(self, feeds: list[Feed]) -> list[Feed | Exception]:
        """One run for all; where that fails one run for each, so that a bad request fails alone."""
        try:
            return list(self.run(feeds))
        except Exception as error:
            if len(feeds) == 1:
                return [error]
            return [answer for feed in feeds for answer in self.answer([feed])]

    def run(self, feeds: list[Feed]) -> list[Feed]:
        """Outputs of each feed [batch, ...], computed in one session.run."""
        if len(feeds) == 1:
            return [self.compute(feeds[0])]
        whole = {name: np.concatenate([feed[name] for feed in feeds]) for name in feeds[0]}
        ends = np.cumsum([len(next(iter(feed.values()))) for feed in feeds])
        outputs = self.compute(whole)
        parts = [np.split(array, ends[:-1]) for array in outputs.values()]
        return [dict(zip(outputs, arrays, strict=True)) for arrays in zip(*parts, strict=True)]

    def finalize(self) -> None:
        del self.compute


def run_session(session: ort.InferenceSession, outputs: Sequence[str], feed: Feed) -> Feed:
    return dict(zip(outputs, session.run(outputs, feed), strict=True))


def response(answer: Feed | Exception, wanted: set[str]) -> Any:
    if isinstance(answer, Exception):
        invalid = type(answer).__name__ in INVALID
        code = pb_utils.TritonError.INVALID_ARG if invalid else pb_utils.TritonError.INTERNAL
        return pb_utils.InferenceResponse(error=pb_utils.TritonError(sentence(answer), code))
    tensors = [pb_utils.Tensor(name, array) for name, array in answer.items() if name in wanted]
    return pb_utils.InferenceResponse(tensors)


def sentence(error: Exception) -> str:
    """The reason on one line, without onnxruntime's error number and without paths of this machine."""
    text = " ".join(str(error).split()).split("Status Message:")[-1]
    text = re.sub(r"\[ONNXRuntimeError\] : \d+ : (\w+) : ", "", text)
    origin = "onnxruntime: " if type(error).__module__.startswith("onnxruntime") else ""
    return origin + re.sub(r"\S*/\S+ ?", "", text).strip()


def open_session(config: dict[str, Any], kind: str, device: int) -> ort.InferenceSession:
    """Open the model's graph on the CPU or one GPU, or say in one sentence why that cannot be."""
    gpu = [("CUDAExecutionProvider", {"device_id": device})] if kind == "GPU" else []
    path = graph_of(config)
    if not path.is_file():
        raise pb_utils.TritonModelException(f"{path.name} of {config['name']} is missing: export the checkpoint first")
    try:
        session = ort.InferenceSession(str(path), session_options(config), providers=[*gpu, "CPUExecutionProvider"])
    except Exception as error:
        raise pb_utils.TritonModelException(f"{path.name} cannot be opened: {sentence(error)}") from None
    if gpu and session.get_providers()[0] != "CUDAExecutionProvider":  # it falls back silently
        raise pb_utils.TritonModelException(
            f"{config['name']} is to run on a GPU that this onnxruntime cannot use: install onnxruntime-gpu and"
            " its CUDA libraries, or hide the GPU with CUDA_VISIBLE_DEVICES="
        )
    return session


def open_twin(config: dict[str, Any]) -> Any | None:
    """What computes the graph in onnxruntime's place, if the configuration names one and it can."""
    module = config.get("parameters", {}).get("twin", {}).get("string_value")
    return importlib.import_module(module).open_twin(graph_of(config)) if module else None


def graph_of(config: dict[str, Any]) -> Path:
    return Path(pb_utils.get_model_dir()) / (config.get("default_model_filename") or "model.onnx")


def session_options(config: dict[str, Any]) -> ort.SessionOptions:
    parameters = {key: entry["string_value"] for key, entry in config.get("parameters", {}).items()}
    options = ort.SessionOptions()
    options.log_severity_level = 3  # errors
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_ALL
    options.intra_op_num_threads = int(parameters.get("intra_op_thread_count", 0))
    options.inter_op_num_threads = int(parameters.get("inter_op_thread_count", 0))
    if parameters.get("execution_mode") == "1":
        options.execution_mode = ort.ExecutionMode.ORT_PARALLEL
    options.enable_cpu_mem_arena = parameters.get("enable_mem_arena") != "0"
    for key, value in parameters.items():
        if key.startswith("session."):
            options.add_session_config_entry(key, value)
    return options


def check(side: str, declared: Sequence[dict[str, Any]], nodes: Sequence[Any], batched: bool) -> None:
    """Refuse a config.pbtxt that does not describe the graph: names, types, dimensions."""
    graph = {node.name: described(node) for node in nodes}
    for tensor in declared:
        wanted = tensor["data_type"], [-1] * batched + [int(size) for size in tensor["dims"]]
        found = graph.pop(tensor["name"], None)
        if found is None or not agree(found, wanted):
            raise pb_utils.TritonModelException(
                f"{side} '{tensor['name']}' is {wanted} in config.pbtxt and {found or 'absent'} in the graph"
            )
    if side == "input" and graph:
        raise pb_utils.TritonModelException(f"the graph's input '{next(iter(graph))}' is not in config.pbtxt")


def described(node: Any) -> tuple[str, list[int]]:
    """A graph's input or output in Triton's words: its type, and its shape with -1 for any length."""
    element = re.sub(r"tensor\((.*)\)", r"\1", node.type)
    return f"TYPE_{ELEMENTS.get(element, element)}", [size if isinstance(size, int) else -1 for size in node.shape]


def agree(found: tuple[str, list[int]], wanted: tuple[str, list[int]]) -> bool:
    same_rank = len(found[1]) == len(wanted[1])
    return (
        found[0] == wanted[0]
        and same_rank
        and all(-1 in pair or len(set(pair)) == 1 for pair in zip(found[1], wanted[1], strict=True))
    )
