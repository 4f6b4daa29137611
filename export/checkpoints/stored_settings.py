"""The Hydra configuration that audiocraft stores beside its weights: what no tensor tells."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import yaml

from songstarter.errors import UnknownCheckpoint

_REFERENCE = re.compile(r"\$\{([\w.]+)\}")  # to another value, by its path: audiocraft stores them unresolved
_DEEPEST = 8  # references that lead to references
# What a language model of this project is, where its configuration says something at all.
_MUSICGEN: Mapping[str, object] = {
    "lm_model": "transformer_lm",
    "codebooks_pattern.modeling": "delay",
    "transformer_lm.activation": "gelu",
    "transformer_lm.norm": "layer_norm",
    "transformer_lm.norm_first": True,
    "transformer_lm.positional_embedding": "sin",
    "transformer_lm.causal": True,
}


class StoredSettings:
    """Values by their paths; a checkpoint without a configuration has none."""

    def __init__(self, content: Mapping[str, Any]) -> None:
        text = content.get("xp.cfg")
        settings = yaml.safe_load(text) if isinstance(text, str) else None
        self._settings: Mapping[str, Any] = settings if isinstance(settings, dict) else {}

    def get(self, path: str, default: Any = None) -> Any:
        """The value at a path such as ``seanet.causal``, or the default where there is none."""
        value = self._at(path)
        for _ in range(_DEEPEST):
            reference = _REFERENCE.fullmatch(value) if isinstance(value, str) else None
            if reference is None:
                return default if value is None else value
            value = self._at(reference[1])
        raise UnknownCheckpoint(f"the stored configuration's {path} refers to itself")

    def flag(self, path: str, default: bool) -> bool:
        """A value that is true or false.

        Raises:
            UnknownCheckpoint: it is something else.
        """
        value = self.get(path, default)
        if not isinstance(value, bool):
            raise UnknownCheckpoint(f"the stored configuration's {path} is {value!r}; expected true or false")
        return value

    def require_musicgen(self, source: str, delays: tuple[int, ...]) -> None:
        """Refuse a language model that computes in another way than MusicGen's; its tensors would not show it.

        Raises:
            UnknownCheckpoint: with the first setting that is another.
        """
        for path, expected in {**_MUSICGEN, "codebooks_pattern.delay.delays": list(delays)}.items():
            found = self.get(path, expected)
            if found != expected:
                raise UnknownCheckpoint(f"{source}: its configuration's {path} is {found!r}; expected {expected!r}")

    def _at(self, path: str) -> Any:
        value: Any = self._settings
        for name in path.split("."):
            value = value.get(name) if isinstance(value, Mapping) else None
        return value
