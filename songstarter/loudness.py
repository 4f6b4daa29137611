"""Loudness in LUFS, and the four ways to bring a take to a level (spec 5 and 5.1).

Three deviations from the original, all where it would give NaN or fail: silence stays silence, a signal
shorter than one block is measured as one block, and a signal of which the gates leave nothing keeps its
level.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
from scipy.signal import lfilter

from songstarter.errors import TakeFailed
from songstarter.waveform import Samples, Waveform

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

    def clamped(self, samples: Precise) -> Precise:
        """Samples [channel, sample] filtered from rest, then cut to +-1 as torchaudio's filters do."""
        filtered: Precise = lfilter(self.b, self.a, samples, axis=-1)
        return np.clip(filtered, -1.0, 1.0)


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


def lufs(waveform: Waveform) -> float:
    """Integrated loudness (spec 5.1); NaN where the gates leave nothing, as in silence."""
    blocks = _block_energies(waveform)
    loudness = _loudness(blocks)
    loud_enough = loudness > ABSOLUTE_GATE
    if not loud_enough.any():
        return math.nan
    relative_gate = _loudness(blocks[:, loud_enough].mean(axis=1)) + RELATIVE_GATE
    kept = blocks[:, loud_enough & (loudness > relative_gate)]
    return float(_loudness(kept.mean(axis=1)))


def normalize(waveform: Waveform, strategy: str) -> Waveform:
    """The waveform at the level its strategy aims at (spec 5); silence stays as it is.

    Raises:
        TakeFailed: a sample is infinite or not a number.
    """
    if not np.isfinite(waveform.samples).all():
        raise TakeFailed("the codec gave samples that are not finite: nothing to normalise")
    if not waveform.samples.any():
        return waveform
    return replace(waveform, samples=STRATEGIES[strategy](waveform))


def _to_loudness(waveform: Waveform) -> Samples:
    if math.sqrt(_mean_square(waveform.samples)) < QUIET:
        return waveform.samples
    level = lufs(waveform)
    gain = 1.0 if math.isnan(level) else from_decibels(TARGET_LUFS - level)
    return _hard_clip(_scaled(waveform.samples, gain))


def _to_clip(waveform: Waveform) -> Samples:
    return np.clip(waveform.samples, np.float32(-PEAK), np.float32(PEAK))


def _to_peak(waveform: Waveform) -> Samples:
    return _scaled(waveform.samples, PEAK / float(np.abs(waveform.samples).max()))


def _to_rms(waveform: Waveform) -> Samples:
    """Measured on the mono mix, so channels that cancel are driven into the clip, as in the original."""
    mix = _mean_square(waveform.samples.mean(axis=0))
    gain = RMS / math.sqrt(mix) if mix > 0 else 1.0
    return _hard_clip(_scaled(waveform.samples, gain))


STRATEGIES: dict[str, Callable[[Waveform], Samples]] = {
    "loudness": _to_loudness,
    "clip": _to_clip,
    "peak": _to_peak,
    "rms": _to_rms,
}


def _corner(hertz: float, quality: float, rate: int) -> tuple[float, float]:
    """Cosine and alpha of the cookbook, for a corner frequency and a Q."""
    omega = 2 * math.pi * hertz / rate
    return math.cos(omega), math.sin(omega) / (2 * quality)


def _block_energies(waveform: Waveform) -> Precise:
    """Mean squares [channel, block] of the weighted signal, in blocks of 0.4 s that overlap by 0.3 s."""
    samples = waveform.samples.astype(np.float64)
    weighted = high_pass(waveform.rate).clamped(high_shelf(waveform.rate).clamped(samples))
    block = round(BLOCK_SECONDS * waveform.rate)
    hop = round(block / HOPS_PER_BLOCK)
    windows = np.lib.stride_tricks.sliding_window_view(weighted, min(block, waveform.length), axis=-1)
    blocks = windows[:, ::hop]
    # einsum reads the overlapping blocks in place; a mean of squares would write each sample out four times
    energies: Precise = np.einsum("cbs,cbs->cb", blocks, blocks) / blocks.shape[-1]
    return energies


def _loudness(energies: Precise) -> Precise:
    """Loudness of energies [channel, ...]; -inf where there are none."""
    weights = np.array(CHANNEL_WEIGHTS[: len(energies)])
    with np.errstate(divide="ignore"):
        loudness: Precise = OFFSET + 10 * np.log10(np.tensordot(weights, energies, axes=1))
    return loudness


def _mean_square(samples: Samples) -> float:
    return float(np.square(samples, dtype=np.float64).mean())


def _scaled(samples: Samples, gain: float) -> Samples:
    """Computed in float64: the gain of a nearly silent take does not fit a float32."""
    return (samples.astype(np.float64) * gain).astype(np.float32)


def _hard_clip(samples: Samples) -> Samples:
    return np.clip(samples, np.float32(-1), np.float32(1))
