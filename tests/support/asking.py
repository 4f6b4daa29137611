"""Asking a running server with plain tritonclient and plain HTTP, as any caller would."""

from __future__ import annotations

import io
import json
import urllib.request
from typing import Any
from urllib.error import HTTPError

import numpy as np
import soundfile
import tritonclient.grpc as triton_grpc
import tritonclient.http as triton_http

from songstarter.array import Array
from songstarter.audio_file import file_bytes
from songstarter.contract import FIELDS, PUBLIC_MODEL

TYPES = {"STRING": ("BYTES", np.object_), "FP32": ("FP32", np.float32), "INT32": ("INT32", np.int32)}
TYPES |= {"INT64": ("INT64", np.int64), "BOOL": ("BOOL", np.bool_)}


class Answer:
    """The outputs of one request, by whichever way they came."""

    def __init__(self, output: list[bytes], seed: int, sample_rate: int) -> None:
        self.output = output
        self.seed = seed
        self.sample_rate = sample_rate

    @property
    def files(self) -> list[bytes]:
        return [file_bytes(item, max_bytes=2**30) for item in self.output]

    def samples(self, variation: int = 0) -> Array:
        """Float samples [sample, channel] of one variation."""
        samples, rate = soundfile.read(io.BytesIO(self.files[variation]), always_2d=True)
        assert rate == self.sample_rate
        array: Array = samples
        return array


def ask_grpc(url: str, **fields: Any) -> Answer:
    with triton_grpc.InferenceServerClient(url) as client:
        return _answer(client.infer(PUBLIC_MODEL, inputs(fields)))


def ask_http(url: str, **fields: Any) -> Answer:
    with triton_http.InferenceServerClient(url.removeprefix("http://"), network_timeout=300) as client:
        return _answer(client.infer(PUBLIC_MODEL, inputs(fields, triton_http)))


def ask_generate(url: str, **fields: Any) -> Answer:
    """``/generate``: JSON in, JSON out; a refusal raises with the server's sentence."""
    body = json.dumps({name: value.decode() if isinstance(value, bytes) else value for name, value in fields.items()})
    reply = json.loads(post(f"{url}/v2/models/{PUBLIC_MODEL}/generate", body.encode()))
    output = reply["output"] if isinstance(reply["output"], list) else [reply["output"]]
    return Answer([item.encode() for item in output], reply["seed"], reply["sample_rate"])


class Refused(Exception):
    """The server answered with an error: its HTTP status and its sentence."""


def post(url: str, body: bytes) -> bytes:
    try:
        with urllib.request.urlopen(urllib.request.Request(url, body), timeout=300) as response:
            data: bytes = response.read()
            return data
    except HTTPError as error:
        raise Refused(error.code, json.loads(error.read())["error"]) from None


def inputs(fields: dict[str, Any], library: Any = triton_grpc) -> list[Any]:
    kinds = {field.name: TYPES[field.datatype] for field in FIELDS}
    made = []
    for name, value in fields.items():
        triton_type, dtype = kinds[name]
        data = value.encode() if isinstance(value, str) else value
        tensor = library.InferInput(name, [1], triton_type)
        tensor.set_data_from_numpy(np.array([data], dtype))
        made.append(tensor)
    return made


def _answer(result: Any) -> Answer:
    seed, rate = (int(result.as_numpy(name)[0]) for name in ("seed", "sample_rate"))
    return Answer(list(result.as_numpy("output")), seed, rate)
