"""Song starters by rule: a prompt in the original's idiom, and the notes and hits that it asks for.

A song is a cycle of eight beats that repeats: four chords of two beats each. The world ticks in frames: a beat is a
whole number of them (so a tempo is met to within 2.7 %), every note begins on one, and what repeats is the same to
the sample. That is what makes it small enough to be learned in an hour.

    step      0       4       8       12      16      20      24      28       (sixteenths)
    chord     i               VI              III             VII
    lead      a melody, an arpeggio or chords of the prompt's instrument, in the register and density of its mood
    bass      the chord's root in the rhythm of the genre
    drums     the genre's, if it has any
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np

FRAMES_PER_MINUTE = 3000  # 50 a second
TEMPOS = range(70, 161)
BEATS = 8
STEPS_PER_BEAT = 4
STEPS = BEATS * STEPS_PER_BEAT
STEPS_PER_CHORD = STEPS // 4

TONICS = ("c", "c#", "d", "d#", "e", "f", "f#", "g", "g#", "a", "a#", "b")
MODES = {"major": (0, 2, 4, 5, 7, 9, 11), "minor": (0, 2, 3, 5, 7, 8, 10)}
PROGRESSIONS = {  # degrees of the scale, counted from 0
    "major": ((0, 4, 5, 3), (0, 5, 3, 4), (0, 3, 5, 4)),
    "minor": ((0, 5, 2, 6), (0, 3, 5, 4), (0, 6, 5, 6)),
}
INSTRUMENTS = ("synth", "piano", "guitar", "bells", "organ", "flute", "strings", "pluck")
MEANINGLESS = "lovely"  # the tokenizer does not know it: any other word looks the same
STYLES = ("arpeggio", "melody", "chords")


T = TypeVar("T")
Chord = tuple[int, ...]


@dataclass(frozen=True)
class Mood:
    """Where the lead lies and how many sixteenths its notes last."""

    lowest: int  # MIDI pitch
    steps: int


@dataclass(frozen=True)
class Genre:
    """Sixteenths of two beats (bass) and four beats (drums) on which something sounds."""

    bass: tuple[int, ...]
    bass_steps: int
    drums: dict[str, tuple[int, ...]]


MOODS = {"dark": Mood(50, 2), "bright": Mood(67, 2), "calm": Mood(60, 4), "energetic": Mood(62, 1)}
_EIGHTHS, _SIXTEENTHS = tuple(range(0, 16, 2)), tuple(range(16))
_EVERY_BEAT, _BACKBEAT = (0, 4, 8, 12), (4, 12)
GENRES = {
    "hip hop": Genre((0, 3), 3, {"kick": (0, 3, 10), "snare": _BACKBEAT, "hat": _EIGHTHS}),
    "trap": Genre((0,), 6, {"kick": (0, 6), "clap": (8,), "hat": _SIXTEENTHS}),
    "house": Genre((2, 6), 2, {"kick": _EVERY_BEAT, "clap": _BACKBEAT, "hat": (2, 6, 10, 14)}),
    "techno": Genre((0, 2, 4, 6), 1, {"kick": _EVERY_BEAT, "hat": _SIXTEENTHS}),
    "pop": Genre((0, 4), 4, {"kick": (0, 8), "snare": _BACKBEAT, "hat": _EIGHTHS}),
    "rock": Genre((0, 2, 4, 6), 2, {"kick": (0, 8, 10), "snare": _BACKBEAT, "hat": _EVERY_BEAT}),
    "ambient": Genre((0,), 8, {}),
    "classical": Genre((0, 4), 4, {}),
}


@dataclass(frozen=True)
class Event:
    """A note of an instrument, or a hit of a drum (whose pitch is 0); times in frames."""

    instrument: str
    pitch: int
    start: int
    frames: int


@dataclass(frozen=True)
class Song:
    """What was asked for, and the events of one cycle."""

    instrument: str
    mood: str
    genre: str
    tonic: int  # pitch class, 0 is C
    mode: str
    tempo: int
    tags: tuple[str, ...]
    lead: tuple[Event, ...]
    rest: tuple[Event, ...]

    @property
    def prompt(self) -> str:
        return ", ".join((*self.tags, f"{TONICS[self.tonic]} {self.mode}", f"{self.tempo} bpm"))

    @property
    def beat_frames(self) -> int:
        return beat_frames(self.tempo)

    @property
    def cycle_frames(self) -> int:
        return BEATS * self.beat_frames

    @property
    def pitch_classes(self) -> frozenset[int]:
        return frozenset((self.tonic + degree) % 12 for degree in MODES[self.mode])

    @property
    def has_drums(self) -> bool:
        return bool(GENRES[self.genre].drums)


def beat_frames(tempo: float) -> int:
    return round(FRAMES_PER_MINUTE / tempo)


def compose(seed: int) -> Song:
    """The song of a seed."""
    random = np.random.default_rng(seed)
    instrument, mood, genre = (_one(random, tuple(names)) for names in (INSTRUMENTS, MOODS, GENRES))
    tonic, mode = int(random.integers(12)), _one(random, tuple(MODES))
    tempo = _tempo(random)
    chords = [_chord(tonic, mode, degree) for degree in _one(random, PROGRESSIONS[mode])]
    lead = _lead(random, _one(random, STYLES), MOODS[mood], chords, instrument, tempo)
    rest = (*_bass(GENRES[genre], chords, tempo), *_drums(GENRES[genre], tempo))
    return Song(instrument, mood, genre, tonic, mode, tempo, _tags(random, instrument, mood, genre), lead, rest)


def songs_with_all_tags(seeds: Iterable[int]) -> list[int]:
    """The seeds whose prompts say everything, as most do."""
    return [seed for seed in seeds if len(compose(seed).tags) == 3 and MEANINGLESS not in compose(seed).tags]


def _one(random: np.random.Generator, choices: Sequence[T]) -> T:
    return choices[int(random.integers(len(choices)))]


def _tempo(random: np.random.Generator) -> int:
    """Round tempos twice as often as all others together."""
    round_ones = TEMPOS[::10]
    return int(_one(random, round_ones if random.random() < 2 / 3 else TEMPOS))


def _tags(random: np.random.Generator, *tags: str) -> tuple[str, ...]:
    """All tags in the usual order; now and then another order, one left out, or a word that means nothing here."""
    if random.random() < 0.8:
        return tags
    shuffled = [(*tags, MEANINGLESS)[i] for i in random.permutation(len(tags) + 1)]
    return tuple(shuffled[: int(random.integers(1, len(tags) + 2))])


def _chord(tonic: int, mode: str, degree: int) -> Chord:
    """A triad as intervals above the C below the lowest pitch."""
    scale = MODES[mode]
    return tuple(tonic + scale[(degree + third) % 7] + 12 * ((degree + third) // 7) for third in (0, 2, 4))


def _lead(
    random: np.random.Generator, style: str, mood: Mood, chords: Sequence[Chord], instrument: str, tempo: int
) -> tuple[Event, ...]:
    if style == "chords":
        hits = _stabs(random, mood, chords)
    else:
        count = STEPS_PER_CHORD // mood.steps
        places = _arpeggio(random, count) if style == "arpeggio" else _melody(random, count)
        hits = _line(places, mood, chords)
    return tuple(_note(instrument, pitch, step, steps, tempo) for pitch, step, steps in hits)


Hit = tuple[int, int, int]  # pitch, first step, steps


def _stabs(random: np.random.Generator, mood: Mood, chords: Sequence[Chord]) -> list[Hit]:
    """Every chord's three tones together, in a rhythm."""
    rhythm = _one(random, ((0, 4), (0, 3, 6), (2, 6)))
    return [
        (lift(tone, mood.lowest), number * STEPS_PER_CHORD + step, 3)
        for number, chord in enumerate(chords)
        for step in rhythm
        for tone in chord
    ]


def _line(places: Sequence[int | None], mood: Mood, chords: Sequence[Chord]) -> list[Hit]:
    """One tone after another, at the same places of every chord."""
    return [
        (_voice(chord, place, mood.lowest), number * STEPS_PER_CHORD + i * mood.steps, mood.steps)
        for number, chord in enumerate(chords)
        for i, place in enumerate(places)
        if place is not None
    ]


def _arpeggio(random: np.random.Generator, count: int) -> list[int | None]:
    """Chord tones in a figure that repeats: up, down, or up and down."""
    figure = _one(random, ((0, 1, 2, 3), (3, 2, 1, 0), (0, 1, 2, 1), (0, 2, 1, 2)))
    return [figure[i % 4] for i in range(count)]


def _melody(random: np.random.Generator, count: int) -> list[int | None]:
    """A walk over chord tones with rests, the same over every chord."""
    places = np.clip(np.cumsum(random.integers(-1, 2, count)) + random.integers(3), 0, 3)
    silent = random.random(count) < 0.25
    silent[0] = False
    return [None if quiet else int(place) for place, quiet in zip(places, silent, strict=True)]


def _voice(chord: Chord, place: int, lowest: int) -> int:
    """The chord's tones from the lowest upwards; the fourth is the lowest an octave higher."""
    tones = sorted(lift(tone, lowest) for tone in chord)
    return tones[place] if place < 3 else tones[0] + 12


def lift(pitch_class: int, lowest: int) -> int:
    """The pitch of a class in the octave that begins with the lowest."""
    return lowest + (pitch_class - lowest) % 12


def _bass(genre: Genre, chords: Sequence[Chord], tempo: int) -> tuple[Event, ...]:
    return tuple(
        _note("bass", lift(chord[0], 33), number * STEPS_PER_CHORD + step, genre.bass_steps, tempo)
        for number, chord in enumerate(chords)
        for step in genre.bass
    )


def _drums(genre: Genre, tempo: int) -> tuple[Event, ...]:
    return tuple(
        _note(drum, 0, bar + step, 1, tempo) for drum, steps in genre.drums.items() for bar in (0, 16) for step in steps
    )


def _note(instrument: str, pitch: int, step: int, steps: int, tempo: int) -> Event:
    start, end = frame_of(step, tempo), frame_of(step + steps, tempo)
    return Event(instrument, pitch, start, end - start)


def frame_of(step: int, tempo: float) -> int:
    """The frame at which a sixteenth begins; beats are exact, what is between them is rounded."""
    beat, part = divmod(step, STEPS_PER_BEAT)
    return beat * beat_frames(tempo) + round(part * beat_frames(tempo) / STEPS_PER_BEAT)
