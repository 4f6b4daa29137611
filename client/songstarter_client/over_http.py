"""HTTP: how to connect, and what its failures mean."""

from __future__ import annotations

import base64
import json
import ssl
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping
from functools import partial
from http import HTTPStatus
from typing import Any

import aiohttp
import tritonclient.http.aio as triton
from tritonclient.utils import InferenceServerException

from songstarter import contract
from songstarter.key import Key
from songstarter_client.address import Address
from songstarter_client.errors import (
    BrokenOff,
    NoServer,
    RefusedKey,
    SongstarterError,
    UntrustedServer,
    of_code,
    of_stream,
)
from songstarter_client.fields import InputTensor
from songstarter_client.outgoing import Outgoing
from songstarter_client.transport import Transport
from songstarter_client.trust import Trust

# What aiohttp itself reports, where there was no server to say anything; the first that fits counts.
REASONS: tuple[tuple[type[Exception], Callable[[Address], SongstarterError]], ...] = (
    (aiohttp.ClientConnectorCertificateError, UntrustedServer.at),
    (aiohttp.ClientConnectorError, NoServer.at),
    (aiohttp.ClientResponseError, NoServer.of_another_protocol),
)

FORBIDDEN = "403"
DATA = b"data: "
CONNECTIONS = 0  # as many as there are requests: none waits here for another


def connect(address: Address, key: Key | None, trust: Trust | None) -> Transport:
    # conn_timeout would bound a whole request; how long one may take is the caller's decision.
    headers = key.http_headers if key else {}
    tls = trust.context if trust else None
    client = triton.InferenceServerClient(
        str(address), conn_limit=CONNECTIONS, conn_timeout=None, ssl=address.secure, ssl_context=tls
    )
    failures, explain = (InferenceServerException, aiohttp.ClientError), partial(_explained, address)
    messages = partial(_messages, address, tls)
    return Transport(triton, client, failures, explain, headers, messages, notices_who_hangs_up=False)


async def _messages(
    address: Address, tls: ssl.SSLContext | None, transport: Transport, outgoing: Outgoing
) -> AsyncGenerator[Mapping[str, Any], None]:
    """Server-sent events, by a connection of their own; tritonclient knows none."""
    url = f"{address.url}/v2/models/{contract.STREAM_MODEL}/generate_stream"
    inputs = {tensor.name: _plain(tensor) for tensor in outgoing.tensors} | {"output_encoding": "base64"}
    body = {"id": outgoing.request_id, **outgoing.parameters, **inputs}
    unbounded = aiohttp.ClientTimeout(total=None)
    async with (
        aiohttp.ClientSession(timeout=unbounded) as session,
        session.post(url, json=body, headers=dict(transport.headers), ssl=tls or True) as response,
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
    for kind, reason in REASONS:
        if isinstance(failure, kind):
            return reason(address)
    return BrokenOff.unanswered(address)
