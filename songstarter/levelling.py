r"""A take brought to its level while nobody knows yet how it goes on: a running gain, and a limiter behind it.

    gain      ----\                the gain for what was heard so far, known a chunk ahead; it moves by at most
                   \______         SLOPE a second, and never beyond MOST_GAIN
    limiter          \_/           where that would still be too loud, less, within LOOK_AHEAD samples around

What is streamed so differs from the finished file, whose gain is known from its start: a quiet beginning is lifted
and let down again as the take grows louder. ``clip`` needs no gain, and streams exactly what the file holds.
"""

from __future__ import annotations

from typing import Protocol

import numpy as np

from songstarter.loudness import METERS, Precise, Unchanged, from_decibels, require_finite, scaled
from songstarter.waveform import Samples

SLOPE = 6.0  # decibels a second
MOST_GAIN = from_decibels(20)
LOOK_AHEAD = 128  # samples, a power of two; 4 ms at 32 kHz


class Leveller(Protocol):
    """Levels a take in pieces of samples [channel, sample]."""

    def push(self, samples: Samples) -> Samples:
        """What can be said of the level so far; some samples may wait for those that follow.

        Raises:
            TakeFailed: a sample is infinite or not a number.
        """

    def finish(self) -> Samples:
        """The samples that still wait."""

    @property
    def gain(self) -> float:
        """That of the finished file, were this its end."""


def leveller(strategy: str, rate: int, channels: int) -> Leveller:
    """The leveller for one of ``contract.NORMALIZATIONS``."""
    return Exact(channels) if strategy == "clip" else Running(strategy, rate, channels)


class Exact:
    """Of clip."""

    gain = Unchanged.gain

    def __init__(self, channels: int) -> None:
        self._channels = channels

    def push(self, samples: Samples) -> Samples:
        require_finite(samples)
        return scaled(samples, self.gain, Unchanged.ceiling)

    def finish(self) -> Samples:
        return np.zeros((self._channels, 0), np.float32)


class Running:
    """Of every strategy that must have heard a take to know its gain."""

    def __init__(self, strategy: str, rate: int, channels: int) -> None:
        self._meter = METERS[strategy](rate)
        self._rate = rate
        self._gain: float | None = None
        self._limiter = Limiter(self._meter.ceiling, channels)

    def push(self, samples: Samples) -> Samples:
        require_finite(samples)
        self._meter.hear(samples)
        wanted = min(self._meter.gain, MOST_GAIN)
        start = wanted if self._gain is None else self._gain
        furthest = from_decibels(SLOPE * samples.shape[1] / self._rate)
        self._gain = min(max(wanted, start / furthest), start * furthest)
        ramp = np.geomspace(start, self._gain, samples.shape[1] + 1)[1:]
        return self._limiter.push(samples * ramp)

    def finish(self) -> Samples:
        return self._limiter.finish()

    @property
    def gain(self) -> float:
        return self._meter.gain


class Limiter:
    """Turns loud moments down, smoothly and before they come: LOOK_AHEAD - 1 samples wait for what follows them.

    Each sample's factor is the mean of the least factors needed around it: a mean of numbers none of which is more
    than the sample itself needs, so that nothing exceeds the ceiling.
    """

    def __init__(self, ceiling: float, channels: int) -> None:
        self._ceiling = ceiling
        self._waiting: Precise = np.zeros((channels, 0))
        self._needed: Precise = np.ones(LOOK_AHEAD - 1)  # factors of the samples before those that wait, and theirs

    def push(self, samples: Precise) -> Samples:
        """[channel, sample] -> those whose LOOK_AHEAD followers are known."""
        loudest = np.abs(samples).max(axis=0, initial=self._ceiling)
        self._waiting = np.concatenate([self._waiting, samples], axis=1)
        return self._release(self._ceiling / loudest)

    def finish(self) -> Samples:
        """The samples that wait, with silence behind them."""
        return self._release(np.ones(LOOK_AHEAD - 1))

    def _release(self, needed: Precise) -> Samples:
        self._needed = np.concatenate([self._needed, needed])
        count = max(len(self._needed) - 2 * (LOOK_AHEAD - 1), 0)
        if count == 0:
            return np.zeros((len(self._waiting), 0), np.float32)
        factors = np.convolve(_least(self._needed), np.full(LOOK_AHEAD, 1 / LOOK_AHEAD), "valid")
        released = self._waiting[:, :count]
        self._waiting, self._needed = self._waiting[:, count:], self._needed[count:]
        return scaled(released.astype(np.float32), factors, self._ceiling)


def _least(values: Precise) -> Precise:
    """The least of every LOOK_AHEAD neighbours, by doubling."""
    reach = 1
    while reach < LOOK_AHEAD:
        values = np.minimum(values[:-reach], values[reach:])
        reach *= 2
    return values
