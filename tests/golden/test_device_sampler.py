"""The sampler graph against the bulk sampler, which is held to its plain twin in ``tests/unit/test_sampling.py``."""

from __future__ import annotations

import numpy as np
import pytest

from export.graph import Graph
from export.sampler import write_sampler
from songstarter.array import Array
from songstarter.request import Sampling
from songstarter.sampling import guide, keep, softmax
from songstarter.stages.sampler import Draw, numbers_of, sample, settings_of
from songstarter.stages.session import Session

CODEBOOKS, VOCABULARY = 8, 2048
# The graph's exponentials and sums differ from numpy's in their last bits, so that the edges between tokens lie this
# much elsewhere: a number that falls between two edges of one and the same token may be given to its neighbour.
EDGE = 2e-6
SETTINGS = [
    Sampling(),
    Sampling(temperature=0),
    Sampling(top_p=0.8),
    Sampling(top_k=3, temperature=0.7),
    Sampling(top_k=0, guidance=0),
    Sampling(top_k=2048, temperature=3, guidance=1),
    Sampling(top_p=0.3, top_k=5),
    Sampling(top_p=1.0),
    Sampling(top_k=1, temperature=5),
    Sampling(temperature=1e-20),
    Sampling(temperature=0.02, top_p=0.95, guidance=20),
]


@pytest.fixture(scope="module")
def sampler(tmp_path_factory: pytest.TempPathFactory) -> Session:
    path = tmp_path_factory.mktemp("sampler") / "sampler.onnx"
    with Graph(path) as graph:
        graph.input("logits", np.float32, ["row", CODEBOOKS, VOCABULARY])
        write_sampler(graph, codebooks=CODEBOOKS, vocabulary=VOCABULARY)
    return Session(path, threads=2)


def columns_of(sampler: Session, logits: Array, draws: list[Draw]) -> Array:
    """The graph's columns [take, codebook] for logits [take, 2, codebook, token]."""
    count = len(draws)
    feeds = {
        "logits": logits.reshape(-1, CODEBOOKS, VOCABULARY),
        "pairs": np.arange(2 * count).reshape(count, 2).T,
        "settings": settings_of(draws)[:, :, None, None],
        "uniforms": np.moveaxis(numbers_of(draws, CODEBOOKS), -1, 0)[..., None],
    }
    return sampler.run(feeds)["columns"]


def rows_of(draws: list[Draw], spread: float, seed: int) -> Array:
    random = np.random.default_rng(seed)
    return random.standard_normal((len(draws), 2, CODEBOOKS, VOCABULARY), np.float32) * np.float32(spread)


def draws_of(count: int, seed: int = 0) -> list[Draw]:
    return [
        Draw(SETTINGS[place % len(SETTINGS)], seed=seed + place, variation=place % 3, step=place * 7)
        for place in range(count)
    ]


def near_an_edge(logits: Array, draw: Draw, codebook: int, tokens: tuple[int, int]) -> bool:
    """Whether either of a draw's numbers falls within ``EDGE`` of the border between two tokens."""
    mixed = guide(logits[0, codebook], logits[1, codebook], draw.sampling.guidance)[None]
    shares = softmax(mixed, np.float32(draw.sampling.temperature))
    numbers = numbers_of([draw], CODEBOOKS)[0, codebook]
    for row, number in zip((shares, keep(shares, draw.sampling)), numbers, strict=True):
        edges = row[0].astype(np.float64).cumsum()
        between = edges[min(tokens) : max(tokens)] / edges[-1]
        if len(between) and np.abs(between - number).max() < EDGE:
            return True
    return False


@pytest.mark.parametrize("spread", [0.1, 1.0, 4.0])
def test_the_graph_draws_the_columns_of_the_bulk_sampler(sampler: Session, spread: float) -> None:
    draws = draws_of(20 * len(SETTINGS))
    logits = rows_of(draws, spread, seed=int(spread * 10))
    found, expected = columns_of(sampler, logits, draws), sample(logits, draws)
    unequal = np.argwhere(found != expected)
    assert len(unequal) <= found.size // 400
    for take, codebook in unequal:
        tokens = int(found[take, codebook]), int(expected[take, codebook])
        assert near_an_edge(logits[take], draws[take], codebook, tokens), (take, codebook, tokens)


def test_equals_at_the_end_of_a_filter_stay_or_go_as_in_the_bulk_sampler(sampler: Session) -> None:
    """Logits on a coarse lattice, as half precision makes them: hundreds of tokens are as likely as the last."""
    draws = draws_of(20 * len(SETTINGS), seed=500)
    logits = np.rint(rows_of(draws, 1.0, seed=5) * 2) / 2
    logits[:, 1] = logits[:, 0]
    found, expected = columns_of(sampler, logits, draws), sample(logits, draws)
    for take, codebook in np.argwhere(found != expected):
        tokens = int(found[take, codebook]), int(expected[take, codebook])
        assert near_an_edge(logits[take], draws[take], codebook, tokens), (take, codebook, tokens)
    assert (found == expected).mean() > 0.995


def test_a_draw_does_not_depend_on_its_company(sampler: Session) -> None:
    draws = draws_of(2 * len(SETTINGS), seed=900)
    logits = rows_of(draws, 2.0, seed=9)
    together = columns_of(sampler, logits, draws)
    alone = [columns_of(sampler, logits[place : place + 1], [draw])[0] for place, draw in enumerate(draws)]
    assert (together == np.stack(alone)).all()


@pytest.mark.parametrize("poison", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("row", [0, 1])
def test_a_take_whose_logits_are_no_numbers_gets_no_column_and_its_neighbours_theirs(
    sampler: Session, poison: float, row: int
) -> None:
    draws = [Draw(Sampling(), place, 0, 3) for place in range(3)]
    logits = rows_of(draws, 2.0, seed=1)
    sound = columns_of(sampler, logits, draws)
    logits[1, row, 5, 77] = poison
    found = columns_of(sampler, logits, draws)
    assert (found[1] == -1).all()
    assert (found[[0, 2]] == sound[[0, 2]]).all()


def test_a_take_without_guidance_does_not_look_at_its_idle_row(sampler: Session) -> None:
    draws = [Draw(Sampling(guidance=1), 4, 0, 9)]
    logits = rows_of(draws, 2.0, seed=2)
    sound = columns_of(sampler, logits, draws)
    logits[0, 1] = np.nan
    assert (columns_of(sampler, logits, draws) == sound).all()
