"""The composer's world: what is asked for is what sounds, and the same seed is the same song."""

from __future__ import annotations

import re

import numpy as np
import pytest

from training.composer import INSTRUMENTS, beat_frames, compose
from training.measures import chroma_agreement, scale_asked, scale_of, tempo, tempo_matches
from training.rendering import lead, looped, render
from training.synthesiser import DRUMS, RATE, SAMPLES_PER_FRAME, sound

SEEDS = range(5_000_000, 5_000_060)
IDIOM = re.compile(r"([a-z ]+, )+[a-g]#? (major|minor), \d+ bpm")


def test_a_seed_is_a_song_to_the_sample() -> None:
    for seed in SEEDS[:5]:
        assert compose(seed) == compose(seed)
        np.testing.assert_array_equal(render(compose(seed)), render(compose(seed)))
    assert len({compose(seed).prompt for seed in SEEDS}) > 50


def test_prompts_are_in_the_original_s_idiom() -> None:
    assert all(IDIOM.fullmatch(compose(seed).prompt) for seed in SEEDS)


def test_every_note_is_in_the_key_and_every_beat_near_the_tempo() -> None:
    for song in map(compose, SEEDS):
        notes = [event for event in (*song.lead, *song.rest) if event.instrument not in DRUMS]
        assert {note.pitch % 12 for note in notes} <= song.pitch_classes
        assert abs(3000 / song.beat_frames / song.tempo - 1) < 0.027
        assert all(0 <= event.start < song.cycle_frames for event in (*song.lead, *song.rest))


def test_drums_sound_where_the_genre_has_them() -> None:
    for song in map(compose, SEEDS):
        assert song.has_drums == any(event.instrument in DRUMS for event in song.rest)


@pytest.mark.parametrize("instrument", [*INSTRUMENTS, "bass"])
def test_every_timbre_is_in_tune(instrument: str) -> None:
    pitch = 45 if instrument == "bass" else 69
    wave = sound(instrument, pitch, 100)[: 2 * RATE]
    spectrum = np.abs(np.fft.rfft(wave * np.hanning(len(wave)), 4 * RATE))
    wanted = 440 * 2 ** ((pitch - 69) / 12)
    near = slice(int(4 * wanted / 1.06), int(4 * wanted * 1.06))
    found = (near.start + np.argmax(spectrum[near])) / 4
    assert abs(1200 * np.log2(found / wanted)) < 15  # cents


def test_a_song_goes_round_without_a_seam() -> None:
    cycle = render(compose(SEEDS[0]))
    assert cycle.shape == (2, compose(SEEDS[0]).cycle_frames * SAMPLES_PER_FRAME)
    assert np.abs(cycle).max() < 1
    np.testing.assert_array_equal(looped(cycle, 100, -50)[:, :50], cycle[:, -50:])


def test_the_measures_hear_what_was_composed() -> None:
    songs = [compose(seed) for seed in SEEDS]
    waves = [looped(render(song), 6 * RATE).mean(0) for song in songs]
    tempos = [tempo_matches(tempo(wave), song.tempo) for wave, song in zip(waves, songs, strict=True)]
    exact, octave = np.mean(tempos, axis=0)
    assert exact > 0.7  # the others are heard at half their tempo
    assert octave > 0.97
    scales = [scale_of(wave) == scale_asked(song.tonic, song.mode) for wave, song in zip(waves, songs, strict=True)]
    assert np.mean(scales) > 0.7  # the others as a neighbour's on the circle of fifths: four chords leave tones out
    melodies = [looped(lead(song), 6 * RATE) for song in songs]
    own = np.mean([chroma_agreement(*pair) for pair in zip(melodies, waves, strict=True)])
    another = np.mean([chroma_agreement(*pair) for pair in zip(melodies, waves[1:] + waves[:1], strict=True)])
    assert own > another + 0.4


def test_a_beat_is_a_whole_number_of_frames() -> None:
    assert [beat_frames(tempo) for tempo in (70, 100, 120, 140, 160)] == [43, 30, 25, 21, 19]
