"""How it goes, on stderr: one live line on a terminal, a line now and then in a log."""

from __future__ import annotations

import sys
import time
from collections import Counter
from typing import TextIO

from benchmarks.serving.records import Phase, Record

LIVE_INTERVAL = 0.2  # seconds
LINE_INTERVAL = 10.0
CLEAR = "\r\x1b[K"


class Progress:
    """A `Watcher` that tells people; `start` names what follows."""

    def __init__(self, stream: TextIO | None = None) -> None:
        self._stream = stream or sys.stderr
        self._live = self._stream.isatty()
        self._interval = LIVE_INTERVAL if self._live else LINE_INTERVAL
        self.start("")

    def start(self, label: str) -> None:
        self._label = label
        self._counts: Counter[str] = Counter()
        self._under_way = 0
        self._audio_seconds = 0.0
        self._started = self._shown = time.monotonic()

    def say(self, sentence: str) -> None:
        self._write(f"{CLEAR if self._live else ''}{sentence}\n")

    def began(self) -> None:
        self._under_way += 1
        self._show()

    def ended(self, record: Record, phase: Phase) -> None:
        self._under_way -= 1
        self._counts[record.error or "answered"] += 1
        self._audio_seconds += record.audio_seconds
        self._show()

    def _show(self) -> None:
        now = time.monotonic()
        if now - self._shown < self._interval:
            return
        self._shown = now
        counts = ", ".join(f"{number} {outcome}" for outcome, number in sorted(self._counts.items()))
        text = (
            f"{self._label}: {now - self._started:.0f} s, {self._under_way} under way, {counts or 'none over'}, "
            f"{self._audio_seconds:.0f} s of audio"
        )
        self._write(CLEAR + text if self._live else text + "\n")

    def _write(self, text: str) -> None:
        self._stream.write(text)
        self._stream.flush()
