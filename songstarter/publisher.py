"""Carries readings over to Triton's metrics, once a second and on a thread of its own.

Every call into Triton is a round trip to another process. So whoever counts does it in plain Python, and only what
changed is carried over: as a difference, gauges too, since the two public models' processes share each series.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any, Protocol

from songstarter import event_log
from songstarter.metrics import Readings, Series

PERIOD = 1.0  # seconds


class Metric(Protocol):
    """One series of Triton's."""

    def increment(self, value: float, /) -> None: ...

    def observe(self, value: float, /) -> None: ...


class MetricFamily(Protocol):
    """Triton's ``pb_utils.MetricFamily``: an instance makes series, and lives as long as they do."""

    def Metric(self, *, labels: dict[str, str], buckets: list[float] | None) -> Metric: ...  # noqa: N802


class Registry(Protocol):
    """The class ``pb_utils.MetricFamily`` itself."""

    COUNTER: Any
    GAUGE: Any
    HISTOGRAM: Any

    def __call__(self, *, name: str, description: str, kind: Any) -> MetricFamily: ...


class Publisher:
    """Reads every second, and tells Triton what is new."""

    def __init__(self, read: Callable[[], Readings], registry: Registry, *, period: float = PERIOD) -> None:
        self._read = read
        self._registry = registry
        self._period = period
        self._families: dict[str, MetricFamily] = {}
        self._metrics: dict[Series, Metric] = {}
        self._told: dict[Series, float] = {}
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, name="metrics", daemon=True)

    def start(self) -> None:
        """Publish once, so that every series is there from the start, and go on doing so."""
        self.publish()
        self._thread.start()

    def stop(self) -> None:
        self._ended.set()
        self._thread.join(timeout=5)

    def publish(self) -> None:
        """Tell Triton what changed since the last time."""
        readings = self._read()
        for series, value in readings.values.items():
            self._tell(series, value)
        for family, seconds in readings.observed.items():
            metric = self._metric(Series(family))
            for value in seconds:
                metric.observe(value)

    def _run(self) -> None:
        while not self._ended.wait(self._period):
            try:
                self.publish()
            except Exception as error:  # the service matters more than its metrics, and the next time may do
                event_log.write("metrics_failed", error=type(error).__name__, reason=str(error))

    def _tell(self, series: Series, value: float) -> None:
        metric, told = self._metric(series), self._told.get(series, 0)
        if value != told:
            metric.increment(value - told)
            self._told[series] = value

    def _metric(self, series: Series) -> Metric:
        if series not in self._metrics:
            buckets = list(series.family.buckets) or None
            self._metrics[series] = self._family(series).Metric(labels=series.labels, buckets=buckets)
        return self._metrics[series]

    def _family(self, series: Series) -> MetricFamily:
        family = series.family
        if family.name not in self._families:
            kind = getattr(self._registry, family.kind)
            self._families[family.name] = self._registry(name=family.name, description=family.help, kind=kind)
        return self._families[family.name]
