"""Triton's log: kept in a file, shown on request, and read for the reason why a model did not load."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import sys
import threading
from pathlib import Path
from typing import IO

from songstarter.errors import ModelNotLoaded

# I1123 03:38:21.122877 4418 model_lifecycle.cc:472] "loading: codec:1"
LINE = re.compile(r'^[EIW]\d{4} \S+ \d+ \S+\] (".*")$')
LOADED = re.compile(r"successfully loaded '([^']+)'")
FAILURES = (
    re.compile(r"failed to load '(?P<model>[^']+)' version \d+: (?P<reason>.*)", re.DOTALL),
    re.compile(r"failed to poll model '(?P<model>[^']+)': (?P<reason>.*)", re.DOTALL),
    re.compile(r"Poll failed for model directory '(?P<model>[^']+)': (?P<reason>.*)", re.DOTALL),
)


LARGEST = 64 * 2**20  # bytes; a request's line has some two hundred


class ServerLog:
    """The log file of one server; what went before, of this server or the last one, is kept beside it."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def fresh(self) -> IO[bytes]:
        """An empty log, to be written by a server that starts now."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        if self.path.exists():
            self.path.replace(self.previous)
        return self.path.open("ab")  # who appends goes on at the beginning when the file is emptied

    @property
    def previous(self) -> Path:
        return self.path.with_suffix(".previous.log")

    def keep_small(self, largest: int = LARGEST) -> None:
        """Begin anew when the file has grown too large; a line that is written this moment may be lost."""
        with contextlib.suppress(OSError):  # somebody may have taken the file away: nothing of that may end a server
            if self.path.stat().st_size <= largest:
                return
            with contextlib.suppress(OSError):  # there may be no room for a copy, and there will be after this
                shutil.copyfile(self.path, self.previous)
            os.truncate(self.path, 0)

    def lines(self) -> list[str]:
        return self.path.read_text(errors="replace").splitlines()

    def messages(self) -> list[str]:
        """What Triton itself said, unquoted."""
        matches = filter(None, map(LINE.match, self.lines()))
        return [json.loads(match[1], strict=False) for match in matches]

    def loaded(self) -> set[str]:
        return {match[1] for match in map(LOADED.match, self.messages()) if match}

    def failure(self) -> ModelNotLoaded | None:
        """The first model that did not load, with Triton's reason."""
        for message in self.messages():
            for pattern in FAILURES:
                if match := pattern.match(message):
                    return ModelNotLoaded(f"{match['model']} did not load: {sentence(match['reason'])}")
        return None

    def last_words(self) -> str:
        """The last line, for an end that Triton did not explain."""
        spoken = [line for line in self.lines() if line and line[0] not in "|+"]
        errors = [line for line in spoken if line.startswith("error: ")]
        return [*spoken, *errors][-1] if spoken else "it said nothing"


def sentence(reason: str) -> str:
    """A reason on one line, without the traceback that Triton appends to a Python model's exception."""
    return " ".join(reason.split("\n\nAt:")[0].split())


class Echo(threading.Thread):
    """Shows a growing log on stderr until it is told to stop."""

    def __init__(self, log: ServerLog) -> None:
        super().__init__(name="server-log", daemon=True)
        self._log = log
        self._ended = threading.Event()

    def run(self) -> None:
        with self._log.path.open(errors="replace") as log:
            while not self._ended.wait(0.2):
                sys.stderr.write(log.read())
                if os.fstat(log.fileno()).st_size < log.tell():  # it was emptied
                    log.seek(0)
            sys.stderr.write(log.read())

    def stop(self) -> None:
        self._ended.set()
        self.join()
