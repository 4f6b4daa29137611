"""Who plays in which slot, and who waits.

Responsibilities: the order of waiting takes (by priority, then by arrival), the bound on their number, the choice of
slots.
Does not know: arrays, tokens, time. Takes may come in from any thread; the rest is the engine's.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Sequence

from songstarter.engine.take import Take
from songstarter.errors import Unavailable
from songstarter.request import PRIORITIES


class Scheduler:
    """A fixed number of slots and a bounded queue; of equal priority, who comes first goes first."""

    def __init__(self, slots: int, *, max_waiting: int) -> None:
        if slots < 1:
            raise ValueError(f"found {slots} slots; expected 1 or more, or everybody waits for ever")
        self._slots = slots
        self._free = list(range(slots))
        self._waiting: dict[int, deque[Take]] = {priority: deque() for priority in PRIORITIES}
        self._max_waiting = max_waiting
        self._lock = threading.Lock()

    @property
    def waiting(self) -> int:
        return sum(map(len, self._waiting.values()))

    def enqueue(self, takes: Sequence[Take]) -> None:
        """Let all the takes of a request wait, or none; those who find a free slot do not count as waiting.

        Raises:
            Unavailable: the queue has no room for all of them.
        """
        if len(takes) > self._max_waiting + self._slots:
            raise Unavailable(f"{len(takes)} takes are more than this server has slots and places to wait in")
        with self._lock:
            if self.waiting + len(takes) > self._max_waiting + len(self._free):
                raise Unavailable(
                    f"{self.waiting} takes wait already, {len(takes)} more would exceed the bound of "
                    f"{self._max_waiting}: try again later"
                )
            for take in takes:
                self._waiting[take.priority].append(take)

    def admit(self) -> tuple[int, Take] | None:
        """The next waiting take and the lowest free slot, if there are both.

        Low slots first: a step computes every row up to the highest slot in use.
        """
        with self._lock:
            first = next((queue for queue in self._waiting.values() if queue), None)
            if first is None or not self._free:
                return None
            slot = min(self._free)
            self._free.remove(slot)
            return slot, first.popleft()

    def release(self, slot: int) -> None:
        with self._lock:
            self._free.append(slot)

    def drop_cancelled(self) -> list[Take]:
        """Takes that were cancelled while they waited; they wait no more."""
        with self._lock:
            dropped = [take for queue in self._waiting.values() for take in queue if take.cancelled]
            for take in dropped:
                self._waiting[take.priority].remove(take)
        return dropped
