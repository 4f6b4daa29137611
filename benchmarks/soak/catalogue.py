"""What is asked for: a fixed set of requests of each kind, so that each answer can be compared with its solo run."""

from __future__ import annotations

import io
import math
import struct
import wave
from collections.abc import Mapping
from dataclasses import dataclass
from random import Random
from typing import Any, Literal

Kind = Literal["short", "long", "streamed", "bad"]
SHARES: Mapping[Kind, int] = {"short": 60, "long": 10, "streamed": 20, "bad": 10}  # in a hundred
VARIETY: Mapping[Kind, int] = {"short": 8, "long": 2, "streamed": 4}
LENGTHS: Mapping[Kind, tuple[float, float]] = {"short": (0.2, 2.0), "long": (31.0, 36.0), "streamed": (1.0, 6.0)}
PROMPTS = ("lofi, guitar, d minor, 80 bpm", "synth, dark, a minor, 140 bpm", "piano", "", "house, e minor, 124 bpm")
BAD: tuple[dict[str, Any], ...] = (
    {"duration": -1.0},
    {"top_k": -1},
    {"num_outputs": 99},
    {"temperature": math.nan},
    {"input_audio": b"RIFF" + bytes(5000)},
    {"continuation": True},
)


@dataclass(frozen=True)
class Asked:
    """One request: its fields by the client's names."""

    kind: Kind
    number: int
    prompt: str
    fields: Mapping[str, Any]

    @property
    def name(self) -> str:
        return f"{self.kind} {self.number}"


def catalogue(seed: int, longest: float) -> dict[Kind, list[Asked]]:
    """Every request that a soak may send; no song is longer than ``longest`` seconds."""
    random = Random(seed)
    right: dict[Kind, list[Asked]] = {
        kind: [_right(kind, number, random, longest) for number in range(variety)] for kind, variety in VARIETY.items()
    }
    return right | {"bad": [Asked("bad", number, "piano", fields) for number, fields in enumerate(BAD)]}


def draw(random: Random, requests: Mapping[Kind, list[Asked]]) -> Asked:
    (kind,) = random.choices(list(SHARES), weights=list(SHARES.values()))
    return random.choice(requests[kind])


def _right(kind: Kind, number: int, random: Random, longest: float) -> Asked:
    fields: dict[str, Any] = {
        "duration": min(round(random.uniform(*LENGTHS[kind]), 2), longest),
        "seed": random.randrange(2**32),
        "num_outputs": random.choice((1, 2)) if kind == "short" else 1,
        "output_format": random.choice(("wav", "mp3")),
        "normalization_strategy": "clip" if kind == "streamed" else random.choice(("loudness", "clip", "peak", "rms")),
    }
    if kind == "short" and number % 3 == 0:
        fields["input_audio"] = tune(random.uniform(200, 800))
    return Asked(kind, number, random.choice(PROMPTS), fields)


def tune(hertz: float, rate: int = 16_000, seconds: float = 1.5) -> bytes:
    """A melody to follow, as a wav file."""
    steps = (int(12_000 * math.sin(2 * math.pi * hertz * step / rate)) for step in range(int(rate * seconds)))
    buffer = io.BytesIO()
    with wave.open(buffer, "wb") as file:
        file.setparams((1, 2, rate, 0, "NONE", "not compressed"))
        file.writeframes(b"".join(struct.pack("<h", step) for step in steps))
    return buffer.getvalue()
