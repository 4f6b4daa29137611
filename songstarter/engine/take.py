"""A take while it is made: what it begins from, how it is sampled, and what becomes of it."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from songstarter.array import Array
from songstarter.errors import SongstarterError
from songstarter.request import Sampling
from songstarter.stages.filling import Prefix
from songstarter.windows import Window


@dataclass(frozen=True, eq=False)
class Chunk:
    """Codes [codebook, frame] of a take, from its frame ``first`` on; the last one ends it."""

    first: int
    codes: Array
    last: bool


Outcome = Chunk | SongstarterError


@dataclass(frozen=True)
class ChunkSizes:
    """How many frames make a chunk, and how many the first, which the listener waits for."""

    first: int
    following: int

    def due(self, sent: int) -> int:
        """How many frames must be complete for the next chunk, when ``sent`` are on their way."""
        return sent + (self.following if sent else self.first)


@dataclass(frozen=True, eq=False)
class Beginning:
    """What the variations of a request have in common: computed for the first, copied for the others.

    ``prefixes`` has one for each window, or one for all; ``opening`` is [codebook, frame], or None for a song from
    nothing.
    """

    prefixes: Sequence[Prefix]
    opening: Array | None
    windows: Sequence[Window]

    @property
    def frames(self) -> int:
        return self.windows[-1].end

    def prefix(self, window: int) -> Prefix:
        """The prefix of a window, by its number."""
        return self.prefixes[min(window, len(self.prefixes) - 1)]


@dataclass(eq=False)
class Take:
    """One variation of a request on its way to its end: chunk after chunk, or the error that ended it."""

    beginning: Beginning
    sampling: Sampling
    seed: int
    variation: int
    priority: int
    chunks: ChunkSizes
    deliver: Callable[[Take, Outcome], None] = field(repr=False)
    cancelled: bool = False
    submitted: float = field(default_factory=time.monotonic)
    admitted: float | None = None  # when it got its slot; both in seconds of the monotonic clock

    @property
    def seconds_waited(self) -> float | None:
        """How long it waited for its slot; None when it never had one."""
        return None if self.admitted is None else self.admitted - self.submitted

    @property
    def seconds_since_admission(self) -> float:
        return 0.0 if self.admitted is None else time.monotonic() - self.admitted

    def cancel(self) -> None:
        """Ask for the take to end; its slot is free at the next step."""
        self.cancelled = True
