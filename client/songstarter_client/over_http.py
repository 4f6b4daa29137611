"""HTTP: how to connect, and what its failures mean."""

from __future__ import annotations

from functools import partial

import aiohttp
import tritonclient.http.aio as triton
from tritonclient.utils import InferenceServerException

from songstarter.key import Key
from songstarter_client.address import Address
from songstarter_client.errors import NoServer, RefusedKey, SongstarterError, Unavailable, of_code
from songstarter_client.transport import Transport

FORBIDDEN = "403"
CONNECTIONS = 0  # as many as there are requests: none waits here for another


def connect(address: Address, key: Key | None) -> Transport:
    # conn_timeout would bound a whole request; how long one may take is the caller's decision.
    headers = key.http_headers if key else {}
    client = triton.InferenceServerClient(str(address), conn_limit=CONNECTIONS, conn_timeout=None)
    return Transport(
        triton, client, (InferenceServerException, aiohttp.ClientError), partial(_explained, address), headers
    )


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
