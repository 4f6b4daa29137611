"""The public inputs as Python values, and their way into tensors."""

from __future__ import annotations

import math
import operator
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from numbers import Real
from pathlib import Path
from typing import Any, Literal, TypedDict

import numpy as np
from numpy.typing import NDArray

from songstarter import contract
from songstarter.contract import Datatype, Field
from songstarter.errors import Description, InvalidRequest

Normalization = Literal["loudness", "clip", "peak", "rms"]
AudioFormat = Literal["wav", "mp3"]
StreamFormat = Literal["wav", "mp3", "pcm"]


class Handling(TypedDict, total=False):
    """How the server shall treat a request, whatever it asks for.

    priority: 1 (first) to 5, among those that wait. deadline: seconds from its arrival after which the server gives it
    up. request_id: by which the server's log names it; otherwise one is made for it.
    """

    priority: int | None
    deadline: float | None
    request_id: str | None


class CommonFields(Handling, total=False):
    """What `generate` and `stream` both take besides the prompt.

    input_audio: a file's bytes, a path, or a data URI. The song comes back as bytes, so the one public
    input missing here, output_encoding, is the client's own.
    """

    input_audio: bytes | str | os.PathLike[str] | None
    duration: float | None
    continuation: bool | None
    continuation_start: float | None
    continuation_end: float | None
    normalization_strategy: Normalization | None
    top_k: int | None
    top_p: float | None
    temperature: float | None
    classifier_free_guidance: float | None
    seed: int | None
    num_outputs: int | None


class Fields(CommonFields, total=False):
    """What `generate` takes besides the prompt; a field left out, or None, gets the server's default."""

    output_format: AudioFormat | None


class StreamFields(CommonFields, total=False):
    """What `stream` takes besides the prompt; a field left out, or None, gets the server's default."""

    output_format: StreamFormat | None
    chunk_seconds: float | None


@dataclass(frozen=True)
class InputTensor:
    """One input as it is sent: its name, Triton's name of its datatype, and its values, shape [1]."""

    name: str
    datatype: str
    values: NDArray[Any]


def input_tensors(
    prompt: str | None, fields: Mapping[str, object], of: Sequence[Field] = contract.FIELDS
) -> tuple[InputTensor, ...]:
    """The given fields as tensors, in the contract's order; absent ones are not sent."""
    given: dict[str, object] = {"prompt": prompt, **fields}
    sendable = {field.name for field in of} - {"output_encoding"}
    unknown = sorted(given.keys() - sendable)
    if unknown:
        names = ", ".join(field.name for field in of if field.name in sendable)
        raise TypeError(f"unknown field {unknown[0]!r}; the fields are {names}")
    given["output_encoding"] = "raw"
    return tuple(_tensor(field, given[field.name]) for field in of if _is_given(field, given))


SENDABLE = {field.name: field for field in contract.FIELDS if field.name != "output_encoding"}


def _is_given(field: Field, given: Mapping[str, object]) -> bool:
    return given.get(field.name) is not None


def _tensor(field: Field, value: object) -> InputTensor:
    kind = _KINDS[field.datatype]
    return InputTensor(field.name, kind.triton, np.array([checked(field, value)], dtype=kind.numpy))


def checked(field: Field, value: object) -> Any:
    """A field's value as Python's own kind; what is allowed of it, the server knows."""
    parse = _file if field.name == "input_audio" else _KINDS[field.datatype].parse
    return parse(field, value)


def _text(field: Field, value: object) -> bytes:
    if not isinstance(value, str):
        raise InvalidRequest(field.name, value, "a text")
    try:
        return value.encode()
    except UnicodeEncodeError:
        raise InvalidRequest(field.name, Description("a lone surrogate"), "a text of Unicode") from None


def _file(field: Field, value: object) -> bytes:
    """The bytes of a file given as bytes, as a path or as a data URI."""
    if isinstance(value, bytes | bytearray | memoryview):
        return bytes(value)
    if isinstance(value, str) and value.startswith("data:"):
        return _text(field, value)
    if not isinstance(value, str | os.PathLike):
        raise InvalidRequest(field.name, value, "bytes, a path or a data URI")
    try:
        return Path(value).read_bytes()
    except (OSError, ValueError) as problem:
        reason = problem.strerror if isinstance(problem, OSError) and problem.strerror else problem
        raise InvalidRequest(field.name, Description(f"{str(value)!r} ({reason})"), "a readable file") from None


def _real(field: Field, value: object) -> float:
    if not isinstance(value, Real) or isinstance(value, bool):
        raise InvalidRequest(field.name, value, "a number")
    number = float(value)
    if math.isfinite(number) and abs(number) > np.finfo(np.float32).max:
        raise InvalidRequest(field.name, value, "a number that fits 32 bits")
    return number


def _whole(field: Field, value: object) -> int:
    limits = np.iinfo(_KINDS[field.datatype].numpy)
    try:
        number = operator.index(value)  # type: ignore[arg-type]
    except TypeError:
        raise InvalidRequest(field.name, value, "a whole number") from None
    if not limits.min <= number <= limits.max:
        raise InvalidRequest(field.name, value, f"a whole number of {limits.bits} bits")
    return number


def _truth(field: Field, value: object) -> bool:
    if not isinstance(value, bool | np.bool_):
        raise InvalidRequest(field.name, value, "True or False")
    return bool(value)


@dataclass(frozen=True)
class _Kind:
    """How values of one datatype are checked and sent."""

    triton: str
    numpy: str
    parse: Callable[[Field, object], object]


_KINDS: dict[Datatype, _Kind] = {
    "STRING": _Kind("BYTES", "object", _text),
    "FP32": _Kind("FP32", "float32", _real),
    "INT32": _Kind("INT32", "int32", _whole),
    "INT64": _Kind("INT64", "int64", _whole),
    "BOOL": _Kind("BOOL", "bool", _truth),
}
