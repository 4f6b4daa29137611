"""What records come to: rates, percentiles, errors by kind, and the rate that a server can bear."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from benchmarks.serving.records import Record, Run
from benchmarks.serving.triton import StageFigures

# By how many seconds it takes to tell: of fewer, a percentile would be the slowest one by another name.
PERCENTILES = {50: 1, 90: 10, 95: 20, 99: 100}
SHORTEST_STALL = 0.001  # seconds; less is the clock's doing
Loop = Literal["closed", "open"]
Key = tuple[Loop, float]  # a load

# An open loop is held while next to nothing fails and nearly all that arrives is answered in time.
MOST_FAILED = 0.01
LATENCY_GROWTH = 3.0  # times the median at the lowest rate, where no limit is given
LEAST_REQUESTS = PERCENTILES[95]  # without which nothing is said


@dataclass(frozen=True)
class Spread:
    """Seconds that many requests took; a percentile that they are too few for is None."""

    mean: float
    p50: float
    p90: float | None
    p95: float | None
    p99: float | None
    max: float


@dataclass(frozen=True)
class Level:
    """What was found at one load: so many in flight (closed loop) or arriving per second (open loop).

    Rates count every request with the share of its time that lies in the window, so that songs which begin or
    end outside it neither help nor harm. Latencies are those of the requests that began in the window.
    """

    loop: Loop
    load: float
    seconds: float
    requests: int
    errors: dict[str, int]
    requests_per_second: float
    audio_seconds_per_second: float
    real_time_factor: float | None  # latency over seconds of audio, the median; below 1 is faster than it plays
    latency: Spread | None  # None where nothing succeeded
    first_audio: Spread | None  # None where answers come in one piece
    stalled_share: float | None  # of the streams, those whose playing would have fallen silent before its end
    arrived_per_second: float | None  # open loop: what really arrived in the window
    stages: tuple[StageFigures, ...]  # empty where Triton could not be asked

    @property
    def name(self) -> str:
        return f"{self.load:g} in flight" if self.loop == "closed" else f"{self.load:.3g}/s"

    @property
    def failed_share(self) -> float:
        return sum(self.errors.values()) / self.requests if self.requests else 0.0


def level(loop: Loop, load: float, runs: Sequence[Run], stages: Sequence[StageFigures] = ()) -> Level:
    """The figures of all runs at one load together."""
    counted = [record for run in runs for record in run.counted]
    answered = [record for record in counted if record.error is None]
    seconds = sum(run.seconds for run in runs)
    return Level(
        loop=loop,
        load=load,
        seconds=seconds,
        requests=len(counted),
        errors=dict(Counter(record.error for record in counted if record.error is not None)),
        requests_per_second=_shares(runs, lambda record: 1.0) / seconds,
        audio_seconds_per_second=_shares(runs, lambda record: record.audio_seconds) / seconds,
        real_time_factor=percentile([record.latency / record.audio_seconds for record in answered], 50),
        latency=spread([record.latency for record in answered]),
        first_audio=spread(
            [record.first_audio - record.scheduled for record in answered if record.first_audio is not None]
        ),
        stalled_share=_stalled_share(answered),
        arrived_per_second=len(counted) / seconds if loop == "open" else None,
        stages=tuple(stages),
    )


def _stalled_share(answered: Sequence[Record]) -> float | None:
    stalls = [record.stalled > SHORTEST_STALL for record in answered if record.stalled is not None]
    return sum(stalls) / len(stalls) if stalls else None


def _shares(runs: Sequence[Run], worth: Callable[[Record], float]) -> float:
    """The worth of the answered requests, each by its share in its run's window."""
    return sum(
        worth(record) * record.share_in(run.opened, run.closed)
        for run in runs
        for record in run.records
        if record.error is None
    )


def spread(seconds: Sequence[float]) -> Spread | None:
    if not seconds:
        return None
    p90, p95, p99 = (
        percentile(seconds, share) if len(seconds) >= PERCENTILES[share] else None for share in (90, 95, 99)
    )
    return Spread(float(np.mean(seconds)), float(np.median(seconds)), p90, p95, p99, float(np.max(seconds)))


def percentile(values: Sequence[float], share: float) -> float | None:
    """Between the two neighbours where it falls between them; None of nothing."""
    return float(np.percentile(values, share)) if values else None


def held(found: Level, limit: float) -> bool | None:
    """Whether a server bears a rate: no more than 1 % fails, and p95 latency stays within ``limit`` seconds.

    None where fewer than ``LEAST_REQUESTS`` came, which say neither.
    """
    if found.requests < LEAST_REQUESTS:
        return None
    latency = found.latency.p95 if found.latency else None
    return found.failed_share <= MOST_FAILED and latency is not None and latency <= limit


def latency_limit(lowest: Level, wished: float | None) -> float:
    """Seconds that p95 may reach: as wished, or three times the median at the lowest rate."""
    if wished is not None:
        return wished
    return LATENCY_GROWTH * lowest.latency.p50 if lowest.latency else 0.0


def knee(levels: Sequence[Level], wished: float | None) -> float | None:
    """The highest rate of an open loop that was held, up to the first that was not; None if none was."""
    rates = sorted((found for found in levels if found.loop == "open"), key=lambda found: found.load)
    best = None
    for found in rates:
        verdict = held(found, latency_limit(rates[0], wished))
        if verdict is False:
            break
        best = found.load if verdict else best
    return best
