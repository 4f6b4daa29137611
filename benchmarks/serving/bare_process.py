"""Runs the bare engine in a process of its own, and brings back what it recorded."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

from benchmarks.serving.load import Bounds
from benchmarks.serving.records import Record, Run
from songstarter.errors import SongstarterError


class BareFailed(SongstarterError):
    """The bare engine's process did not come to an end."""


def measure(repository: Path, scenario: str, concurrency: int, bounds: Bounds) -> Run:
    """One closed loop in a new process.

    Raises:
        BareFailed: it ended with an error; the message is its last line.
    """
    limits = {"--seconds": bounds.seconds, "--requests": bounds.requests, "--warmup": bounds.warmup}
    given = {"--repository": repository, "--scenario": scenario, "--concurrency": concurrency} | limits
    options = [str(word) for option, value in given.items() if value is not None for word in (option, value)]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    command = [sys.executable, "-m", "benchmarks.serving.bare", *options]
    ran = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    if ran.returncode:
        raise BareFailed(f"the bare engine ended with {ran.returncode}: {(ran.stderr.splitlines() or ['?'])[-1]}")
    found = json.loads(ran.stdout.splitlines()[-1])
    return Run([Record(**record) for record in found["records"]], found["opened"], found["closed"])
