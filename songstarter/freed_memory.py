"""Memory that was freed goes back to the system once a minute.

C's allocator keeps what lies below anything that is still in use. A model's heap would stay as large as in the fullest
moment it ever had, and the fuller moments come, the longer one waits.
"""

from __future__ import annotations

import ctypes
import threading

PERIOD = 60.0  # seconds
KEPT_BYTES = 1 << 20  # that the allocator may keep at the end of its heap


class FreedMemory:
    """A thread that gives it back, where the allocator is one that can (glibc's is, musl's is not)."""

    def __init__(self, *, period: float = PERIOD) -> None:
        self._trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
        self._period = period
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, name="freed memory", daemon=True)

    def start(self) -> None:
        if self._trim:
            self._thread.start()

    def stop(self) -> None:
        self._ended.set()

    def _run(self) -> None:
        assert self._trim
        self._trim.argtypes = (ctypes.c_size_t,)
        while not self._ended.wait(self._period):
            self._trim(KEPT_BYTES)
