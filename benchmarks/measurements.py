"""Everything measured in one run, by side and round, and the figures that follow from it.

Memory on shared hardware is at times three times as fast as at others, for minutes. So its speed is noted beside
each measurement, and medians are taken over rounds: a median over all steps would mix two machines.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import asdict, dataclass, field
from statistics import median
from typing import Any

from benchmarks.quality import Quality
from benchmarks.report import Case, Question, mean_traffic
from benchmarks.roofline import Traffic, milliseconds
from benchmarks.shapes import MELODY_FRAMES, columns_of, last_context, mean_along
from benchmarks.timing import Step

# A variant this much slower than the best along the longest take is not run again.
HOPELESS = 1.15

Samples = dict[int, list[float]]  # context -> milliseconds of steps
Key = tuple[int, str]  # songs, and our precision or the peer's variant


@dataclass(frozen=True)
class OurRound:
    """What one round saw of ours: whole steps, what of them is beside the model, and memory's speed just then."""

    steps: Samples
    beside_model: Samples
    bandwidth: dict[int, float]  # context -> bytes per second


@dataclass
class Measurements:
    """Rounds by who ran in them."""

    ours: dict[Key, list[OurRound]] = field(default_factory=lambda: defaultdict(list))
    peer: dict[Key, list[Samples]] = field(default_factory=lambda: defaultdict(list))
    not_running: dict[Key, str] = field(default_factory=dict)  # why

    def add_ours(self, songs: int, precision: str, steps: dict[int, list[Step]], bandwidth: dict[int, float]) -> None:
        whole = {context: [step.seconds * 1e3 for step in some] for context, some in steps.items()}
        beside = {context: [(step.seconds - step.in_model) * 1e3 for step in some] for context, some in steps.items()}
        self.ours[songs, precision].append(OurRound(whole, beside, bandwidth))

    def add_peer(self, songs: int, variant: str, seconds: dict[int, list[float]]) -> None:
        self.peer[songs, variant].append(
            {context: [second * 1e3 for second in some] for context, some in seconds.items()}
        )

    def promising(self, songs: int, take_seconds: int, variants: list[str]) -> list[str]:
        """The variants worth another round; all of them before the first."""
        means = {name: median(rounds) for name, rounds in self._peer_rounds(songs, take_seconds).items()}
        bound = HOPELESS * min(means.values(), default=0)
        running = (name for name in variants if (songs, name) not in self.not_running)
        return [name for name in running if means.get(name, bound) <= bound]

    def case(self, question: Question, traffic: Traffic, quality: Quality | None) -> Case:
        """The answer to a question whose contexts have been measured."""
        take = question.take_seconds
        rounds = self.ours[question.songs, question.precision]
        ours = [_mean(take, one.steps) for one in rounds]
        beside = [_mean(take, one.beside_model) for one in rounds]
        variant, peer = self._best_peer(question.songs, take)
        least = [_roofline(question, traffic, one.bandwidth) for one in rounds]
        typical = median(ours)
        return Case(
            songs=question.songs,
            precision=question.precision,
            take_seconds=take,
            ours_ms_per_step=typical,
            peer_ms_per_step=median(peer) if peer else None,
            peer_variant=variant,
            speedup=median(peer) / typical if peer else None,
            roofline_fraction=_median_ratio(least, ours),
            audio_seconds_per_second=_audio_rate(question, typical),
            sampling_share=_median_ratio(beside, ours),
            weight_bytes_per_step=traffic.weights,
            memory_bytes_per_step=mean_traffic(question, traffic) - traffic.weights,
            kl_divergence=quality.kl_divergence if quality else None,
            greedy_equal=quality.greedy_equal if quality else None,
            ours_ms_by_round=ours,
            peer_ms_by_round=peer,
            roofline_ms_by_round=least,
        )

    def _best_peer(self, songs: int, take_seconds: int) -> tuple[str | None, list[float]]:
        """The variant that took least along the take, and its milliseconds per step in each round."""
        found = self._peer_rounds(songs, take_seconds)
        if not found:
            return None, []
        return min(found.items(), key=lambda item: median(item[1]))

    def _peer_rounds(self, songs: int, take_seconds: int) -> dict[str, list[float]]:
        return {
            variant: [_mean(take_seconds, samples) for samples in rounds]
            for (count, variant), rounds in self.peer.items()
            if count == songs and all(last_context(take_seconds) in samples for samples in rounds)
        }


def samples(measurements: Measurements) -> dict[str, dict[str, list[Any]]]:
    """Every step that was timed, in milliseconds, by round and context: for those who doubt a median."""
    return {
        "ours": {f"{songs} x {name}": list(map(asdict, found)) for (songs, name), found in measurements.ours.items()},
        "peer": {f"{songs} x {name}": found for (songs, name), found in measurements.peer.items()},
    }


def _mean(take_seconds: int, samples: Samples) -> float:
    return mean_along(take_seconds, {context: median(times) for context, times in samples.items()})


def _roofline(question: Question, traffic: Traffic, bandwidth: dict[int, float]) -> float:
    """The least milliseconds per step, the mean along the take, with memory as fast as it was at each context."""
    return mean_along(
        question.take_seconds,
        {
            context: milliseconds(traffic.bytes_per_step(question.songs, context, shared=MELODY_FRAMES), speed)
            for context, speed in bandwidth.items()
        },
    )


def _median_ratio(parts: list[float], wholes: list[float]) -> float:
    return median(part / whole for part, whole in zip(parts, wholes, strict=True))


def _audio_rate(question: Question, milliseconds_per_step: float) -> float:
    """Seconds of audio made in a second, all songs together."""
    seconds = columns_of(question.take_seconds) * milliseconds_per_step / 1e3
    return question.songs * question.take_seconds / seconds
