"""Whose turn it is at a stage that can do few things at once: by priority, then by when it is due.

Triton's queue in front of a stage knows no priorities (with them its batcher sleeps in steps of 500 ms), so all wait
here but for those that the stage has something to do for.
"""

from __future__ import annotations

import threading
from bisect import insort
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import count

from songstarter.faces.visits import Visit


@dataclass(order=True)
class Waiting:
    """Somebody's place in the queue; of those who are alike, who came first goes first."""

    priority: int
    due: float
    number: int
    called: threading.Event = field(compare=False, default_factory=threading.Event)


class Turns:
    """A fixed number of places, and those who wait for one; who is stopped waits no more."""

    def __init__(self, places: int) -> None:
        if places < 1:
            raise ValueError(f"found {places} places; expected 1 or more, or everybody waits for ever")
        self._free = places
        self._waiting: list[Waiting] = []  # in the order of their turns
        self._numbers = count()
        self._lock = threading.Lock()

    @contextmanager
    def turn(self, visit: Visit, due: float) -> Iterator[None]:
        """Hold a place within the block, once it is this visit's turn; ``due`` is on ``time.monotonic``'s clock.

        Raises:
            SongstarterError: the visit was stopped meanwhile, and why.
        """
        self._wait(visit, due)
        try:
            yield
        finally:
            with self._lock:
                self._give_back()

    def _wait(self, visit: Visit, due: float) -> None:
        mine = Waiting(visit.priority, due, next(self._numbers))
        with self._lock:
            insort(self._waiting, mine)
            self._call()
        try:
            visit.wait_for(mine.called)
        except BaseException:
            with self._lock:
                if mine in self._waiting:
                    self._waiting.remove(mine)
                else:  # it was called at the same moment
                    self._give_back()
            raise

    def _give_back(self) -> None:
        self._free += 1
        self._call()

    def _call(self) -> None:
        """Call those who are next, as long as there are places."""
        while self._free and self._waiting:
            self._free -= 1
            self._waiting.pop(0).called.set()
