"""The two clients: AsyncClient does the work, Client lends it a thread."""

from __future__ import annotations

import asyncio
import os
import random
import time
import weakref
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Generator, Iterator
from contextlib import aclosing, asynccontextmanager
from typing import Self, TypeVar, Unpack

from songstarter import contract
from songstarter.key import Key
from songstarter_client.address import DEFAULT_HOST, Protocol, parse_address
from songstarter_client.chunk import Chunk
from songstarter_client.errors import BrokenOff, DeadlinePassed, NoServer, TimedOut, Unavailable, of_request
from songstarter_client.fields import Fields, StreamFields
from songstarter_client.loop_thread import LoopThread
from songstarter_client.outgoing import Outgoing
from songstarter_client.song import Song
from songstarter_client.streaming import Waiting, begun, closed, next_or_none
from songstarter_client.transport import Transport, connect
from songstarter_client.trust import Trust

TIMEOUT = 600.0  # seconds; a model process that dies leaves its requests unanswered, so there is always one
PROBE_TIMEOUT = 5.0
PROBE_INTERVAL = 0.2
FIRST_PAUSE, LONGEST_PAUSE = 0.5, 8.0  # seconds between tries

T = TypeVar("T")


class AsyncClient:
    """Makes songs on a Songstarter server, from one event loop.

    url is HOST[:PORT] or a URL whose scheme, grpc:// or http://, or by TLS grpcs:// or https://, is the
    protocol; gRPC if neither says. timeout: seconds for a whole request, further tries and the pauses before them
    included. retries: how often a request is sent again when the server cannot take it now or nobody answers; one
    that was broken off is not, for its song may have begun. key: the server's, where it asks for one. ca_file: for
    TLS, the certificates of who signs the server's, where the usual ones do not.
    """

    def __init__(
        self,
        url: str = DEFAULT_HOST,
        *,
        protocol: Protocol | None = None,
        timeout: float = TIMEOUT,
        retries: int = 0,
        key: str | None = None,
        ca_file: str | os.PathLike[str] | None = None,
    ) -> None:
        self.address = parse_address(url, protocol)
        self.timeout = timeout
        self.retries = retries
        self._key = Key(key) if key else None
        self._trust = Trust.in_file(ca_file) if self.address.secure else None
        self._transport: Transport | None = None
        self._closed = False

    async def generate(
        self, prompt: str | None = None, *, timeout: float | None = None, **fields: Unpack[Fields]
    ) -> Song:
        """Ask for a song and wait for it; fields are those of the contract, what is left out is the server's."""
        outgoing = Outgoing.of(prompt, fields)
        seconds = self.timeout if timeout is None else timeout
        end = time.monotonic() + seconds
        with of_request(outgoing.request_id):
            async with self._within(seconds):
                answer = await self._persistently(lambda: self._connected().infer(outgoing, end - time.monotonic()))
        audio_format = fields.get("output_format") or _OUTPUT_FORMAT
        return Song(prompt or "", answer.output, audio_format, answer.seed, answer.sample_rate)

    async def stream(
        self, prompt: str | None = None, *, timeout: float | None = None, **fields: Unpack[StreamFields]
    ) -> AsyncGenerator[Chunk, None]:
        """Ask for a song and get it in chunks while it is being made; closed early, the server stops its work.

        timeout: seconds that are waited for the server in all, pauses between tries included; what the caller does
        between two chunks does not count. A server that has fallen silent is given up sooner: a living one sends a
        message twice a second.
        """
        outgoing = Outgoing.of(prompt, fields, contract.STREAM_FIELDS)
        waiting = Waiting(self.address, self.timeout if timeout is None else timeout)
        missing = fields.get("num_outputs") or 1
        with of_request(outgoing.request_id):
            chunk, chunks = await self._persistently(
                lambda: begun(self._connected().stream(outgoing), waiting), waiting.pause
            )
            async with aclosing(chunks):
                while chunk is not None:
                    missing -= chunk.last
                    yield chunk
                    chunk = await waiting.for_next(chunks)
            if missing:
                raise BrokenOff(f"the server at {self.address} ended the stream before the song was complete")

    async def ready(self) -> bool:
        """Whether Triton says that the songstarter model is loaded; it goes on saying so if its process dies."""
        try:
            async with self._within(PROBE_TIMEOUT):
                return await self._connected().ready()
        except (Unavailable, TimedOut):
            return False

    async def wait_ready(self, timeout: float = 60.0) -> None:
        """Return as soon as `ready` is true; NoServer if that takes longer than timeout seconds."""
        try:
            async with asyncio.timeout(timeout):
                while not await self.ready():
                    await asyncio.sleep(PROBE_INTERVAL)
        except TimeoutError:
            raise NoServer(f"no server at {self.address} was ready within {timeout:g} s") from None

    async def close(self) -> None:
        """End the connection; the client cannot be used afterwards."""
        self._closed = True
        transport, self._transport = self._transport, None
        if transport:
            await transport.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        await self.close()

    def _connected(self) -> Transport:
        if self._closed:
            raise RuntimeError("the client is closed")
        if self._transport is None:
            self._transport = connect(self.address, self._key, self._trust)
        return self._transport

    async def _persistently(
        self, attempt: Callable[[], Awaitable[T]], pause: Callable[[float], Awaitable[None]] = asyncio.sleep
    ) -> T:
        for seconds in _pauses(self.retries):
            try:
                return await attempt()
            except (BrokenOff, DeadlinePassed):
                raise
            except Unavailable:
                await pause(seconds)
        return await attempt()

    @asynccontextmanager
    async def _within(self, seconds: float) -> AsyncIterator[None]:
        try:
            async with asyncio.timeout(seconds):
                yield
        except TimedOut:
            raise
        except TimeoutError:
            raise TimedOut(f"{self.address} gave no answer within {seconds:g} s") from None


class Client:
    """Makes songs on a Songstarter server; several threads may share one. Its arguments are AsyncClient's.

    One that is dropped without being closed closes itself.
    """

    def __init__(
        self,
        url: str = DEFAULT_HOST,
        *,
        protocol: Protocol | None = None,
        timeout: float = TIMEOUT,
        retries: int = 0,
        key: str | None = None,
        ca_file: str | os.PathLike[str] | None = None,
    ) -> None:
        self._client = AsyncClient(url, protocol=protocol, timeout=timeout, retries=retries, key=key, ca_file=ca_file)
        self._streams: set[AsyncGenerator[Chunk, None]] = set()  # that have begun and not ended
        self._loop = LoopThread()
        weakref.finalize(self, _abandon, self._loop, self._client, self._streams)

    def generate(self, prompt: str | None = None, *, timeout: float | None = None, **fields: Unpack[Fields]) -> Song:
        """Ask for a song and wait for it; fields are those of the contract, what is left out is the server's."""
        return self._loop.run(self._client.generate(prompt, timeout=timeout, **fields))

    def stream(
        self, prompt: str | None = None, *, timeout: float | None = None, **fields: Unpack[StreamFields]
    ) -> Generator[Chunk, None, None]:
        """Ask for a song and get it in chunks while it is being made, as AsyncClient does."""
        chunks = self._client.stream(prompt, timeout=timeout, **fields)
        self._streams.add(chunks)
        try:
            while (chunk := self._loop.run(next_or_none(chunks))) is not None:
                yield chunk
        finally:
            if self._loop.running:
                self._loop.run(closed(chunks))
                self._streams.discard(chunks)

    def ready(self) -> bool:
        """Whether Triton says that the songstarter model is loaded; it goes on saying so if its process dies."""
        return self._loop.run(self._client.ready())

    def wait_ready(self, timeout: float = 60.0) -> None:
        """Return as soon as `ready` is true; NoServer if that takes longer than timeout seconds."""
        self._loop.run(self._client.wait_ready(timeout))

    def close(self) -> None:
        """End the connection; the client cannot be used afterwards."""
        self._loop.stop(_close_all(self._client, self._streams))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()


_OUTPUT_FORMAT = next(str(field.default) for field in contract.FIELDS if field.name == "output_format")


def _abandon(loop: LoopThread, client: AsyncClient, streams: set[AsyncGenerator[Chunk, None]]) -> None:
    loop.abandon(_close_all(client, streams))


async def _close_all(client: AsyncClient, streams: set[AsyncGenerator[Chunk, None]]) -> None:
    """Each stream before the connection that it uses."""
    while streams:
        await closed(streams.pop())
    await client.close()


def _pauses(retries: int) -> Iterator[float]:
    """Seconds before each further try: twice as long each time, and uneven, so that callers spread."""
    for retry in range(retries):
        yield min(FIRST_PAUSE * 2**retry, LONGEST_PAUSE) * random.uniform(0.5, 1.0)
