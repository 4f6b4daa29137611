"""A `songstarter serve` process, and what stands around it: its processes, its shared memory."""

from __future__ import annotations

import contextlib
import os
import re
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
from tiny_repository import free_ports

ROOT = Path(__file__).parents[2]


class Serve:
    """One `songstarter serve` process, its stderr read as it comes."""

    def __init__(
        self, repository: Path, run_directory: Path, *arguments: str, within: Sequence[str | Path] = ()
    ) -> None:
        """``within``: a command that runs another, such as one with mounts of its own."""
        self.ports = free_ports()
        self.url = f"http://127.0.0.1:{self.ports.http}"
        ports = [f"--{name}-port={port}" for name, port in vars(self.ports).items()]
        command = [*within, sys.executable, "-m", "songstarter.cli", "serve", f"--repository={repository}", *ports]
        self.process = subprocess.Popen(
            [*command, f"--run-directory={run_directory}", *arguments],
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            stderr=subprocess.PIPE,
            text=True,
        )
        self.lines: list[str] = []
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self.process.stderr is not None
        self.lines.extend(iter(self.process.stderr.readline, ""))

    def _read_all(self) -> None:
        self._reader.join(10)

    def said(self, pattern: str, times: int = 1, timeout: float = 20) -> None:
        """Wait until stderr holds the pattern so many times."""
        wait_until(lambda: len(re.findall(pattern, "".join(self.lines))) >= times, timeout, self.lines)

    @property
    def grpc_url(self) -> str:
        return f"127.0.0.1:{self.ports.grpc}"

    def end(self, number: int, timeout: float = 20) -> int:
        self.process.send_signal(number)
        return self.ended(timeout)

    def kill(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()

    def ended(self, timeout: float = 20) -> int:
        code = self.process.wait(timeout)
        self._read_all()
        return code


def wait_until(true: Callable[[], bool], timeout: float, seen: object) -> None:
    deadline = time.monotonic() + timeout
    while not true():
        if time.monotonic() > deadline:
            pytest.fail(f"did not happen within {timeout} s: {seen}")
        time.sleep(0.05)


def processes(run_directory: Path, *names: bytes) -> list[int]:
    """Pids of the processes (of these names) whose command line names a folder of this test."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            line = path.read_bytes()
        except OSError:
            continue
        if str(run_directory).encode() in line and all(name in line for name in names):
            found.append(int(path.parent.name))
    return found


def leaked_regions() -> list[Path]:
    """Regions of shared memory that no living process names: neither this test's nor another server's."""
    lines = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):
            lines.append(path.read_text(errors="replace"))
    return [
        region for region in Path("/dev/shm").glob("songstarter_*") if not any(region.name in line for line in lines)
    ]


def region_prefix(tritonserver: int) -> str:
    """What the names of a server's regions in /dev/shm begin with, from its command line."""
    line = Path(f"/proc/{tritonserver}/cmdline").read_text()
    found = re.search(r"shm-region-prefix-name=(\w+)", line)
    assert found
    return found[1]
