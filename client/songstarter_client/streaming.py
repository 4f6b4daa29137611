"""Waiting for a stream's next chunk, and letting go of it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator
from dataclasses import dataclass
from typing import TypeVar

from songstarter_client.address import Address
from songstarter_client.chunk import Chunk
from songstarter_client.errors import BrokenOff, TimedOut

SILENCE = 30.0  # seconds; audio that comes with a request may take some to be understood, all else is told at once
CLOSE_TRIES, CLOSE_INTERVAL = 500, 0.01

T = TypeVar("T")


@dataclass
class Waiting:
    """How long one stream may still be waited for."""

    address: Address
    seconds: float

    async def for_next(self, chunks: AsyncGenerator[Chunk, None]) -> Chunk | None:
        """The next chunk, or None behind the last.

        Raises:
            TimedOut: the time is up.
            BrokenOff: the server has fallen silent.
        """
        began, allowed = time.monotonic(), self.seconds
        try:
            async with asyncio.timeout(min(allowed, SILENCE)):
                return await anext(chunks, None)
        except TimeoutError:
            if allowed > SILENCE:
                raise BrokenOff(f"the server at {self.address} has fallen silent for {SILENCE:g} s") from None
            raise self._timed_out() from None
        finally:
            self.seconds -= time.monotonic() - began

    async def pause(self, seconds: float) -> None:
        """Wait before a further try; TimedOut if no time is left for one."""
        await asyncio.sleep(min(seconds, self.seconds))
        self.seconds -= seconds
        if self.seconds <= 0:
            raise self._timed_out()

    def _timed_out(self) -> TimedOut:
        return TimedOut(f"{self.address} gave no answer within the time allowed")


async def begun(
    chunks: AsyncGenerator[Chunk, None], waiting: Waiting
) -> tuple[Chunk | None, AsyncGenerator[Chunk, None]]:
    """The first chunk, and those that follow it."""
    try:
        return await waiting.for_next(chunks), chunks
    except BaseException:
        await chunks.aclose()
        raise


async def next_or_none(chunks: AsyncGenerator[T, None]) -> T | None:
    return await anext(chunks, None)


async def closed(chunks: AsyncGenerator[T, None]) -> None:
    """Close a stream, though a cancelled wait for its next chunk may not have come to its end yet."""
    for _ in range(CLOSE_TRIES):
        try:
            return await chunks.aclose()
        except RuntimeError:
            await asyncio.sleep(CLOSE_INTERVAL)
