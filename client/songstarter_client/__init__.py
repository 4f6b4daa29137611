"""The client of a Songstarter server: `Client`, `AsyncClient`, the `Song` or `Chunk`s that come, what can go wrong."""

from songstarter_client.chunk import Chunk
from songstarter_client.client import AsyncClient, Client
from songstarter_client.errors import (
    BrokenOff,
    Cancelled,
    DeadlinePassed,
    InvalidRequest,
    NoServer,
    RefusedKey,
    RefusedRequest,
    RequestFailed,
    SongstarterError,
    TimedOut,
    Unavailable,
    UntrustedServer,
)
from songstarter_client.song import Song

__all__ = [
    "AsyncClient",
    "BrokenOff",
    "Cancelled",
    "Chunk",
    "Client",
    "DeadlinePassed",
    "InvalidRequest",
    "NoServer",
    "RefusedKey",
    "RefusedRequest",
    "RequestFailed",
    "Song",
    "SongstarterError",
    "TimedOut",
    "Unavailable",
    "UntrustedServer",
]
