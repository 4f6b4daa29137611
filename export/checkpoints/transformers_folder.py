"""Checkpoints in the form of the transformers library: ``config.json`` and safetensors."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import torch
from transformers import (
    AutoTokenizer,
    EncodecModel,
    MusicgenForConditionalGeneration,
    MusicgenMelodyForConditionalGeneration,
    PreTrainedTokenizerFast,
    T5EncoderModel,
)

from export.checkpoints.loaded import Loaded, MusicGen
from songstarter.errors import UnknownCheckpoint

_CLASSES: dict[str, type[MusicGen]] = {
    "musicgen_melody": MusicgenMelodyForConditionalGeneration,
    "musicgen": MusicgenForConditionalGeneration,
}
Part = TypeVar("Part")


def load_transformers(source: str, config: Path, *, tokenizer_source: str | None) -> Loaded:
    """Load a folder or hub id whose ``config.json`` says that it is a MusicGen model."""
    kind = json.loads(config.read_text()).get("model_type")
    if kind not in _CLASSES:
        raise UnknownCheckpoint(f"{source}: config.json names a {kind!r} model; expected musicgen or musicgen_melody")
    model = _pretrained(_CLASSES[kind].from_pretrained, source, dtype=torch.float32)
    return Loaded(source, model.eval(), load_tokenizer(tokenizer_source or source))


def load_text_encoder(source: str) -> T5EncoderModel:
    return _pretrained(T5EncoderModel.from_pretrained, source, dtype=torch.float32)


def load_codec(source: str) -> EncodecModel:
    return _pretrained(EncodecModel.from_pretrained, source, dtype=torch.float32)


def load_tokenizer(source: str) -> PreTrainedTokenizerFast:
    tokenizer = _pretrained(AutoTokenizer.from_pretrained, source)
    if not getattr(tokenizer, "is_fast", False):
        raise UnknownCheckpoint(f"{source}: its tokenizer cannot be written as tokenizer.json")
    return tokenizer


def _pretrained(load: Callable[..., Part], source: str, **options: Any) -> Part:
    """Load one part; every way in which the library says that it cannot becomes one sentence."""
    try:
        return load(source, **options)
    except (OSError, ValueError, RuntimeError, KeyError) as error:
        reason = " ".join(str(error).split())[:200]
        owner = getattr(load, "__self__", type(load)).__name__
        raise UnknownCheckpoint(f"{source}: holds no {owner} that can be loaded ({reason})") from error
