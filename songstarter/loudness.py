"""Loudness in LUFS, and the four ways to bring a take to a level (spec 5 and 5.1).

Each way is a meter: it hears a take, in one piece or many, and knows the gain for what it has heard so far.

Three deviations from the original, all where it would give NaN or fail: silence stays silence, a signal
shorter than one block is measured as one block, and a signal of which the gates leave nothing keeps its
level.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt
from scipy.signal import lfilter

from songstarter.errors import TakeFailed
from songstarter.waveform import Samples

Precise = npt.NDArray[np.float64]


def from_decibels(decibels: float) -> float:
    """The amplitude ratio of a level."""
    return float(10 ** (decibels / 20))


PEAK = from_decibels(-1)
RMS = from_decibels(-18)
TARGET_LUFS = -14.0
QUIET = 0.002  # rms below which loudness is left alone: noise is not music

BLOCK_SECONDS = 0.4
HOPS_PER_BLOCK = 4
PIECE = 1 << 15  # samples that are worked on at a time: they stay in the cache
OFFSET = -0.691  # makes a full-scale 997 Hz sine in one channel read -3.01 LUFS, but for the clamps
ABSOLUTE_GATE = -70.0
RELATIVE_GATE = -10.0
CHANNEL_WEIGHTS = (1.0, 1.0, 1.0, 1.41, 1.41)


@dataclass(frozen=True)
class Biquad:
    """A second-order filter; b and a as scipy takes them, a[0] = 1."""

    b: tuple[float, float, float]
    a: tuple[float, float, float]

    @classmethod
    def normalised(cls, b: tuple[float, float, float], a: tuple[float, float, float]) -> Biquad:
        b0, b1, b2 = b
        a0, a1, a2 = a
        return cls((b0 / a0, b1 / a0, b2 / a0), (1.0, a1 / a0, a2 / a0))

    def clamped(self, samples: Precise, state: Precise) -> tuple[Precise, Precise]:
        """Samples [channel, sample] filtered from a state [channel, 2] (zeros: from rest), then cut to +-1 as
        torchaudio's filters do; and the state that they leave."""
        filtered, state = lfilter(self.b, self.a, samples, axis=-1, zi=state)
        return np.minimum(np.maximum(filtered, -1.0, out=filtered), 1.0, out=filtered), state


def high_shelf(rate: int) -> Biquad:
    """The head's own gain: 4 dB above 1500 Hz, Q 1/sqrt 2 (RBJ cookbook)."""
    gain = 10 ** (4.0 / 40)
    cosine, alpha = _corner(1500.0, math.sqrt(0.5), rate)
    slope = 2 * math.sqrt(gain) * alpha
    up, down = gain + 1, gain - 1
    return Biquad.normalised(
        b=(
            gain * (up + down * cosine + slope),
            -2 * gain * (down + up * cosine),
            gain * (up + down * cosine - slope),
        ),
        a=(up - down * cosine + slope, 2 * (down - up * cosine), up - down * cosine - slope),
    )


def high_pass(rate: int) -> Biquad:
    """Nothing below 38 Hz, Q 0.5 (RBJ cookbook)."""
    cosine, alpha = _corner(38.0, 0.5, rate)
    return Biquad.normalised(
        b=((1 + cosine) / 2, -(1 + cosine), (1 + cosine) / 2),
        a=(1 + alpha, -2 * cosine, 1 - alpha),
    )


class Meter(Protocol):
    """Hears a take; ``ceiling`` is what its samples are cut to after the gain."""

    ceiling: float

    def hear(self, samples: Samples) -> None:
        """The next samples [channel, sample]."""

    @property
    def gain(self) -> float:
        """What brings all that was heard to its level; 1 where there is nothing to bring."""


class Unchanged:
    """Of clip: the level stays as it is."""

    ceiling = PEAK
    gain = 1.0

    def hear(self, samples: Samples) -> None:
        pass


class Peak:
    """The highest sample of all channels."""

    ceiling = PEAK

    def __init__(self) -> None:
        self._highest = 0.0

    def hear(self, samples: Samples) -> None:
        self._highest = max(self._highest, float(np.abs(samples).max(initial=0)))

    @property
    def gain(self) -> float:
        return PEAK / self._highest if self._highest else 1.0


class Power:
    """The mean square of every sample, as a sum that goes on."""

    def __init__(self) -> None:
        self._sum, self._count = 0.0, 0

    def hear(self, samples: Samples) -> None:
        self._sum += float(np.square(samples, dtype=np.float64).sum())
        self._count += samples.size

    @property
    def rms(self) -> float:
        return math.sqrt(self._sum / self._count) if self._count else 0.0


class Rms:
    """Measured on the mono mix, so channels that cancel are driven into the clip, as in the original."""

    ceiling = 1.0

    def __init__(self) -> None:
        self._mix = Power()

    def hear(self, samples: Samples) -> None:
        self._mix.hear(samples.mean(axis=0))

    @property
    def gain(self) -> float:
        return RMS / self._mix.rms if self._mix.rms else 1.0


class Loudness:
    """Integrated loudness (spec 5.1): mean squares of the weighted signal in blocks of 0.4 s that overlap by 0.3 s."""

    ceiling = 1.0

    def __init__(self, rate: int) -> None:
        self._filters = (high_shelf(rate), high_pass(rate))
        self._block = round(BLOCK_SECONDS * rate)
        self._hop = round(self._block / HOPS_PER_BLOCK)
        self._power = Power()
        self._states: list[Precise] = []
        self._rest: Precise = np.zeros((0, 0))  # weighted samples from the start of the next block on
        self._energies: list[Precise] = []  # [channel] of each block, ten a second

    def hear(self, samples: Samples) -> None:
        for start in range(0, samples.shape[1], PIECE):
            self._hear_piece(samples[:, start : start + PIECE])

    def _hear_piece(self, samples: Samples) -> None:
        self._power.hear(samples)
        if not self._states:
            self._states = [np.zeros((len(samples), 2)) for _ in self._filters]
            self._rest = np.zeros((len(samples), 0))
        weighted: Precise = samples.astype(np.float64)
        for index, biquad in enumerate(self._filters):
            weighted, self._states[index] = biquad.clamped(weighted, self._states[index])
        self._rest = np.concatenate([self._rest, weighted], axis=1)
        if self._rest.shape[1] >= self._block:
            energies = _energies(self._rest, self._block, self._hop)
            self._energies += list(energies.T)
            self._rest = self._rest[:, energies.shape[1] * self._hop :]

    @property
    def lufs(self) -> float:
        """NaN where the gates leave nothing, as in silence."""
        blocks = np.array(self._energies).T if self._energies else self._one_block()
        loudness = _loudness(blocks)
        loud_enough = loudness > ABSOLUTE_GATE
        if not loud_enough.any():
            return math.nan
        relative_gate = _loudness(blocks[:, loud_enough].mean(axis=1)) + RELATIVE_GATE
        kept = blocks[:, loud_enough & (loudness > relative_gate)]
        return float(_loudness(kept.mean(axis=1)))

    @property
    def gain(self) -> float:
        level = self.lufs if self._power.rms >= QUIET else math.nan
        return 1.0 if math.isnan(level) else from_decibels(TARGET_LUFS - level)

    def _one_block(self) -> Precise:
        """What is shorter than a block is measured as one."""
        length = self._rest.shape[1]
        return _energies(self._rest, length, length) if length else self._rest


METERS: dict[str, Callable[[int], Meter]] = {
    "loudness": Loudness,
    "clip": lambda rate: Unchanged(),
    "peak": lambda rate: Peak(),
    "rms": lambda rate: Rms(),
}


def levelled(samples: Samples, meter: Meter) -> Samples:
    """Samples [channel, sample] at the level that the meter, which heard them, brings them to."""
    return scaled(samples, meter.gain, meter.ceiling)


def require_finite(samples: Samples) -> None:
    """Raise unless every sample is a number.

    Raises:
        TakeFailed: one is infinite or not a number.
    """
    if not np.isfinite(samples).all():
        raise TakeFailed("the codec gave samples that are not finite: nothing to normalise")


def scaled(samples: Samples, gain: float | Precise, ceiling: float) -> Samples:
    """Computed in float64: the gain of a nearly silent take does not fit a float32."""
    louder: Samples = np.multiply(samples, gain, dtype=np.float64).astype(np.float32)
    return np.minimum(np.maximum(louder, np.float32(-ceiling), out=louder), np.float32(ceiling), out=louder)


def _corner(hertz: float, quality: float, rate: int) -> tuple[float, float]:
    """Cosine and alpha of the cookbook, for a corner frequency and a Q."""
    omega = 2 * math.pi * hertz / rate
    return math.cos(omega), math.sin(omega) / (2 * quality)


def _energies(weighted: Precise, block: int, hop: int) -> Precise:
    """Mean squares [channel, block] of every whole block of samples [channel, sample]."""
    blocks = np.lib.stride_tricks.sliding_window_view(weighted, block, axis=-1)[:, ::hop]
    # einsum reads the overlapping blocks in place; a mean of squares would write each sample out four times
    energies: Precise = np.einsum("cbs,cbs->cb", blocks, blocks) / block
    return energies


def _loudness(energies: Precise) -> Precise:
    """Loudness of energies [channel, ...]; -inf where there are none."""
    weights = np.array(CHANNEL_WEIGHTS[: len(energies)])
    with np.errstate(divide="ignore"):
        loudness: Precise = OFFSET + 10 * np.log10(np.tensordot(weights, energies, axes=1))
    return loudness
