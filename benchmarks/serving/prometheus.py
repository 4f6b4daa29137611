"""The run's own figures for Prometheus, while it lasts, so that a dashboard can show both sides of the wire."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, start_http_server

from benchmarks.serving.records import Phase, Record

SECONDS = (0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 30, 60, 120, 300)
ANSWERED = "answered"


class Exporter:
    """A `Watcher` with an HTTP endpoint; use it as a context manager.

    What counts requests tells warming up from the window: rates and percentiles are those of ``phase="window"``.
    """

    def __init__(self, port: int, address: str) -> None:
        registry = CollectorRegistry()
        self._requests = Counter(
            "songstarter_bench_requests",
            "Requests that are over, by what became of them",
            ["outcome", "phase"],
            registry=registry,
        )
        self._under_way = Gauge("songstarter_bench_requests_in_flight", "Requests under way", registry=registry)
        self._audio = Counter(
            "songstarter_bench_audio_seconds", "Seconds of audio that came back", ["phase"], registry=registry
        )
        self._load = Gauge(
            "songstarter_bench_load", "Requests in flight (closed) or a second (open)", ["loop"], registry=registry
        )
        self._latency = Histogram(
            "songstarter_bench_latency_seconds",
            "From when a request was due",
            ["phase"],
            buckets=SECONDS,
            registry=registry,
        )
        self._first_audio = Histogram(
            "songstarter_bench_first_audio_seconds",
            "Until the first audio",
            ["phase"],
            buckets=SECONDS,
            registry=registry,
        )
        self._server, self._thread = start_http_server(port, address, registry)
        self.port = self._server.server_port

    def start(self, loop: str, load: float) -> None:
        self._load.clear()
        self._load.labels(loop).set(load)

    def began(self) -> None:
        self._under_way.inc()

    def ended(self, record: Record, phase: Phase) -> None:
        self._under_way.dec()
        self._requests.labels(record.error or ANSWERED, phase).inc()
        self._audio.labels(phase).inc(record.audio_seconds)
        if record.error is None:
            self._latency.labels(phase).observe(record.latency)
        if record.first_audio is not None:
            self._first_audio.labels(phase).observe(record.first_audio - record.scheduled)

    def __enter__(self) -> Exporter:
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()
