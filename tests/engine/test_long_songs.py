"""Takes of several windows, on a decoder whose logits are known."""

from __future__ import annotations

import numpy as np
import pytest
from test_engine import GREEDY, PATTERN, WHOLE, CountingDecoder, Ends, make_take, run

from songstarter.engine.engine import Engine
from songstarter.engine.occupant import Occupant
from songstarter.engine.take import Beginning, ChunkSizes, Take
from songstarter.errors import Cancelled
from songstarter.request import Sampling
from songstarter.stages.filling import Prefix
from songstarter.windows import Window, windows_of


def long_take(song: float, ends: Ends, frames: int, *, chunks: ChunkSizes = WHOLE) -> Take:
    """A take of windows of 20 frames, each with a prefix of its own: ``song`` in the first, one more in each next."""
    windows = windows_of(frames, window_frames=20)
    prefixes = [np.full((3, 2), song + number, np.float32) for number in range(len(windows))]
    return Take(Beginning([Prefix(p, p) for p in prefixes], None, windows), GREEDY, 0, 0, 3, chunks, ends)


def window_by_window(song: float, frames: int) -> list[list[int]]:
    """The same, each window a song of its own that goes on from the one before."""
    made = np.zeros((4, 0), np.int64)
    for number, window in enumerate(windows_of(frames, window_frames=20)):
        ends = Ends()
        engine = Engine(CountingDecoder(1), PATTERN, max_waiting=8)
        prefix = np.full((3, 2), song + number, np.float32)
        opening = made[:, window.start :] if number else None
        alone = Beginning([Prefix(prefix, prefix)], opening, [Window(0, window.frames, window.opening)])
        take = Take(alone, GREEDY, 0, 0, 3, WHOLE, ends)
        engine.submit([take])
        run(engine)
        made = np.concatenate([made[:, : window.start], np.array(ends.frames(take))], axis=1)
    joined: list[list[int]] = made.tolist()
    return joined


@pytest.mark.parametrize("sizes", [WHOLE, ChunkSizes(3, 7), ChunkSizes(19, 20), ChunkSizes(50, 50)])
def test_a_long_song_is_its_windows_one_after_the_other(sizes: ChunkSizes) -> None:
    ends = Ends()
    engine = Engine(CountingDecoder(3), PATTERN, max_waiting=8)
    takes = {song: long_take(song, ends, frames, chunks=sizes) for song, frames in ((1, 95), (7, 21), (20, 60))}
    for take in takes.values():
        engine.submit([take])
        engine.step()
    run(engine)
    for song, take in takes.items():
        assert ends.frames(take) == window_by_window(song, take.beginning.frames)


def test_a_long_song_stays_in_its_slot_and_does_not_hold_up_the_others() -> None:
    ends = Ends()
    decoder = CountingDecoder(2)
    engine = Engine(decoder, PATTERN, max_waiting=8)
    other = make_take(30, ends, frames=150)
    engine.submit([long_take(1, ends, 95)])
    engine.submit([other, make_take(31, ends)])
    while other not in ends.outcomes:
        before = decoder.steps
        engine.step()
        assert decoder.steps == before + 1


def test_a_song_has_random_numbers_of_its_own_for_every_code_of_every_window() -> None:
    windows = windows_of(95, window_frames=20)
    prefix = Prefix(np.zeros((3, 2), np.float32), None)
    take = Take(Beginning([prefix], None, windows), Sampling(), 0, 0, 3, WHOLE, print)
    occupant = Occupant(take, PATTERN)
    chunk = None
    while not chunk:
        while not occupant.grid.done:
            occupant.grid.push(4 * occupant.draw.step + np.arange(4))  # a code is the address it was drawn by
        chunk = occupant.due()
        if not chunk:
            occupant.enter_next_window()
    assert len(np.unique(chunk.codes)) == chunk.codes.size == 4 * 95


def test_a_long_song_that_is_cancelled_between_two_windows_ends() -> None:
    ends = Ends()
    engine = Engine(CountingDecoder(2), PATTERN, max_waiting=8)
    take = long_take(1, ends, 95, chunks=ChunkSizes(20, 20))
    engine.submit([take, make_take(9, ends, frames=500)])
    while not ends.chunks[take]:
        engine.step()
    take.cancel()
    engine.step()
    assert isinstance(ends.error(take), Cancelled)
