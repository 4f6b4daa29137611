"""The next column of every take in one pass: rows with different settings included.

The plain twin is ``songstarter/sampling.py``. Nothing here mixes rows, so a take draws the same tokens in any
company.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from typing import NamedTuple

import numpy as np

from songstarter.array import Array
from songstarter.request import Sampling
from songstarter.sampling import draw, softmax
from songstarter.stages.numbers import Numbers

SETTINGS = 4  # rows of ``settings_of``
CLOSE = 1e-3  # of probability; far more than fp32 sums of a row can be off


class Draw(NamedTuple):
    """Where a take stands: its settings and the address of its random numbers."""

    sampling: Sampling
    seed: int
    variation: int
    step: int

    @property
    def address(self) -> tuple[int, int, int]:
        """Where its random numbers stand."""
        return self[1:]

    @property
    def rows(self) -> int:
        """How many rows of logits count: where nothing is guided, the guided one alone."""
        return 1 if self.sampling.guidance == 1 else 2


Columns = dict[int, Array | None]  # slot -> the next column [codebook]; None where the logits were no numbers
Sampler = Callable[[Array, Mapping[int, Draw]], Columns]  # of logits [slot, 2, codebook, token]


def sample_slots(logits: Array, draws: Mapping[int, Draw]) -> Columns:
    """The next column of each slot that draws, from logits [slot, 2, codebook, token] of all."""
    finite = np.isfinite(logits).all(axis=(2, 3))
    sound = {slot: draw for slot, draw in draws.items() if finite[slot, : draw.rows].all()}
    columns: Columns = dict.fromkeys(draws)
    if sound:
        slots = list(sound)
        # The first n slots, which is the usual case, are taken without a copy.
        blocks = logits[: len(slots)] if slots == list(range(len(slots))) else logits[slots]
        columns |= zip(slots, sample(blocks, list(sound.values())), strict=True)
    return columns


def sample(logits: Array, draws: Sequence[Draw]) -> Array:
    """Logits [take, 2, codebook, token], guided row first -> tokens [take, codebook]."""
    mixed = _guide(logits, draws)
    greedy = np.array([draw.sampling.temperature == 0 for draw in draws])
    tokens = np.empty(mixed.shape[:2], np.int64)
    tokens[greedy] = mixed[greedy].argmax(axis=-1)
    if not greedy.all():
        tokens[~greedy] = _draw_takes(_chosen(mixed, ~greedy), [d for d in draws if d.sampling.temperature > 0])
    return tokens


def numbers_of(draws: Sequence[Draw], codebooks: int) -> Array:
    """Two uniform numbers for each draw's codebooks: [take, codebook, 2]."""
    return _numbers(codebooks).of([draw.address for draw in draws])


@lru_cache
def _numbers(codebooks: int) -> Numbers:
    return Numbers(codebooks)


def settings_of(draws: Sequence[Draw]) -> Array:
    """What the sampler of ``export/sampler.py`` is told: guidance, temperature, bound, by mass: [4, take] fp32.

    A token is kept while the likelier ones weigh no more than the bound: by mass their shares, else 1 each.
    """
    return np.array([_settings(draw.sampling) for draw in draws], np.float32).T


@lru_cache(maxsize=1024)
def _settings(sampling: Sampling) -> tuple[float, float, float, float]:
    return sampling.guidance, sampling.temperature, *_bound(sampling)


def _bound(sampling: Sampling) -> tuple[float, float]:
    kind, bound = _filter(sampling)
    if kind == "mass":
        return bound, 1
    return (bound - 0.5 if bound else np.inf), 0


def _guide(logits: Array, draws: Sequence[Draw]) -> Array:
    guidance = np.array([draw.sampling.guidance for draw in draws], np.float32)[:, None, None]
    guided, null = logits[:, 0], logits[:, 1]
    mixed: Array = guided - null
    mixed *= guidance
    mixed += null
    alone = guidance[:, 0, 0] == 1
    mixed[alone] = guided[alone]
    return mixed


def _draw_takes(mixed: Array, draws: Sequence[Draw]) -> Array:
    temperatures = np.array([d.sampling.temperature for d in draws], np.float32)
    probabilities = softmax(mixed, temperatures[:, None, None])
    numbers = numbers_of(draws, mixed.shape[1])
    rows = probabilities.reshape(-1, probabilities.shape[-1])
    tokens = draw(rows, numbers[..., 0].reshape(-1))
    filters = [_filter(d.sampling) for d in draws for _ in range(mixed.shape[1])]
    _draw_again(tokens, rows, filters, numbers[..., 1].reshape(-1))
    return tokens.reshape(mixed.shape[:2])


Filter = tuple[str, float]


def _filter(sampling: Sampling) -> Filter:
    return ("mass", sampling.top_p) if sampling.top_p > 0 else ("count", sampling.top_k)


def _draw_again(tokens: Array, rows: Array, filters: Sequence[Filter], numbers: Array) -> None:
    """Replace the tokens that their row's filter drops; only those rows are filtered."""
    chosen = np.take_along_axis(rows, tokens[:, None], axis=-1)
    for one in set(filters) - {("count", 0)}:
        places = np.flatnonzero([other == one for other in filters])
        places = places[_dropped(rows[places], chosen[places], tokens[places], *one)]
        if len(places):
            tokens[places] = draw(_kept(rows[places], *one), numbers[places])


def _dropped(rows: Array, chosen: Array, tokens: Array, kind: str, bound: float) -> Array:
    """Whether a filter drops the chosen token [row] of each row."""
    if kind == "count":
        too_many: Array = (rows > chosen).sum(axis=-1) >= bound
        return too_many
    # Kept for certain is what stays below the bound even if every equal came first; the rest is ranked as the plain
    # twin ranks it.
    dropped: Array = (rows * (rows >= chosen)).sum(axis=-1) - chosen[:, 0] > bound - CLOSE
    close = np.flatnonzero(dropped)
    kept = _keep_mass(rows[close], bound)
    dropped[close] = np.take_along_axis(kept, tokens[close, None], axis=-1)[:, 0] == 0
    return dropped


def _kept(rows: Array, kind: str, bound: float) -> Array:
    return _keep_mass(rows, bound) if kind == "mass" else _keep_likeliest(rows, int(bound))


def _keep_mass(rows: Array, mass: float) -> Array:
    order = np.argsort(-rows, axis=-1, kind="stable")
    ranked = np.take_along_axis(rows, order, axis=-1)
    ranked[ranked.cumsum(axis=-1) - ranked > mass] = 0
    kept = np.empty_like(rows)
    np.put_along_axis(kept, order, ranked, axis=-1)
    return kept


def _keep_likeliest(rows: Array, count: int) -> Array:
    place = rows.shape[-1] - min(count, rows.shape[-1])
    threshold = np.partition(rows, place, axis=-1)[:, place, None]
    return np.where(rows >= threshold, rows, 0)


def _chosen(blocks: Array, mask: Array) -> Array:
    """The masked blocks, without a copy where that is all of them."""
    return blocks if mask.all() else blocks[mask]
