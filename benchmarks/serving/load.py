"""The two ways to load a server: so many callers who each wait for their song, or callers who come when they come.

closed loop   place 1  ├─ warm ─┼──────┼────┼─────┼ ─ ─        Requests that began in the window count. The load
              place 2  ├── warm ──┼────┼──────┼──────┤         goes on until the last of them is over.
                                  opened     closed
open loop     arrivals  · ·  ·   │ ·   ·· ·     · │            Latency counts from the arrival, whenever it was
                        warm-up  opened           closed       sent.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from benchmarks.serving.asking import Ask, Heard
from benchmarks.serving.records import Phase, Record, Run, Watcher, phase_of
from benchmarks.serving.scenario import Asked

MOST_IN_FLIGHT = 1024  # sockets of one open loop
NOTHING = Heard(0.0)
PAUSE_AFTER_FAILURE = 0.1  # seconds; a server that refuses at once must not be asked ten thousand times a second


@dataclass(frozen=True)
class Bounds:
    """How long a load is held: until the window has lasted ``seconds``, or ``requests`` that count are over.

    A closed loop's window lasts longer where a request takes longer: one for each place begins in it.
    """

    seconds: float
    requests: int | None = None
    warmup: int = 1  # requests of each place before the window opens


class Sender:
    """Sends requests one after the other or many at once, and keeps a record of each."""

    def __init__(self, ask: Ask, requests: Iterator[Asked], watchers: Sequence[Watcher] = ()) -> None:
        self._ask = ask
        self._requests = requests
        self._watchers = watchers
        self.records: list[Record] = []

    async def send(self, phase: Phase, scheduled: float | None = None) -> Record:
        """Send the next request; it was wanted at ``scheduled``, or now."""
        asked = next(self._requests)
        for watcher in self._watchers:
            watcher.began()
        record = await self._record(asked, scheduled)
        self.records.append(record)
        for watcher in self._watchers:
            watcher.ended(record, phase)
        return record

    async def _record(self, asked: Asked, scheduled: float | None) -> Record:
        began = time.monotonic()
        heard, error = NOTHING, None
        try:
            heard = await self._ask(asked)
        except Exception as found:  # whatever it is, it ends this request and not the run
            error = type(found).__name__
        ended = time.monotonic()
        wanted = began if scheduled is None else scheduled
        times = (wanted, began, heard.first_audio, ended)
        return Record(asked.number, *times, heard.audio_seconds, error, heard.stalled, asked.takes)


async def closed_loop(sender: Sender, concurrency: int, bounds: Bounds) -> Run:
    """Hold ``concurrency`` requests in flight."""
    window = _Window(bounds, places=concurrency)

    async def place() -> None:
        for _ in range(bounds.warmup):
            await sender.send("warm_up")
        window.warm()
        while window.needs_load:
            began = window.begin()
            record = await sender.send(window.phase(began), scheduled=began)
            window.end(began, record)
            if record.error:
                await asyncio.sleep(PAUSE_AFTER_FAILURE)

    await asyncio.gather(*(place() for _ in range(concurrency)))
    return Run(sender.records, window.opened, window.closed)


class _Window:
    """Opens when every place is warm, closes at its bound, though not before it has seen a request for each place."""

    def __init__(self, bounds: Bounds, places: int) -> None:
        self._bounds = bounds
        self._places = self._cold = places
        self._begun = 0
        self._under_way: list[float] = []  # when the requests in flight began
        self._over = 0
        self.opened = self.closed = math.inf

    def warm(self) -> None:
        self._cold -= 1
        if self._cold == 0:
            self.opened = time.monotonic()

    @property
    def needs_load(self) -> bool:
        """Whether the window is open or about to be, or a request that began in it is still under way."""
        return time.monotonic() < self.closed or any(self.opened <= began < self.closed for began in self._under_way)

    def phase(self, began: float) -> Phase:
        """Of a request that began just now: the window never opens or closes before the present."""
        return phase_of(began, self.opened, self.closed)

    def begin(self) -> float:
        began = time.monotonic()
        self._under_way.append(began)
        if self.opened <= began < self.closed:
            self._begun += 1
        if self._begun == self._places and self.closed == math.inf:
            self.closed = max(self.opened + self._bounds.seconds, math.nextafter(began, math.inf))
        return began

    def end(self, began: float, record: Record) -> None:
        self._under_way.remove(began)
        if self.opened <= began < self.closed:
            self._over += 1
            if self._over == self._bounds.requests:
                self.closed = min(self.closed, record.ended)


async def open_loop(
    sender: Sender, arrivals: Iterable[float], window: tuple[float, float], most_in_flight: int = MOST_IN_FLIGHT
) -> Run:
    """Send a request at each of ``arrivals``, whatever became of those before; all in seconds from the start.

    Where ``most_in_flight`` are under way a request waits, and its latency grows by that.
    """
    places = asyncio.Semaphore(most_in_flight)
    start = time.monotonic()
    opened, closed = window

    async def arrive(at: float) -> None:
        async with places:
            await sender.send(phase_of(at, opened, closed), scheduled=start + at)

    async with asyncio.TaskGroup() as group:
        for arrival in arrivals:
            await asyncio.sleep(start + arrival - time.monotonic())
            group.create_task(arrive(arrival))
    return Run(sender.records, start + opened, start + closed)
