"""Running our side in a process of its own, within what is left of the time."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.machine import ROOT

LAST_WORDS = 6  # lines: a library that is missing is named some lines before the error that it leads to


class SideFailed(Exception):
    """The process ended before its time; the message says how."""


@dataclass(frozen=True)
class Budget:
    """The time by which the last measurement must have begun."""

    deadline: float  # of the monotonic clock

    @property
    def left(self) -> float:
        return self.deadline - time.monotonic()

    def require(self) -> None:
        if self.left <= 0:
            raise SideFailed("not measured: the time was spent")


def run_side(arguments: Sequence[str | Path], budget: Budget) -> Iterator[dict[str, Any]]:
    """The lines of JSON that ``benchmarks.gpu_side`` prints, as they come.

    Raises:
        SideFailed: it crashed, or the time was spent.
    """
    budget.require()
    command = [sys.executable, "-m", "benchmarks.gpu_side", *map(str, arguments)]
    with tempfile.TemporaryFile("w+") as complaints:
        process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=complaints, text=True)
        alarm = threading.Timer(budget.left, process.kill)
        alarm.start()
        assert process.stdout is not None
        try:
            for line in process.stdout:
                if line.startswith("{"):
                    yield json.loads(line)
            code = process.wait()
        finally:
            alarm.cancel()
            process.kill()
            process.wait()
        if code:
            complaints.seek(0)
            said = complaints.read().strip()
            print(said, file=sys.stderr, flush=True)
            raise SideFailed(_in_words(code, said.splitlines(), budget))


def _in_words(code: int, complaints: list[str], budget: Budget) -> str:
    if budget.left <= 0:
        return "ended, because the time was spent"
    how = f"signal {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"
    return f"ended with {how}: {' | '.join(complaints[-LAST_WORDS:]) if complaints else 'it said nothing'}"
