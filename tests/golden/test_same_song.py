"""The same seed, the same song: alone, in a crowd, at any place in the batch, after a restart, in every precision."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from export.checkpoints import make_checkpoint
from export.decoder import form_of, shape_of, write_decoder
from export.linear import FORMS
from export.manifest import describe
from songstarter.array import Array
from songstarter.checkpoint import Precision
from songstarter.delay_pattern import DelayPattern
from songstarter.engine.engine import Engine
from songstarter.engine.take import Beginning, Chunk, ChunkSizes, Outcome, Take
from songstarter.request import Sampling
from songstarter.stages.decoder import DecoderStage
from songstarter.stages.filling import Prefix
from songstarter.windows import Window

HIDDEN = 512
SLOTS = 5
SONGS = 9
PRECISIONS = sorted(precision for precision, device in FORMS if device == "cpu")


@pytest.fixture(scope="module")
def loaded() -> object:
    return make_checkpoint(family="melody", channels=2, hidden=HIDDEN, layers=3)


@pytest.fixture(scope="module", params=PRECISIONS)
def open_engine(request: pytest.FixtureRequest, loaded, tmp_path_factory: pytest.TempPathFactory):  # type: ignore[no-untyped-def]
    """Opens a new engine on the same exported decoder: a restart."""
    precision: Precision = request.param
    repository: Path = tmp_path_factory.mktemp(precision)
    folder = repository / "decoder" / "1"
    folder.mkdir(parents=True)
    checkpoint = describe(loaded, precision, "cpu")
    decoder = loaded.model.decoder
    write_decoder(decoder, shape_of(decoder, checkpoint.decoder.positions), form_of(precision, "cpu"), folder)
    pattern = DelayPattern(checkpoint.delays, checkpoint.special_token)
    return lambda: Engine(DecoderStage(repository, checkpoint, slots=SLOTS), pattern, max_waiting=100)


def make_take(number: int, ends: dict[int, Outcome]) -> Take:
    """Songs that differ in all that a request can ask for."""
    random = np.random.default_rng(number)
    length = 20 + 7 * number
    guided, null = random.standard_normal((2, length, HIDDEN), np.float32)
    opening = random.integers(0, 2048, (8, 5 + number)) if number % 3 == 2 else None
    sampling = Sampling(
        temperature=(1.0, 0.8, 0.0)[number % 3],
        top_k=(250, 0, 40)[number % 3],
        top_p=(0.0, 0.9)[number % 2],
        guidance=(3.0, 1.0, 5.0)[number % 3],
    )
    prefix = Prefix(guided, None if sampling.guidance == 1 else null)
    length = 30 + 5 * (number % 4)
    beginning = Beginning([prefix], opening, [Window(0, length, 0 if opening is None else opening.shape[1])])
    chunks = ChunkSizes(length, length)
    return Take(
        beginning, sampling, number, 0, 1 + number % 5, chunks, lambda _, outcome: ends.update({number: outcome})
    )


def run(engine: Engine) -> None:
    while not engine.idle:
        engine.step()


def frames(ends: dict[int, Outcome], number: int) -> Array:
    outcome = ends[number]
    assert isinstance(outcome, Chunk), outcome
    return outcome.codes


def test_a_song_is_the_same_alone_in_a_crowd_and_after_a_restart(open_engine) -> None:  # type: ignore[no-untyped-def]
    crowd: dict[int, Outcome] = {}
    engine = open_engine()
    for number in range(SONGS):
        engine.submit([make_take(number, crowd)])
        for _ in range(number % 4):
            engine.step()
    run(engine)
    for number in reversed(range(SONGS)):
        alone: dict[int, Outcome] = {}
        fresh = open_engine() if number % 4 == 0 else engine
        fresh.submit([make_take(number, alone)])
        run(fresh)
        np.testing.assert_array_equal(frames(alone, number), frames(crowd, number))
