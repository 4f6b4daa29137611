"""The time that passes, shown on stderr while a song is made."""

from __future__ import annotations

import sys
import threading
import time
from types import TracebackType
from typing import TextIO

LIVE_INTERVAL = 0.1  # seconds: a terminal's line
LINE_INTERVAL = 15.0  # seconds: a line now and then for a log
CLEAR = "\r\x1b[K"


class Progress:
    """Shows label and the seconds so far until it is left; a terminal gets one live line, a log few lines."""

    def __init__(self, label: str, stream: TextIO = sys.stderr) -> None:
        self._label = label
        self._stream = stream
        self._live = stream.isatty()
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._show, daemon=True)

    def __enter__(self) -> Progress:
        self._started = time.monotonic()
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, problem: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._done.set()
        self._thread.join()
        if self._live:
            self._write(CLEAR)

    def _show(self) -> None:
        while not self._done.wait(LIVE_INTERVAL if self._live else LINE_INTERVAL):
            text = f"{self._label} {time.monotonic() - self._started:.1f} s"
            self._write(CLEAR + text if self._live else text + "\n")

    def _write(self, text: str) -> None:
        self._stream.write(text)
        self._stream.flush()
