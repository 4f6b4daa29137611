"""One request, sent and waited for: over the network in one piece. A streamed one would be another `Ask`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from benchmarks.serving.scenario import Asked
from songstarter_client import AsyncClient, RequestFailed


@dataclass(frozen=True)
class Heard:
    """What came back: seconds of audio, and when the first of it came (None: all at once, at the end)."""

    audio_seconds: float
    first_audio: float | None = None


class Ask(Protocol):
    """Sends a request and returns when its last audio is there; what goes wrong is a SongstarterError."""

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
