"""Watches the requests under way: whose caller is gone or whose time is up is stopped, wherever it is.

Triton cancels nothing by itself. It tells a model when asked (0.2 ms a request), and a request between two models hears
nothing of it, so one thread asks for all requests and tells the decoder.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from songstarter import event_log
from songstarter.errors import Cancelled, Unavailable
from songstarter.faces.visits import Visit

PERIOD = 0.05  # seconds

Gone = Callable[[], bool]


class Watch:
    """Stops visits, and cancels their orders until they are gone."""

    def __init__(self, cancel: Callable[[str], None], *, period: float = PERIOD) -> None:
        """``cancel`` tells the decoder that the order of this name shall end."""
        self._cancel = cancel
        self._period = period
        self._watched: dict[Visit, Gone] = {}
        self._lock = threading.Lock()
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, name="watch", daemon=True)
        self._thread.start()

    @contextmanager
    def watching(self, visit: Visit, gone: Gone) -> Iterator[None]:
        """Watch the visit within the block; after it, ``gone`` is not asked again, so its request may be answered."""
        with self._lock:
            self._watched[visit] = gone
        try:
            yield
        finally:
            with self._lock:
                del self._watched[visit]

    def close(self) -> None:
        """Stop every visit under way, since the service ends."""
        for visit in list(self._watched):
            visit.stop(Unavailable("the service is stopping: try again later"))
        self._look()
        self._ended.set()
        self._thread.join(timeout=5)

    def _run(self) -> None:
        while not self._ended.wait(self._period):
            self._look()

    def _look(self) -> None:
        for visit in list(self._watched):
            try:
                self._look_after(visit)
            except Exception as error:  # the next time may do
                event_log.write("watch_failed", error=type(error).__name__, reason=str(error))

    def _look_after(self, visit: Visit) -> None:
        visit.mind_the_time()
        if self._gone(visit):
            visit.stop(Cancelled("the caller is gone"))
        # Again and again: the order may reach the decoder after its cancellation.
        if visit.stopped and visit.order:
            self._cancel(visit.order)

    def _gone(self, visit: Visit) -> bool:
        with self._lock:  # so that nobody is asked whose request is answered
            gone = self._watched.get(visit)
            return gone is not None and gone()
