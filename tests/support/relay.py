"""Something between a client and a server: bytes are passed on, by a plain connection or out of a TLS one."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Iterator
from contextlib import contextmanager

from songstarter_client.loop_thread import LoopThread


class Relay:
    """Passes bytes on between its own port and a server's, until it is cut."""

    def __init__(self, server_port: int, tls: ssl.SSLContext | None = None) -> None:
        self.passed = 0  # bytes, to the server and back
        self._server_port = server_port
        self._tls = tls
        self._writers: list[asyncio.StreamWriter] = []

    async def open(self) -> int:
        self._listener = await asyncio.start_server(self._relay, "127.0.0.1", 0, ssl=self._tls)
        return int(self._listener.sockets[0].getsockname()[1])

    async def cut(self) -> None:
        self._listener.close()
        for writer in self._writers:
            if not writer.is_closing():  # nor can one that is be aborted, behind TLS and before Python 3.11.4
                writer.transport.abort()

    async def _relay(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        server_reader, server_writer = await asyncio.open_connection("127.0.0.1", self._server_port)
        self._writers += [writer, server_writer]
        ways = self._pass_on(reader, server_writer), self._pass_on(server_reader, writer)
        await asyncio.gather(*ways, return_exceptions=True)

    async def _pass_on(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while data := await reader.read(65536):
                writer.write(data)
                self.passed += len(data)
        finally:
            writer.close()  # where one side has ended, the other one hears of it


@contextmanager
def running(relay: Relay) -> Iterator[int]:
    """The relay's port; it works in a thread of its own."""
    loop = LoopThread()
    try:
        yield loop.run(relay.open())
    finally:
        loop.stop(relay.cut())
