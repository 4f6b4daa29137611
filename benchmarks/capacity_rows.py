"""The planner's table: what a machine playing so many songs at once makes, needs and costs."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from benchmarks.shapes import columns_of
from benchmarks.step_time import Predicted, StepTimes


@dataclass(frozen=True)
class Wish:
    """What shall be made: requests per hour, songs in each, and how full slots may be to keep waiting short."""

    requests_per_hour: float
    variations: int
    take_seconds: int
    utilisation: float


@dataclass(frozen=True)
class Row:
    """One machine, so many songs at once, one length of takes. Memory is None where times were measured."""

    hardware: str
    basis: str
    model: str
    precision: str
    songs: int
    take_seconds: int
    ms_per_step: float
    audio_seconds_per_second: float
    songs_per_second: float
    requests_per_second: float
    memory_gb_needed: float | None
    memory_gb_available: float | None
    machines_for_demand: int
    usd_per_audio_minute: float


def rows(machines: Sequence[StepTimes], songs: Sequence[int], takes: Sequence[int], wish: Wish) -> list[Row]:
    """Every combination that fits into memory, or lies within what was measured."""
    return [
        row_of(machine, number, take, wish)
        for machine in machines
        for number in songs
        if number <= machine.most_songs
        for take in takes
        if machine.knows(take)
    ]


def row_of(machine: StepTimes, songs: int, take_seconds: int, wish: Wish) -> Row:
    step = machine.milliseconds(songs, take_seconds)
    songs_per_second = songs / (columns_of(take_seconds) * step / 1e3)
    real_time = songs_per_second * take_seconds
    needed, available = _memory(machine, songs)
    return Row(
        hardware=machine.hardware,
        basis=machine.basis([songs], take_seconds),
        model=machine.model,
        precision=machine.precision,
        songs=songs,
        take_seconds=take_seconds,
        ms_per_step=step,
        audio_seconds_per_second=real_time,
        songs_per_second=songs_per_second,
        requests_per_second=songs_per_second / wish.variations,
        memory_gb_needed=needed,
        memory_gb_available=available,
        machines_for_demand=machines_for(songs_per_second, wish),
        usd_per_audio_minute=machine.price / 3600 * 60 / real_time,
    )


def machines_for(songs_per_second: float, wish: Wish) -> int:
    wanted = wish.requests_per_hour / 3600 * wish.variations
    return math.ceil(wanted / (songs_per_second * wish.utilisation))


def too_many(machines: Sequence[StepTimes], songs: Sequence[int]) -> Iterator[str]:
    """Words on the combinations that are left out."""
    for machine in machines:
        if max(songs) > machine.most_songs:
            yield f"{machine.hardware}, {machine.precision}: at most {machine.most_songs} songs at once"


def _memory(machine: StepTimes, songs: int) -> tuple[float | None, float | None]:
    if not isinstance(machine, Predicted):
        return None, None
    return machine.memory_needed(songs) / 1e9, machine.memory_available / 1e9
