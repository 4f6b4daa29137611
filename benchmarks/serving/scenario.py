"""What the requests of a run look like: a scenario file, and the requests it stands for.

A scenario is a deck of requests, drawn once from its seed so that each share is as exact as the deck's size allows.
Request number i is card i of the deck, played again and again, each time with another seed for the song.
"""

from __future__ import annotations

import math
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields
from functools import cached_property
from itertools import count
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from benchmarks.serving.sound import tune
from songstarter.contract import FIELDS
from songstarter.errors import SongstarterError
from songstarter.request import MAX_SEED

SCENARIOS = Path(__file__).parent / "scenarios"
# Public inputs that a scenario decides by its own keys, and one that is the client's.
DECIDED = ("prompt", "duration", "num_outputs", "seed", "input_audio", "continuation", "output_encoding")
FREE = frozenset(one.name for one in FIELDS) - set(DECIDED)
LARGEST_DECK = 10_000

T = TypeVar("T")


class BadScenario(SongstarterError):
    """A scenario file holds something that is not allowed."""


@dataclass(frozen=True)
class Asked:
    """One request as it will be sent: its number in the run, the prompt and the other public inputs."""

    number: int
    prompt: str
    fields: Mapping[str, Any]

    @property
    def takes(self) -> int:
        return int(self.fields["num_outputs"])

    @property
    def audio_seconds(self) -> float:
        """Seconds of all the variations together."""
        return float(self.fields["duration"]) * self.takes


@dataclass(frozen=True)
class Scenario:
    """A scenario file's keys; ``durations`` and ``variations`` map values to weights."""

    prompts: tuple[str, ...]
    name: str = "unnamed"
    seed: int = 0
    deck: int = 20
    durations: Mapping[float, float] = field(default_factory=lambda: {8.0: 1.0})
    variations: Mapping[int, float] = field(default_factory=lambda: {1: 1.0})
    melody_share: float = 0.0
    melody_seconds: float = 6.0
    continuation_share: float = 0.0
    opening_seconds: float = 2.0
    fields: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def read(cls, name: str) -> Scenario:
        """The scenario in a file, or one of the package by its name.

        Raises:
            BadScenario: there is none, or a key of it is not as it should be.
        """
        path = Path(name) if name.endswith(".toml") else SCENARIOS / f"{name}.toml"
        try:
            values = tomllib.loads(path.read_text())
        except FileNotFoundError:
            known = ", ".join(sorted(one.stem for one in SCENARIOS.glob("*.toml")))
            raise BadScenario(f"no scenario {name!r}: give the path of a .toml file, or one of {known}") from None
        except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
            raise BadScenario(f"{path} is not TOML: {error}") from None
        return cls.parse({"name": path.stem} | values)

    @classmethod
    def parse(cls, values: Mapping[str, Any]) -> Scenario:
        """A scenario of a file's values.

        Raises:
            BadScenario: the message names the key, what was found and what is allowed.
        """
        known = [one.name for one in fields(cls)]
        if unknown := sorted(set(values) - set(known)):
            raise BadScenario(f"{unknown[0]}: no such key; there are {', '.join(known)}")
        if "prompts" not in values:
            raise BadScenario("prompts: found nothing, expected a list of at least one text")
        return cls(**{key: PARSERS[key](key, value) for key, value in values.items()})

    def requests(self) -> Iterator[Asked]:
        """The requests of a run, without end."""
        for number in count():
            prompt, inputs = self._cards[number % self.deck]
            yield Asked(number, prompt, {**inputs, "seed": (self.seed * 1_000_003 + number) % (MAX_SEED + 1)})

    def first(self) -> list[Asked]:
        """Every card of the deck once."""
        return [asked for _, asked in zip(range(self.deck), self.requests(), strict=False)]

    @cached_property
    def _cards(self) -> list[tuple[str, dict[str, Any]]]:
        random = np.random.default_rng(self.seed)
        kinds = {"melody": self.melody_share, "opening": self.continuation_share}
        kinds["nothing"] = max(0.0, 1 - sum(kinds.values()))
        drawn = (
            _drawn(dict.fromkeys(self.prompts, 1.0), self.deck, random),
            _drawn(self.durations, self.deck, random),
            _drawn(self.variations, self.deck, random),
            _drawn(kinds, self.deck, random),
        )
        return [
            (prompt, {**self.fields, "duration": duration, "num_outputs": variations, **self._audio(kind, number)})
            for number, (prompt, duration, variations, kind) in enumerate(zip(*drawn, strict=True))
        ]

    def _audio(self, kind: str, number: int) -> dict[str, Any]:
        if kind == "melody":
            return {"input_audio": tune(self.melody_seconds, seed=self.seed + number)}
        if kind == "opening":
            return {"input_audio": tune(self.opening_seconds, seed=self.seed + number), "continuation": True}
        return {}


def _drawn(weights: Mapping[T, float], size: int, random: np.random.Generator) -> list[T]:
    """Values in a random order, each as often as its weight says, to the nearest whole number."""
    total = sum(weights.values())
    exact = {value: size * weight / total for value, weight in weights.items()}
    counts = {value: math.floor(number) for value, number in exact.items()}
    missing = size - sum(counts.values())
    # Whom rounding down took most gets one more; equals are served by lot.
    lot = dict(zip(exact, random.random(len(exact)), strict=True))
    for value in sorted(exact, key=lambda value: (counts[value] - exact[value], lot[value]))[:missing]:
        counts[value] += 1
    values = [value for value, number in counts.items() for _ in range(number)]
    return [values[index] for index in random.permutation(size)]


def _texts(key: str, value: Any) -> tuple[str, ...]:
    if not (isinstance(value, list) and value and all(isinstance(item, str) for item in value)):
        raise BadScenario(f"{key}: found {value!r}, expected a list of at least one text")
    return tuple(value)


def _text(key: str, value: Any) -> str:
    if not isinstance(value, str):
        raise BadScenario(f"{key}: found {value!r}, expected a text")
    return value


def _whole(key: str, value: Any) -> int:
    least, most = WHOLE[key]
    if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= most:
        raise BadScenario(f"{key}: found {value!r}, expected a whole number, {least} to {most}")
    return value


def _share(key: str, value: Any) -> float:
    if not (_is_number(value) and 0 <= value <= 1):
        raise BadScenario(f"{key}: found {value!r}, expected a share, 0 to 1")
    return float(value)


def _seconds(key: str, value: Any) -> float:
    if not (_is_number(value) and 0 < value <= MOST_SECONDS):
        raise BadScenario(f"{key}: found {value!r}, expected seconds, more than 0 and at most {MOST_SECONDS}")
    return float(value)


def _durations(key: str, value: Any) -> dict[float, float]:
    return {_seconds(key, _number(key, text)): weight for text, weight in _weights(key, value)}


def _variations(key: str, value: Any) -> dict[int, float]:
    numbers = {_number(key, text): weight for text, weight in _weights(key, value)}
    if any(number != int(number) or not 1 <= number <= MOST_VARIATIONS for number in numbers):
        raise BadScenario(f"{key}: found {value!r}, expected numbers of variations, 1 to {MOST_VARIATIONS}")
    return {int(number): weight for number, weight in numbers.items()}


def _weights(key: str, value: Any) -> Sequence[tuple[str, float]]:
    sound = isinstance(value, dict) and all(_is_number(weight) and weight >= 0 for weight in value.values())
    if not sound or not sum(value.values()) > 0:
        raise BadScenario(f'{key}: found {value!r}, expected values with their weights, as in {{ "8" = 3, "30" = 1 }}')
    return [(text, float(weight)) for text, weight in value.items()]


def _inputs(key: str, value: Any) -> dict[str, Any]:
    if not isinstance(value, dict) or not set(value) <= FREE:
        raise BadScenario(f"{key}: found {value!r}, expected some of {', '.join(sorted(FREE))}")
    return value


def _number(key: str, text: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise BadScenario(f"{key}: found {text!r}, expected a number") from None


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


MOST_SECONDS = 600
MOST_VARIATIONS = 8
WHOLE = {"seed": (0, MAX_SEED), "deck": (1, LARGEST_DECK)}
PARSERS: Mapping[str, Any] = {
    "prompts": _texts,
    "name": _text,
    "seed": _whole,
    "deck": _whole,
    "durations": _durations,
    "variations": _variations,
    "melody_share": _share,
    "melody_seconds": _seconds,
    "continuation_share": _share,
    "opening_seconds": _seconds,
    "fields": _inputs,
}
