"""A request as the engine room sees it: frozen, and valid by construction."""

from __future__ import annotations

import math
import re
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np

from songstarter.contract import FIELDS, Datatype, Field
from songstarter.errors import Description, InvalidRequest

MAX_SEED = 2**32 - 1
MAX_TOP_K = 2048
MAX_TEMPERATURE = 5.0
MAX_GUIDANCE = 20.0
MAX_OUTPUTS = 8
MAX_PROMPT_BYTES = 8192
MAX_DEADLINE = 86_400  # seconds
MICROSECONDS = 6  # digits of a second; fp32 keeps about as many
RANDOM_SEED = -1
TO_THE_END = -1.0
PRIORITIES = range(1, 6)  # 1 goes first
USUAL_PRIORITY = 3
CHUNKS = SHORTEST_CHUNK, LONGEST_CHUNK = 0.1, 30.0  # seconds

KINDS: dict[Datatype, tuple[type | tuple[type, ...], str]] = {
    "STRING": ((str, bytes), "text or bytes"),
    "FP32": ((int, float), "a number"),
    "INT32": (int, "a whole number"),
    "INT64": (int, "a whole number"),
    "BOOL": (bool, "true or false"),
}

Number = TypeVar("Number", int, float)


@dataclass(frozen=True)
class Sampling:
    """How the next token is chosen. top_p above 0 replaces top_k; temperature 0 is greedy (spec 2.5)."""

    temperature: float = 1.0
    top_k: int = 250
    top_p: float = 0.0
    guidance: float = 3.0

    def __post_init__(self) -> None:
        _within("temperature", self.temperature, 0, MAX_TEMPERATURE)
        _within("top_k", self.top_k, 0, MAX_TOP_K)
        _within("top_p", self.top_p, 0, 1)
        _within("classifier_free_guidance", self.guidance, 0, MAX_GUIDANCE)


@dataclass(frozen=True)
class Slice:
    """The part of input_audio to use, in seconds; ``end`` None is the clip's end."""

    start: float = 0.0
    end: float | None = None

    def __post_init__(self) -> None:
        if not (math.isfinite(self.start) and self.start >= 0):
            raise InvalidRequest("continuation_start", self.start, "a number of seconds from 0")
        if self.end is not None and not (math.isfinite(self.end) and self.end > self.start):
            allowed = f"-1 (the clip's end) or more than continuation_start ({self.start:g})"
            raise InvalidRequest("continuation_end", self.end, allowed)


@dataclass(frozen=True)
class Request:
    """What a caller asks for. ``audio`` is a file's bytes or a data URI, not decoded yet."""

    prompt: str
    audio: bytes | None
    continuation: bool
    slice: Slice
    duration: float
    normalization: str
    sampling: Sampling
    audio_format: str
    seed: int
    variations: int
    encoding: str
    priority: int
    deadline: float | None  # seconds from its arrival
    chunk_seconds: float  # of a stream

    @classmethod
    def parse(
        cls, values: Mapping[str, Any], *, shortest: float, longest: float, fields: Sequence[Field] = FIELDS
    ) -> Request:
        """Make a request of plain values by the names of ``fields`` and ``contract.PARAMETERS``.

        Absent ones take their default.

        ``shortest`` and ``longest`` bound the duration, in seconds.

        Raises:
            InvalidRequest: a value is not allowed; the message names the field.
        """
        given = {field.name: _plain(field, values.get(field.name)) for field in fields}
        if given["continuation"] and given["input_audio"] is None:
            raise InvalidRequest("input_audio", Description("nothing"), "an audio file when continuation is true")
        start, end = (_as_written(given[name]) for name in ("continuation_start", "continuation_end"))
        return cls(
            prompt=_prompt(given["prompt"]),
            audio=given["input_audio"],
            continuation=given["continuation"],
            slice=Slice(start, None if end == TO_THE_END else end),
            duration=_duration(given["duration"], shortest, longest),
            normalization=given["normalization_strategy"],
            sampling=Sampling(given["temperature"], given["top_k"], given["top_p"], given["classifier_free_guidance"]),
            audio_format=given["output_format"],
            seed=_seed(given["seed"]),
            variations=_within("num_outputs", given["num_outputs"], 1, MAX_OUTPUTS),
            encoding=given["output_encoding"],
            priority=_priority(values.get("priority", USUAL_PRIORITY)),
            deadline=_deadline(values.get("deadline")),
            chunk_seconds=_within("chunk_seconds", given.get("chunk_seconds", LONGEST_CHUNK), *CHUNKS),
        )


def _plain(field: Field, value: Any) -> Any:
    """A field's value or default; text arrives as bytes and leaves as str, all but the audio."""
    if value is None:
        return field.default
    _check_kind(field, value)
    if field.datatype != "STRING":
        return value
    data = _bytes(field.name, value)
    return (data or None) if field.name == "input_audio" else _one_of(field, _text(field.name, data))


def _check_kind(field: Field, value: Any) -> None:
    """Triton checks what comes as a tensor, but what comes otherwise may be any JSON value."""
    kinds, allowed = KINDS[field.datatype]
    if not isinstance(value, kinds) or (isinstance(value, bool) and field.datatype != "BOOL"):
        raise InvalidRequest(field.name, Description(f"a value of type {type(value).__name__}"), allowed)


def _bytes(name: str, value: str | bytes) -> bytes:
    try:
        return value.encode() if isinstance(value, str) else value
    except UnicodeEncodeError:
        raise InvalidRequest(name, Description("a lone surrogate"), "UTF-8 text") from None


def _text(name: str, data: bytes) -> str:
    try:
        return data.decode()
    except UnicodeDecodeError:
        raise InvalidRequest(name, Description("bytes that are not UTF-8"), "UTF-8 text") from None


def _prompt(text: str) -> str:
    if len(text.encode()) > MAX_PROMPT_BYTES:
        found = Description(f"{len(text.encode())} bytes of text")
        raise InvalidRequest("prompt", found, f"at most {MAX_PROMPT_BYTES} bytes")
    if re.search(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f]", text):
        raise InvalidRequest("prompt", Description("a control character"), "text without control characters")
    return text


def _as_written(number: float) -> float:
    """The decimal that a caller wrote and fp32 could not hold: the shortest that becomes the same fp32."""
    with np.errstate(over="ignore"):  # too large is refused, by a sentence
        return float(str(np.float32(number)))


def _duration(seconds: float, shortest: float, longest: float) -> float:
    if not shortest <= round(seconds, MICROSECONDS) <= longest:  # False for NaN too
        raise InvalidRequest("duration", seconds, f"{shortest:g} to {longest:g} seconds")
    return seconds


def _seed(seed: int) -> int:
    """The seed to use: the given one, or a fresh one for -1."""
    if seed == RANDOM_SEED:
        return secrets.randbelow(MAX_SEED + 1)
    if not 0 <= seed <= MAX_SEED:
        raise InvalidRequest("seed", seed, f"0 to {MAX_SEED}, or {RANDOM_SEED} for a fresh one")
    return seed


def _priority(value: Any) -> int:
    """A request parameter has no type of its own: any JSON value may come."""
    if isinstance(value, bool) or not isinstance(value, int) or value not in PRIORITIES:
        raise InvalidRequest("priority", value, f"a whole number, {PRIORITIES[0]} (first) to {PRIORITIES[-1]}")
    return value


def _deadline(value: Any) -> float | None:
    """As with ``_priority``, any JSON value may come."""
    if value is None:
        return None
    number = not isinstance(value, bool) and isinstance(value, int | float)
    if not number or not 0 < value <= MAX_DEADLINE:
        raise InvalidRequest("deadline", value, f"seconds, more than 0 and at most {MAX_DEADLINE}")
    return float(value)


def _within(name: str, value: Number, least: float, most: float) -> Number:
    if not least <= value <= most:  # False for NaN too
        raise InvalidRequest(name, value, f"{least:g} to {most:g}")
    return value


def _one_of(field: Field, value: str) -> str:
    if field.choices and value not in field.choices:
        raise InvalidRequest(field.name, value, "one of " + ", ".join(field.choices))
    return value
