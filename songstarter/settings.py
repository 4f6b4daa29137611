"""What an operator sets in place of the parameters of a model's ``config.pbtxt``: ``songstarter serve --set``.

A repository that pods share, or that came with an image, cannot be written to. So what is set reaches a model's
process in its environment, and stands there in front of what its configuration says.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path

from songstarter.contract import DECODER, PUBLIC_MODEL, STREAM_MODEL
from songstarter.errors import ServerError

VARIABLE = "SONGSTARTER_SETTINGS"  # for the model processes, as JSON
MODELS = (DECODER, PUBLIC_MODEL, STREAM_MODEL)  # the others' parameters are read by Triton's backend
COMMENT = re.compile(r"^\s*#.*$", re.MULTILINE)
PARAMETER = re.compile(r'parameters\s*\{\s*key:?\s*"([^"]+)"\s*value:?\s*\{\s*string_value:?\s*"([^"]*)"')

Settings = Mapping[str, str]  # by MODEL.PARAMETER


def require_known(settings: Settings, repository: Path, models: Collection[str]) -> None:
    """Refuse what none of the repository's models would read.

    Raises:
        ServerError: a model or parameter is not there; the message lists those that are.
    """
    known = [
        f"{model}.{parameter}" for model in MODELS if model in models for parameter in parameters(repository, model)
    ]
    for name in settings:
        if name not in known:
            raise ServerError(f"--set {name}: expected is one of {', '.join(known) or 'none'}, as in {repository}")


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
