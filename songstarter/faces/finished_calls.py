"""Calls between models that are over, held for a while longer.

Triton 24.10 frees a finished call's responses on a thread of its own, without Python's lock, if it is the last to hold
them; their arrays are Python's, whose memory is then damaged, and the process ends sooner or later (python_backend
frees them under the lock from 24.12 on). Who holds the call until Triton has let go of it frees it in peace.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Generator, Iterable
from typing import TypeVar

HELD = 10.0  # seconds; Triton lets go within milliseconds, or as long as its thread waits for the processor

SETTLING = 0.5  # seconds

T = TypeVar("T")


class FinishedCalls:
    """Reads calls' responses, and holds the calls for ``HELD`` seconds after their end."""

    def __init__(self, *, held: float = HELD) -> None:
        self._held = held
        self._calls: deque[tuple[float, object]] = deque()  # the oldest first
        self._lock = threading.Lock()

    def read(self, responses: Iterable[T]) -> Generator[T, None, None]:
        """Each response of a call as it comes; read it to its end, or close it."""
        try:
            yield from responses
        finally:
            self._hold(responses)

    def let_go(self) -> None:
        """Free every call that is held, while Triton is still there.

        That tells Triton of each, on another thread; a model that ended before all are told would never be unloaded.
        """
        with self._lock:
            held = len(self._calls)
            self._calls.clear()
        if held:
            time.sleep(SETTLING)

    def _hold(self, call: object) -> None:
        now = time.monotonic()
        with self._lock:
            self._calls.append((now, call))
            while now - self._calls[0][0] > self._held:
                self._calls.popleft()
