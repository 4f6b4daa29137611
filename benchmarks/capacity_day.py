"""The same simulated day for three fleets: fixed for the busiest hour, autoscaled, and scaled down to nothing."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from benchmarks.autoscaler import Rule
from benchmarks.capacity_rows import Wish, row_of
from benchmarks.shapes import columns_of
from benchmarks.simulation import DAY, HOUR, Demand, Outcome, Pods, simulate
from benchmarks.step_time import StepTimes

# model_repository/decoder/config.pbtxt
SLOTS = 16
MAX_WAITING = 512
START_SECONDS = 180.0  # pulling the image and loading the models: an assumption
PATIENCE = 300.0


@dataclass(frozen=True)
class Fleet:
    """One way to run the day, and how that went."""

    name: str
    rule: Rule
    outcome: Outcome
    usd: float
    usd_per_audio_minute: float

    @property
    def most_pods(self) -> int:
        return max(moment.serving + moment.starting for moment in self.outcome.moments)

    @property
    def pod_hours(self) -> float:
        return self.outcome.pod_seconds / HOUR

    def summary(self) -> dict[str, Any]:
        outcome = self.outcome
        return {
            "fleet": self.name,
            "requests": len(outcome.arrived),
            "finished": outcome.finished,
            "refused": outcome.refused,
            "inside_at_the_end": outcome.inside,
            "most_pods": self.most_pods,
            "machine_hours": self.pod_hours,
            "usd": self.usd,
            "usd_per_audio_minute": self.usd_per_audio_minute,
            **{f"waited_seconds_p{share}": outcome.waited(share / 100) for share in (50, 95, 99)},
            "pods_every_15_minutes": [moment.serving + moment.starting for moment in outcome.moments[::60]],
        }


@dataclass(frozen=True)
class Day:
    """What the day is played with."""

    machine: StepTimes
    wish: Wish
    rule: Rule
    slots: int
    start_seconds: float
    seed: int

    @property
    def basis(self) -> str:
        return self.machine.basis(range(1, self.slots + 1), self.wish.take_seconds)

    @property
    def pods(self) -> Pods:
        step_ms = [self.machine.milliseconds(songs, self.wish.take_seconds) for songs in range(1, self.slots + 1)]
        seconds = (0.0, *(step / 1e3 for step in step_ms))
        return Pods(seconds, columns_of(self.wish.take_seconds), MAX_WAITING, self.start_seconds)


def fleets(day: Day) -> list[Fleet]:
    """Three fleets under the same arrivals."""
    needed = row_of(day.machine, day.slots, day.wish.take_seconds, day.wish).machines_for_demand
    least = max(1, day.rule.least)
    return [
        _fleet(f"fixed, {needed} pods", day, replace(day.rule, least=needed, most=needed)),
        _fleet(f"HPA, {least} to {day.rule.most} pods", day, replace(day.rule, least=least)),
        _fleet(f"KEDA, 0 to {day.rule.most} pods", day, replace(day.rule, least=0)),
    ]


def _fleet(name: str, day: Day, rule: Rule) -> Fleet:
    demand = Demand(day.wish.requests_per_hour, day.wish.variations, PATIENCE)
    outcome = simulate(day.pods, demand, rule, seed=day.seed)
    usd = outcome.pod_seconds / HOUR * day.machine.price
    minutes = outcome.finished * day.wish.variations * day.wish.take_seconds / 60
    return Fleet(name, rule, outcome, usd, usd / minutes if minutes else 0.0)


def waited_along(outcome: Outcome, share: float, bin_seconds: float) -> Sequence[float | None]:
    """What this share of those who arrived within each bin of the day waited at most; None where nobody came."""
    bins: list[list[float]] = [[] for _ in range(round(DAY / bin_seconds))]
    for arrived, wait in outcome.waits:
        bins[int(arrived // bin_seconds)].append(wait)
    return [Outcome(waits=[(0, wait) for wait in one]).waited(share) if one else None for one in bins]
