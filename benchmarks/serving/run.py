"""A run from start to end: the server, the sweep, the search for the knee, the bare engine in between."""

from __future__ import annotations

import asyncio
import math
import os
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import ExitStack, asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks.serving import bare_process, knee
from benchmarks.serving.arrivals import poisson
from benchmarks.serving.asking import Streamed, Unary
from benchmarks.serving.figures import Key, Level, Loop
from benchmarks.serving.findings import Findings
from benchmarks.serving.load import Bounds, Sender, closed_loop, open_loop
from benchmarks.serving.plan import Plan
from benchmarks.serving.progress import Progress
from benchmarks.serving.records import Run, Watcher
from benchmarks.serving.triton import NoStatistics, Snapshot, Stretch, TritonStatistics
from songstarter.contract import PUBLIC_MODEL, STREAM_MODEL
from songstarter.errors import SongstarterError
from songstarter_client import AsyncClient
from songstarter_client.address import Address, parse_address

if TYPE_CHECKING:
    from benchmarks.serving.prometheus import Exporter

READY_TIMEOUT = 60.0
# Of an open loop's window, in front of it: long enough for songs to be under way when counting begins.
WARM_SHARE = 0.25

Window = tuple[float, float]  # when it opens and closes, in seconds from the start
Keep = Callable[[], None]


class NothingAnswered(SongstarterError):
    """Every request of the first load failed."""


def measure(plan: Plan, findings: Findings, progress: Progress, keep: Keep, exporter: Exporter | None = None) -> None:
    """Do what the plan says; ``keep`` is called whenever there is more in the findings than before.

    Raises:
        SongstarterError: no server, or none of its answers was a song. What was found until then stays in findings.
    """
    with ExitStack() as stack:
        url, statistics = plan.url, plan.statistics
        if plan.serve is not None:
            url, statistics = _serve(plan.serve, progress, stack)
        url = url or "127.0.0.1:8001"
        asked = parse_address(statistics, "http") if statistics else http_address(url)
        watch = Watch(progress, keep, exporter)
        try:
            asyncio.run(Bench(plan, url, TritonStatistics(asked, plan.key, plan.ca_file), findings, watch).run())
        finally:
            findings.load_average.append(os.getloadavg()[0])


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


@dataclass(frozen=True)
class Watch:
    """Who is told how it goes."""

    progress: Progress
    keep: Keep
    exporter: Exporter | None = None

    def start(self, loop: Loop, load: float) -> list[Watcher]:
        """A load begins: who wants to see its requests."""
        self.progress.start(f"{load:g} in flight" if loop == "closed" else f"{load:.3g} a second")
        if self.exporter is None:
            return [self.progress]
        self.exporter.start(loop, load)
        return [self.progress, self.exporter]


class Bench:
    """One server under one plan."""

    def __init__(self, plan: Plan, url: str, statistics: TritonStatistics, findings: Findings, watch: Watch) -> None:
        self._plan = plan
        self._url = url
        self._statistics = statistics
        self._findings = findings
        self._watch = watch
        findings.model = STREAM_MODEL if plan.stream else PUBLIC_MODEL

    async def run(self) -> None:
        key = self._plan.key.text if self._plan.key else None
        async with AsyncClient(self._url, timeout=self._plan.timeout, key=key, ca_file=self._plan.ca_file) as client:
            await client.wait_ready(READY_TIMEOUT)
            self._ask = Streamed(client) if self._plan.stream else Unary(client)
            self._note_server()
            await self._sweep()
            for rate in self._plan.rates:
                await self._arriving(rate)
            if self._plan.find_knee:
                await self.find_knee()
        self._findings.complete = True

    async def _sweep(self) -> None:
        """Every concurrency, and the bare engine right after it, so that both meet the same neighbours."""
        for _ in range(self._plan.rounds):
            for concurrency in self._plan.concurrency:
                await self._in_flight(concurrency, self._plan.bounds)
                if self._plan.bare is not None:
                    await self._bare(self._plan.bare, concurrency)

    async def _in_flight(self, concurrency: int, bounds: Bounds) -> None:
        self._note(("closed", concurrency), await self.hold(concurrency, bounds))

    async def _arriving(self, rate: float, *, at_least: float = 0.0) -> None:
        """Keep a rate up for as long as the plan says, or for longer."""
        seconds = max(self._plan.bounds.seconds, at_least)
        if self._plan.bounds.requests is not None:
            seconds = min(seconds, self._plan.bounds.requests / rate)
        window = WARM_SHARE * seconds, (1 + WARM_SHARE) * seconds
        arrivals = poisson(rate, window[1], seed=self._plan.seed)
        self._note(("open", rate), await self.let_come(rate, arrivals, window))

    async def hold(self, concurrency: int, bounds: Bounds) -> Run:
        """One closed loop."""
        async with self._level("closed", concurrency) as sender:
            return await closed_loop(sender, concurrency, bounds)

    async def let_come(self, rate: float, arrivals: Iterable[float], window: Window) -> Run:
        """One open loop."""
        async with self._level("open", rate) as sender:
            return await open_loop(sender, arrivals, window)

    async def find_knee(self) -> None:
        """Learn from closed loops what a song takes and what the server can do, then try rates near that."""
        await self._alone()
        if ("closed", knee.FILLED) not in self._findings.runs:
            await self._in_flight(knee.FILLED, self._plan.bounds)
        first = knee.first_rate(self._findings.levels)
        one = self._findings.level(("closed", knee.ALONE))
        verdicts: dict[float, bool | None] = {}
        while first and (rate := knee.next_rate(first, verdicts)) is not None:
            await self._arriving(rate, at_least=knee.seconds_to_hold(rate, one))
            limit = knee.latency_limit(self._findings.levels, self._plan.latency_limit)
            verdicts[rate] = knee.held(self._findings.level(("open", rate)), limit)

    async def _alone(self) -> None:
        """One song after the other, enough of them to know what slow ones take."""
        found = knee.alone(self._findings.levels)
        if found is None or found.requests < knee.LEAST_REQUESTS:
            requests = min(knee.LEAST_REQUESTS, self._plan.bounds.requests or knee.LEAST_REQUESTS)
            await self._in_flight(knee.ALONE, replace(self._plan.bounds, seconds=math.inf, requests=requests))

    async def _bare(self, repository: Path, concurrency: int) -> None:
        self._watch.progress.say(f"the bare engine, {concurrency} in flight")
        arguments = (repository, self._plan.scenario_name, concurrency, self._plan.bounds)
        run = await asyncio.to_thread(bare_process.measure, *arguments)
        self._findings.bare.setdefault(concurrency, []).append(run)
        self._watch.keep()

    @asynccontextmanager
    async def _level(self, loop: Loop, load: float) -> AsyncIterator[Sender]:
        """A sender for one level; Triton's counters are read before and after it."""
        watchers = self._watch.start(loop, load)
        before = self._snapshot()
        began = time.monotonic()
        yield Sender(self._ask, self._plan.scenario.requests(), watchers)
        seconds = time.monotonic() - began
        after = self._snapshot()
        if before is not None and after is not None:
            self._findings.stretches.setdefault((loop, load), []).append(Stretch(before, after, seconds))

    def _note(self, key: Key, run: Run) -> None:
        if not self._findings.runs and all(record.error for record in run.records):
            kinds = sorted({str(record.error) for record in run.records})
            raise NothingAnswered(f"{self._url} answered none of {len(run.records)} requests: {', '.join(kinds)}")
        self._findings.runs.setdefault(key, []).append(run)
        found = self._findings.level(key)
        for line in filter(None, (sentence(found), found.stages_doubt)):
            self._watch.progress.say(line)
        self._watch.keep()

    def _note_server(self) -> None:
        try:
            self._findings.server = self._statistics.server()
        except NoStatistics as problem:
            self._findings.statistics_missing = str(problem)
            self._watch.progress.say(f"queue times and batch sizes stay unknown: {problem}")

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
