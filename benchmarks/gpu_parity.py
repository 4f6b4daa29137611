"""Does the device compute what torch does: logits after known columns, and the columns drawn from them.

Without that, no figure means anything. So it is the first thing that is looked at, and the first that is said.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from benchmarks.gpu_process import Budget, run_side
from benchmarks.gpu_side import draw_of
from benchmarks.quality import Quality, Run, compare
from export.decoder_check import TOLERANCES
from songstarter.array import Array
from songstarter.checkpoint import Device, Precision
from songstarter.stages.sampler import sample_slots

# On the CPU, at 48 layers and 512 channels, 0.003 and 0.09 standard deviations were seen, and 100 % and 96.7 %.
GREEDY_EQUAL: dict[str, float] = {"fp16": 0.98, "fp16_kv8": 0.9}
DRAWN_EQUAL = 0.999  # a number may fall between the edges of two tokens as two libraries round them


@dataclass(frozen=True)
class Parity:
    """What was compared in one precision at one size."""

    size: str
    precision: Precision
    slots: int  # among which it was played, in the last
    computed_by: str
    same_at_any_place: bool  # the first slot and the last got the same bits; a finding, not a condition
    largest_error: float  # in standard deviations of torch's logits
    quality: Quality
    drawn_equal: float  # share of columns' tokens that the bulk sampler draws from the same logits

    @property
    def holds(self) -> bool:
        return (
            self.largest_error <= TOLERANCES[self.precision]
            and self.quality.greedy_equal_before_guidance >= GREEDY_EQUAL[self.precision]
            and self.drawn_equal >= DRAWN_EQUAL
        )

    def __str__(self) -> str:
        where = f"{self.size} in {self.precision}, {self.slots} slots by {self.computed_by}"
        return (
            f"parity {'holds' if self.holds else 'DOES NOT HOLD'}: {where}: logits at most "
            f"{self.largest_error:.3g} standard deviations from torch's (allowed {TOLERANCES[self.precision]}), greedy "
            f"tokens {self.quality.greedy_equal_before_guidance:.2%} equal (at least "
            f"{GREEDY_EQUAL[self.precision]:.0%}), drawn tokens {self.drawn_equal:.3%} those of the host's sampler, "
            f"the first slot's bits {'' if self.same_at_any_place else 'NOT '}the last's"
        )


def parity(
    size: str,
    precision: Precision,
    slots: int,
    folder: Path,
    run: Run,
    reference: Array,
    *,
    device: Device,
    budget: Budget,
) -> Parity:
    """Play a run on the device and compare it with ``reference`` [column, 2, codebook, token]."""
    given, kept = folder / "run.npz", folder / "played.npz"
    np.savez(given, guided=run.prefix.guided, null=run.prefix.null, columns=run.columns)
    wanted = ["--device", device, "--slots", str(slots), "--columns", given, "--into", kept]
    (facts,) = run_side(["play", folder, *wanted], budget)
    played = np.load(kept)
    error = np.abs(played["logits"] - reference).max() / reference.std()
    return Parity(
        size,
        precision,
        slots,
        facts["computed_by"],
        facts["same_at_any_place"],
        float(error),
        compare(reference, played["logits"]),
        _drawn_equal(played["logits"], played["drawn"]),
    )


def _drawn_equal(logits: Array, drawn: Array) -> float:
    """The share of drawn tokens [column, codebook] that the host draws as well."""
    shares = []
    for step, (block, column) in enumerate(zip(logits, drawn, strict=True)):
        expected = sample_slots(block[None], {0: draw_of(step)})[0]
        shares.append(0.0 if expected is None else float((expected == column).mean()))
    return float(np.mean(shares))
