"""The next column of every take in one pass: rows with different settings included.

The plain twin is ``songstarter/sampling.py``. Nothing here mixes rows, so a take draws the same tokens in any
company.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from songstarter.array import Array
from songstarter.randomness import uniforms
from songstarter.request import Sampling
from songstarter.sampling import draw, softmax


@dataclass(frozen=True)
class Draw:
    """Where a take stands: its settings and the address of its random numbers."""

    sampling: Sampling
    seed: int
    variation: int
    step: int


def sample(logits: Array, draws: Sequence[Draw]) -> Array:
    """Logits [take, 2, codebook, token], guided row first -> tokens [take, codebook]."""
    mixed = _guide(logits, draws)
    greedy = np.array([draw.sampling.temperature == 0 for draw in draws])
    tokens = np.empty(mixed.shape[:2], np.int64)
    tokens[greedy] = mixed[greedy].argmax(axis=-1)
    if not greedy.all():
        tokens[~greedy] = _draw_takes(_chosen(mixed, ~greedy), [d for d in draws if d.sampling.temperature > 0])
    return tokens


def _guide(logits: Array, draws: Sequence[Draw]) -> Array:
    guidance = np.array([draw.sampling.guidance for draw in draws], np.float32)[:, None, None]
    guided, null = logits[:, 0], logits[:, 1]
    mixed: Array = null + guidance * (guided - null)
    return mixed


def _draw_takes(mixed: Array, draws: Sequence[Draw]) -> Array:
    temperatures = np.array([d.sampling.temperature for d in draws], np.float32)
    probabilities = softmax(mixed / temperatures[:, None, None])
    numbers = uniforms(
        np.array([d.seed for d in draws]),
        np.array([d.variation for d in draws]),
        np.array([d.step for d in draws]),
        mixed.shape[1],
    )
    kept = _drop_unlikely(probabilities, [d.sampling for d in draws])
    tokens = draw(kept.reshape(-1, kept.shape[-1]), numbers.reshape(-1))
    return tokens.reshape(numbers.shape)


def _drop_unlikely(probabilities: Array, settings: Sequence[Sampling]) -> Array:
    """Zero what top-p, or else top-k, leaves out: one pass for all takes that share a filter."""
    filters = [("mass", s.top_p) if s.top_p > 0 else ("count", s.top_k) for s in settings]
    if len(set(filters)) == 1:
        return _filtered(probabilities, *filters[0])
    for one in set(filters):
        takes = [index for index, other in enumerate(filters) if other == one]
        probabilities[takes] = _filtered(probabilities[takes], *one)
    return probabilities


def _filtered(takes: Array, kind: str, bound: float) -> Array:
    if bound == 0:
        return takes
    return _keep_mass(takes, bound) if kind == "mass" else _keep_likeliest(takes, int(bound))


def _keep_mass(rows: Array, mass: float) -> Array:
    order = np.argsort(-rows, axis=-1, kind="stable")
    ranked = np.take_along_axis(rows, order, axis=-1)
    ranked[ranked.cumsum(axis=-1) - ranked > mass] = 0
    kept = np.empty_like(rows)
    np.put_along_axis(kept, order, ranked, axis=-1)
    return kept


def _keep_likeliest(rows: Array, count: int) -> Array:
    place = rows.shape[-1] - min(count, rows.shape[-1])
    threshold = np.partition(rows, place, axis=-1)[..., place, None]
    rows[rows < threshold] = 0
    return rows


def _chosen(blocks: Array, mask: Array) -> Array:
    """The masked blocks, without a copy where that is all of them."""
    return blocks if mask.all() else blocks[mask]
