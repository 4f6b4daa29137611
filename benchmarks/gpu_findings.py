"""What a run of the GPU benchmark was asked and has found so far, failures included; in words and as a document."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.gpu_parity import Parity
from benchmarks.gpu_process import Budget
from benchmarks.measurements import Measurements, samples
from benchmarks.report import Case, Question, document, table
from benchmarks.roofline import Traffic
from benchmarks.shapes import Size
from songstarter.checkpoint import Device

# What the project aims at on an H200: songs, precision, seconds of audio per second, at least and as the aim.
AIMS = ((1, "fp16", 8, 11), (32, "fp16", 50, 65), (64, "fp16_kv8", 100, 130))
LEAST_SPEEDUP = 10
FEW, MANY = 3, 9
LONGEST_WORDS = 600  # of a failure


@dataclass(frozen=True)
class Plan:
    """What was asked on the command line."""

    size: Size
    check: Size  # compared with torch before the other
    device: Device
    songs: Sequence[int]
    precisions: Sequence[str]
    takes: Sequence[int]
    steps: int
    played_seconds: int
    peers: Sequence[str]
    budget: Budget
    folder: Path

    def folder_of(self, size: Size, precision: str) -> Path:
        return self.folder / f"{size.name}-{precision}"

    def companies(self, size: Size) -> Sequence[int]:
        """Among how many slots a run is played: few and many have other products; neither is a power of two."""
        return (FEW,) if size is self.size and size is not self.check else (FEW, MANY)


@dataclass
class Findings:
    """What has been found so far, failures included."""

    parities: list[Parity] = field(default_factory=list)
    traffic: dict[str, Traffic] = field(default_factory=dict)
    positions: int = 0
    questions: list[Question] = field(default_factory=list)
    measurements: Measurements = field(default_factory=Measurements)
    computed_by: dict[str, str] = field(default_factory=dict)  # by precision
    kernels: dict[str, dict[str, Any]] = field(default_factory=dict)  # of a step of so many songs in a precision
    failures: list[str] = field(default_factory=list)

    def attempt(self, what: str, work: Callable[[], object]) -> None:
        """Do a part of the benchmark; its failure is a finding."""
        start = time.monotonic()
        try:
            work()
            note(f"{what}: {time.monotonic() - start:.1f} s")
        except Exception as error:  # torch's, onnxruntime's and our own
            self.fail(f"{what}: {type(error).__name__}: {error}"[:LONGEST_WORDS])

    def fail(self, words: str) -> None:
        self.failures.append(words)
        note(words)


def cases_of(plan: Plan, findings: Findings) -> list[Case]:
    quality = {parity.precision: parity.quality for parity in findings.parities if parity.size == plan.size.name}
    measured = findings.measurements
    return [
        measured.case(question, findings.traffic[question.precision], quality.get(question.precision))
        for question in findings.questions
        if (question.songs, question.precision) in measured.ours
    ]


def _parity_holds(plan: Plan, findings: Findings) -> bool:
    companies = sum(len(plan.companies(size)) for size in {plan.check, plan.size})
    expected = len(plan.precisions) * companies
    return len(findings.parities) == expected and all(parity.holds for parity in findings.parities)


def tell(plan: Plan, findings: Findings) -> None:
    """The table and the verdict."""
    cases = cases_of(plan, findings)
    print(f"measured:\n{table(cases)}" if cases else "nothing was measured")
    print("\n".join([*map(str, findings.parities), *verdicts(cases), *(f"failed: {f}" for f in findings.failures)]))
    verdict = "holds" if _parity_holds(plan, findings) else "DOES NOT HOLD"
    print(f"verdict: parity {verdict}; {len(cases)} cases measured, {len(findings.failures)} failures")


def document_of(plan: Plan, findings: Findings, facts: dict[str, Any], bandwidth: float) -> dict[str, Any]:
    return document(
        cases_of(plan, findings),
        size=asdict(plan.size),
        device=plan.device,
        machine=facts,
        parity_holds=_parity_holds(plan, findings),
        parities=[asdict(parity) | {"holds": parity.holds} for parity in findings.parities],
        bandwidth_gb_per_second={"copy": bandwidth / 1e9},
        steps=plan.steps,
        rounds=1,
        computed_by=findings.computed_by,
        kernels=findings.kernels,
        samples=samples(findings.measurements),
        failures=findings.failures,
    )


def verdicts(cases: Sequence[Case]) -> list[str]:
    """Each case that has an aim, beside it; the aims are an H200's."""
    lines = []
    for case in cases:
        for songs, precision, least, aim in AIMS:
            if (case.songs, case.precision) == (songs, precision):
                rate = case.audio_seconds_per_second
                words = "reached" if rate >= aim else "above the least" if rate >= least else "MISSED"
                lines.append(
                    f"{words}: {songs} songs of {case.take_seconds} s in {precision} at {rate:.1f} times real time in "
                    f"sum, at least {least} and as the aim {aim} on an H200"
                )
        if case.speedup is not None and case.speedup < LEAST_SPEEDUP:
            lines.append(f"MISSED: {case.songs} songs, {case.precision}: {case.speedup:.1f} times transformers")
    return lines


def note(text: str) -> None:
    """Progress, which is not the result."""
    print(text, file=sys.stderr, flush=True)
