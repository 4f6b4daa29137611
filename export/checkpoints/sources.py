"""From a name to a checkpoint in memory."""

from __future__ import annotations

from dataclasses import replace

from export.checkpoints.audiocraft import LANGUAGE_MODEL_FILE, load_audiocraft
from export.checkpoints.hub import file_of
from export.checkpoints.loaded import Loaded
from export.checkpoints.transformers_folder import load_transformers
from export.naming import name_of
from songstarter.errors import UnknownCheckpoint
from songstarter.shipped import shipped

EMBEDDED = "embedded"


def load(source: str, *, text_encoder: str | None = None, codec: str | None = None) -> Loaded:
    """Load the embedded checkpoint, a folder, or a hub id.

    ``text_encoder`` and ``codec`` say where to find what an audiocraft checkpoint only names.

    Raises:
        CheckpointError: it is no MusicGen checkpoint, cannot be had, or is not safe to load.
    """
    place = str(shipped(EMBEDDED)) if source == EMBEDDED else source
    loaded = _load_named(place, text_encoder, codec)
    return replace(loaded, name=name_of(source))


def _load_named(source: str, text_encoder: str | None, codec: str | None) -> Loaded:
    if config := file_of(source, "config.json"):
        if codec:
            raise UnknownCheckpoint(f"{source}: a transformers folder holds its codec: leave --codec out")
        return load_transformers(source, config, tokenizer_source=text_encoder)
    if weights := file_of(source, LANGUAGE_MODEL_FILE):
        return load_audiocraft(source, weights, text_encoder=text_encoder, codec=codec)
    raise UnknownCheckpoint(f"{source}: found neither config.json nor {LANGUAGE_MODEL_FILE}; expected one of them")
