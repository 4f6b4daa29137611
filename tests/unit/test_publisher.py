"""Readings reach a registry as Triton's is: values by difference, observations one by one."""

from __future__ import annotations

import json
import time
from collections.abc import Callable

import pytest

from songstarter.metrics import (
    FAMILIES,
    INFO,
    REQUESTS,
    SLOTS_IN_USE,
    STEP_SECONDS,
    STEPS,
    Readings,
    Series,
    by_outcome,
)
from songstarter.publisher import Publisher

Calls = list[tuple[str, float]]


class ListedMetric:
    """A series that lists what it is told."""

    def __init__(self, calls: Calls) -> None:
        self._calls = calls

    def increment(self, value: float) -> None:
        self._calls.append(("increment", value))

    def observe(self, value: float) -> None:
        self._calls.append(("observe", value))


class ListedRegistry:
    """As Triton's: a family is made once, its series once each."""

    COUNTER, GAUGE, HISTOGRAM = "counter", "gauge", "histogram"

    def __init__(self) -> None:
        self.kinds: dict[str, str] = {}
        self.calls: dict[tuple[str, ...], Calls] = {}
        self.buckets: dict[str, list[float] | None] = {}

    def __call__(self, *, name: str, description: str, kind: str) -> ListedFamily:
        assert description
        assert name not in self.kinds
        self.kinds[name] = kind
        return ListedFamily(name, self)


class ListedFamily:
    def __init__(self, name: str, registry: ListedRegistry) -> None:
        self._name = name
        self._registry = registry

    def Metric(self, *, labels: dict[str, str], buckets: list[float] | None) -> ListedMetric:  # noqa: N802
        key = (self._name, *labels.values())
        assert key not in self._registry.calls
        self._registry.buckets[self._name] = buckets
        return ListedMetric(self._registry.calls.setdefault(key, []))


def publisher(*readings: Readings) -> tuple[Publisher, ListedRegistry]:
    registry = ListedRegistry()
    return Publisher(iter(readings).__next__, registry), registry


def test_counters_and_gauges_move_by_the_difference() -> None:
    pairs = [(3, 1), (3, 1), (10, 0)]
    told, registry = publisher(
        *(Readings({Series(STEPS): steps, Series(SLOTS_IN_USE): slots}, {}) for steps, slots in pairs)
    )
    for _ in pairs:
        told.publish()
    assert registry.calls[STEPS.name,] == [("increment", 3), ("increment", 7)]
    assert registry.calls[SLOTS_IN_USE.name,] == [("increment", 1), ("increment", -1)]


def test_every_outcome_is_there_before_it_happened() -> None:
    told, registry = publisher(Readings(by_outcome(REQUESTS, {"answered": 2}), {}))
    told.publish()
    assert {key[1] for key in registry.calls} == set(REQUESTS.outcomes)
    assert registry.calls[REQUESTS.name, "answered"] == [("increment", 2)]
    assert registry.calls[REQUESTS.name, "failed"] == []


def test_observations_are_told_one_by_one_and_a_histogram_is_there_before_the_first() -> None:
    told, registry = publisher(Readings({}, {STEP_SECONDS: []}), Readings({}, {STEP_SECONDS: [0.1, 0.2]}))
    told.publish()
    assert registry.calls == {(STEP_SECONDS.name,): []}
    told.publish()
    assert registry.calls[STEP_SECONDS.name,] == [("observe", 0.1), ("observe", 0.2)]
    assert registry.buckets[STEP_SECONDS.name] == list(STEP_SECONDS.buckets)


def test_labels_keep_their_order() -> None:
    assert Series(INFO, ("1", "tiny", "fp32", "cpu")).labels == {
        "version": "1",
        "checkpoint": "tiny",
        "precision": "fp32",
        "device": "cpu",
    }


def test_names_follow_the_conventions() -> None:
    assert len({family.name for family in FAMILIES}) == len(FAMILIES)
    for family in FAMILIES:
        assert family.name.startswith("songstarter_")
        assert family.name.endswith("_total") == (family.kind == "COUNTER")
        assert family.name.endswith("_seconds") == (family.kind == "HISTOGRAM") == bool(family.buckets)
        assert list(family.buckets) == sorted(set(family.buckets))
        assert family.outcomes == () or family.labels == ("outcome",)


def test_the_thread_survives_a_reading_that_fails(capfd: pytest.CaptureFixture[str]) -> None:
    attempts: list[int] = []

    def read() -> Readings:
        attempts.append(1)
        if len(attempts) == 2:
            raise ValueError("no reading this time")
        return Readings({Series(STEPS): len(attempts)}, {})

    registry = ListedRegistry()
    told = Publisher(read, registry, period=0.01)
    told.start()
    wait_until(lambda: len(registry.calls[STEPS.name,]) >= 2)
    told.stop()
    line = json.loads(capfd.readouterr().out)
    assert (line["event"], line["error"], line["reason"]) == ("metrics_failed", "ValueError", "no reading this time")
    assert registry.calls[STEPS.name,][:2] == [("increment", 1), ("increment", 2)]


def wait_until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 5
    while not condition():
        assert time.monotonic() < deadline, "it did not happen within five seconds"
        time.sleep(0.01)
