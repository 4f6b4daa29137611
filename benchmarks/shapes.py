"""The sizes that are measured, and where along a take.

A take's context grows from its prefix to its last column:

    prefix 247 = 235 melody + 12 text     8 s: to 650      30 s: to 1750
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from songstarter.checkpoint import exact_division

FRAMES_PER_SECOND = 50
HEAD_SIZE = 64
LATEST_COLUMNS = 3  # the last codebooks run so many columns behind the first
MELODY_FRAMES = 235
PREFIX = MELODY_FRAMES + 12
# Between two measured contexts a step's time is taken to be a straight line: attention's share grows evenly.
MOST_APART = 400


@dataclass(frozen=True)
class Size:
    """A language model's dimensions (spec 4.1); codebooks and vocabulary are those of stereo-melody."""

    name: str
    layers: int
    hidden: int
    codebooks: int = 8
    vocabulary: int = 2048

    @property
    def heads(self) -> int:
        return exact_division(self.hidden, HEAD_SIZE)


SIZES: dict[str, Size] = {
    "tiny": Size("tiny", layers=2, hidden=128),  # for this program's own tests
    "check": Size("check", layers=4, hidden=2048),  # as wide as large: held to torch's fp32 on a GPU first
    "small": Size("small", layers=24, hidden=1024),
    "medium": Size("medium", layers=48, hidden=1536),
    "large": Size("large", layers=48, hidden=2048),
}


def columns_of(take_seconds: int) -> int:
    """How many columns a take's decoder steps make."""
    return take_seconds * FRAMES_PER_SECOND + LATEST_COLUMNS


def last_context(take_seconds: int) -> int:
    """The positions a slot holds when the take's last column stands."""
    return PREFIX + columns_of(take_seconds)


def contexts_along(takes: Sequence[int]) -> list[int]:
    """The contexts to measure at, for takes of so many seconds: every end, and between ends what MOST_APART asks."""
    ends = sorted({PREFIX, *map(last_context, takes)})
    contexts = [ends[0]]
    for start, stop in pairwise(ends):
        parts = -(-(stop - start) // MOST_APART)
        contexts += [start + (stop - start) * part // parts for part in range(1, parts + 1)]
    return contexts


def mean_along(take_seconds: int, at_context: dict[int, float]) -> float:
    """The mean over a take of what was measured at some contexts, by the trapezoid rule.

    Both of the take's ends must be among the contexts; what lies beyond them is left out.
    """
    start, stop = PREFIX, last_context(take_seconds)
    contexts = sorted(context for context in at_context if start <= context <= stop)
    if contexts[0] != start or contexts[-1] != stop:
        raise ValueError(f"measured at contexts {contexts}, which does not reach from {start} to {stop}")
    area = sum((right - left) * (at_context[left] + at_context[right]) / 2 for left, right in pairwise(contexts))
    return area / (stop - start)
