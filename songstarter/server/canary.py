"""Small real inferences that prove that a model still answers; Triton's own health endpoints do not.

A canary is data: a model, a request that costs next to nothing, and the status that an answer has. To watch
another model, or the same with another request, add a row to ``canaries``.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import ClassVar, Protocol

import numpy as np
from numpy.typing import NDArray

from songstarter import contract
from songstarter.checkpoint import Checkpoint
from songstarter.chunks import REACH
from songstarter.contract import Tensor
from songstarter.server.wire import HttpDoor

WIRE_TYPES = {"STRING": "BYTES"}  # a config.pbtxt's STRING is BYTES on the wire
NUMPY_TYPES = {"FP32": np.float32, "INT32": np.int32, "INT64": np.int64, "BOOL": np.bool_}
STATISTICS_TIMEOUT = 5.0  # seconds
HEADER_LENGTH = "Inference-Header-Content-Length"

Array = NDArray[np.generic]


class Question(Protocol):
    """An HTTP request to a model, whichever it is: the last word of its path, its headers and its body."""

    verb: ClassVar[str]

    @property
    def headers(self) -> Mapping[str, str]: ...

    @property
    def content(self) -> bytes: ...


@dataclass(frozen=True)
class Body:
    """An inference request in Triton's binary form: a JSON head and the tensors' bytes behind it."""

    verb: ClassVar[str] = "infer"
    head: bytes
    data: bytes

    @property
    def headers(self) -> Mapping[str, str]:
        return {HEADER_LENGTH: str(len(self.head)), "Content-Type": "application/octet-stream"}

    @property
    def content(self) -> bytes:
        return self.head + self.data

    @classmethod
    def of(cls, *tensors: tuple[Tensor, Array]) -> Body:
        arrays = [array.astype(NUMPY_TYPES[tensor.datatype]) for tensor, array in tensors]
        inputs = [
            {
                "name": tensor.name,
                "shape": array.shape,
                "datatype": WIRE_TYPES.get(tensor.datatype, tensor.datatype),
                "parameters": {"binary_data_size": array.nbytes},
            }
            for (tensor, _), array in zip(tensors, arrays, strict=True)
        ]
        head = {"id": contract.CANARY_ID, "inputs": inputs, "parameters": {"binary_data_output": True}}
        return cls(json.dumps(head).encode(), b"".join(array.tobytes() for array in arrays))


@dataclass(frozen=True)
class Streamed:
    """A request to a decoupled model, which answers as many times as it likes; each input holds one value."""

    verb: ClassVar[str] = "generate_stream"
    headers: ClassVar[Mapping[str, str]] = {"Content-Type": "application/json"}
    inputs: Mapping[str, float | bool]

    @property
    def content(self) -> bytes:
        return json.dumps({"id": contract.CANARY_ID, **self.inputs}).encode()


@dataclass(frozen=True)
class Canary:
    """A request to one model, and what it answers while it is well: HTTP statuses, and a pattern in the text."""

    model: str
    body: Question
    answers: tuple[int, ...] = (200,)
    pattern: bytes = b""

    def ask(self, door: HttpDoor, timeout: float) -> str | None:
        """Send the request; None when it was answered as it should be, else one sentence."""
        path = f"/v2/models/{self.model}/{self.body.verb}"
        done = self._done(door)
        try:
            status, answer = door.ask("POST", path, body=self.body.content, headers=self.body.headers, timeout=timeout)
        except TimeoutError:
            if self._done(door) > done:
                return None
            return f"{self.model} has not answered a test request for {timeout:g} s"
        except OSError as error:
            return f"{self.model} could not be asked a test request ({error})"
        if status in self.answers and re.search(self.pattern, answer):
            return None
        expected = " or ".join(map(str, self.answers)) + (" with words of its own" if self.pattern else "")
        return f"{self.model} answered a test request with status {status} instead of {expected}: {said(answer)}"

    def _done(self, door: HttpDoor) -> int:
        """What the model has done so far, if that can tell a long queue from a model that hangs."""
        return 0


class StageCanary(Canary):
    """For a model that answers one after the other: the test request waits behind real ones, and while these are
    answered the model is well."""

    def _done(self, door: HttpDoor) -> int:
        try:
            _, answer = door.ask("GET", f"/v2/models/{self.model}/stats", timeout=STATISTICS_TIMEOUT)
            return int(json.loads(answer)["model_stats"][0]["execution_count"])
        except (OSError, ValueError, LookupError):
            return 0


def said(answer: bytes) -> str:
    """Triton's error message, short, or what stands in its place."""
    try:
        message = json.loads(answer.strip().removeprefix(b"data: "))["error"]
    except (ValueError, KeyError, TypeError):
        message = f"{len(answer)} bytes"
    return " ".join(str(message).split())[:200]


def canaries(checkpoint: Checkpoint) -> tuple[Canary, ...]:
    """One for each loaded model that has a row below."""
    return tuple(_ROWS[model](checkpoint) for model in checkpoint.models if model in _ROWS)


def _text_encoder(checkpoint: Checkpoint) -> Canary:
    tokens = np.full((1, checkpoint.text.pad_to), checkpoint.text.pad_token)
    tokens[0, 0] = checkpoint.text.end_token
    mask = np.zeros_like(tokens)
    mask[0, 0] = 1
    ids, attention = contract.TEXT_ENCODER_INPUTS
    return StageCanary(contract.TEXT_ENCODER, Body.of((ids, tokens), (attention, mask)))


def _melody_encoder(checkpoint: Checkpoint) -> Canary:
    length = checkpoint.melody.block_samples if checkpoint.melody else 1
    waveform, samples = contract.MELODY_ENCODER_INPUTS
    return StageCanary(
        contract.MELODY_ENCODER, Body.of((waveform, np.zeros((1, length))), (samples, np.full((1, 1), length)))
    )


def _codec_encoder(checkpoint: Checkpoint) -> Canary:
    length = checkpoint.codec.block_frames * checkpoint.samples_per_frame
    waveform, samples = contract.CODEC_ENCODER_INPUTS
    return StageCanary(
        contract.CODEC_ENCODER, Body.of((waveform, np.zeros((1, length))), (samples, np.full((1, 1), length)))
    )


def _codec_decoder(checkpoint: Checkpoint) -> Canary:
    codec = checkpoint.codec
    one = np.ones((1, 1))
    inputs = {
        "codes": np.zeros((1, codec.codebooks, 2 * REACH + 1)),
        "frames": one,
        "kept": 0 * one,
        "memory": np.zeros((1, *codec.memory)),
    }
    body = Body.of(*((tensor, inputs[tensor.name]) for tensor in contract.CODEC_DECODER_INPUTS))
    return StageCanary(contract.CODEC_DECODER, body)


def _public_model(checkpoint: Checkpoint) -> Canary:
    """A duration that is refused, as is everything while the model is full: its process answers, and makes no song."""
    tensors = {field.name: field.tensor for field in contract.FIELDS}
    inputs = ((tensors[name], np.array([value])) for name, value in contract.CANARY_INPUTS.items())
    return Canary(contract.PUBLIC_MODEL, Body.of(*inputs), answers=(400, 503))


def _stream_model(checkpoint: Checkpoint) -> Canary:
    """As the public model; every error of a stream has status 400, so that the error's code must tell."""
    return Canary(contract.STREAM_MODEL, Streamed(contract.CANARY_INPUTS), (400,), rb"INVALID_ARG: |UNAVAILABLE: ")


def _decoder(checkpoint: Checkpoint) -> Canary:
    """Nothing is computed, and nothing said but that it is over: the engine passed by, between two of its steps.

    A decoder that is ill says so in an output, for which Triton has status 200 all the same.
    """
    return Canary(contract.DECODER, Streamed({contract.PULSE.name: True}), pattern=rb"\A\s*\Z")


_ROWS: dict[str, Callable[[Checkpoint], Canary]] = {
    contract.TEXT_ENCODER: _text_encoder,
    contract.MELODY_ENCODER: _melody_encoder,
    contract.CODEC_ENCODER: _codec_encoder,
    contract.CODEC_DECODER: _codec_decoder,
    contract.DECODER: _decoder,
    contract.PUBLIC_MODEL: _public_model,
    contract.STREAM_MODEL: _stream_model,
}
