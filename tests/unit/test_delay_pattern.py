"""Frames and columns, against the grid of the spec (2.2)."""

import numpy as np
import pytest

from songstarter.delay_pattern import DelayPattern, Grid

STEREO = DelayPattern((0, 0, 1, 1, 2, 2, 3, 3), special=2048)
MONO = DelayPattern((0, 1, 2, 3), special=2048)


def test_four_stereo_frames_make_the_grid_that_the_spec_draws() -> None:
    frames = np.tile(np.arange(4), (8, 1))
    s = 2048
    expected = [[s, 0, 1, 2, 3, s, s, s], [s, s, 0, 1, 2, 3, s, s], [s, s, s, 0, 1, 2, 3, s], [s, s, s, s, 0, 1, 2, 3]]
    assert STEREO.to_columns(frames).tolist() == [row for row in expected for _ in range(2)]


@pytest.mark.parametrize("pattern", [STEREO, MONO])
@pytest.mark.parametrize("count", [1, 2, 4, 400])
def test_frames_come_back_from_their_columns(pattern: DelayPattern, count: int) -> None:
    frames = np.random.default_rng(count).integers(0, 2048, (len(pattern.delays), count))
    columns = pattern.to_columns(frames)
    assert columns.shape[1] == pattern.columns_of(count) == count + 4
    assert (pattern.to_frames(columns) == frames).all()


@pytest.mark.parametrize(("frames", "opening"), [(400, 0), (400, 100), (1500, 0), (1500, 600), (2, 1)])
def test_a_window_takes_three_steps_more_than_it_has_new_frames(frames: int, opening: int) -> None:
    grid = Grid(MONO, frames, np.zeros((4, opening), np.int32) if opening else None)
    assert grid.so_far.shape[1] == opening + 1
    steps = 0
    while not grid.done:
        grid.push(np.full(4, steps))
        steps += 1
    assert steps == frames - opening + 3


def test_a_column_fills_only_what_is_unknown() -> None:
    opening = np.array([[10, 11], [20, 21], [30, 31], [40, 41]])
    grid = Grid(MONO, frames=4, opening=opening)
    # Columns 0 to 2 stand; in column 3 only the first codebook is unknown.
    assert grid.so_far.tolist() == [[2048, 10, 11], [2048, 2048, 20], [2048, 2048, 2048], [2048, 2048, 2048]]
    grid.push(np.array([99, 99, 99, 99]))
    assert grid.so_far[:, 3].tolist() == [99, 21, 30, 2048]
    while not grid.done:
        grid.push(np.array([99, 99, 99, 99]))
    assert (grid.frames(0, 4)[:, :2] == opening).all()
    assert (grid.frames(0, 4)[:, 2:] == 99).all()


def test_an_opening_is_complete_from_the_start_and_each_frame_when_its_last_code_is_there() -> None:
    grid = Grid(MONO, frames=6, opening=np.zeros((4, 2), np.int32))
    complete = [grid.complete]
    while not grid.done:
        grid.push(np.zeros(4, np.int32))
        complete.append(grid.complete)
    assert complete == [2, 2, 2, 2, 3, 4, 5, 6]
