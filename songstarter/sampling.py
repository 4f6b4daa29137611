"""Guidance and sampling for one take, in plain steps (spec 2.5, 2.6).

The readable twin of ``stages/sampler.py``, which does the same for all takes at once; a test holds them equal.
"""

from __future__ import annotations

import numpy as np

from songstarter.array import Array
from songstarter.request import Sampling

STRETCH = 64  # tokens


def guide(guided: Array, null: Array, guidance: float) -> Array:
    """Logits pulled from the null condition towards the guided one, and beyond; at 1 there is no null condition."""
    if guidance == 1:
        return guided
    mixed: Array = null + np.float32(guidance) * (guided - null)
    return mixed


def choose(logits: Array, sampling: Sampling, uniforms: Array) -> Array:
    """One token for each codebook: ``logits`` [codebook, token], ``uniforms`` [codebook, 2] in [0, 1).

    A token is drawn from the whole distribution. Where the filter would have dropped it, one is drawn from what the
    filter keeps: together that is a draw from the kept tokens, and most need no filter at all.
    """
    if sampling.temperature == 0:
        likeliest: Array = logits.argmax(axis=-1)
        return likeliest
    probabilities = softmax(logits, np.float32(sampling.temperature))
    kept = keep(probabilities, sampling)
    first, second = draw(probabilities, uniforms[:, 0]), draw(kept, uniforms[:, 1])
    return np.where(np.take_along_axis(kept, first[:, None], axis=-1)[:, 0] > 0, first, second)


def softmax(logits: Array, temperature: Array | np.float32) -> Array:
    """Shares of the last axis; as the temperature nears 0, the likeliest takes all."""
    with np.errstate(over="ignore"):  # minus infinity is what a tiny temperature means for all but the likeliest
        powers = np.exp((logits - logits.max(axis=-1, keepdims=True)) / temperature)
    shares: Array = powers / powers.sum(axis=-1, keepdims=True)
    return shares


def keep(probabilities: Array, sampling: Sampling) -> Array:
    """Probabilities with the unlikely tokens set to 0, by top-p or else by top-k; not renormalised."""
    if sampling.top_p > 0:
        return np.stack([_keep_mass(row, sampling.top_p) for row in probabilities])
    if sampling.top_k > 0:
        return np.stack([_keep_likeliest(row, sampling.top_k) for row in probabilities])
    return probabilities


def draw(probabilities: Array, uniforms: Array) -> Array:
    """The token under which each uniform falls, when probabilities stand end to end.

    Looked up in two steps, first the stretch of tokens and then the token in it: a running sum over all would be
    most of a sampler's time.
    """
    rows, count = np.arange(len(probabilities)), probabilities.shape[-1]
    stretches = probabilities.reshape(len(rows), -1, STRETCH if count % STRETCH == 0 else count)
    sums = stretches.sum(axis=-1, dtype=np.float64)
    reached = sums.cumsum(axis=-1)
    marks = uniforms * reached[:, -1]
    stretch = np.minimum((reached <= marks[:, None]).sum(axis=-1), stretches.shape[1] - 1)
    chosen = stretches[rows, stretch].astype(np.float64)
    rest = (marks - (reached[rows, stretch] - sums[rows, stretch]))[:, None]
    place = np.minimum((chosen.cumsum(axis=-1) <= rest).sum(axis=-1), _last_likely(chosen))
    tokens: Array = stretch * stretches.shape[-1] + place
    return tokens


def _last_likely(probabilities: Array) -> Array:
    """The last token of each row that can be drawn: where rounding reached beyond it, it is the one that was meant."""
    last: Array = probabilities.shape[-1] - 1 - (probabilities[:, ::-1] > 0).argmax(axis=-1)
    return last


def _keep_mass(row: Array, mass: float) -> Array:
    """Drop a token when the likelier ones together exceed ``mass``; the one that crosses it stays."""
    order = np.argsort(-row, kind="stable")
    likelier = row[order].cumsum() - row[order]
    kept = row.copy()
    kept[order[likelier > mass]] = 0
    return kept


def _keep_likeliest(row: Array, count: int) -> Array:
    """Keep what is at least as likely as the ``count``-th; ties stay, so more than that may survive."""
    threshold = np.sort(row)[-min(count, len(row))]
    return np.where(row >= threshold, row, 0)
