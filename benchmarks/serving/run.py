"""A run from start to end: the server, the sweep, the search for the knee, the bare engine in between."""

from __future__ import annotations

import asyncio
import os
import tempfile
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import ExitStack, asynccontextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING

from benchmarks.serving import bare_process
from benchmarks.serving.arrivals import poisson
from benchmarks.serving.asking import Streamed, Unary
from benchmarks.serving.figures import LEAST_REQUESTS, Key, Level, Loop, held, latency_limit, level
from benchmarks.serving.load import Sender, closed_loop, open_loop
from benchmarks.serving.plan import Plan
from benchmarks.serving.progress import Progress
from benchmarks.serving.records import Run, Watcher
from benchmarks.serving.triton import NoStatistics, Snapshot, Stretch, TritonStatistics, stage_figures
from songstarter.errors import SongstarterError
from songstarter_client import AsyncClient
from songstarter_client.address import Address, parse_address

if TYPE_CHECKING:
    from benchmarks.serving.prometheus import Exporter

READY_TIMEOUT = 60.0
# Of an open loop's window, in front of it: long enough for songs to be under way when counting begins.
WARM_SHARE = 0.25
# What a rate is held for where the knee is looked for: hardly ever will fewer than LEAST_REQUESTS come.
KNEE_REQUESTS = 2 * LEAST_REQUESTS
FIRST_RATE_SHARE = 0.4  # of what the closed loop reached, or of one request a second
DOUBLINGS, HALVINGS = 8, 3


class NothingAnswered(SongstarterError):
    """Every request of the first load failed."""


@dataclass
class Findings:
    """Everything that was measured, by load."""

    runs: dict[Key, list[Run]] = field(default_factory=dict)
    stretches: dict[Key, list[Stretch]] = field(default_factory=dict)
    bare: dict[int, list[Run]] = field(default_factory=dict)
    server: str = "unknown"
    statistics_missing: str | None = None
    load_average: list[float] = field(default_factory=lambda: [os.getloadavg()[0]])

    @property
    def levels(self) -> list[Level]:
        return [self.level(key) for key in sorted(self.runs)]

    def level(self, key: Key) -> Level:
        stretches = self.stretches.get(key, [])
        return level(*key, self.runs[key], stage_figures(stretches) if stretches else ())

    def bare_level(self, concurrency: int) -> Level:
        return level("closed", concurrency, self.bare[concurrency])

    def ratio(self, concurrency: int) -> float:
        """Served over bare, seconds of audio per second: the median over rounds."""
        pairs = zip(self.runs["closed", concurrency], self.bare[concurrency], strict=True)
        speeds = [[level("closed", concurrency, [run]).audio_seconds_per_second for run in pair] for pair in pairs]
        return median(served / bare if bare else 0.0 for served, bare in speeds)


def measure(plan: Plan, progress: Progress, exporter: Exporter | None = None) -> Findings:
    """Do what the plan says.

    Raises:
        SongstarterError: no server, or none of its answers was a song.
    """
    with ExitStack() as stack:
        url, statistics = plan.url, plan.statistics
        if plan.serve is not None:
            url, statistics = _serve(plan.serve, progress, stack)
        url = url or "127.0.0.1:8001"
        asked = parse_address(statistics, "http") if statistics else http_address(url)
        bench = Bench(plan, url, TritonStatistics(asked, plan.key, plan.ca_file), progress, exporter)
        return asyncio.run(bench.run())


def _serve(repository: Path, progress: Progress, stack: ExitStack) -> tuple[str, str]:
    """Start a server that lives as long as the stack: its gRPC and HTTP addresses."""
    from songstarter.server.launch import Ports
    from songstarter.server.server import Server

    run_directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="songstarter-bench-")))
    progress.say(f"starting Triton with {repository}")
    server = stack.enter_context(Server(repository, Ports.free(), run_directory, tell=progress.say))
    return server.grpc_url, server.http_url.removeprefix("http://")


def http_address(url: str) -> Address:
    """Where Triton has HTTP: the address itself, the port before the gRPC one, or a proxy's port for both."""
    address = parse_address(url)
    match address.scheme:
        case "grpc":
            return replace(address, scheme="http", port=address.port - 1)
        case "grpcs":
            return replace(address, scheme="https")
        case _:
            return address


class Bench:
    """One server under one plan."""

    def __init__(
        self, plan: Plan, url: str, statistics: TritonStatistics, progress: Progress, exporter: Exporter | None
    ) -> None:
        self._plan = plan
        self._url = url
        self._statistics = statistics
        self._progress = progress
        self._exporter = exporter
        self._findings = Findings()

    async def run(self) -> Findings:
        key = self._plan.key.text if self._plan.key else None
        async with AsyncClient(self._url, timeout=self._plan.timeout, key=key, ca_file=self._plan.ca_file) as client:
            await client.wait_ready(READY_TIMEOUT)
            self._ask = Streamed(client) if self._plan.stream else Unary(client)
            self._note_server()
            await self._sweep()
            for rate in self._plan.rates:
                await self._arriving(rate)
            if self._plan.find_knee:
                await self._find_knee()
        self._findings.load_average.append(os.getloadavg()[0])
        return self._findings

    async def _sweep(self) -> None:
        """Every concurrency, and the bare engine right after it, so that both meet the same neighbours."""
        for _ in range(self._plan.rounds):
            for concurrency in self._plan.concurrency:
                await self._in_flight(concurrency)
                if self._plan.bare is not None:
                    await self._bare(self._plan.bare, concurrency)

    async def _in_flight(self, concurrency: int) -> None:
        async with self._level("closed", concurrency) as sender:
            run = await closed_loop(sender, concurrency, self._plan.bounds)
        self._keep(("closed", concurrency), run)

    async def _arriving(self, rate: float, *, requests: int = 0) -> None:
        """Hold a rate for as long as the plan says, and as long as so many requests take to come."""
        seconds = max(self._plan.bounds.seconds, requests / rate)
        if self._plan.bounds.requests is not None:
            seconds = min(seconds, self._plan.bounds.requests / rate)
        opened, closed = WARM_SHARE * seconds, (1 + WARM_SHARE) * seconds
        arrivals = poisson(rate, closed, seed=self._plan.seed)
        async with self._level("open", rate) as sender:
            run = await open_loop(sender, arrivals, (opened, closed))
        self._keep(("open", rate), run)

    async def _find_knee(self) -> None:
        """Twice the rate until it is not held, then halve the distance."""
        best = max((found.requests_per_second for found in self._findings.levels), default=1.0)
        low, high = 0.0, FIRST_RATE_SHARE * best
        for _ in range(DOUBLINGS):
            await self._arriving(high, requests=KNEE_REQUESTS)
            if not self._held(high):
                break
            low, high = high, 2 * high
        for _ in range(HALVINGS if low else 0):
            middle = (low + high) / 2
            await self._arriving(middle, requests=KNEE_REQUESTS)
            low, high = (middle, high) if self._held(middle) else (low, middle)

    def _held(self, rate: float) -> bool | None:
        lowest = min(found for loop, found in self._findings.runs if loop == "open")
        limit = latency_limit(self._findings.level(("open", lowest)), self._plan.latency_limit)
        return held(self._findings.level(("open", rate)), limit)

    async def _bare(self, repository: Path, concurrency: int) -> None:
        self._progress.say(f"the bare engine, {concurrency} in flight")
        arguments = (repository, self._plan.scenario_name, concurrency, self._plan.bounds)
        self._findings.bare.setdefault(concurrency, []).append(
            await asyncio.to_thread(bare_process.measure, *arguments)
        )

    @asynccontextmanager
    async def _level(self, loop: Loop, load: float) -> AsyncIterator[Sender]:
        """A sender for one level; Triton's counters are read before and after it."""
        self._progress.start(f"{load:g} in flight" if loop == "closed" else f"{load:.3g} a second")
        watchers: Sequence[Watcher] = [self._progress]
        if self._exporter is not None:
            self._exporter.start(loop, load)
            watchers = [*watchers, self._exporter]
        before = self._snapshot()
        began = time.monotonic()
        yield Sender(self._ask, self._plan.scenario.requests(), watchers)
        seconds = time.monotonic() - began
        after = self._snapshot()
        if before is not None and after is not None:
            self._findings.stretches.setdefault((loop, load), []).append(Stretch(before, after, seconds))

    def _keep(self, key: Key, run: Run) -> None:
        if not self._findings.runs and all(record.error for record in run.records):
            kinds = sorted({str(record.error) for record in run.records})
            raise NothingAnswered(f"{self._url} answered none of {len(run.records)} requests: {', '.join(kinds)}")
        self._findings.runs.setdefault(key, []).append(run)
        self._progress.say(sentence(self._findings.level(key)))

    def _note_server(self) -> None:
        try:
            self._findings.server = self._statistics.server()
        except NoStatistics as problem:
            self._findings.statistics_missing = str(problem)
            self._progress.say(f"queue times and batch sizes stay unknown: {problem}")

    def _snapshot(self) -> Snapshot | None:
        if self._findings.statistics_missing:
            return None
        try:
            return self._statistics.snapshot()
        except NoStatistics as problem:
            self._findings.statistics_missing = str(problem)
            return None


def sentence(found: Level) -> str:
    waited = f", p50 {found.latency.p50:.2f} s" if found.latency else ""
    failed = f", {sum(found.errors.values())} failed" if found.errors else ""
    return f"{found.name}: {found.audio_seconds_per_second:.1f} s of audio a second{waited}{failed}"
