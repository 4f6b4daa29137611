"""What records come to: rates, percentiles, errors by kind, and whether it went on as it began."""

from __future__ import annotations

import math
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
class Course:
    """How an open loop's window went: by its ends one sees whether it could have gone on like that."""

    early_p50: float  # latency of the first third of the answered requests
    late_p50: float  # of the last third
    backlog: int  # requests under way when it closed, less those when it opened


@dataclass(frozen=True)
class Level:
    """What was found at one load: so many in flight (closed loop) or arriving per second (open loop).

    Rates count every request with the share of its time that lies in the window, so that songs which begin or
    end outside it neither help nor harm. Latencies are those of the requests that began in the window.
    """

    loop: Loop
    load: float
    seconds: float
    sent: int  # with those that began before and after the window
    requests: int
    errors: dict[str, int]
    requests_per_second: float
    audio_seconds_per_second: float
    latency_over_duration: float | None  # the median; a request's duration is that of one of its variations
    latency: Spread | None  # None where nothing succeeded
    first_audio: Spread | None  # None where answers come in one piece
    stalled_share: float | None  # of the streams, those whose playing would have fallen silent before its end
    arrived_per_second: float | None  # open loop: what really arrived in the window
    course: Course | None  # of an open loop
    stages: tuple[StageFigures, ...]  # of all that were sent; empty where Triton could not be asked
    stages_doubt: str | None = None  # why they may be those of other requests

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
        sent=sum(len(run.records) for run in runs),
        requests=len(counted),
        errors=dict(Counter(record.error for record in counted if record.error is not None)),
        requests_per_second=_shares(runs, lambda record: 1.0) / seconds,
        audio_seconds_per_second=_shares(runs, lambda record: record.audio_seconds) / seconds,
        latency_over_duration=percentile([record.latency / record.duration for record in answered], 50),
        latency=spread([record.latency for record in answered]),
        first_audio=spread(
            [record.first_audio - record.scheduled for record in answered if record.first_audio is not None]
        ),
        stalled_share=_stalled_share(answered),
        arrived_per_second=len(counted) / seconds if loop == "open" else None,
        course=_course(runs) if loop == "open" and answered else None,
        stages=tuple(stages),
    )


def _stalled_share(answered: Sequence[Record]) -> float | None:
    stalls = [record.stalled > SHORTEST_STALL for record in answered if record.stalled is not None]
    return sum(stalls) / len(stalls) if stalls else None


def _course(runs: Sequence[Run]) -> Course:
    early, late = zip(*(_ends([one.latency for one in run.counted if one.error is None]) for run in runs), strict=True)
    backlog = sum(run.under_way(run.closed) - run.under_way(run.opened) for run in runs)
    return Course(float(np.median(np.concatenate(early))), float(np.median(np.concatenate(late))), backlog)


def _ends(latencies: Sequence[float]) -> tuple[Sequence[float], Sequence[float]]:
    """Those of the first and of the last third, one at least of each where there is one."""
    third = math.ceil(len(latencies) / 3)
    return latencies[:third], latencies[len(latencies) - third :]


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
