"""What people run today: ``generate`` of the transformers library, on the same weights.

The steps that are timed are those of its own loop, from one call of a logits processor to the next: sampling,
delay pattern, cache and guidance are all in. Only the way to a long context is short: after the first call the
cache is stretched to it, instead of decoding a thousand steps.
"""

from __future__ import annotations

import gc
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from typing import Any, Self

import torch
from transformers import LogitsProcessor, LogitsProcessorList
from transformers.cache_utils import Cache, DynamicCache, EncoderDecoderCache, StaticCache

from benchmarks.timing import WARM_STEPS, first_context
from export.checkpoints import Loaded
from export.checkpoints.compose import ATTENTION

PROMPT_TOKENS = 4
SHORT_MELODY = 4  # frames of the prefix before the cache is stretched
ROOM = 16  # positions of a static cache beyond those that are measured
GUIDANCE = 3.0
TOP_K = 250
# Fewer columns, and `generate` leaves out its delay pattern.
FEWEST_TOKENS = 8

Forward = Callable[..., Any]


@dataclass(frozen=True)
class Variant:
    """A way to run the peer: its attention, its cache, and what is done to the decoder first."""

    attention: str
    new_cache: Callable[[Loaded, int], Cache]
    stretch: Callable[[Any, int], None]  # give a cache's layer a length
    decorate: Callable[[Forward], Forward]


def _growing_cache(loaded: Loaded, capacity: int) -> Cache:
    return DynamicCache(config=loaded.model.decoder.config)


def _stretch_growing(layer: Any, context: int) -> None:
    """Repeat the first position of a ``DynamicLayer``."""
    layer.keys = layer.keys[:, :, :1].expand(-1, -1, context, -1).contiguous()
    layer.values = layer.values[:, :, :1].expand(-1, -1, context, -1).contiguous()


def _static_cache(loaded: Loaded, capacity: int) -> Cache:
    return StaticCache(config=loaded.model.decoder.config, max_cache_len=capacity + ROOM)


def _stretch_static(layer: Any, context: int) -> None:
    """Repeat the first position of a ``StaticLayer``, in place: the compiled code knows the addresses."""
    layer.keys[:] = layer.keys[:, :, :1].clone()
    layer.values[:] = layer.values[:, :, :1].clone()
    layer.cumulative_length.fill_(context)


def _unchanged(forward: Forward) -> Forward:
    return forward


def _compiled(forward: Forward, **options: Any) -> Forward:
    """Compile what every step runs; the first call, with the prefix, stays as it is."""
    compiled = torch.compile(forward, dynamic=False, **options)

    def run(input_ids: torch.Tensor, **settings: Any) -> Any:
        # With a static cache transformers 5.17 adds a length on the GPU to positions on torch's default device. For the
        # other variants that stays the CPU: a default of its own makes every call of torch slower, a step by a quarter.
        with torch.device(input_ids.device):
            if settings.get("encoder_hidden_states") is not None:
                return forward(input_ids, **settings)
            # Contiguous, because `generate` hands over a slice whose stride grows: each step would compile anew.
            return compiled(input_ids.contiguous(), **settings)

    return run


VARIANTS: dict[str, Variant] = {
    "eager": Variant("eager", _growing_cache, _stretch_growing, _unchanged),
    "sdpa": Variant("sdpa", _growing_cache, _stretch_growing, _unchanged),
    "static+compile": Variant("sdpa", _static_cache, _stretch_static, _compiled),
}
# With CUDA graphs; on the CPU there are none.
GPU_VARIANTS: dict[str, Variant] = VARIANTS | {
    "static+graphs": Variant("sdpa", _static_cache, _stretch_static, partial(_compiled, mode="reduce-overhead")),
}


class Clock(LogitsProcessor):
    """Calls ``stretch`` after the model's first call, and notes when each was done."""

    def __init__(self, stretch: Callable[[], None], device: torch.device) -> None:
        self._stretch = stretch
        self._device = device
        self.ticks: list[float] = []

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        if not self.ticks:
            self._stretch()
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)
        self.ticks.append(time.perf_counter())
        return scores

    @property
    def seconds(self) -> list[float]:
        """Of the steps that count."""
        gaps = [later - earlier for earlier, later in pairwise(self.ticks)]
        return gaps[WARM_STEPS:]


class PeerDecode:
    """The model run in one variant; use it as a context manager, which leaves the model as it was."""

    def __init__(self, loaded: Loaded, variant: Variant, *, songs: int, threads: int) -> None:
        self._loaded, self._variant, self._songs = loaded, variant, songs
        torch.set_num_threads(threads)

    def __enter__(self) -> Self:
        torch._dynamo.reset()  # or, past its limit of compiled versions, it would go on uncompiled and say nothing
        model = self._loaded.model
        self._chroma_length, model.config.chroma_length = model.config.chroma_length, SHORT_MELODY
        model.decoder.set_attn_implementation(self._variant.attention)
        inner = model.decoder.model.decoder
        inner.forward = self._variant.decorate(inner.forward)
        return self

    def __exit__(self, *_: object) -> None:
        model = self._loaded.model
        model.config.chroma_length = self._chroma_length
        model.decoder.set_attn_implementation(ATTENTION)
        del model.decoder.model.decoder.forward  # the class's own shows again
        gc.collect()

    def measure(self, context: int, steps: int, *, capacity: int) -> list[float]:
        """Seconds of each of some steps of ``generate`` around a context.

        ``capacity`` is the longest context of the take, for which a static cache is made.
        """
        model = self._loaded.model
        cache = self._variant.new_cache(self._loaded, capacity)
        start = first_context(context, steps)

        def stretch() -> None:
            for layer in cache.layers:
                self._variant.stretch(layer, start)

        clock = Clock(stretch, model.device)
        with torch.inference_mode():
            model.generate(
                input_ids=torch.ones((self._songs, PROMPT_TOKENS), dtype=torch.long, device=model.device),
                past_key_values=EncoderDecoderCache(cache, DynamicCache(config=model.decoder.config)),
                logits_processor=LogitsProcessorList([clock]),
                guidance_scale=GUIDANCE,
                do_sample=True,
                top_k=TOP_K,
                max_new_tokens=max(1 + WARM_STEPS + steps, FEWEST_TOKENS),
            )
        return clock.seconds[:steps]
