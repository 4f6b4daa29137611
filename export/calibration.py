"""How large keys and values become, so that eight bits can hold them.

8-bit KV memory has one fixed scale per layer and channel. The scales come from running the torch module on
random columns behind random embeddings of the size of its own. Music goes beyond that, since it lies in directions
that noise does not: the embedded checkpoint's songs do in half of all channels, by up to 2.3 times. That is what the
headroom is for: too little clips, too much makes levels coarse, and in between little depends on it (DECISIONS).
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch

COLUMNS = 192
PREFIX = 64
HEADROOM = 2.5
LEVELS = 127


@dataclass(frozen=True)
class MemoryScales:
    """The step of a level for each channel of a layer's keys and of its values, [hidden] fp32."""

    key: np.ndarray
    value: np.ndarray


def memory_scales(model: torch.nn.Module) -> list[MemoryScales]:
    """The scales of every layer of a transformers ``MusicgenForCausalLM`` or its melody sister."""
    generator = torch.Generator().manual_seed(0)
    config = model.config
    columns = torch.randint(config.vocab_size, (config.num_codebooks, COLUMNS), generator=generator)
    spread = sum(table.weight.var().item() for table in model.model.decoder.embed_tokens) ** 0.5
    prefix = spread * torch.randn((1, PREFIX, config.hidden_size), generator=generator)
    with torch.no_grad(), largest_outputs(model) as largest:
        model(input_ids=columns.to(model.device), encoder_hidden_states=prefix.to(model.device, model.dtype))
    names = [f"model.decoder.layers.{layer}.self_attn" for layer in range(config.num_hidden_layers)]
    return [MemoryScales(_scale(largest[f"{name}.k_proj"]), _scale(largest[f"{name}.v_proj"])) for name in names]


@contextmanager
def largest_outputs(model: torch.nn.Module) -> Iterator[dict[str, torch.Tensor]]:
    """The largest magnitude [hidden] that each projection gives in the block, in all calls of it, by its name."""
    largest: dict[str, torch.Tensor] = {}

    def listen(name: str) -> torch.utils.hooks.RemovableHandle:
        def hook(module: torch.nn.Module, inputs: object, output: torch.Tensor) -> None:
            found = output.abs().flatten(0, -2).amax(dim=0)
            largest[name] = torch.maximum(found, largest[name]) if name in largest else found

        return modules[name].register_forward_hook(hook)

    modules = dict(model.named_modules())
    handles = [listen(name) for name in modules if name.endswith((".k_proj", ".v_proj"))]
    try:
        yield largest
    finally:
        for handle in handles:
            handle.remove()


def _scale(largest: torch.Tensor) -> np.ndarray:
    scale: np.ndarray = (largest.float().clamp(min=1e-6) * HEADROOM / LEVELS).cpu().numpy()
    return scale
