"""What people run today: ``generate`` of the transformers library, on the same weights.

The steps that are timed are those of its own loop, from one call of a logits processor to the next: sampling,
delay pattern, cache and guidance are all in. Only the way to a long context is short: after the first call the
cache is stretched to it, instead of decoding a thousand steps.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from transformers import LogitsProcessor, LogitsProcessorList
from transformers.cache_utils import Cache, DynamicCache, EncoderDecoderCache, StaticCache

from benchmarks.timing import WARM_STEPS, first_context
from export.checkpoints import Loaded

PROMPT_TOKENS = 4
SHORT_MELODY = 4  # frames of the prefix before the cache is stretched
ROOM = 16  # positions of a static cache beyond those that are measured
GUIDANCE = 3.0
TOP_K = 250
# Fewer columns, and `generate` leaves out its delay pattern.
FEWEST_TOKENS = 8


@dataclass(frozen=True)
class Variant:
    """A way to run the peer: its attention, its cache, and what is done to the decoder first."""

    attention: str
    new_cache: Callable[[Loaded, int], Cache]
    compiled: bool = False


def _growing_cache(loaded: Loaded, context: int) -> Cache:
    return DynamicCache(config=loaded.model.decoder.config)


def _static_cache(loaded: Loaded, context: int) -> Cache:
    return StaticCache(config=loaded.model.decoder.config, max_cache_len=context + ROOM)


VARIANTS: dict[str, Variant] = {
    "eager": Variant("eager", _growing_cache),
    "sdpa": Variant("sdpa", _growing_cache),
    "static+compile": Variant("sdpa", _static_cache, compiled=True),
}


class Clock(LogitsProcessor):
    """Stretches the cache after the first call, and notes when each call came."""

    def __init__(self, cache: Cache, context: int) -> None:
        self._cache, self._context = cache, context
        self.ticks: list[float] = []

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        if not self.ticks:
            _stretch(self._cache, self._context)
        self.ticks.append(time.perf_counter())
        return scores

    @property
    def seconds(self) -> list[float]:
        """Of the steps that count."""
        gaps = [later - earlier for earlier, later in zip(self.ticks, self.ticks[1:], strict=False)]
        return gaps[WARM_STEPS:]


def measure_peer(loaded: Loaded, variant: Variant, *, songs: int, context: int, steps: int) -> list[float]:
    """Seconds of each of some steps of ``generate`` for so many songs around a context."""
    start = first_context(context, steps)
    cache = variant.new_cache(loaded, context + steps)
    clock = Clock(cache, start)
    with torch.inference_mode(), _prepared(loaded, variant):
        loaded.model.generate(
            input_ids=torch.ones((songs, PROMPT_TOKENS), dtype=torch.long),
            past_key_values=EncoderDecoderCache(cache, DynamicCache(config=loaded.model.decoder.config)),
            logits_processor=LogitsProcessorList([clock]),
            guidance_scale=GUIDANCE,
            do_sample=True,
            top_k=TOP_K,
            max_new_tokens=max(1 + WARM_STEPS + steps, FEWEST_TOKENS),
        )
    return clock.seconds[:steps]


@contextmanager
def _prepared(loaded: Loaded, variant: Variant) -> Iterator[None]:
    """The model with the variant's attention, a short prefix, and its decoder compiled where that is wanted."""
    model = loaded.model
    chroma_length, forward = model.config.chroma_length, model.decoder.model.decoder.forward
    model.config.chroma_length = SHORT_MELODY
    model.decoder.set_attn_implementation(variant.attention)
    if variant.compiled:
        model.decoder.model.decoder.forward = torch.compile(forward)
    try:
        yield
    finally:
        model.config.chroma_length = chroma_length
        model.decoder.set_attn_implementation("sdpa")
        model.decoder.model.decoder.forward = forward


def _stretch(cache: Cache, context: int) -> None:
    """Give every layer the wanted length, by repeating what it holds."""
    for layer in cache.layers:
        if isinstance(cache, StaticCache):
            for block in (layer.keys, layer.values):
                block[:] = block[:, :, :1]
            layer.cumulative_length.fill_(context)
        else:
            layer.keys = layer.keys[:, :, :1].expand(-1, -1, context, -1).contiguous()
            layer.values = layer.values[:, :, :1].expand(-1, -1, context, -1).contiguous()
