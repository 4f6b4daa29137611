"""Who plays in which slot, and who waits.

Responsibilities: the order of waiting takes, the bound on their number, the choice of slots.
Does not know: arrays, tokens, time. Takes may come in from any thread; the rest is the engine's.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Sequence

from songstarter.engine.take import Take
from songstarter.errors import Unavailable


class Scheduler:
    """A fixed number of slots and a bounded queue, first come, first served."""

    def __init__(self, slots: int, *, max_waiting: int) -> None:
        self._free = list(range(slots))
        self._waiting: deque[Take] = deque()
        self._max_waiting = max_waiting
        self._lock = threading.Lock()

    @property
    def waiting(self) -> int:
        return len(self._waiting)

    def enqueue(self, takes: Sequence[Take]) -> None:
        """Let all the takes of a request wait, or none.

        Raises:
            Unavailable: the queue has no room for all of them.
        """
        with self._lock:
            if len(self._waiting) + len(takes) > self._max_waiting:
                raise Unavailable(
                    f"{len(self._waiting)} takes wait already, {len(takes)} more would exceed the bound of "
                    f"{self._max_waiting}: try again later"
                )
            self._waiting.extend(takes)

    def admit(self) -> tuple[int, Take] | None:
        """The next waiting take and the lowest free slot, if there are both.

        Low slots first: a step computes every row up to the highest slot in use.
        """
        if not self._waiting or not self._free:
            return None
        slot = min(self._free)
        self._free.remove(slot)
        return slot, self._waiting.popleft()

    def release(self, slot: int) -> None:
        self._free.append(slot)

    def drop_cancelled(self) -> list[Take]:
        """Takes that were cancelled while they waited; they wait no more."""
        with self._lock:
            dropped = [take for take in self._waiting if take.cancelled]
            if dropped:
                self._waiting = deque(take for take in self._waiting if not take.cancelled)
        return dropped
