"""Fourteen timbres: subtractive, FM, plucked-string and additive synthesis, and four drums.

Every sound begins at the same phase whenever it is struck, noise included, so that a note is the same to the sample
wherever it stands.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache

import numpy as np
from scipy.signal import butter, lfilter, sosfilt

RATE = 32_000
SAMPLES_PER_FRAME = 640
HIGHEST = 12_000.0  # hertz; no partial above
RELEASE = 0.12  # seconds

Array = np.ndarray


@lru_cache(maxsize=20_000)
def sound(instrument: str, pitch: int, frames: int) -> Array:
    """One note or hit, mono; it rings on behind its frames while it is released."""
    if instrument in DRUMS:
        return DRUMS[instrument]().astype(np.float32)
    held = frames * SAMPLES_PER_FRAME / RATE
    time = np.arange(int((held + RELEASE) * RATE)) / RATE
    pitched = INSTRUMENTS[instrument](440.0 * 2 ** ((pitch - 69) / 12), time)
    return (pitched * _released(time, held)).astype(np.float32)


def _released(time: Array, held: float) -> Array:
    fade = np.clip((time - held) / RELEASE, 0, 1)
    return np.clip(time / 0.003, 0, 1) * 0.5 * (1 + np.cos(np.pi * fade))


def _partials(pitch: float, time: Array, level: Callable[[int], float], most: int = 40) -> Array:
    count = min(most, int(HIGHEST / pitch))
    return sum((level(k) * np.sin(2 * np.pi * k * pitch * time) for k in range(1, count + 1)), np.zeros_like(time))


def _low_pass(wave: Array, hertz: float) -> Array:
    return sosfilt(butter(2, min(hertz, 14_000), fs=RATE, output="sos"), wave)


def _synth(pitch: float, time: Array) -> Array:
    """Subtractive: a saw through a low-pass filter that closes."""
    saw = _partials(pitch, time, lambda k: 0.6 / k)
    closing = np.exp(-4 * time)
    return closing * _low_pass(saw, 6 * pitch) + (1 - closing) * _low_pass(saw, 2.5 * pitch)


def _piano(pitch: float, time: Array) -> Array:
    """Additive: high partials die sooner."""
    count = min(10, int(HIGHEST / pitch))
    rows = (
        0.8 / k**1.3 * np.sin(2 * np.pi * k * pitch * time) * np.exp(-(1.5 + 0.9 * k) * time)
        for k in range(1, count + 1)
    )
    return sum(rows, np.zeros_like(time))


def _guitar(pitch: float, time: Array) -> Array:
    """Karplus and Strong: a burst of noise in a loop with a low-pass filter."""
    period = RATE / pitch - 0.5
    whole, part = int(period), period - int(period)
    loop = np.zeros(whole + 3)
    loop[0] = 1.0
    loop[whole : whole + 3] = -0.996 * np.convolve([1 - part, part], [0.5, 0.5])
    burst = np.zeros(len(time))
    length = min(whole, len(time))
    burst[:length] = _noise(length)
    wave = lfilter([1.0], loop, _low_pass(burst, 5 * pitch))
    return 0.55 * wave / (np.abs(wave).max() + 1e-9)


def _bells(pitch: float, time: Array) -> Array:
    """FM with a ratio that is no whole number."""
    turn = 2 * np.pi * pitch * time
    return 0.5 * np.sin(turn + 1.4 * np.exp(-5 * time) * np.sin(3.5 * turn)) * np.exp(-2.5 * time)


def _organ(pitch: float, time: Array) -> Array:
    """Additive: four drawbars."""
    turn = 2 * np.pi * pitch * time
    return 0.3 * np.sin(turn) + 0.25 * np.sin(2 * turn) + 0.15 * np.sin(3 * turn) + 0.12 * np.sin(4 * turn)


def _flute(pitch: float, time: Array) -> Array:
    """A soft sine that begins slowly and trembles a little."""
    trembling = 1 + 0.15 * np.sin(2 * np.pi * 5 * time)
    tone = np.sin(2 * np.pi * pitch * time) + 0.15 * np.sin(4 * np.pi * pitch * time)
    return 0.45 * tone * trembling * np.clip(time / 0.05, 0, 1)


def _strings(pitch: float, time: Array) -> Array:
    """Two saws, a little apart, slow to begin."""
    pair = _partials(pitch, time, lambda k: 0.4 / k) + _partials(pitch * 1.006, time, lambda k: 0.4 / k)
    return 0.7 * _low_pass(pair, 4 * pitch) * np.clip(time / 0.06, 0, 1)


def _pluck(pitch: float, time: Array) -> Array:
    """Subtractive: a square through a filter, quickly gone."""
    square = _partials(pitch, time, lambda k: 0.7 / k if k % 2 else 0.0)
    return _low_pass(square, 5 * pitch) * np.exp(-7 * time)


def _bass(pitch: float, time: Array) -> Array:
    """A sine with two overtones, for small loudspeakers."""
    return 0.6 * _partials(pitch, time, lambda k: (0.0, 1.0, 0.35, 0.15)[k], most=3) * np.exp(-1.0 * time)


def _noise(count: int) -> Array:
    return np.random.default_rng(7).uniform(-1, 1, count)


def _kick() -> Array:
    time = np.arange(int(0.22 * RATE)) / RATE
    turn = 2 * np.pi * (48 * time + 110 / 35 * (1 - np.exp(-35 * time)))
    return 0.9 * np.sin(turn) * np.exp(-12 * time)


def _snare() -> Array:
    time = np.arange(int(0.18 * RATE)) / RATE
    rattle = _low_pass(_noise(len(time)), 7_000)
    return (0.45 * rattle + 0.4 * np.sin(2 * np.pi * 185 * time)) * np.exp(-20 * time)


def _hat() -> Array:
    time = np.arange(int(0.06 * RATE)) / RATE
    return 0.25 * np.diff(_noise(len(time) + 1)) * np.exp(-70 * time)


def _clap() -> Array:
    time = np.arange(int(0.16 * RATE)) / RATE
    band = sosfilt(butter(2, (900, 3_500), "band", fs=RATE, output="sos"), _noise(len(time)))
    return 0.9 * band * np.exp(-25 * time)


INSTRUMENTS: dict[str, Callable[[float, Array], Array]] = {
    "synth": _synth,
    "piano": _piano,
    "guitar": _guitar,
    "bells": _bells,
    "organ": _organ,
    "flute": _flute,
    "strings": _strings,
    "pluck": _pluck,
    "bass": _bass,
}
DRUMS: dict[str, Callable[[], Array]] = {"kick": _kick, "snare": _snare, "hat": _hat, "clap": _clap}
