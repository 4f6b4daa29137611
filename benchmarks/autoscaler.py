"""The autoscaler's rule, as the Helm chart asks for it and Kubernetes carries it out.

    every 15 s    pods' worth of load / target -> pods wanted, the larger of two metrics
                  |
                  windows: up by the least, down by the most that was wanted within them
                  |
                  policies: how many pods may come or go within a period

It sees counts of pods, takes and slots; it knows nothing of songs or time per step.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import yaml

CHART_VALUES = Path(__file__).parents[1] / "deploy/helm/songstarter/values.yaml"
PERIOD = 15.0  # seconds between decisions: the controller's default
TOLERANCE = 0.1  # so far from its target a metric may be without consequence: the controller's default
TO_NOTHING = 0


@dataclass(frozen=True)
class Policy:
    """How many pods may come, or go, within a period."""

    pods: int
    percent: float
    period: float  # seconds

    def most(self, before: int) -> int:
        return max(self.pods, math.ceil(before * self.percent / 100))


# The chart's songstarter.scalingBehavior.
UP = (Policy(pods=0, percent=100, period=30), Policy(pods=2, percent=0, period=30))
DOWN = (Policy(pods=1, percent=0, period=300),)


@dataclass(frozen=True)
class Rule:
    """What the chart's values say about scaling."""

    least: int
    most: int
    waiting_per_slot: float
    slots_in_use: float
    up_window: float  # seconds
    down_window: float  # seconds; before going to no pods at all, too


@dataclass(frozen=True)
class Load:
    """What the metrics say at one moment. Waiting and playing are counted in pods' worth of slots."""

    serving: int
    starting: int
    waiting: float
    playing: float
    arriving: bool  # someone asked since the last decision

    @property
    def pods(self) -> int:
        return self.serving + self.starting

    @property
    def idle(self) -> bool:
        return not (self.waiting or self.playing or self.arriving)


def rule_of_chart(values: Path = CHART_VALUES) -> Rule:
    scaling = yaml.safe_load(values.read_text())["autoscaling"]
    return Rule(
        least=scaling["minReplicas"],
        most=scaling["maxReplicas"],
        waiting_per_slot=scaling["waitingPerSlot"],
        slots_in_use=scaling["slotsInUse"],
        up_window=scaling["scaleUpSeconds"],
        down_window=scaling["scaleDownSeconds"],
    )


class Autoscaler:
    """Decides again and again; remembers what it wanted and what it did.

    With ``least`` 0 it is KEDA's: any arrival starts the first pod, a window without load ends the last.
    """

    def __init__(self, rule: Rule) -> None:
        self._rule = rule
        self._wanted: deque[tuple[float, int]] = deque()
        self._changes: deque[tuple[float, int]] = deque()
        self._last_load: float | None = None

    def decide(self, now: float, load: Load) -> int:
        """How many pods there shall be."""
        if not load.idle or self._last_load is None:
            self._last_load = now  # before the first look there may have been load as well
        if load.pods == TO_NOTHING:
            return self._note(now, 0, int(load.arriving))
        if self._rule.least == TO_NOTHING and now - self._last_load >= self._rule.down_window:
            return self._note(now, load.pods, TO_NOTHING)
        wanted = self._within_windows(now, load.pods, self._clamped(self._by_metrics(load)))
        return self._note(now, load.pods, self._clamped(self._within_policies(now, load.pods, wanted)))

    def _clamped(self, pods: int) -> int:
        return min(max(pods, self._rule.least, 1), self._rule.most)

    def _by_metrics(self, load: Load) -> int:
        if not load.serving:
            return load.pods  # nothing to scrape
        metrics = ((load.waiting, self._rule.waiting_per_slot), (load.playing, self._rule.slots_in_use))
        return max(pods_for(total, target, load) for total, target in metrics)

    def _within_windows(self, now: float, pods: int, wanted: int) -> int:
        """Up only by what was wanted all along the up window, down likewise."""
        self._wanted.append((now, wanted))
        longest = max(self._rule.up_window, self._rule.down_window)
        _forget(self._wanted, now - longest)
        up = min(self._wanted_since(now - self._rule.up_window))
        down = max(self._wanted_since(now - self._rule.down_window))
        return min(max(pods, up), down)

    def _wanted_since(self, start: float) -> Iterable[int]:
        return (pods for time, pods in self._wanted if time > start)

    def _within_policies(self, now: float, pods: int, wanted: int) -> int:
        """Up as far as any policy lets it, down likewise."""
        highest = max(start + policy.most(start) for start, policy in self._starts(now, pods, UP))
        lowest = min(start - policy.most(start) for start, policy in self._starts(now, pods, DOWN))
        return min(max(wanted, min(lowest, pods)), max(highest, pods))

    def _starts(self, now: float, pods: int, policies: Iterable[Policy]) -> Iterable[tuple[int, Policy]]:
        """Each policy with how many pods there were when its period began."""
        for policy in policies:
            yield pods - sum(change for time, change in self._changes if time > now - policy.period), policy

    def _note(self, now: float, pods: int, decided: int) -> int:
        if decided != pods:
            self._changes.append((now, decided - pods))
        _forget(self._changes, now - max(policy.period for policy in (*UP, *DOWN)))
        return decided


def pods_for(total: float, target: float, load: Load) -> int:
    """How many pods keep a metric at its target.

    A starting pod has no metric yet. Kubernetes takes it for idle when there is too much load, and for loaded as
    wished when there is too little; if that turns the answer round, nothing changes.
    """
    ratio = total / load.serving / target
    assumed = total if ratio > 1 else total + load.starting * target
    corrected = assumed / load.pods / target
    if abs(corrected - 1) <= TOLERANCE or (ratio > 1) != (corrected > 1):
        return load.pods
    return math.ceil(corrected * load.pods - 1e-9)


def _forget(log: deque[tuple[float, int]], before: float) -> None:
    while log and log[0][0] <= before:
        log.popleft()
