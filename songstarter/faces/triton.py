"""What the public models say to Triton, but for the import: ``pb_utils`` comes in as an argument.

Answers to callers, and calls of the other models.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Generator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from songstarter.checkpoint import Checkpoint
from songstarter.contract import CANCEL, DECODER, INNER_OUTPUTS, plain_values
from songstarter.errors import CheckpointError
from songstarter.faces.finished_calls import FinishedCalls
from songstarter.faces.replies import from_inner_wire, to_inner_wire, to_wire
from songstarter.faces.stages import Tensors
from songstarter.faces.visits import current
from songstarter.settings import PARAMETERS, of_this_process


class TritonStages:
    """``songstarter.faces.stages.Stages``, behind Triton; calls are made for the visit that the thread works for."""

    def __init__(self, pb_utils: Any) -> None:
        self._pb_utils = pb_utils
        self._finished = FinishedCalls()

    def close(self) -> None:
        """Hold nothing of Triton's any more."""
        self._finished.let_go()

    def run(self, model: str, inputs: Tensors) -> Tensors:
        visit = current()
        visit.go_on()
        return _from_triton(self._call(model, inputs, visit.request_id).exec())

    def decode(self, inputs: Tensors) -> Generator[Tensors, None, None]:
        visit = current()
        name = inputs["order"].item().decode()
        visit.order = name
        visit.go_on()
        responses = self._responses(inputs, visit.request_id)
        try:
            # The last response may carry no tensors.
            yield from filter(None, map(_from_triton, responses))
        except BaseException:  # of the decoder, or of who reads: what plays on would play for nobody
            self.cancel(name)
            for _ in responses:  # a call ends for Triton when all its responses were read
                pass
            raise

    def cancel(self, order: str) -> None:
        """Let an order's takes end at the next step; from any thread."""
        inputs = {CANCEL.name: np.array([order.encode()], dtype=object)}
        for _ in self._responses(inputs, ""):
            pass

    def _responses(self, inputs: Tensors, request_id: str) -> Generator[Any, None, None]:
        return self._finished.read(self._call(DECODER, inputs, request_id).exec(decoupled=True))

    def _call(self, model: str, inputs: Tensors, request_id: str) -> Any:
        names = [tensor.name for tensor in INNER_OUTPUTS[model]]
        # Without its trace: Triton frees that when execute() returns, and would crash.
        return self._pb_utils.InferenceRequest(
            model_name=model,
            requested_output_names=names,
            inputs=to_triton(self._pb_utils, inputs),
            request_id=request_id,
        )


class Reply:
    """Answers one request of a model that answers once: the outputs go out with the end."""

    def __init__(self, pb_utils: Any, request: Any) -> None:
        self._pb_utils = pb_utils
        self._sender = request.get_response_sender()
        self._wanted = frozenset(request.requested_output_names())
        self._outputs: Tensors = {}

    def gone(self) -> bool:
        """Whether the caller is; not to be asked after the end."""
        return bool(self._sender.is_cancelled())

    def send(self, outputs: Tensors) -> None:
        self._outputs = outputs

    def end(self, error: Exception | None = None) -> None:
        response = _failure(self._pb_utils, *to_wire(error)) if error else self._response(self._outputs)
        self._sender.send(response, flags=self._pb_utils.TRITONSERVER_RESPONSE_COMPLETE_FINAL)

    def _response(self, outputs: Tensors) -> Any:
        return response_of(self._pb_utils, outputs, self._wanted)


class StreamReply(Reply):
    """Answers one request of a decoupled model: any number of outputs, then an empty end or an error.

    Neither a gRPC stream nor server-sent events carry an error's code, so it stands in front of the message.
    """

    def send(self, outputs: Tensors) -> None:
        self._sender.send(self._response(outputs))

    def end(self, error: Exception | None = None) -> None:
        final = self._pb_utils.TRITONSERVER_RESPONSE_COMPLETE_FINAL
        if error:
            self._sender.send(_failure(self._pb_utils, *to_inner_wire(error)), flags=final)
        else:
            self._sender.send(flags=final)


def values_of(request: Any) -> dict[str, Any]:
    """A request's inputs and parameters as plain values, by the names of ``contract.py``."""
    tensors = {tensor.name(): tensor.as_numpy() for tensor in request.inputs()}
    return plain_values(tensors, json.loads(request.parameters() or "{}"))


def origin_of(request: Any) -> dict[str, Any]:
    """What ``RequestDesk.accept`` wants to know of where a request comes from."""
    return {"request_id": request.request_id(), "trace_context": request.trace().get_context()}


def settings_of(args: Mapping[str, str]) -> dict[str, float]:
    """The parameters of a model, numbers all: of its ``config.pbtxt``, and in their place what ``--set`` says.

    Those in capitals are Triton's own.

    Raises:
        CheckpointError: one of them is not known, or not allowed, by ``settings.PARAMETERS``; or there is no manifest.
    """
    model = args["model_name"]
    device = Checkpoint.read(Path(args["model_repository"]).parent).decoder.device
    stated = {name: value["string_value"] for name, value in json.loads(args["model_config"])["parameters"].items()}
    changed = of_this_process(model)
    settings = {}
    for name, text in (stated | changed).items():
        if name.isupper():
            continue
        parameter = PARAMETERS[model].get(name)
        number = parameter.read(text, device) if parameter else None
        if number is None:
            place = "--set" if name in changed else "config.pbtxt"
            expected = parameter.allowed(device) if parameter else f"one of {', '.join(PARAMETERS[model])}"
            raise CheckpointError(f"found {name} = {text!r} in {place} of {model}; expected is {expected}")
        settings[name] = number
    return settings


def response_of(pb_utils: Any, outputs: Tensors, wanted: Collection[str]) -> Any:
    """A response with the outputs that the caller asked for.

    Triton 24.10 takes the others out by itself, and frees them without Python's lock: see ``finished_calls.py``.
    """
    return pb_utils.InferenceResponse(to_triton(pb_utils, {name: outputs[name] for name in outputs if name in wanted}))


def _failure(pb_utils: Any, code: str, message: str) -> Any:
    return pb_utils.InferenceResponse(error=pb_utils.TritonError(message, getattr(pb_utils.TritonError, code)))


def to_triton(pb_utils: Any, tensors: Tensors) -> list[Any]:
    return [pb_utils.Tensor(name, array) for name, array in tensors.items()]


def _from_triton(response: Any) -> Tensors:
    if response.has_error():
        raise from_inner_wire(response.error().message())
    tensors = {tensor.name(): tensor.as_numpy().copy() for tensor in response.output_tensors()}
    if "error" in tensors:  # contract.DECODER_OUTPUTS
        raise from_inner_wire(tensors["error"].item().decode())
    return tensors
