"""The simulated day as a picture: requests, pods and waiting above one another, along the same hours. SVG by hand."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from html import escape

from benchmarks.capacity_day import Fleet, waited_along
from benchmarks.simulation import DAY, HOUR, Moment

WIDTH, HEIGHT = 900, 640
LEFT, RIGHT = 64, 876
# Of the fixed fleet, HPA, KEDA. The last is drawn over the others and must not hide them.
COLOURS = ("#64748b", "#60a5fa", "#c2410c")
THICKNESSES = (1.6, 3.2, 1.2)
BARS, GRID, INK, FAINT = "#c7d2fe", "#e5e7eb", "#1f2937", "#6b7280"
ARRIVALS_BIN, WAITS_BIN = HOUR / 4, HOUR / 2
SHARE = 0.95
NICE = (1, 2, 2.5, 5, 10)

Point = tuple[float, float]  # seconds of the day, value


@dataclass(frozen=True)
class Panel:
    """A stretch of the picture with its own scale."""

    top: float
    bottom: float
    highest: float

    def x(self, time: float) -> float:
        return LEFT + (RIGHT - LEFT) * time / DAY

    def y(self, value: float) -> float:
        return self.bottom - (self.bottom - self.top) * value / self.highest

    def line(self, points: Iterable[Point], number: int) -> str:
        """Of the fleet of this number."""
        path = " ".join(f"{self.x(time):.1f},{self.y(value):.1f}" for time, value in points)
        stroke = f'stroke="{COLOURS[number]}" stroke-width="{THICKNESSES[number]}" stroke-linejoin="round"'
        return f'<polyline points="{path}" fill="none" {stroke}/>'

    def frame(self, title: str) -> str:
        step = _nice(self.highest / 4)
        values = [step * number for number in range(int(self.highest / step) + 1)]
        return "\n".join([
            _text(LEFT, self.top - 12, title, weight="600"),
            *(_grid(LEFT, self.y(value), RIGHT, self.y(value)) for value in values),
            *(_text(LEFT - 8, self.y(value) + 4, f"{value:g}", anchor="end", colour=FAINT) for value in values),
            *(_grid(self.x(hour * HOUR), self.top, self.x(hour * HOUR), self.bottom) for hour in range(0, 25, 3)),
        ])  # fmt: skip


def picture(fleets: Sequence[Fleet], subtitle: str) -> str:
    """The whole SVG."""
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" font-size="13" '
        'font-family="system-ui, Helvetica, Arial, DejaVu Sans, sans-serif">',
        f'<rect width="{WIDTH}" height="{HEIGHT}" fill="white"/>',
        _text(LEFT, 28, "A simulated day", weight="600", size=18),
        _text(LEFT, 48, subtitle, colour=FAINT),
        *_legend(fleets),
        *_requests(fleets[0], Panel(112, 232, _ceiling(max(_rates(fleets[0]))))),
        *_pods(fleets, Panel(286, 426, _ceiling(max(fleet.most_pods for fleet in fleets)))),
        *_waits(fleets, 480, 600),
        *(_text(_hour_x(hour), 618, f"{hour:02d}:00", anchor="middle", colour=FAINT) for hour in range(0, 25, 3)),
        "</svg>",
    ]
    return "\n".join(parts) + "\n"


def _legend(fleets: Sequence[Fleet]) -> list[str]:
    marks = []
    for number, (fleet, colour) in enumerate(zip(fleets, COLOURS, strict=True)):
        x = LEFT + number * 180
        marks.append(f'<rect x="{x}" y="62" width="22" height="4" rx="2" fill="{colour}"/>')
        marks.append(_text(x + 30, 69, fleet.name))
    return marks


def _requests(fleet: Fleet, panel: Panel) -> list[str]:
    width = panel.x(ARRIVALS_BIN) - panel.x(0) - 1
    bars = [
        f'<rect x="{panel.x(number * ARRIVALS_BIN):.1f}" y="{panel.y(rate):.1f}" width="{width:.1f}" '
        f'height="{panel.bottom - panel.y(rate):.1f}" fill="{BARS}"/>'
        for number, rate in enumerate(_rates(fleet))
    ]
    return [panel.frame("Requests per hour"), *bars]


def _pods(fleets: Sequence[Fleet], panel: Panel) -> list[str]:
    lines = [panel.line(_steps(fleet.outcome.moments), number) for number, fleet in enumerate(fleets)]
    return [panel.frame("Pods, starting ones too"), *lines]


def _waits(fleets: Sequence[Fleet], top: float, bottom: float) -> list[str]:
    along = [_known(waited_along(fleet.outcome, SHARE, WAITS_BIN)) for fleet in fleets]
    panel = Panel(top, bottom, _ceiling(max(wait for points in along for _, wait in points)))
    lines = [panel.line(points, number) for number, points in enumerate(along)]
    return [panel.frame("Seconds that 95 % waited at most, by half hour of arrival"), *lines]


def _known(waits: Sequence[float | None]) -> list[Point]:
    return [((number + 0.5) * WAITS_BIN, wait) for number, wait in enumerate(waits) if wait is not None]


def _steps(moments: Sequence[Moment]) -> list[Point]:
    """The corners only: a day has thousands of moments and few changes."""
    points: list[Point] = []
    for moment in moments:
        pods = moment.serving + moment.starting
        if not points or points[-1][1] != pods:
            points += [(moment.time, points[-1][1])] if points else []
            points.append((moment.time, pods))
    return [*points, (DAY, points[-1][1])]


def _rates(fleet: Fleet) -> list[float]:
    """Requests per hour in each bin."""
    counts = [0] * round(DAY / ARRIVALS_BIN)
    for time in fleet.outcome.arrived:
        counts[int(time // ARRIVALS_BIN)] += 1
    return [number * HOUR / ARRIVALS_BIN for number in counts]


def _ceiling(value: float) -> float:
    """A round number above, in quarters that are round too."""
    step = _nice(max(value, 1) / 4)
    return step * -(-max(value, 1) // step)


def _nice(value: float) -> float:
    """The next of 1, 2, 2.5, 5, 10, 20, ..."""
    size = 1.0
    while 10 * size < value:
        size *= 10
    return next(size * part for part in NICE if size * part >= value)


def _hour_x(hour: int) -> float:
    return LEFT + (RIGHT - LEFT) * hour / 24


def _grid(x1: float, y1: float, x2: float, y2: float) -> str:
    return f'<path d="M{x1:.1f} {y1:.1f}L{x2:.1f} {y2:.1f}" stroke="{GRID}"/>'


def _text(
    x: float, y: float, words: str, *, anchor: str = "start", colour: str = INK, weight: str = "400", size: int = 13
) -> str:
    style = f'text-anchor="{anchor}" fill="{colour}" font-weight="{weight}" font-size="{size}"'
    return f'<text x="{x:.1f}" y="{y:.1f}" {style}>{escape(words)}</text>'
