"""A song to sound: one cycle that joins its own beginning, left and right."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from training.composer import Event, Song
from training.synthesiser import SAMPLES_PER_FRAME, sound

Array = np.ndarray
CENTRE = (1.0, 1.0)
# Left and right; what is not named stands in the centre.
PLACES = {"hat": (0.6, 1.0), "clap": (1.0, 0.8), "strings": (1.0, 0.85), "guitar": (1.0, 0.7), "bells": (0.7, 1.0)}
LEAD, REST = 0.45, 0.4
LEVELS = {"synth": 0.9, "strings": 0.8, "organ": 0.9, "piano": 1.3, "pluck": 1.1}


def render(song: Song) -> Array:
    """One cycle of the whole mix: [2, sample]."""
    return np.tanh(LEAD * lead(song) + REST * _sounding(song.rest, song.cycle_frames))


def lead(song: Song) -> Array:
    """One cycle of the lead alone."""
    return _sounding(song.lead, song.cycle_frames)


def _sounding(events: Iterable[Event], frames: int) -> Array:
    """Sum the events; what rings beyond the end goes on at the start."""
    length = frames * SAMPLES_PER_FRAME
    cycle = np.zeros((2, length), np.float32)
    for event in events:
        wave = sound(event.instrument, event.pitch, event.frames) * LEVELS.get(event.instrument, 1.0)
        start = event.start * SAMPLES_PER_FRAME
        first = min(len(wave), length - start)
        for side, gain in enumerate(PLACES.get(event.instrument, CENTRE)):
            cycle[side, start : start + first] += gain * wave[:first]
            cycle[side, : len(wave) - first] += gain * wave[first:]
    return cycle


def looped(cycle: Array, samples: int, start: int = 0) -> Array:
    """So many samples of the cycle going round, from a sample on."""
    return np.take(cycle, np.arange(start, start + samples), axis=1, mode="wrap")
