"""Which rate of arrivals a server bears: what is asked of one, and which are tried.

A server of which more is asked than it can do goes on answering, only later and later: latency grows with the time
that has passed, and in a short window it has not grown far. So a rate is held if latency is within a limit, and if in
a window of many songs' time neither latency nor the number of requests under way has kept growing.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from benchmarks.serving.figures import PERCENTILES, Level

LEAST_REQUESTS = PERCENTILES[95]  # without which nothing is said
MOST_FAILED = 0.01
LATENCY_GROWTH = 4.0  # of p95, where no limit is given
TREND = 1.5  # of the median, from the window's first third to its last; in steady crowds it seldom swings that far
DEVIATIONS = 2.0  # of arrivals that know nothing of each other, by which a backlog may grow

ALONE, FILLED = 1, 16  # in flight: what a song takes by itself, and about what the server can do
FIRST_SHARE = 0.5  # of what it did in a closed loop, which is near the most that it can
MOST_DOUBLED, MOST_HALVED = 8, 4
CLOSE = 1.15  # a rate that is not held over one that is; nearer than that is noise

# What a rate is held for where the knee is looked for: as many requests, and as long as so many songs one by one.
KNEE_REQUESTS = 60
KNEE_SONGS = 20


def complaint(found: Level, limit: float) -> str | None:
    """Why a server does not bear a rate, with ``limit`` seconds for p95; None if it does."""
    if found.failed_share > MOST_FAILED or found.latency is None or found.course is None:
        return f"{found.failed_share:.0%} failed"
    waited, course = found.latency.p95 or found.latency.max, found.course
    if waited > limit:
        return f"p95 is {waited:.3g} s, the limit {limit:.3g} s"
    if course.backlog > DEVIATIONS * math.sqrt(found.requests):
        return f"of {found.requests} that came, {course.backlog} were left over"
    if course.late_p50 > TREND * course.early_p50:
        return f"p50 rose from {course.early_p50:.3g} to {course.late_p50:.3g} s"
    return None


def held(found: Level, limit: float) -> bool | None:
    """Whether a server bears a rate; None where fewer than ``LEAST_REQUESTS`` came, which say neither."""
    return None if found.requests < LEAST_REQUESTS else complaint(found, limit) is None


def latency_limit(levels: Sequence[Level], wished: float | None) -> float:
    """Seconds that p95 may reach: as wished, or a few times what slow songs take one by one.

    Where that was not measured, the median at the lowest rate stands for it.
    """
    if wished is not None:
        return wished
    one = alone(levels)
    if one is not None and one.latency is not None:
        return LATENCY_GROWTH * (one.latency.p95 or one.latency.max)
    lowest = next(iter(_rates(levels)), None)
    return LATENCY_GROWTH * lowest.latency.p50 if lowest and lowest.latency else 0.0


def highest_held(levels: Sequence[Level], wished: float | None) -> float | None:
    """The rate of an open loop up to which all were held; None if none was."""
    limit = latency_limit(levels, wished)
    best = None
    for found in _rates(levels):
        verdict = held(found, limit)
        if verdict is False:
            break
        best = found.load if verdict else best
    return best


def alone(levels: Sequence[Level]) -> Level | None:
    """The closed loop with one request in flight."""
    return next((found for found in levels if found.loop == "closed" and found.load == ALONE), None)


def first_rate(levels: Sequence[Level]) -> float:
    """Where to begin: well below what the closed loops reached; 0 where they got no answers."""
    reached = [found.requests_per_second for found in levels if found.loop == "closed"]
    return FIRST_SHARE * max(reached, default=0.0)


def seconds_to_hold(rate: float, one: Level) -> float:
    """Long enough for a queue to show, whether songs are short or requests rare."""
    song = one.latency.mean if one.latency else 0.0
    return max(KNEE_REQUESTS / rate, KNEE_SONGS * song)


def next_rate(first: float, verdicts: Mapping[float, bool | None]) -> float | None:
    """The rate to try after those in ``verdicts``; None where the knee is found, or cannot be.

    Twice the rate while it is held, or half of it until it is; then the middle, until both ends are close.
    """
    if None in verdicts.values():
        return None
    borne = [rate for rate, verdict in verdicts.items() if verdict]
    lost = [rate for rate, verdict in verdicts.items() if not verdict]
    if borne and lost:
        low, high = max(borne), min(lost)
        return (low + high) / 2 if high > CLOSE * low else None
    if borne:
        return 2 * max(borne) if len(borne) <= MOST_DOUBLED else None
    if lost:
        return min(lost) / 2 if len(lost) <= MOST_HALVED else None
    return first


def _rates(levels: Sequence[Level]) -> list[Level]:
    return sorted((found for found in levels if found.loop == "open"), key=lambda found: found.load)
