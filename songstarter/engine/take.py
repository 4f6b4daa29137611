"""A take while it is made: what it begins from, how it is sampled, and the grid it fills."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field

from songstarter.array import Array
from songstarter.delay_pattern import DelayPattern, Grid
from songstarter.errors import SongstarterError
from songstarter.request import Sampling
from songstarter.stages.decoder import Prefix

Outcome = Array | SongstarterError


@dataclass(frozen=True, eq=False)
class Beginning:
    """What the variations of a request have in common: computed for the first, copied for the others.

    ``opening`` is [codebook, frame], or None for a song from nothing.
    """

    prefix: Prefix
    opening: Array | None
    frames: int

    def grid(self, pattern: DelayPattern) -> Grid:
        return Grid(pattern, self.frames, self.opening)


@dataclass(eq=False)
class Take:
    """One variation of a request on its way to an outcome: its frames, or the error that ended it."""

    beginning: Beginning
    sampling: Sampling
    seed: int
    variation: int
    priority: int
    on_end: Callable[[Take, Outcome], None] = field(repr=False)
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
