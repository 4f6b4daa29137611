"""A server of HTTP that gives one answer, written out by a test, to whatever it is asked."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class Scripted(ThreadingHTTPServer):
    """Without an answer it hangs up on those who ask."""

    def __init__(self, answer: tuple[int, bytes] | None, port: int = 0) -> None:
        super().__init__(("127.0.0.1", port), _Answering)
        self.answer = answer
        self.requests = 0

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


@contextmanager
def scripted(answer: tuple[int, bytes] | None, port: int = 0) -> Iterator[Scripted]:
    with Scripted(answer, port) as server:
        serving = threading.Thread(target=server.serve_forever, args=(0.05,))
        serving.start()
        try:
            yield server
        finally:
            server.shutdown()
            serving.join()


class _Answering(BaseHTTPRequestHandler):
    server: Scripted

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        self.server.requests += 1
        if self.server.answer:
            status, body = self.server.answer
            self.send_response(status)
            self.end_headers()
            self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Tests print nothing."""
