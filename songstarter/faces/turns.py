"""Whose turn it is at a stage that can do few things at once: by priority, then by arrival, as in the decoder.

Triton's queue in front of a stage knows no priorities (with them its batcher sleeps in steps of 500 ms), so all wait
here but for those that the stage has something to do for.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager

from songstarter.faces.visits import Visit
from songstarter.request import PRIORITIES


class Turns:
    """A fixed number of places, and those who wait for one; who is stopped waits no more."""

    def __init__(self, places: int) -> None:
        if places < 1:
            raise ValueError(f"found {places} places; expected 1 or more, or everybody waits for ever")
        self._free = places
        self._waiting: dict[int, deque[threading.Event]] = {priority: deque() for priority in PRIORITIES}
        self._lock = threading.Lock()

    @contextmanager
    def turn(self, visit: Visit) -> Iterator[None]:
        """Hold a place within the block, once it is this visit's turn.

        Raises:
            SongstarterError: the visit was stopped meanwhile, and why.
        """
        self._wait(visit)
        try:
            yield
        finally:
            with self._lock:
                self._give_back()

    def _wait(self, visit: Visit) -> None:
        called = threading.Event()
        queue = self._waiting[visit.priority]
        with self._lock:
            queue.append(called)
            self._call()
        try:
            visit.wait_for(called)
        except BaseException:
            with self._lock:
                if called in queue:
                    queue.remove(called)
                else:  # it was called at the same moment
                    self._give_back()
            raise

    def _give_back(self) -> None:
        self._free += 1
        self._call()

    def _call(self) -> None:
        """Call those who are next, as long as there are places."""
        while self._free and (queue := next(filter(None, self._waiting.values()), None)):
            self._free -= 1
            queue.popleft().set()
