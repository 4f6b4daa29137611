"""One stream of random numbers per take, addressed by place instead of drawn in order.

Philox 4x32-10 (Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", 2011): a number depends on
(seed, variation, step, codebook) alone, so a take's draws are the same in any company and after a restart.
"""

from __future__ import annotations

import numpy as np

from songstarter.array import Array

ROUNDS = 10
MULTIPLIERS = (np.uint64(0xD2511F53), np.uint64(0xCD9E8D57))
KEY_STEPS = (np.uint64(0x9E3779B9), np.uint64(0xBB67AE85))
LOW = np.uint64(0xFFFFFFFF)
WORD = np.uint64(32)


def uniforms(seeds: Array, variations: Array, steps: Array, codebooks: int) -> Array:
    """Two numbers in [0, 1) for each take and codebook: [take] x 3 -> [take, codebook, 2] fp64."""
    shape = (len(seeds), codebooks)
    counter = (
        np.broadcast_to(np.arange(codebooks, dtype=np.uint64), shape),
        np.broadcast_to(steps.astype(np.uint64)[:, None], shape),
        np.broadcast_to(variations.astype(np.uint64)[:, None], shape),
        np.zeros(shape, np.uint64),
    )
    key = (np.broadcast_to(seeds.astype(np.uint64)[:, None], shape), np.zeros(shape, np.uint64))
    words = philox(counter, key)
    return np.stack([_fraction(words[0], words[1]), _fraction(words[2], words[3])], axis=-1)


def _fraction(high: Array, low: Array) -> Array:
    """53 random bits, the most a double holds evenly, as a number in [0, 1)."""
    bits = (high << np.uint64(21)) | (low >> np.uint64(11))
    fraction: Array = bits.astype(np.float64) * 2.0**-53
    return fraction


Words = tuple[Array, ...]


def philox(counter: Words, key: Words) -> Words:
    """Four random 32-bit words (kept in uint64) of a four-word counter and a two-word key."""
    key_low, key_high = key
    for _ in range(ROUNDS):
        counter = _round(counter, key_low, key_high)
        key_low = (key_low + KEY_STEPS[0]) & LOW
        key_high = (key_high + KEY_STEPS[1]) & LOW
    return counter


def _round(counter: Words, key_low: Array, key_high: Array) -> Words:
    first, second, third, fourth = counter
    product, other = MULTIPLIERS[0] * first, MULTIPLIERS[1] * third
    return (
        (other >> WORD) ^ second ^ key_low,
        other & LOW,
        (product >> WORD) ^ fourth ^ key_high,
        product & LOW,
    )
