"""Streams of a running server, by plain tritonclient and plain HTTP, as any caller would read them."""

from __future__ import annotations

import base64
import http.client
import json
import queue
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import tritonclient.grpc as triton_grpc
from asking import TYPES

from songstarter.contract import STREAM_FIELDS, STREAM_MODEL, STREAM_OUTPUTS

PATH = f"/v2/models/{STREAM_MODEL}/generate_stream"
Message = dict[str, Any]


class StreamError(Exception):
    """What the server said in place of a message."""


@contextmanager
def opened_sse(url: str, **fields: Any) -> Iterator[http.client.HTTPResponse]:
    """The answer of ``/generate_stream``, its body not yet read."""
    connection = http.client.HTTPConnection(url.removeprefix("http://"), timeout=60)
    try:
        connection.request("POST", PATH, json.dumps(fields), {"Content-Type": "application/json"})
        yield connection.getresponse()
    finally:
        connection.close()


def events(response: http.client.HTTPResponse) -> Iterator[Message]:
    """Server-sent events, line by line."""
    for line in response:
        if line.startswith(b"data: "):
            message = json.loads(line.removeprefix(b"data: "))
            if "error" in message:
                raise StreamError(message["error"])
            yield message | {"audio": base64.b64decode(message["audio"])}
        else:
            assert line.strip() == b""


def stream_sse(url: str, **fields: Any) -> list[Message]:
    """Every message; a server that dies ends such a stream like any other, so who wants it all looks for the last."""
    with opened_sse(url, **fields) as response:
        messages = list(events(response))
    if sum(message["last"] for message in messages) != fields.get("num_outputs", 1):
        raise StreamError(f"cut off after {len(messages)} messages")
    return messages


@contextmanager
def opened_grpc(url: str, **fields: Any) -> Iterator[Iterator[Message]]:
    """Messages as they come over gRPC; left early, the request is cancelled."""
    answers: queue.SimpleQueue[Any] = queue.SimpleQueue()
    client = triton_grpc.InferenceServerClient(url)
    client.start_stream(lambda result, error: answers.put((result, error)))
    try:
        client.async_stream_infer(STREAM_MODEL, _inputs(fields), enable_empty_final_response=True)
        yield _messages(answers)
    finally:
        client.stop_stream(cancel_requests=True)
        client.close()


def stream_grpc(url: str, **fields: Any) -> list[Message]:
    with opened_grpc(url, **({"output_encoding": "raw"} | fields)) as messages:
        return list(messages)


def _messages(answers: queue.SimpleQueue[Any]) -> Iterator[Message]:
    while True:
        result, error = answers.get(timeout=60)
        if error is not None:
            raise StreamError(error.message())
        if result.get_response().parameters["triton_final_response"].bool_param:
            return
        yield {tensor.name: result.as_numpy(tensor.name).item() for tensor in STREAM_OUTPUTS}


def _inputs(fields: dict[str, Any]) -> list[Any]:
    kinds = {field.name: TYPES[field.datatype] for field in STREAM_FIELDS}
    inputs = []
    for name, value in fields.items():
        triton_type, dtype = kinds[name]
        tensor = triton_grpc.InferInput(name, [1], triton_type)
        tensor.set_data_from_numpy(np.array([value.encode() if isinstance(value, str) else value], dtype))
        inputs.append(tensor)
    return inputs
