"""What one request came to, and the stretch of a run that counts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol


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

    @property
    def latency(self) -> float:
        return self.ended - self.scheduled

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
        """The requests that were to begin in the window; all of them were waited for."""
        return [record for record in self.records if self.opened <= record.scheduled < self.closed]


class Watcher(Protocol):
    """Is told of every request as it happens."""

    def began(self) -> None: ...

    def ended(self, record: Record) -> None: ...
