"""The chain of windows, against the table of the spec (2.8)."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from songstarter.errors import CheckpointError
from songstarter.windows import Window, stride_of, windows_of

RATE = 50  # frames a second
WINDOW = 30 * RATE
TABLE = {  # seconds, opening's seconds -> (start in seconds, frames, opening, new) of each window
    (30, 0): [(0, 1500, 0, 1500)],
    (31, 0): [(0, 1500, 0, 1500), (18, 650, 600, 50)],
    (45, 0): [(0, 1500, 0, 1500), (18, 1350, 600, 750)],
    (60, 0): [(0, 1500, 0, 1500), (18, 1500, 600, 900), (36, 1200, 600, 600)],
    (60, 10): [(0, 1500, 500, 1000), (18, 1500, 600, 900), (36, 1200, 600, 600)],
    (120, 0): [(0, 1500, 0, 1500), *((18 * n, 1500, 600, 900) for n in range(1, 6))],
}
STEPS = {
    (31, 0): 1556,
    (45, 0): 2256,
    (60, 0): 3009,
    (60, 10): 2509,
    (120, 0): 6018,
}  # a window costs 3 more than it makes


@pytest.mark.parametrize("song", TABLE)
def test_windows_are_those_of_the_table(song: tuple[int, int]) -> None:
    seconds, opening = song
    chain = windows_of(seconds * RATE, opening * RATE, window_frames=WINDOW)
    assert [(w.start / RATE, w.frames, w.opening, w.frames - w.opening) for w in chain] == TABLE[song]
    assert sum(window.frames - window.opening + 3 for window in chain) == STEPS.get(song, 1503)


@given(frames=st.integers(1, 5_000), opening=st.integers(0, 99))
def test_windows_make_every_frame_once_and_begin_with_what_is_known(frames: int, opening: int) -> None:
    opening = min(opening, frames - 1)
    chain = windows_of(frames, opening, window_frames=100)
    assert chain[0] == Window(0, min(frames, 100), opening)
    assert chain[-1].end == frames
    for last, window in pairwise(chain):
        assert window.start == last.start + 60
        assert window.start + window.opening == last.end
        assert 0 < window.opening < window.frames <= 100


def test_a_stride_is_a_whole_number_of_frames() -> None:
    assert stride_of(1500) == 900
    with pytest.raises(CheckpointError, match="is not a whole multiple of 5"):
        stride_of(1501)
