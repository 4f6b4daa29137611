"""What the engine has done so far, in plain numbers.

The engine's thread writes them, but for takes that are refused at the door, and any thread reads them, without a lock:
a number that is one step old does no harm.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field

from songstarter.array import Array
from songstarter.errors import SongstarterError
from songstarter.metrics import (
    FILL_SECONDS,
    FILLED_POSITIONS,
    KEPT_POSITIONS,
    SLOT_SECONDS,
    STEP_SECONDS,
    STEPS,
    STEPS_PER_OBSERVATION,
    TAKES,
    TOKENS,
    Family,
    Series,
    by_outcome,
)
from songstarter.outcomes import undone_by

MOST_KEPT = 10_000  # observations that nobody fetched; older ones are forgotten


def _observations() -> deque[float]:
    return deque(maxlen=MOST_KEPT)


@dataclass(eq=False)
class Statistics:
    """Counters and observations; seconds are of the monotonic clock."""

    steps: int = 0
    tokens: int = 0
    slot_seconds: float = 0.0
    kept_positions: int = 0
    filled_positions: int = 0
    takes: dict[str, int] = field(default_factory=lambda: dict.fromkeys(TAKES.outcomes, 0))
    step_seconds: deque[float] = field(default_factory=_observations)
    fill_seconds: deque[float] = field(default_factory=_observations)

    def stepped(self, columns: Mapping[int, Array], seconds: float) -> None:
        """Count a step that gave a column [codebook] to each of these slots."""
        if not columns:
            return
        if self.steps % STEPS_PER_OBSERVATION == 0:
            self.step_seconds.append(seconds)
        self.steps += 1
        self.tokens += sum(map(len, columns.values()))

    def ended(self, error: SongstarterError | None) -> None:
        """Count a take that waited or played until now, and whether an error ended it."""
        self.takes[undone_by(error) if error else "finished"] += 1

    def totals(self) -> dict[Series, float]:
        """Every counter as it stands."""
        return {
            Series(STEPS): self.steps,
            Series(TOKENS): self.tokens,
            Series(SLOT_SECONDS): self.slot_seconds,
            Series(KEPT_POSITIONS): self.kept_positions,
            Series(FILLED_POSITIONS): self.filled_positions,
        } | by_outcome(TAKES, self.takes)

    def fetch_observations(self) -> dict[Family, list[float]]:
        """Take out what was observed since the last call."""
        return {STEP_SECONDS: fetch(self.step_seconds), FILL_SECONDS: fetch(self.fill_seconds)}


def fetch(observations: deque[float]) -> list[float]:
    """Empty a queue that another thread may be filling."""
    return [observations.popleft() for _ in range(len(observations))]
