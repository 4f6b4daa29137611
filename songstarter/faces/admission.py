"""How many requests a face holds at once; beyond that it says so at once instead of letting them wait."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

from songstarter import draining
from songstarter.errors import Unavailable


class Admission:
    """A counter with a bound."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self._places = threading.BoundedSemaphore(limit)

    def enter(self) -> None:
        """Take a place.

        Raises:
            Unavailable: there is none, or the server is about to end.
        """
        draining.check()
        if not self._places.acquire(blocking=False):
            raise Unavailable(f"{self.limit} requests are under way, which is the bound: try again later")

    def leave(self) -> None:
        """Give the place back."""
        self._places.release()

    @contextmanager
    def leaving(self) -> Iterator[None]:
        """Give the place back at the end of the block, whatever happens in it."""
        try:
            yield
        finally:
            self.leave()
