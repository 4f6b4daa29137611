"""HTTP to the server on loopback, past any proxy that the environment names."""

from __future__ import annotations

import http.client
from collections.abc import Mapping

from songstarter.server.launch import ADDRESS


def ask(
    port: int, method: str, path: str, *, body: bytes = b"", headers: Mapping[str, str] | None = None, timeout: float
) -> tuple[int, bytes]:
    """One request: its status and body.

    Raises:
        OSError: nothing listens, or no answer came in ``timeout`` seconds.
    """
    connection = http.client.HTTPConnection(ADDRESS, port, timeout=timeout)
    try:
        connection.request(method, path, body=body, headers=dict(headers or {}))
        answer = connection.getresponse()
        return answer.status, answer.read()
    except http.client.HTTPException as error:  # the server ended in the middle of its answer
        raise ConnectionError(f"{type(error).__name__}: {error}") from error
    finally:
        connection.close()
