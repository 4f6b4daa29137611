"""What an operator sets in place of the parameters of a model's ``config.pbtxt``: ``songstarter serve --set``.

A repository that pods share, or that came with an image, cannot be written to. So what is set reaches a model's
process in its environment, and stands there in front of what its configuration says.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from songstarter.checkpoint import Checkpoint, Device
from songstarter.contract import DECODER, PUBLIC_MODEL, STREAM_MODEL
from songstarter.errors import ServerError

VARIABLE = "SONGSTARTER_SETTINGS"  # for the model processes, as JSON
COMMENT = re.compile(r"^\s*#.*$", re.MULTILINE)
PARAMETER = re.compile(r'parameters\s*\{\s*key:?\s*"([^"]+)"\s*value:?\s*\{\s*string_value:?\s*"([^"]*)"')

Settings = Mapping[str, str]  # by MODEL.PARAMETER

MOST = 10**9 - 1
MOST_SECONDS = 86_400
WHOLE = re.compile(r"[0-9]{1,9}")
DECIMAL = re.compile(r"[0-9]+(\.[0-9]+)?")


@dataclass(frozen=True)
class Count:
    """A whole number; ``device`` is the one that it matters to, and on another it stays at its least."""

    least: int
    device: Device | None = None

    def read(self, text: str, device: Device) -> int | None:
        """The number, or None where it is not allowed to a decoder exported for this device."""
        number = int(text) if WHOLE.fullmatch(text) else None
        most = MOST if self._matters_to(device) else self.least
        return number if number is not None and self.least <= number <= most else None

    def allowed(self, device: Device) -> str:
        if self._matters_to(device):
            return f"a whole number, {self.least} to {MOST}"
        return f"{self.least}, since the decoder was exported for {device} and this is for {self.device}"

    def _matters_to(self, device: Device) -> bool:
        return self.device in (None, device)


@dataclass(frozen=True)
class Seconds:
    """A length of time."""

    def read(self, text: str, device: Device) -> float | None:
        seconds = float(text) if DECIMAL.fullmatch(text) else 0.0
        return seconds if 0 < seconds <= MOST_SECONDS else None

    def allowed(self, device: Device) -> str:
        return f"seconds, more than 0 and at most {MOST_SECONDS}"


Parameters = Mapping[str, Count | Seconds]  # by name

_PUBLIC: Parameters = {
    "max_requests": Count(1),
    "max_duration": Seconds(),
    "max_audio_seconds": Seconds(),
    "codec_calls": Count(1),
}
# By model; the others' parameters are read by Triton's backend.
PARAMETERS: Mapping[str, Parameters] = {
    DECODER: {
        "slots": Count(1),
        "max_waiting": Count(0),
        "fewest_slots": Count(1, "cuda"),
        "threads": Count(0, "cpu"),
    },
    PUBLIC_MODEL: _PUBLIC,
    STREAM_MODEL: _PUBLIC,
}
MODELS = tuple(PARAMETERS)


def require_known(settings: Settings, checkpoint: Checkpoint) -> None:
    """Refuse what none of the checkpoint's models would read, or could not use.

    Raises:
        ServerError: a model or parameter is not there, and the message lists those that are; or a value is not allowed.
    """
    device = checkpoint.decoder.device
    known = {
        f"{model}.{name}": parameter
        for model in MODELS
        if model in checkpoint.models
        for name, parameter in PARAMETERS[model].items()
    }
    for name, text in settings.items():
        if name not in known:
            raise ServerError(f"--set {name}: expected is one of {', '.join(known) or 'none'}")
        if known[name].read(text, device) is None:
            raise ServerError(f"--set {name}={text}: expected is {known[name].allowed(device)}")


def parameters(repository: Path, model: str, settings: Settings | None = None) -> dict[str, str]:
    """The parameters of a model's ``config.pbtxt``, and in their place what is set."""
    config = repository / model / "config.pbtxt"
    stated = dict(PARAMETER.findall(COMMENT.sub("", config.read_text()))) if config.is_file() else {}
    return stated | dict(_of(model, settings or {}))


def environment(settings: Settings) -> dict[str, str]:
    """What carries settings to the model processes of a server."""
    return {VARIABLE: json.dumps(dict(settings))}


def of_this_process(model: str) -> dict[str, str]:
    """What this process's server was told to set of a model, by parameter."""
    return dict(_of(model, json.loads(os.environ.get(VARIABLE, "{}"))))


def _of(model: str, settings: Settings) -> Iterator[tuple[str, str]]:
    for name, value in settings.items():
        owner, _, parameter = name.partition(".")
        if owner == model:
            yield parameter, value
