"""A song to sound: one cycle that joins its own beginning, the lead on the left, bass and drums on the right.

As on the first stereo records. The codec hears each side alone, so what a note sounds like does not depend on what
is played with it: given the note, its first code is uncertain by 0.5 nats instead of 1.3 in a mix, and a decoder of
five million weights can learn that.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from training.composer import Event, Song
from training.synthesiser import SAMPLES_PER_FRAME, sound

Array = np.ndarray
LEAD, REST = 0.6, 0.5
LEVELS = {"synth": 0.9, "strings": 0.8, "organ": 0.9, "piano": 1.3, "pluck": 1.1}


def render(song: Song) -> Array:
    """One cycle of the whole song: [2, sample]."""
    return np.tanh(np.stack([LEAD * lead(song), REST * _sounding(song.rest, song.cycle_frames)]))


def lead(song: Song) -> Array:
    """One cycle of the lead alone: [sample]."""
    return _sounding(song.lead, song.cycle_frames)


def _sounding(events: Iterable[Event], frames: int) -> Array:
    """Sum the events; what rings beyond the end goes on at the start."""
    length = frames * SAMPLES_PER_FRAME
    cycle = np.zeros(length, np.float32)
    for event in events:
        wave = sound(event.instrument, event.pitch, event.frames) * LEVELS.get(event.instrument, 1.0)
        start = event.start * SAMPLES_PER_FRAME
        first = min(len(wave), length - start)
        cycle[start : start + first] += wave[:first]
        cycle[: len(wave) - first] += wave[first:]
    return cycle


def looped(cycle: Array, samples: int, start: int = 0) -> Array:
    """So many samples of the cycle [..., sample] going round, from a sample on."""
    return np.take(cycle, np.arange(start, start + samples), axis=-1, mode="wrap")
