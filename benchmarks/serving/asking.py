"""One request, sent and waited for: the whole song in one answer, or chunk by chunk as a player would hear it."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Protocol

from benchmarks.serving.scenario import Asked
from songstarter_client import AsyncClient, RequestFailed


@dataclass(frozen=True)
class Heard:
    """What came back: seconds of audio. Of a stream, when the first of it came, and how long its player was silent."""

    audio_seconds: float
    first_audio: float | None = None
    stalled: float | None = None


class Ask(Protocol):
    """Sends a request and returns when its last audio is there; raises what went wrong."""

    async def __call__(self, asked: Asked) -> Heard: ...


class Unary:
    """Asks a server through the client, the whole song in one answer."""

    def __init__(self, client: AsyncClient) -> None:
        self._client = client

    async def __call__(self, asked: Asked) -> Heard:
        song = await self._client.generate(asked.prompt, **asked.fields)
        if len(song.files) != asked.takes:
            raise RequestFailed(f"{len(song.files)} variations came, {asked.takes} were asked for")
        return Heard(asked.audio_seconds)


class Streamed:
    """Asks a server through the client, and listens while the song is made."""

    def __init__(self, client: AsyncClient) -> None:
        self._client = client

    async def __call__(self, asked: Asked) -> Heard:
        players = [Player() for _ in range(asked.takes)]
        async for chunk in self._client.stream(asked.prompt, **asked.fields):
            players[chunk.variation].hear(chunk.seconds, time.monotonic())
        began = [player.began for player in players if player.began is not None]
        if len(began) != asked.takes:
            raise RequestFailed(f"{len(began)} variations came, {asked.takes} were asked for")
        return Heard(asked.audio_seconds, min(began), max(player.stalled for player in players))


class Player:
    """Plays one variation from its first chunk on, and falls silent where the next one is late."""

    def __init__(self) -> None:
        self.began: float | None = None
        self.stalled = 0.0
        self._seconds = 0.0

    def hear(self, seconds: float, now: float) -> None:
        """So many seconds of audio have come by ``now``."""
        if seconds == self._seconds:
            return
        if self.began is None:
            self.began = now
        self.stalled += max(now - (self.began + self._seconds + self.stalled), 0.0)
        self._seconds = seconds
