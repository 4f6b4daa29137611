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
    codebooks, vocabulary = mixed.shape[1:]
    rows = mixed.reshape(-1, vocabulary)
    greedy = np.repeat([draw.sampling.temperature == 0 for draw in draws], codebooks)
    tokens = np.empty(len(rows), np.int64)
    tokens[greedy] = rows[greedy].argmax(axis=-1)
    if not greedy.all():
        tokens[~greedy] = _draw_rows(rows[~greedy], [d for d in draws if d.sampling.temperature > 0], codebooks)
    return tokens.reshape(-1, codebooks)


def _guide(logits: Array, draws: Sequence[Draw]) -> Array:
    guidance = np.array([draw.sampling.guidance for draw in draws], np.float32)[:, None, None]
    guided, null = logits[:, 0], logits[:, 1]
    mixed: Array = null + guidance * (guided - null)
    return mixed


def _draw_rows(rows: Array, draws: Sequence[Draw], codebooks: int) -> Array:
    temperatures = np.repeat(np.array([d.sampling.temperature for d in draws], np.float32), codebooks)
    probabilities = softmax(rows / temperatures[:, None])
    _drop_unlikely(probabilities, draws, codebooks)
    numbers = uniforms(
        np.array([d.seed for d in draws]),
        np.array([d.variation for d in draws]),
        np.array([d.step for d in draws]),
        codebooks,
    )
    return draw(probabilities, numbers.reshape(-1))


def _drop_unlikely(probabilities: Array, draws: Sequence[Draw], codebooks: int) -> None:
    """Zero what top-p, or else top-k, leaves out: one sort for rows of one kind."""
    masses = np.repeat([d.sampling.top_p for d in draws], codebooks)
    counts = np.repeat([0 if d.sampling.top_p > 0 else d.sampling.top_k for d in draws], codebooks)
    if (masses > 0).any():
        probabilities[masses > 0] = _keep_mass(probabilities[masses > 0], masses[masses > 0])
    for count in np.unique(counts[counts > 0]):
        rows = counts == count
        probabilities[rows] = _keep_likeliest(probabilities[rows], int(count))


def _keep_mass(rows: Array, masses: Array) -> Array:
    order = np.argsort(-rows, axis=-1, kind="stable")
    ranked = np.take_along_axis(rows, order, axis=-1)
    ranked[ranked.cumsum(axis=-1) - ranked > masses[:, None]] = 0
    kept = np.empty_like(rows)
    np.put_along_axis(kept, order, ranked, axis=-1)
    return kept


def _keep_likeliest(rows: Array, count: int) -> Array:
    place = rows.shape[1] - min(count, rows.shape[1])
    threshold = np.partition(rows, place, axis=-1)[:, place, None]
    return np.where(rows >= threshold, rows, 0)
