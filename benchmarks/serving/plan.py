"""What was asked on the command line."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.serving.load import Bounds
from benchmarks.serving.scenario import Scenario
from songstarter.key import Key


@dataclass(frozen=True)
class Plan:
    """A run: where, what and how much. Either ``url`` or ``serve`` is given."""

    scenario: Scenario
    scenario_name: str  # as it was given: the bare engine's process reads it anew
    bounds: Bounds
    url: str | None = None
    serve: Path | None = None
    key: Key | None = None  # the server's, where it asks for one
    ca_file: Path | None = None  # who signs its certificate, where the usual ones do not
    statistics: str | None = None  # HOST:PORT of Triton's HTTP, or a URL; None: guessed from the server's
    stream: bool = False  # listen while the songs are made
    concurrency: Sequence[int] = ()
    rates: Sequence[float] = ()
    find_knee: bool = False
    latency_limit: float | None = None
    bare: Path | None = None
    rounds: int = 1
    timeout: float = 300.0
    seed: int = 0  # of the arrivals
