"""Greedy songs as transformers makes them, for comparison."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch

from export.checkpoints import Loaded
from songstarter.array import Array


def greedy_frames(
    loaded: Loaded,
    prompt: str,
    frames: int,
    *,
    guidance: float,
    chroma: torch.Tensor | None = None,
    opening: Array | None = None,
) -> Array:
    """The codes [codebook, frame] that ``generate`` hands to its codec.

    ``chroma`` is [1, chroma frame, 12]; ``opening`` is [codebook, frame].
    """
    inputs: dict[str, Any] = dict(loaded.tokenizer(prompt, return_tensors="pt"))
    if not prompt:
        inputs["attention_mask"] = torch.zeros_like(inputs["attention_mask"])
    if chroma is not None:
        inputs["input_features"] = chroma
    if opening is not None:
        inputs["decoder_input_ids"] = torch.from_numpy(opening).long()
    columns = frames + 4
    with torch.no_grad(), codes_heard_by(loaded) as heard:
        loaded.model.generate(
            **{name: inputs[name] for name in inputs if name != "token_type_ids"},
            do_sample=False,
            guidance_scale=guidance,
            max_length=columns,
        )
    channels = [codes.reshape(-1, codes.shape[-1]) for codes in heard]
    return np.stack(channels, axis=1).reshape(-1, frames)


@contextmanager
def codes_heard_by(loaded: Loaded) -> Iterator[list[Array]]:
    """What the codec is asked to decode in the block: one array for each channel."""
    heard: list[Array] = []
    decode = loaded.model.audio_encoder.decode

    def listening(audio_codes: torch.Tensor, *args: Any, **settings: Any) -> Any:
        heard.append(audio_codes.numpy().copy())
        return decode(audio_codes, *args, **settings)

    loaded.model.audio_encoder.decode = listening
    try:
        yield heard
    finally:
        del loaded.model.audio_encoder.decode
