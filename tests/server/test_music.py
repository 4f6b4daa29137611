"""Musical questions to the embedded checkpoint, asked of a real server and answered by the sound alone."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache

import numpy as np
import pytest
from exporting import export_into

from songstarter.array import Array
from songstarter.server.launch import Ports
from songstarter.server.server import Server
from training.asking import Wish, ask_all
from training.composer import Song, compose, songs_with_all_tags
from training.measures import chroma_agreement, scale_asked, share_in_scale, spectral_distance, tempo, tempo_matches
from training.rendering import lead, looped
from training.synthesiser import RATE

pytestmark = [pytest.mark.triton, pytest.mark.slow, pytest.mark.timeout(900)]

SECONDS = 6.0
SONGS = [compose(seed) for seed in songs_with_all_tags(range(3_000_000, 3_000_100))[:64]]


@pytest.fixture(scope="module")
def int8(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    repository = export_into(tmp_path_factory.mktemp("int8") / "model_repository", "embedded", "int8")
    with Server(repository, Ports.free(), tmp_path_factory.mktemp("run")) as server:
        yield server


@cache
def made(server: Server, guidance: float) -> list[Array]:
    fields = {"duration": SECONDS, "seed": 1, "classifier_free_guidance": guidance}
    return ask_all(server.grpc_url, [Wish(song.prompt, fields) for song in SONGS])


def in_tempo(waves: list[Array], songs: list[Song]) -> float:
    pairs = zip(waves, songs, strict=True)
    return float(np.mean([tempo_matches(tempo(wave), song.tempo)[1] for wave, song in pairs]))


def in_scale(waves: list[Array], songs: list[Song]) -> float:
    pairs = zip(waves, songs, strict=True)
    return float(np.mean([share_in_scale(wave, scale_asked(song.tonic, song.mode)) for wave, song in pairs]))


def rotated(songs: list[Song]) -> list[Song]:
    return songs[1:] + songs[:1]


def test_a_song_has_the_prompt_s_tempo_and_scale(songs: Server) -> None:
    waves = made(songs, 3.0)
    assert in_tempo(waves, SONGS) > in_tempo(waves, rotated(SONGS)) + 0.2
    assert in_scale(waves, SONGS) > in_scale(waves, rotated(SONGS)) + 0.1


def test_guidance_pulls_towards_the_prompt(songs: Server) -> None:
    """The measures that guidance moves most, added up."""
    loose, guided = made(songs, 1.0), made(songs, 3.0)
    assert in_tempo(guided, SONGS) + in_scale(guided, SONGS) > in_tempo(loose, SONGS) + in_scale(loose, SONGS)


def test_a_melody_comes_through(songs: Server) -> None:
    melodies = [looped(lead(compose(seed)), int(SECONDS * RATE)) for seed in range(6_100_000, 6_100_016)]
    waves = ask_all(songs.grpc_url, [Wish("", {"duration": SECONDS, "seed": 1}, melody) for melody in melodies])
    own = np.mean([chroma_agreement(*pair) for pair in zip(waves, melodies, strict=True)])
    another = np.mean([chroma_agreement(*pair) for pair in zip(waves, melodies[1:] + melodies[:1], strict=True)])
    assert own > another + 0.15


def test_int8_sounds_the_same(songs: Server, int8: Server) -> None:
    exact, small = made(songs, 3.0), made(int8, 3.0)
    assert abs(in_tempo(small, SONGS) - in_tempo(exact, SONGS)) < 0.15
    assert abs(in_scale(small, SONGS) - in_scale(exact, SONGS)) < 0.05
    same = np.mean([spectral_distance(*pair) for pair in zip(small, exact, strict=True)])
    another = np.mean([spectral_distance(*pair) for pair in zip(small, rotated(exact), strict=True)])
    assert same < another
