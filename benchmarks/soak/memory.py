"""How much memory a server's processes take, over time, and where that leads."""

from __future__ import annotations

import asyncio
import contextlib
import time
from dataclasses import dataclass, field
from pathlib import Path
from statistics import StatisticsError, linear_regression
from typing import Any

from songstarter.server.server import Server

PERIOD = 2.0  # seconds
SETTLED = 0.3  # of the time: before that, buffers and pools grow to their size
MIB = 2**20


@dataclass
class Memory:
    """Samples of a server's resident memory, process by process, and of what it holds in /dev/shm."""

    server: Server
    samples: list[tuple[float, dict[str, int]]] = field(default_factory=list)
    at_rest: list[dict[str, int]] = field(default_factory=list)  # before the load, and after it

    async def watch(self, until: float) -> None:
        while time.monotonic() < until:
            self.samples.append((time.monotonic(), self.look()))
            await asyncio.sleep(PERIOD)

    async def rest(self, seconds: float) -> None:
        """Look when nothing has been under way for a while: what is there now, nobody uses for a request."""
        await asyncio.sleep(seconds)
        self.at_rest.append(self.look())

    def look(self) -> dict[str, int]:
        """Bytes by process; shared pages are counted once, as shared memory."""
        pids = {"tritonserver": [self.server.pid], **self.server.stubs()}
        anonymous = {name: sum(_anonymous(pid) for pid in found) for name, found in pids.items()}
        return anonymous | {"/dev/shm": self.server.shared_bytes()}

    def document(self) -> dict[str, Any]:
        if len(self.samples) < 4:
            return {"samples": len(self.samples)}
        names = self.samples[-1][1]
        series = {name: [(when, sample.get(name, 0)) for when, sample in self.samples] for name in names}
        series["total"] = [(when, sum(sample.values())) for when, sample in self.samples]
        return {
            "samples": len(self.samples),
            "mib": {name: {"first": _mib(found[0]), "last": _mib(found[-1])} for name, found in series.items()},
            "slope_mib_per_hour": {name: _slope(found) for name, found in series.items()},
            "slope_from": f"the last {1 - SETTLED:.0%} of the time",
            "mib_at_rest": {name: [round(sample.get(name, 0) / MIB, 1) for sample in self.at_rest] for name in names},
        }


def _mib(sample: tuple[float, int]) -> float:
    return round(sample[1] / MIB, 1)


def _slope(series: list[tuple[float, int]]) -> float | None:
    settled = series[int(SETTLED * len(series)) :]
    with contextlib.suppress(StatisticsError):
        line = linear_regression([when for when, _ in settled], [size for _, size in settled])
        return round(line.slope * 3600 / MIB, 2)
    return None


def _anonymous(pid: int) -> int:
    with contextlib.suppress(OSError):
        for line in Path(f"/proc/{pid}/status").read_text().splitlines():
            if line.startswith("RssAnon:"):
                return int(line.split()[1]) * 1024
    return 0
