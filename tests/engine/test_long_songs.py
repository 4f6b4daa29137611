"""Takes of several windows, on a decoder whose logits are known."""

from __future__ import annotations

import numpy as np
import pytest
from test_engine import GREEDY, PATTERN, WHOLE, CountingDecoder, Ends, beginning, make_take, run

from songstarter.engine.engine import Engine
from songstarter.engine.occupant import Occupant
from songstarter.engine.take import Beginning, ChunkSizes, Take
from songstarter.errors import Cancelled
from songstarter.request import Sampling
from songstarter.stages.filling import Prefix
from songstarter.windows import Window, windows_of


def long_beginning(song: float, frames: int, positions: int = 3) -> Beginning:
    """Of windows of 20 frames, each with a prefix of its own: ``song`` in the first, one more in each next."""
    windows = windows_of(frames, window_frames=20)
    prefixes = [np.full((positions, 2), song + number, np.float32) for number in range(len(windows))]
    return Beginning([Prefix(p, p) for p in prefixes], None, windows)


def long_take(song: float, ends: Ends, frames: int, *, chunks: ChunkSizes = WHOLE) -> Take:
    return Take(long_beginning(song, frames), GREEDY, 0, 0, 3, chunks, ends)


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


def test_variations_in_different_windows_do_not_take_each_other_s_beginnings() -> None:
    """One that got its slot later is in its first window while the other enters its second, and the other way round."""
    ends = Ends()
    engine = Engine(CountingDecoder(2), PATTERN, max_waiting=8)
    shared = long_beginning(1, 95)
    variations = [Take(shared, GREEDY, 0, variation, 3, WHOLE, ends) for variation in range(2)]
    engine.submit([make_take(9, ends, frames=30), *variations])
    run(engine)
    assert [ends.frames(take) for take in variations] == [window_by_window(1, 95)] * 2


def test_a_song_does_not_go_on_before_its_next_window_is_filled() -> None:
    ends = Ends()
    engine = Engine(CountingDecoder(2), PATTERN, max_waiting=8)
    long = Take(long_beginning(1, 45, positions=100), GREEDY, 0, 0, 3, WHOLE, ends)
    engine.submit([make_take(9, ends, frames=300), long])
    run(engine)
    assert ends.frames(long) == window_by_window(1, 45)


def test_a_window_that_begins_waits_behind_those_who_are_filled_already() -> None:
    """A song of many windows would otherwise go before everybody who came while it played."""
    ends, decoder = Ends(), CountingDecoder(2)
    engine = Engine(decoder, PATTERN, max_waiting=8)
    engine.submit([long_take(1, ends, 21)])
    engine.step()
    engine.submit([Take(beginning(2, positions=900), GREEDY, 0, 0, 3, WHOLE, ends)])
    decoder.pieces.clear()
    run(engine)
    *newcomer, window = decoder.pieces
    assert 256 in newcomer  # nobody played: the song was between its windows
    assert sum(newcomer) == 900
    assert window < 20


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


def test_a_song_of_several_windows_is_filled_once_for_the_statistics() -> None:
    """What is observed is how long a take waited until it played."""
    engine = Engine(CountingDecoder(1), PATTERN, max_waiting=8)
    engine.submit([Take(long_beginning(1, 95), GREEDY, 0, 0, 3, WHOLE, Ends())])
    run(engine)
    assert len(engine.statistics.fill_seconds) == 1
