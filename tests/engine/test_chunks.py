"""Takes that come piece by piece."""

from __future__ import annotations

import numpy as np
import pytest
from test_engine import GREEDY, PATTERN, CountingDecoder, Ends, make_take, run, solo

from songstarter.engine.engine import Engine
from songstarter.engine.take import Beginning, ChunkSizes, Take
from songstarter.stages.filling import Prefix
from songstarter.windows import Window


@pytest.mark.parametrize(
    ("sizes", "expected"),
    [
        (ChunkSizes(4, 6), [4, 6, 6, 6, 3]),
        (ChunkSizes(25, 6), [25]),
        (ChunkSizes(100, 6), [25]),
        (ChunkSizes(1, 1), [1] * 25),
        (ChunkSizes(24, 10), [24, 1]),
    ],
)
def test_a_take_comes_in_chunks_of_the_sizes_that_were_asked(sizes: ChunkSizes, expected: list[int]) -> None:
    ends = Ends()
    engine = Engine(CountingDecoder(1), PATTERN, max_waiting=8)
    take = make_take(3, ends, frames=25, chunks=sizes)
    engine.submit([take])
    run(engine)
    assert [chunk.codes.shape[1] for chunk in ends.chunks[take]] == expected
    assert [chunk.last for chunk in ends.chunks[take]] == [False] * (len(expected) - 1) + [True]
    assert ends.frames(take) == solo(3, frames=25)


def test_a_chunk_goes_out_with_the_step_that_completes_it() -> None:
    ends = Ends()
    engine = Engine(CountingDecoder(1), PATTERN, max_waiting=8)
    take = make_take(3, ends, frames=25, chunks=ChunkSizes(4, 6))
    engine.submit([take])
    sent = []
    for _ in range(17):
        engine.step()
        sent.append(len(ends.chunks[take]))
    assert sent == [0] * 4 + [1] * 6 + [2] * 6 + [3]  # a frame is complete one delay after its first codes


def test_an_opening_is_part_of_the_first_chunk() -> None:
    ends = Ends()
    engine = Engine(CountingDecoder(1), PATTERN, max_waiting=8)
    opening = np.arange(28).reshape(4, 7)
    prefix = np.ones((3, 2), np.float32)
    song = Beginning([Prefix(prefix, prefix)], opening, [Window(0, 12, 7)])
    take = Take(song, GREEDY, 0, 0, 3, ChunkSizes(4, 3), ends)
    engine.submit([take])
    run(engine)
    assert [chunk.codes.shape[1] for chunk in ends.chunks[take]] == [7, 3, 2]
    assert [row[:7] for row in ends.frames(take)] == opening.tolist()
