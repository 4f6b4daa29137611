"""HTTP: how to connect, and what its failures mean."""

from __future__ import annotations

import base64
import json
from collections.abc import AsyncGenerator, AsyncIterator, Mapping, Sequence
from functools import partial
from http import HTTPStatus
from typing import Any

import aiohttp
import tritonclient.http.aio as triton
from tritonclient.utils import InferenceServerException

from songstarter import contract
from songstarter.key import Key
from songstarter_client.address import Address
from songstarter_client.errors import NoServer, RefusedKey, SongstarterError, Unavailable, of_code, of_stream
from songstarter_client.fields import InputTensor
from songstarter_client.transport import Transport

FORBIDDEN = "403"
DATA = b"data: "
CONNECTIONS = 0  # as many as there are requests: none waits here for another


def connect(address: Address, key: Key | None) -> Transport:
    # conn_timeout would bound a whole request; how long one may take is the caller's decision.
    headers = key.http_headers if key else {}
    client = triton.InferenceServerClient(str(address), conn_limit=CONNECTIONS, conn_timeout=None)
    failures = (InferenceServerException, aiohttp.ClientError)
    return Transport(triton, client, failures, partial(_explained, address), headers, partial(_messages, address))


async def _messages(
    address: Address, transport: Transport, tensors: Sequence[InputTensor]
) -> AsyncGenerator[Mapping[str, Any], None]:
    """Server-sent events, by a connection of their own; tritonclient knows none."""
    url = f"http://{address}/v2/models/{contract.STREAM_MODEL}/generate_stream"
    body = {tensor.name: _plain(tensor) for tensor in tensors} | {"output_encoding": "base64"}
    unbounded = aiohttp.ClientTimeout(total=None)
    async with (
        aiohttp.ClientSession(timeout=unbounded) as session,
        session.post(url, json=body, headers=dict(transport.headers)) as response,
    ):
        if response.status != HTTPStatus.OK:
            raise _refusal(response.status, await response.text())
        async for event in _events(response.content.iter_any()):
            message = json.loads(event)
            if "error" in message:
                raise of_stream(message["error"])
            yield message


async def _events(pieces: AsyncIterator[bytes]) -> AsyncGenerator[bytes, None]:
    """The data of each event; a second of audio is longer than the lines that aiohttp would read."""
    rest = b""
    async for piece in pieces:
        *events, rest = (rest + piece).split(b"\n\n")
        for event in events:
            yield event.removeprefix(DATA)


def _refusal(status: int, text: str) -> Exception:
    """What an answer that is no stream says; a stream's own first error comes as an event all the same."""
    try:
        message = json.loads(text.strip().removeprefix(DATA.decode()))["error"]
    except (ValueError, KeyError, TypeError):
        message = text
    if status == HTTPStatus.BAD_REQUEST:
        return of_stream(message)
    failure: Exception = InferenceServerException(message, str(status))
    return failure


def _plain(tensor: InputTensor) -> Any:
    """A tensor's one value as JSON has it: text, and a file as a data URI."""
    value = tensor.values.item()
    if not isinstance(value, bytes):
        return value
    if tensor.name != "input_audio" or value.startswith(b"data:"):
        return value.decode()
    return "data:application/octet-stream;base64," + base64.b64encode(value).decode()


def _explained(address: Address, failure: Exception) -> SongstarterError:
    if isinstance(failure, InferenceServerException):
        if str(failure.status()) == FORBIDDEN:
            return RefusedKey.by(address)
        return of_code(str(failure.status()), str(failure.message()))
    if isinstance(failure, aiohttp.ClientConnectorError):
        return NoServer.at(address)
    if isinstance(failure, aiohttp.ClientResponseError):
        return NoServer.of_another_protocol(address)
    return Unavailable(f"the server at {address} ended the connection before it had answered")
