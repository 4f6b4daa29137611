"""Everything that a run has found so far."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from statistics import median

from benchmarks.serving.figures import Key, Level, level
from benchmarks.serving.records import Run
from benchmarks.serving.triton import StageFigures, Stretch, doubt, stage_figures
from songstarter.contract import PUBLIC_MODEL


@dataclass
class Findings:
    """Everything that was measured, by load."""

    runs: dict[Key, list[Run]] = field(default_factory=dict)
    stretches: dict[Key, list[Stretch]] = field(default_factory=dict)
    bare: dict[int, list[Run]] = field(default_factory=dict)
    model: str = PUBLIC_MODEL  # the one that was asked
    complete: bool = False  # whether everything that was planned was measured
    server: str = "unknown"
    statistics_missing: str | None = None
    load_average: list[float] = field(default_factory=lambda: [os.getloadavg()[0]])

    @property
    def levels(self) -> list[Level]:
        return [self.level(key) for key in sorted(self.runs)]

    def level(self, key: Key) -> Level:
        stretches, runs = self.stretches.get(key, []), self.runs[key]
        if not stretches:
            return level(*key, runs)
        stages = stage_figures(stretches)
        return replace(level(*key, runs, stages), stages_doubt=self._doubt(stages, stretches, runs))

    def _doubt(self, stages: Sequence[StageFigures], stretches: Sequence[Stretch], runs: Sequence[Run]) -> str | None:
        if len(stretches) < len(runs):
            return f"Triton's statistics came for {len(stretches)} of {len(runs)} runs"
        records = [record for run in runs for record in run.records]
        answered = sum(record.error is None for record in records)
        return doubt(stages, self.model, answered, len(records), sum(stretch.seconds for stretch in stretches))

    def bare_level(self, concurrency: int) -> Level:
        return level("closed", concurrency, self.bare[concurrency])

    def ratio(self, concurrency: int) -> float:
        """Served over bare, seconds of audio per second: the median over rounds that have both."""
        pairs = zip(self.runs["closed", concurrency], self.bare[concurrency], strict=False)
        speeds = [[level("closed", concurrency, [run]).audio_seconds_per_second for run in pair] for pair in pairs]
        return median(served / bare if bare else 0.0 for served, bare in speeds)
