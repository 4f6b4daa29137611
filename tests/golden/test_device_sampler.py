"""A device's samplers, graph and kernel, against the bulk sampler; ``songstarter/sampling.py`` is its plain twin."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from export.graph import Graph
from export.sampler import write_sampler
from songstarter.array import Array
from songstarter.request import Sampling
from songstarter.sampling import guide, keep, softmax
from songstarter.stages.cuda.arguments import Sample
from songstarter.stages.cuda.chain import THREADS
from songstarter.stages.cuda.driver import Driver, Launch
from songstarter.stages.cuda.libraries import Opener
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


ColumnsOf = Callable[[Array, list[Draw]], Array]  # logits [take, 2, codebook, token] -> [take, codebook]


@pytest.fixture(scope="module", params=["graph", "kernel"])
def columns_of(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> ColumnsOf:
    if request.param == "kernel":
        return kernel_sampler(request.getfixturevalue("emulated"))
    return graph_sampler(tmp_path_factory.mktemp("sampler") / "sampler.onnx")


def graph_sampler(path: Path) -> ColumnsOf:
    with Graph(path) as graph:
        graph.input("logits", np.float32, ["row", CODEBOOKS, VOCABULARY])
        write_sampler(graph, codebooks=CODEBOOKS, vocabulary=VOCABULARY)
    session = Session(path, threads=2)

    def columns_of(logits: Array, draws: list[Draw]) -> Array:
        count = len(draws)
        feeds = {
            "logits": logits.reshape(-1, CODEBOOKS, VOCABULARY),
            "pairs": np.arange(2 * count).reshape(count, 2).T,
            "settings": settings_of(draws)[:, :, None, None],
            "uniforms": np.moveaxis(numbers_of(draws, CODEBOOKS), -1, 0)[..., None],
        }
        return session.run(feeds)["columns"]

    return columns_of


def kernel_sampler(emulated: Opener) -> ColumnsOf:
    driver = Driver(emulated)
    driver.load(b"", ("sample",))

    def columns_of(logits: Array, draws: list[Draw]) -> Array:
        columns = np.zeros((len(draws), CODEBOOKS), np.int64)
        given = {
            "logits": np.ascontiguousarray(logits),
            "settings": np.ascontiguousarray(settings_of(draws)),
            "uniforms": np.ascontiguousarray(np.moveaxis(numbers_of(draws, CODEBOOKS), -1, 0)),
            "columns": columns,
        }
        sizes = {"slots": len(draws), "codebooks": CODEBOOKS, "vocabulary": VOCABULARY}
        arguments = Sample(**{name: array.ctypes.data for name, array in given.items()}, **sizes)
        driver.launch(Launch("sample", (CODEBOOKS, len(draws), 1), THREADS, arguments))
        return columns

    return columns_of


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
def test_a_device_draws_the_columns_of_the_bulk_sampler(columns_of: ColumnsOf, spread: float) -> None:
    draws = draws_of(20 * len(SETTINGS))
    logits = rows_of(draws, spread, seed=int(spread * 10))
    found, expected = columns_of(logits, draws), sample(logits, draws)
    unequal = np.argwhere(found != expected)
    assert len(unequal) <= found.size // 400
    for take, codebook in unequal:
        tokens = int(found[take, codebook]), int(expected[take, codebook])
        assert near_an_edge(logits[take], draws[take], codebook, tokens), (take, codebook, tokens)


def test_equals_at_the_end_of_a_filter_stay_or_go_as_in_the_bulk_sampler(columns_of: ColumnsOf) -> None:
    """Logits on a coarse lattice, as half precision makes them: hundreds of tokens are as likely as the last."""
    draws = draws_of(20 * len(SETTINGS), seed=500)
    logits = np.rint(rows_of(draws, 1.0, seed=5) * 2) / 2
    logits[:, 1] = logits[:, 0]
    found, expected = columns_of(logits, draws), sample(logits, draws)
    for take, codebook in np.argwhere(found != expected):
        tokens = int(found[take, codebook]), int(expected[take, codebook])
        assert near_an_edge(logits[take], draws[take], codebook, tokens), (take, codebook, tokens)
    assert (found == expected).mean() > 0.995


def test_a_draw_does_not_depend_on_its_company(columns_of: ColumnsOf) -> None:
    draws = draws_of(2 * len(SETTINGS), seed=900)
    logits = rows_of(draws, 2.0, seed=9)
    together = columns_of(logits, draws)
    alone = [columns_of(logits[place : place + 1], [draw])[0] for place, draw in enumerate(draws)]
    assert (together == np.stack(alone)).all()


@pytest.mark.parametrize("poison", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("row", [0, 1])
def test_a_take_whose_logits_are_no_numbers_gets_no_column_and_its_neighbours_theirs(
    columns_of: ColumnsOf, poison: float, row: int
) -> None:
    draws = [Draw(Sampling(), place, 0, 3) for place in range(3)]
    logits = rows_of(draws, 2.0, seed=1)
    sound = columns_of(logits, draws)
    logits[1, row, 5, 77] = poison
    found = columns_of(logits, draws)
    assert (found[1] == -1).any()
    assert (found[[0, 2]] == sound[[0, 2]]).all()


def test_a_take_without_guidance_does_not_look_at_its_idle_row(columns_of: ColumnsOf) -> None:
    draws = [Draw(Sampling(guidance=1), 4, 0, 9)]
    logits = rows_of(draws, 2.0, seed=2)
    sound = columns_of(logits, draws)
    logits[0, 1] = np.nan
    assert (columns_of(logits, draws) == sound).all()
