"""How long a decode step takes: predicted from bytes and bandwidth, or looked up where it was measured."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any, Protocol

from benchmarks.hardware import CORE_PRICE, GPUS, Gpu, Model, Precision, memory_of_slots
from benchmarks.roofline import milliseconds
from benchmarks.shapes import columns_of

PREDICTED = "predicted, not measured"
MEASURED = "measured:"
ESTIMATED = "estimated from"  # neighbours, for want of a measurement of that many songs
LONGEST_TAKE = 30  # seconds: a slot has memory for it


class StepTimes(Protocol):
    """A machine playing a model in a precision."""

    @property
    def hardware(self) -> str: ...

    @property
    def model(self) -> str: ...

    @property
    def precision(self) -> str: ...

    @property
    def most_songs(self) -> int:
        """How many at once there are times for."""

    @property
    def price(self) -> float:
        """US dollars per hour."""

    def knows(self, take_seconds: int) -> bool:
        """Whether there are times for takes of this length."""

    def basis(self, songs: Iterable[int], take_seconds: int) -> str:
        """Where the times for these numbers of songs at once come from, in words."""

    def milliseconds(self, songs: int, take_seconds: int) -> float:
        """A step of so many songs at once, the mean along takes of this length."""


@dataclass(frozen=True)
class Predicted:
    """Bytes over a share of the bandwidth, and a time that does not depend on them."""

    gpu: Gpu
    shape: Model
    precision: str
    form: Precision
    efficiency: float
    overhead_ms: float
    price: float

    @property
    def hardware(self) -> str:
        return self.gpu.name

    @property
    def model(self) -> str:
        return self.shape.name

    @property
    def memory_available(self) -> int:
        return self.gpu.memory_for_songs(self.shape, self.form)

    def memory_needed(self, songs: int) -> int:
        return memory_of_slots(self.shape, self.form, songs)

    @property
    def most_songs(self) -> int:
        kept = self.memory_needed(0)
        return max(0, (self.memory_available - kept) // (self.memory_needed(1) - kept))

    def knows(self, take_seconds: int) -> bool:
        return 0 < take_seconds <= LONGEST_TAKE

    def basis(self, songs: Iterable[int], take_seconds: int) -> str:
        return PREDICTED

    def milliseconds(self, songs: int, take_seconds: int) -> float:
        # The context grows evenly, so its mean stands for the take.
        context = self.shape.prefix + columns_of(take_seconds) // 2
        size = self.form.traffic(self.shape).bytes_per_step(songs, context)
        return milliseconds(size, self.gpu.bandwidth * self.efficiency) + self.overhead_ms


@dataclass(frozen=True)
class Measured:
    """The decode benchmark's figures; a straight line between the numbers of songs it measured."""

    hardware: str
    model: str
    precision: str
    source: str
    price: float
    steps: dict[int, dict[int, float]]  # seconds of a take -> songs -> milliseconds

    @property
    def most_songs(self) -> int:
        return min(max(by_songs) for by_songs in self.steps.values())

    def knows(self, take_seconds: int) -> bool:
        return take_seconds in self.steps

    def basis(self, songs: Iterable[int], take_seconds: int) -> str:
        measured = set(songs) <= set(self.steps[take_seconds])
        return f"{MEASURED if measured else ESTIMATED} {self.source}"

    def milliseconds(self, songs: int, take_seconds: int) -> float:
        if not self.knows(take_seconds):
            raise ValueError(f"{self.source} has takes of {sorted(self.steps)} s, none of {take_seconds} s")
        by_songs = self.steps[take_seconds]
        if songs > max(by_songs):
            raise ValueError(f"{self.source} has at most {max(by_songs)} songs at once, not {songs}")
        known = sorted(by_songs)
        if songs <= known[0]:
            return by_songs[known[0]]  # no faster than what was seen
        left, right = next(pair for pair in pairwise(known) if pair[0] < songs <= pair[1])
        share = (songs - left) / (right - left)
        return by_songs[left] + share * (by_songs[right] - by_songs[left])


def measured_in(folder: Path, prices: dict[str, float]) -> list[Measured]:
    """What every decode benchmark's document in a folder measured, one for each precision."""
    documents = ((path, json.loads(path.read_text())) for path in sorted(folder.glob("*.json")))
    return [
        found for path, document in documents if document.get("benchmark") == "decode"
        for found in _measured(path.name, document, prices)
    ]  # fmt: skip


def _measured(file: str, document: dict[str, Any], prices: dict[str, float]) -> Iterator[Measured]:
    facts = document["machine"]
    hardware = _hardware(facts)
    source = f"{file}, revision {facts['revision']}"
    price = prices[hardware] if hardware in prices else _example_price(hardware, facts)
    for precision in dict.fromkeys(case["precision"] for case in document["cases"]):
        steps: dict[int, dict[int, float]] = {}
        for case in (case for case in document["cases"] if case["precision"] == precision):
            steps.setdefault(case["take_seconds"], {})[case["songs"]] = case["ours_ms_per_step"]
        yield Measured(hardware, _model(document["size"]), precision, source, price, steps)


def _hardware(facts: dict[str, Any]) -> str:
    """A GPU by the name it has here, or the processor and its cores."""
    if gpu := facts.get("gpu"):
        return next((name for name, known in GPUS.items() if known.is_called(gpu)), gpu)
    return f"{facts['cores']} cores {facts['cpu'].split(' (')[0]}"


def _example_price(hardware: str, facts: dict[str, Any]) -> float:
    if hardware in GPUS:
        return GPUS[hardware].price
    if "gpu" in facts:
        raise SystemExit(f"times were measured on {hardware!r}, whose price is not known: add --price '{hardware}=USD'")
    return CORE_PRICE * facts["cores"]


def _model(size: dict[str, Any]) -> str:
    """The decode benchmark gives the published shapes stereo-melody's prefix and codebooks."""
    return {"medium": "stereo-melody", "large": "stereo-melody-large"}.get(
        size["name"], f"stereo-melody at {size['name']}"
    )
