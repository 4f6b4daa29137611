"""Random numbers of the takes under way, computed for many steps and for all who need them at once."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from songstarter.array import Array
from songstarter.randomness import uniforms

STRETCH = 64  # steps whose numbers are computed together: singly that was a quarter of the sampler's time
MOST_KEPT = 1024  # stretches: several for each take that can play

Address = tuple[int, int, int]  # seed, variation, number of the stretch


class Numbers:
    """Two uniform numbers for each codebook of a draw, by its address."""

    def __init__(self, codebooks: int) -> None:
        self._codebooks = codebooks
        self._kept: dict[Address, Array] = {}  # [step, codebook, 2], the oldest first

    def of(self, addresses: Sequence[tuple[int, int, int]]) -> Array:
        """The numbers [draw, codebook, 2] at addresses (seed, variation, step)."""
        places = [((seed, variation, step // STRETCH), step % STRETCH) for seed, variation, step in addresses]
        found = {stretch: self._kept.get(stretch) for stretch, _ in places}
        if missing := [stretch for stretch, numbers in found.items() if numbers is None]:
            found |= self._computed(missing)
        return np.stack([found[stretch][step] for stretch, step in places])  # type: ignore[index]  # none is missing

    def _computed(self, stretches: Sequence[Address]) -> dict[Address, Array]:
        """Numbers of whole stretches, all in one go; the oldest kept make room."""
        seeds, variations, numbers = (np.repeat(part, STRETCH) for part in zip(*stretches, strict=True))
        steps = numbers * STRETCH + np.tile(np.arange(STRETCH), len(stretches))
        drawn = uniforms(seeds, variations, steps, self._codebooks)
        fresh = dict(zip(stretches, drawn.reshape(len(stretches), STRETCH, *drawn.shape[1:]), strict=True))
        self._kept |= fresh
        while len(self._kept) > MOST_KEPT:
            del self._kept[next(iter(self._kept))]
        return fresh
