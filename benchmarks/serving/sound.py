"""Melodies and openings for requests: synthesised, so that a run needs no files and everybody sends the same bytes."""

from __future__ import annotations

import io
import wave

import numpy as np

RATE = 32_000
NOTE_SECONDS = 0.25
LOWEST = 220.0  # hertz
SCALE = np.array([0, 2, 3, 5, 7, 8, 10, 12])  # semitones of a minor octave
LOUDNESS = 0.4


def tune(seconds: float, *, seed: int) -> bytes:
    """A wav file, mono, 16 bits: notes of a minor scale, a quarter of a second each."""
    samples = round(seconds * RATE)
    notes = np.random.default_rng(seed).choice(SCALE, size=int(seconds / NOTE_SECONDS) + 1)
    time = np.arange(samples) / RATE
    pitch = LOWEST * 2 ** (notes[(time / NOTE_SECONDS).astype(int)] / 12)
    fading = 1 - (time % NOTE_SECONDS) / NOTE_SECONDS
    tone = LOUDNESS * fading * np.sin(2 * np.pi * np.cumsum(pitch) / RATE)
    buffer = io.BytesIO()
    with wave.open(buffer, "wb") as file:
        file.setparams((1, 2, RATE, samples, "NONE", "not compressed"))
        file.writeframes((tone * 32_767).astype("<i2").tobytes())
    return buffer.getvalue()
