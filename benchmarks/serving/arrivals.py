"""When callers come who do not know of each other: a Poisson process."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np


def poisson(rate: float, seconds: float, *, seed: int) -> Iterator[float]:
    """Seconds from the start at which requests arrive, ``rate`` a second on average, until ``seconds`` are over."""
    random = np.random.default_rng(seed)
    time = random.exponential(1 / rate)
    while time < seconds:
        yield time
        time += random.exponential(1 / rate)
