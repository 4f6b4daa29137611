"""What one request came to, and the stretch of a run that counts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

# When a request began: before the window opened, in it, or after it closed, to keep the others company.
Phase = Literal["warm_up", "window", "after"]


@dataclass(frozen=True)
class Record:
    """One request that is over. Times are seconds of one monotonic clock.

    ``scheduled`` is when its caller wanted it sent: latency counts from there, so that a load generator that is late,
    or that waits for a place, does not hide the wait (coordinated omission).
    """

    number: int
    scheduled: float
    began: float
    first_audio: float | None  # None where the answer comes in one piece
    ended: float
    audio_seconds: float  # 0 where it failed
    error: str | None
    stalled: float | None = None  # seconds of silence in a stream's playing
    takes: int = 1  # variations that were asked for

    @property
    def latency(self) -> float:
        return self.ended - self.scheduled

    @property
    def duration(self) -> float:
        """Seconds of one variation, which is what one listener hears; 0 where it failed."""
        return self.audio_seconds / self.takes

    def share_in(self, opened: float, closed: float) -> float:
        """How much of the request's time under way lies between two moments, 0 to 1."""
        inside = min(self.ended, closed) - max(self.began, opened)
        return max(0.0, inside) / max(self.ended - self.began, 1e-9)


@dataclass(frozen=True)
class Run:
    """One load that was held for a while: every request of it, and the window in which it was steady."""

    records: Sequence[Record]
    opened: float
    closed: float

    @property
    def seconds(self) -> float:
        return self.closed - self.opened

    @property
    def counted(self) -> list[Record]:
        """The requests that were to begin in the window, in that order; all of them were waited for."""
        inside = [record for record in self.records if self.opened <= record.scheduled < self.closed]
        return sorted(inside, key=lambda record: record.scheduled)

    def under_way(self, moment: float) -> int:
        """Requests that were due by a moment and not over yet."""
        return sum(record.scheduled < moment <= record.ended for record in self.records)


def phase_of(began: float, opened: float, closed: float) -> Phase:
    """Of a request that began at a moment of a clock, with a window that opened and closed at two others."""
    if began < opened:
        return "warm_up"
    return "window" if began < closed else "after"


class Watcher(Protocol):
    """Is told of every request as it happens."""

    def began(self) -> None: ...

    def ended(self, record: Record, phase: Phase) -> None: ...
