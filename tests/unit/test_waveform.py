import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from songstarter.waveform import Waveform


def counting(length: int, channels: int = 1, rate: int = 10) -> Waveform:
    """Sample i of channel c holds 1000 c + i."""
    grid = np.arange(length)[None] + 1000 * np.arange(channels)[:, None]
    return Waveform(grid.astype(np.float32), rate)


def test_seconds_and_channels_derive_from_the_samples() -> None:
    waveform = counting(25, channels=2)
    assert (waveform.channels, waveform.length, waveform.seconds) == (2, 25, 2.5)


@pytest.mark.parametrize("samples", [np.zeros(4, np.float32), np.zeros((1, 4)), np.zeros((1, 1, 4), np.float32)])
def test_samples_of_another_shape_or_type_are_refused(samples: np.ndarray) -> None:
    with pytest.raises(ValueError, match=r"float32 samples \[channel, sample\], found"):
        Waveform(samples, 10)


@pytest.mark.parametrize(
    ("start", "end", "first", "length"),
    [
        (0.0, None, 0, 25),
        (1.0, 2.0, 10, 10),
        (0.19, 0.99, 1, 8),  # int(1.9) = 1 and int(9.9) = 9: both ends are rounded down
        (1.5, None, 15, 10),
        (1.5, 99.0, 15, 10),  # an end behind the clip is the clip's end
    ],
)
def test_a_slice_takes_the_seconds_asked_for(start: float, end: float | None, first: int, length: int) -> None:
    part = counting(25, channels=2).slice_seconds(start, end)
    assert part.length == length
    assert part.samples[:, 0].tolist() == [first, 1000 + first]
    assert part.rate == 10


@pytest.mark.parametrize(("start", "end"), [(1.0, 1.0), (2.0, 1.0), (2.5, None), (7.0, 8.0), (0.0, 0.0)])
def test_a_slice_that_holds_nothing_is_empty(start: float, end: float | None) -> None:
    assert counting(25).slice_seconds(start, end).length == 0


@given(st.integers(0, 200), st.floats(0, 30), st.none() | st.floats(0, 30), st.sampled_from([1, 7, 10, 44100]))
def test_a_slice_is_what_the_formula_of_the_spec_names(length: int, start: float, end: float | None, rate: int) -> None:
    part = counting(length, rate=rate).slice_seconds(start, end)
    last = length if end is None else int(rate * end)
    assert part.samples[0].tolist() == list(range(length))[int(rate * start) : last]


def test_mono_is_the_mean_of_all_channels() -> None:
    samples = np.array([[1, 0, -1], [3, 0, 1], [2, 3, 3]], np.float32)
    assert Waveform(samples, 10).mono().samples.tolist() == [[2, 1, 1]]


@pytest.mark.parametrize(
    ("channels", "wanted", "first_samples"),
    [
        (1, 1, [0]),
        (2, 2, [0, 1000]),
        (1, 2, [0, 0]),
        (2, 1, [500]),
        (3, 1, [1000]),
        (5, 2, [0, 1000]),  # the rest is dropped, not mixed in
    ],
)
def test_channels_follow_the_rule_of_the_spec(channels: int, wanted: int, first_samples: list[int]) -> None:
    assert counting(4, channels).with_channels(wanted).samples[:, 0].tolist() == first_samples


def test_channels_are_not_made_up() -> None:
    with pytest.raises(ValueError, match="2 channels cannot become 3"):
        counting(4, channels=2).with_channels(3)
