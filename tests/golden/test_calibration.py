"""The steps of 8-bit keys and values, on weights that have learned something: random ones know no music."""

from __future__ import annotations

import numpy as np
import torch

from export.calibration import LEVELS, largest_outputs, memory_scales
from export.checkpoints import load

PROMPT = "synth, dark, hip hop, a minor, 140 bpm"


def test_the_keys_and_values_of_a_song_fit_into_their_levels() -> None:
    loaded = load("embedded")
    scales = memory_scales(loaded.model.decoder)
    tokens = loaded.tokenizer(PROMPT, return_tensors="pt")
    torch.manual_seed(0)
    with torch.no_grad(), largest_outputs(loaded.model.decoder) as largest:
        loaded.model.generate(**tokens, do_sample=True, guidance_scale=3, max_new_tokens=150)
    beyond = [
        largest[f"model.decoder.layers.{layer}.self_attn.{name}"].numpy() > LEVELS * scale
        for layer, of_layer in enumerate(scales)
        for name, scale in (("k_proj", of_layer.key), ("v_proj", of_layer.value))
    ]
    assert np.mean(beyond) < 0.05  # of the channels, and there by little
