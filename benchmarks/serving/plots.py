"""The report's pictures."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from html import escape

from benchmarks.serving.axes import Axes, legend, linear, logarithmic, number, steps, svg
from benchmarks.serving.figures import Key, Level
from benchmarks.serving.records import Record, Run

# Told apart by eyes that see colours differently (Okabe and Ito), darkened where they would be faint.
COLORS = ("#0072b2", "#d55e00", "#009e73", "#b0578d", "#a67c00", "#3a9ad9", "#555555", "#7a3f00")
FAILED = "#c00000"
DOT = 2.6

Runs = Mapping[Key, Sequence[Run]]
Point = tuple[float, float]


def latency_cdf(levels: Sequence[Level], runs: Runs) -> str:
    """The share of requests that were answered within so many seconds, a line for each load."""
    latencies = {found.name: _latencies(runs[found.loop, found.load]) for found in levels if found.latency}
    if not latencies:
        return ""
    every = [latency for some in latencies.values() for latency in some]
    axes = Axes(logarithmic("latency, seconds", min(every), max(every)), linear("share of requests, %", 100))
    lines = [
        _stairs(axes, sorted(some), color) for (_, some), color in zip(latencies.items(), _colors(levels), strict=False)
    ]
    return svg("latency distribution", axes.frame(), *lines, _legend(latencies))


def throughput(levels: Sequence[Level], bare: Mapping[float, float]) -> str:
    """Seconds of audio per second against requests in flight: measured, perfect batching, and the bare engine."""
    closed = [found for found in levels if found.loop == "closed"]
    if not closed:
        return ""
    measured = [(found.load, found.audio_seconds_per_second) for found in closed]
    base = measured[0][1] / measured[0][0]
    top = 1.1 * max([value for _, value in measured] + list(bare.values()))
    perfect = [(load, base * load) for load, _ in measured]
    axes = Axes(steps("requests in flight", [load for load, _ in measured]), linear("seconds of audio per second", top))
    parts = [
        _line(axes, _cut(perfect, axes.y.high), "#888888", dashes="5 4"),
        _line(axes, sorted(bare.items()), COLORS[1]),
        _marks(axes, sorted(bare.items()), COLORS[1], "s of audio/s, bare engine"),
        _line(axes, measured, COLORS[0]),
        _marks(axes, measured, COLORS[0], "s of audio/s"),
    ]
    names = [
        (COLORS[0], "through Triton"),
        *([(COLORS[1], "bare engine")] if bare else []),
        ("#888888", "perfect batching"),
    ]
    return svg("throughput against concurrency", axes.frame(), *parts, legend(names))


def latency_against_rate(levels: Sequence[Level], knee: float | None) -> str:
    """Percentiles of latency against the rate at which requests arrive; the knee is marked."""
    opened = [found for found in levels if found.loop == "open" and found.latency]
    if not opened:
        return ""
    every = {name: [(found.load, getattr(found.latency, name)) for found in opened] for name in ("p50", "p95", "p99")}
    # Where too few requests came for a percentile, its curve has a gap.
    seen = {name: [point for point in curve if point[1] is not None] for name, curve in every.items()}
    curves = {name: curve for name, curve in seen.items() if curve}
    values = [value for curve in curves.values() for _, value in curve]
    axes = Axes(
        linear("requests arriving per second", max(found.load for found in opened)),
        logarithmic("latency, seconds", min(values), max(values)),
    )
    parts = [
        _line(axes, curve, color) + _marks(axes, curve, color, f"s ({name})")
        for (name, curve), color in zip(curves.items(), COLORS, strict=False)
    ]
    return svg("latency against rate", axes.frame(), _knee(axes, knee), *parts, _legend(curves))


def time_line(levels: Sequence[Level], runs: Runs) -> str:
    """Every request by when it ended and how long it took; failed ones are crosses."""
    everything = [record for some in runs.values() for run in some for record in run.records]
    start, end = min(one.scheduled for one in everything), max(one.ended for one in everything)
    longest = max(max(one.latency for one in everything), 1e-3)
    shortest = max(min(one.latency for one in everything), longest / 1000)
    axes = Axes(
        linear("seconds since the first request", end - start),
        logarithmic("latency, seconds", shortest, longest),
    )
    parts = []
    for found, color in zip(levels, _colors(levels), strict=True):
        records = [record for run in runs[found.loop, found.load] for record in run.records]
        parts += [_request(axes, record, start, color) for record in records]
    return svg("time line", axes.frame(), *parts, _legend([found.name for found in levels]))


def _request(axes: Axes, record: Record, start: float, color: str) -> str:
    x, y = axes.at(record.ended - start, record.latency)
    told = f"<title>{record.latency:.2f} s{', ' + escape(record.error) if record.error else ''}</title>"
    if record.error:
        cross = f"M{x - 3} {y - 3}l6 6m0 -6l-6 6"
        return f'<path d="{cross}" stroke="{FAILED}" stroke-width="1.5">{told}</path>'
    return f'<circle cx="{x}" cy="{y}" r="{DOT}" fill="{color}" fill-opacity="0.65">{told}</circle>'


def _latencies(runs: Sequence[Run]) -> list[float]:
    return [record.latency for run in runs for record in run.counted if record.error is None]


def _stairs(axes: Axes, latencies: Sequence[float], color: str) -> str:
    count = len(latencies)
    points = [(latencies[0], 0.0)]
    for rank, latency in enumerate(latencies, start=1):
        points += [(latency, points[-1][1]), (latency, 100 * rank / count)]
    return _line(axes, [*points, (axes.x.high, 100.0)], color)


def _line(axes: Axes, points: Sequence[Point], color: str, dashes: str = "none") -> str:
    path = " ".join(f"{x},{y}" for x, y in (axes.at(*point) for point in points))
    return f'<polyline points="{path}" fill="none" stroke="{color}" stroke-width="2" stroke-dasharray="{dashes}"/>'


def _marks(axes: Axes, points: Sequence[Point], color: str, unit: str) -> str:
    def mark(point: Point) -> str:
        x, y = axes.at(*point)
        return f'<circle cx="{x}" cy="{y}" r="4" fill="{color}"><title>{number(point[1])} {unit}</title></circle>'

    return "".join(mark(point) for point in points)


def _cut(points: Sequence[Point], top: float) -> list[Point]:
    """A straight line through the origin, up to where it leaves the plot."""
    slope = points[0][1] / points[0][0]
    last = min(points[-1][0], top / slope if slope else points[-1][0])
    inside = [point for point in points if point[0] < last]
    between = [(inside[-1][0] + (last - inside[-1][0]) * part / 8) for part in range(1, 9)] if inside else [last]
    return [*inside, *((x, slope * x) for x in between)]


def _knee(axes: Axes, knee: float | None) -> str:
    if knee is None:
        return ""
    x, top = axes.at(knee, axes.y.high)
    _, bottom = axes.at(knee, axes.y.low)
    return (
        f'<line x1="{x}" x2="{x}" y1="{top}" y2="{bottom}" stroke="#444" stroke-dasharray="2 3"/>'
        f'<text x="{x - 5}" y="{top + 12}" text-anchor="end">held up to {knee:.3g}/s</text>'
    )


def _colors(levels: Sequence[Level]) -> list[str]:
    return [COLORS[index % len(COLORS)] for index in range(len(levels))]


def _legend(names: Iterable[str]) -> str:
    return legend([(COLORS[index % len(COLORS)], name) for index, name in enumerate(names)])
