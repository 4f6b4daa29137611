"""Where the timed steps of a measurement lie: the middle one is at the wanted context.

first_context ── WARM_STEPS ──┬── steps/2 ── context ── steps/2 ──┐
"""

from __future__ import annotations

from dataclasses import dataclass

WARM_STEPS = 2


@dataclass(frozen=True)
class Step:
    """One step: its seconds, and how many of them the model took."""

    seconds: float
    in_model: float


def first_context(context: int, steps: int) -> int:
    """The context before the first of the steps that are not timed."""
    return context - WARM_STEPS - steps // 2
