"""A benchmark's words: the prediction, the table, the document."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any

from benchmarks.columns import aligned
from benchmarks.quality import Quality
from benchmarks.roofline import Traffic, milliseconds
from benchmarks.shapes import MELODY_FRAMES, PREFIX, last_context

GOOD_SHARE = 0.7  # of the roofline: what the project aims at


@dataclass(frozen=True)
class Question:
    """What one case asks."""

    songs: int
    precision: str
    take_seconds: int


@dataclass(frozen=True)
class Case:
    """What one case found: means along the take, medians over rounds. No peer figure where no variant of it ran."""

    songs: int
    precision: str
    take_seconds: int
    ours_ms_per_step: float
    peer_ms_per_step: float | None
    peer_variant: str | None
    speedup: float | None
    roofline_fraction: float
    audio_seconds_per_second: float
    sampling_share: float  # of a step, everything but the decoder's call: guidance, sampling, bookkeeping
    weight_bytes_per_step: int
    memory_bytes_per_step: int  # keys and values, the mean along the take
    kl_divergence: float | None  # None for fp32, which is what the others are compared with
    greedy_equal: float | None
    ours_ms_by_round: list[float]
    peer_ms_by_round: list[float]
    roofline_ms_by_round: list[float]


def mean_traffic(question: Question, traffic: Traffic) -> int:
    """Bytes per step, the mean along the take; the context grows evenly."""
    context = (PREFIX + last_context(question.take_seconds)) // 2
    return traffic.bytes_per_step(question.songs, context, shared=MELODY_FRAMES)


def prediction(questions: Sequence[Question], traffic: dict[str, Traffic], bandwidth: float) -> str:
    """The cost card: what each step must read, and how long that takes at the bandwidth and at 70 % of it."""
    rows = [["songs", "precision", "take s", "weights MB", "KV MB", "ms at 100 %", f"ms at {GOOD_SHARE:.0%}"]]
    for question in questions:
        size = mean_traffic(question, traffic[question.precision])
        weights = traffic[question.precision].weights
        least = milliseconds(size, bandwidth)
        figures = (weights / 1e6, (size - weights) / 1e6, least, least / GOOD_SHARE)
        rows.append([*map(str, asdict(question).values()), *(f"{figure:.1f}" for figure in figures)])
    return aligned(rows)


def table(cases: Sequence[Case]) -> str:
    """One line for each case, bytes and rounds left out."""
    names = [field.name for field in fields(Case) if not field.name.endswith(("bytes_per_step", "by_round"))]
    return aligned([names, *([_word(getattr(case, name)) for name in names] for case in cases)])


def quality_lines(quality: dict[str, Quality]) -> str:
    """What the table has no room for: the distance before guidance, as other projects state it."""
    return "\n".join(
        f"{precision}: before guidance, KL divergence {found.kl_divergence_before_guidance:.2e}, "
        f"equal greedy tokens {found.greedy_equal_before_guidance:.2%}"
        for precision, found in quality.items()
    )


def document(cases: Sequence[Case], **facts: Any) -> dict[str, Any]:
    return {"benchmark": "decode", **facts, "cases": [asdict(case) for case in cases]}


def _word(value: object) -> str:
    if value is None:
        return "-"
    return f"{value:.4g}" if isinstance(value, float) else str(value)
