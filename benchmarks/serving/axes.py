"""Numbers to places on paper: scales, their ticks, and the frame of a plot, as SVG."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from html import escape

WIDTH, HEIGHT = 640, 360
LEFT, RIGHT, TOP, BOTTOM = 62, 150, 16, 50  # the legend stands on the right
ROUND_STEPS = (1, 2, 5)
WISHED_TICKS = 6


@dataclass(frozen=True)
class Scale:
    """An axis: its label with a unit, its ends, its ticks, and how a value becomes a share of its length."""

    label: str
    low: float
    high: float
    ticks: Sequence[float]
    bend: Callable[[float], float] = field(default=lambda value: value)

    def share(self, value: float) -> float:
        inside = min(max(value, self.low), self.high)
        return (self.bend(inside) - self.bend(self.low)) / (self.bend(self.high) - self.bend(self.low))


def linear(label: str, highest: float, low: float = 0.0) -> Scale:
    """From ``low`` to a round number at or above the highest value."""
    span = max(highest - low, 1e-9)
    step = next(step for step in _round_numbers(span / 100) if span / step <= WISHED_TICKS)
    count = math.ceil(span / step - 1e-9)
    return Scale(label, low, low + count * step, [low + number * step for number in range(count + 1)])


def logarithmic(label: str, lowest: float, highest: float) -> Scale:
    """Between the round numbers around the values."""
    low = max(number for number in _decades(lowest) if number <= lowest * (1 + 1e-9))
    high = min(number for number in _decades(highest) if number >= highest * (1 - 1e-9))
    if high <= low:
        high = min(number for number in _decades(10 * low) if number > low)
    numbers = sorted({number for value in _powers(low, high) for number in _decades(value) if low <= number <= high})
    ticks = numbers if len(numbers) <= 2 * WISHED_TICKS else [one for one in numbers if _is_power(one)]
    return Scale(label, low, high, ticks, math.log10)


def steps(label: str, values: Sequence[float]) -> Scale:
    """The given values as ticks, on a logarithmic axis with a little room at both ends."""
    return Scale(label, min(values) / 1.15, max(values) * 1.15, list(values), math.log10)


def _round_numbers(at_least: float) -> list[float]:
    first = math.floor(math.log10(at_least))
    return [
        step * 10.0**power
        for power in range(first, first + 5)
        for step in ROUND_STEPS
        if step * 10.0**power >= at_least
    ]


def _decades(value: float) -> list[float]:
    """Round numbers from the decade below a value to the one above."""
    power = math.floor(math.log10(value))
    return [step * 10.0**exponent for exponent in (power - 1, power, power + 1) for step in ROUND_STEPS]


def _powers(low: float, high: float) -> list[float]:
    return [10.0**power for power in range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)]


def _is_power(value: float) -> bool:
    return abs(math.log10(value) - round(math.log10(value))) < 1e-9


@dataclass(frozen=True)
class Axes:
    """Two scales over the plot's area."""

    x: Scale
    y: Scale

    def at(self, x: float, y: float) -> tuple[float, float]:
        """Where a point lies, in SVG units."""
        across = LEFT + self.x.share(x) * (WIDTH - LEFT - RIGHT)
        down = HEIGHT - BOTTOM - self.y.share(y) * (HEIGHT - TOP - BOTTOM)
        return round(across, 1), round(down, 1)

    def frame(self) -> str:
        """Grid, ticks and labels."""
        right, bottom = WIDTH - RIGHT, HEIGHT - BOTTOM
        parts = []
        for tick in self.x.ticks:
            x, _ = self.at(tick, self.y.low)
            parts.append(f'<line class="grid" x1="{x}" x2="{x}" y1="{TOP}" y2="{bottom}"/>')
            parts.append(f'<text x="{x}" y="{bottom + 16}" text-anchor="middle">{number(tick)}</text>')
        for tick in self.y.ticks:
            _, y = self.at(self.x.low, tick)
            parts.append(f'<line class="grid" x1="{LEFT}" x2="{right}" y1="{y}" y2="{y}"/>')
            parts.append(f'<text x="{LEFT - 7}" y="{y + 4}" text-anchor="end">{number(tick)}</text>')
        middle, half = (LEFT + right) / 2, (TOP + bottom) / 2
        parts.append(
            f'<text class="label" x="{middle}" y="{HEIGHT - 12}" text-anchor="middle">{escape(self.x.label)}</text>'
        )
        parts.append(
            f'<text class="label" transform="translate(16 {half}) rotate(-90)" text-anchor="middle">'
            f"{escape(self.y.label)}</text>"
        )
        return "".join(parts)


def number(value: float) -> str:
    return f"{value:.3g}" if abs(value) < 1000 else f"{value:.0f}"


def legend(entries: Sequence[tuple[str, str]], title: str = "") -> str:
    """Colours and names, beside the plot."""
    x = WIDTH - RIGHT + 14
    parts = [f'<text class="label" x="{x}" y="{TOP + 10}">{escape(title)}</text>'] if title else []
    for row, (color, name) in enumerate(entries, start=1 if title else 0):
        y = TOP + 10 + 18 * row
        parts.append(f'<rect x="{x}" y="{y - 9}" width="12" height="10" rx="2" fill="{color}"/>')
        parts.append(f'<text x="{x + 18}" y="{y}">{escape(name)}</text>')
    return "".join(parts)


def svg(title: str, *parts: str) -> str:
    body = "".join(parts)
    return f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{escape(title)}">{body}</svg>'
