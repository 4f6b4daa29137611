"""What the decoder's log says of an order, in one line at its end."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field

from songstarter import event_log
from songstarter.engine.take import Take
from songstarter.outcomes import undone_by


@dataclass(eq=False)
class OrderRecord:
    """An order from its arrival on; its first error is the one that is told."""

    request_id: str
    arrived: float = field(default_factory=time.monotonic)
    takes: Sequence[Take] = ()
    error: Exception | None = None

    def note(self, error: Exception) -> None:
        self.error = self.error or error

    @property
    def outcome(self) -> str:
        return "finished" if self.error is None else undone_by(self.error)

    def write(self) -> None:
        """Write the line, once, and let go of what it was about.

        Takes know who delivers for them, who knows this record; an error knows the frames that it came through. Such a
        circle would keep an order's prefix until Python next looks for circles, which can be minutes.
        """
        waited = [take.seconds_waited for take in self.takes if take.seconds_waited is not None]
        event_log.write(
            "order",
            request=self.request_id,
            outcome=self.outcome,
            seconds=time.monotonic() - self.arrived,
            waited_seconds=max(waited, default=None),  # for a slot, the variation that waited longest
            variations=len(self.takes) or None,
            frames=self.takes[0].beginning.frames if self.takes else None,
            **(event_log.facts_of(self.error) if self.error else {}),
        )
        self.takes, self.error = (), None
