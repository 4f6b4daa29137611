"""Where the server listens, and what can become of a request to it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

import grpc

# answered: with a song, or what else was asked for. refused: with an error. closed: the connection was.
# unfinished: no answer to half a message, which is owed none. hung: no answer to a whole one.
Outcome = Literal["answered", "refused", "closed", "unfinished", "hung"]
PATIENCE = 60.0  # seconds that an answer may take; nothing here asks for much


@dataclass(frozen=True)
class Target:
    """A server's ports, and a gRPC channel to it."""

    host: str
    http: int
    grpc: int
    channel: grpc.Channel = field(repr=False)
