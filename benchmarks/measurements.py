"""Everything measured in one run, by side and context, and the means along takes that follow from it."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field
from statistics import median

from benchmarks.quality import Quality
from benchmarks.report import Case, Question, mean_traffic
from benchmarks.roofline import Traffic, milliseconds
from benchmarks.shapes import columns_of, last_context, mean_along
from benchmarks.timing import Step

# A variant this much slower than the best along the longest take is not run again.
HOPELESS = 1.15

Samples = dict[int, list[float]]  # context -> milliseconds of steps


@dataclass
class Measurements:
    """Milliseconds of single steps, kept apart by who made them."""

    ours: dict[tuple[int, str], Samples] = field(default_factory=lambda: defaultdict(lambda: defaultdict(list)))
    sampling: dict[tuple[int, str], Samples] = field(default_factory=lambda: defaultdict(lambda: defaultdict(list)))
    peer: dict[tuple[int, str], Samples] = field(default_factory=lambda: defaultdict(lambda: defaultdict(list)))
    not_running: dict[tuple[int, str], str] = field(default_factory=dict)  # songs, variant of the peer -> why

    def add_ours(self, songs: int, precision: str, context: int, steps: list[Step]) -> None:
        self.ours[songs, precision][context] += [step.seconds * 1e3 for step in steps]
        self.sampling[songs, precision][context] += [(step.seconds - step.in_model) * 1e3 for step in steps]

    def add_peer(self, songs: int, variant: str, context: int, seconds: list[float]) -> None:
        self.peer[songs, variant][context] += [second * 1e3 for second in seconds]

    def best_peer(self, songs: int, take_seconds: int) -> tuple[str, float] | None:
        """The variant that took least along the take, and its milliseconds per step."""
        means = self._peer_means(songs, take_seconds)
        return min(means.items(), key=lambda item: item[1], default=None)

    def promising(self, songs: int, take_seconds: int, variants: list[str]) -> list[str]:
        """The variants worth another round; all of them before the first."""
        means = self._peer_means(songs, take_seconds)
        bound = HOPELESS * min(means.values(), default=0)
        running = (name for name in variants if (songs, name) not in self.not_running)
        return [name for name in running if means.get(name, bound) <= bound]

    def case(self, question: Question, traffic: Traffic, bandwidth: float, quality: Quality | None) -> Case:
        """The answer to a question whose contexts have been measured."""
        key = question.songs, question.precision
        ours = _mean(question.take_seconds, self.ours[key])
        peer = self.best_peer(question.songs, question.take_seconds)
        size = mean_traffic(question, traffic)
        return Case(
            songs=question.songs,
            precision=question.precision,
            take_seconds=question.take_seconds,
            ours_ms_per_step=ours,
            peer_ms_per_step=peer[1] if peer else None,
            peer_variant=peer[0] if peer else None,
            speedup=peer[1] / ours if peer else None,
            roofline_fraction=milliseconds(size, bandwidth) / ours,
            audio_seconds_per_second=_audio_rate(question, ours),
            sampling_share=_mean(question.take_seconds, self.sampling[key]) / ours,
            weight_bytes_per_step=traffic.weights,
            memory_bytes_per_step=size - traffic.weights,
            kl_divergence=quality.kl_divergence if quality else None,
            greedy_equal=quality.greedy_equal if quality else None,
        )

    def _peer_means(self, songs: int, take_seconds: int) -> dict[str, float]:
        return {
            variant: _mean(take_seconds, samples)
            for (count, variant), samples in self.peer.items()
            if count == songs and last_context(take_seconds) in samples
        }


def _mean(take_seconds: int, samples: Samples) -> float:
    return mean_along(take_seconds, {context: median(times) for context, times in samples.items()})


def _audio_rate(question: Question, milliseconds_per_step: float) -> float:
    """Seconds of audio made in a second, all songs together."""
    seconds = columns_of(question.take_seconds) * milliseconds_per_step / 1e3
    return question.songs * question.take_seconds / seconds
