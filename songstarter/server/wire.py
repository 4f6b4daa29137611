"""HTTP to a server, past any proxy that the environment names."""

from __future__ import annotations

import http.client
from collections.abc import Mapping
from dataclasses import dataclass

from songstarter.key import Key


@dataclass(frozen=True)
class HttpDoor:
    """Where a server answers over HTTP, and the key that it asks for."""

    host: str
    port: int
    key: Key | None = None

    def ask(
        self, method: str, path: str, *, body: bytes = b"", headers: Mapping[str, str] | None = None, timeout: float
    ) -> tuple[int, bytes]:
        """One request: its status and body.

        Raises:
            OSError: nothing listens, or no answer came in ``timeout`` seconds.
        """
        connection = http.client.HTTPConnection(self.host, self.port, timeout=timeout)
        try:
            connection.request(method, path, body=body, headers={**self._key_headers, **(headers or {})})
            answer = connection.getresponse()
            return answer.status, answer.read()
        except http.client.HTTPException as error:  # the server ended in the middle of its answer
            raise ConnectionError(f"{type(error).__name__}: {error}") from error
        finally:
            connection.close()

    @property
    def _key_headers(self) -> dict[str, str]:
        return self.key.http_headers if self.key else {}
