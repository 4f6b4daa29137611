"""Changing a waveform's rate; the only doorway to soxr.

The original resamples with julius (spec 5.3), a windowed sinc. soxr's steepest filter agrees with it to
1e-3 of full scale up to 0.88 of the lower Nyquist frequency, away from the clip's ends; near them the two
agree only because the clip's first and last sample are held, as julius does, where soxr takes silence.
"""

from __future__ import annotations

import math

import numpy as np
import soxr

from songstarter.waveform import Samples, Waveform

QUALITY = "VHQ"
REACH = 256  # samples, of the lower rate, within which the filter still hears what lies outside the clip


def resample(waveform: Waveform, rate: int) -> Waveform:
    """The waveform at another rate, with exactly floor(length * rate / waveform.rate) samples.

    The same waveform where the rates are equal.
    """
    if rate == waveform.rate:
        return waveform
    length = waveform.length * rate // waveform.rate
    if length == 0:
        return Waveform(waveform.samples[:, :0], rate)
    margin = _margin(waveform.rate, rate)
    held = np.pad(waveform.samples, ((0, 0), (margin, margin)), mode="edge")
    converted: Samples = soxr.resample(held.T, waveform.rate, rate, quality=QUALITY).T
    first = margin * rate // waveform.rate
    return Waveform(np.ascontiguousarray(converted[:, first : first + length]), rate)


def _margin(old: int, new: int) -> int:
    """How many samples to hold at each end: beyond the filter's reach, and a whole number at both rates."""
    step = old // math.gcd(old, new)
    reach = math.ceil(REACH * max(old / new, 1))
    return step * math.ceil(reach / step)
