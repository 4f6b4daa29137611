"""What a stream brings: the next piece of one variation, and how far it is."""

from __future__ import annotations

import base64
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from songstarter import contract
from songstarter_client.errors import RequestFailed


@dataclass(frozen=True, repr=False)
class Chunk:
    """One message. ``audio`` is empty where only time has passed; one after the other they make the variation's file.

    ``gain`` is that for what was heard so far, and in the ``last`` message of a variation that of its whole file. Under
    ``clip`` it is 1; otherwise what streamed was levelled by a gain that could not yet know the end.
    """

    audio: bytes
    variation: int
    seconds: float  # of the variation that have come, these included
    total_seconds: float
    gain: float
    last: bool
    seed: int
    sample_rate: int
    channels: int

    def __repr__(self) -> str:
        so_far = f"{self.seconds:.2f} of {self.total_seconds:.2f} s"
        return f"Chunk(variation {self.variation}, {so_far}: {len(self.audio)} bytes, seed {self.seed})"

    @classmethod
    def of(cls, message: Mapping[str, Any]) -> Chunk:
        """A message's plain values by the names of ``contract.STREAM_OUTPUTS``; text is base64."""
        missing = [tensor.name for tensor in contract.STREAM_OUTPUTS if message.get(tensor.name) is None]
        if missing:
            raise RequestFailed(f"a message holds no {missing[0]!r}, expected were all of contract.STREAM_OUTPUTS")
        values = {tensor.name: message[tensor.name] for tensor in contract.STREAM_OUTPUTS}
        audio = values["audio"]
        return cls(**values | {"audio": base64.b64decode(audio) if isinstance(audio, str) else audio})
