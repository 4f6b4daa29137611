"""What streams is at its level as far as that can be known, and never beyond full scale."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from songstarter.contract import NORMALIZATIONS
from songstarter.errors import TakeFailed
from songstarter.levelling import LOOK_AHEAD, MOST_GAIN, SLOPE, Limiter, leveller
from songstarter.loudness import METERS, PEAK, from_decibels
from songstarter.waveform import Samples, Waveform
from tests.support.levels import lufs, normalize

RATE = 32_000


def streamed(strategy: str, samples: Samples, piece: int) -> tuple[Samples, float]:
    """Everything that comes out, and the gain that is told at the end."""
    level = leveller(strategy, RATE, len(samples))
    pieces = [level.push(samples[:, start : start + piece]) for start in range(0, samples.shape[1], piece)]
    return np.concatenate([*pieces, level.finish()], axis=1), level.gain


def noise(seconds: float, rms: float, seed: int = 0) -> Samples:
    return np.random.default_rng(seed).normal(0, rms, (2, int(seconds * RATE))).astype(np.float32)


def tenths(samples: Samples) -> Samples:
    """The mean of each tenth of a second."""
    whole = samples.shape[1] // (RATE // 10) * (RATE // 10)
    means: Samples = np.abs(samples[:, :whole]).reshape(2, -1, RATE // 10).mean(axis=(0, 2))
    return means


@pytest.mark.parametrize("strategy", NORMALIZATIONS)
@pytest.mark.parametrize("piece", [50, 640, 32_000, 100_000])
def test_every_sample_comes_out_once_and_the_gain_at_the_end_is_the_file_s(strategy: str, piece: int) -> None:
    song = noise(2, 0.05)
    result, gain = streamed(strategy, song, piece)
    assert result.shape == song.shape
    assert result.dtype == np.float32
    meter = METERS[strategy](RATE)
    meter.hear(song)
    assert gain == pytest.approx(meter.gain, rel=1e-9)


@pytest.mark.parametrize("piece", [50, 640, 100_000])
def test_clip_streams_the_file_s_own_samples(piece: int) -> None:
    song = noise(1, 0.6)
    np.testing.assert_array_equal(streamed("clip", song, piece)[0], normalize(Waveform(song, RATE), "clip").samples)


@pytest.mark.parametrize("strategy", ["loudness", "rms", "peak"])
def test_steady_music_streams_as_loud_as_its_file(strategy: str) -> None:
    song = noise(6, 0.03)
    result, _ = streamed(strategy, song, RATE)
    whole = normalize(Waveform(song, RATE), strategy)
    assert lufs(Waveform(result, RATE)) == pytest.approx(lufs(whole), abs=0.7)


def test_what_grows_louder_is_let_down_slowly_and_limited_meanwhile() -> None:
    song = np.concatenate([noise(2, 0.01), noise(8, 0.2, seed=1)], axis=1)
    result, gain = streamed("loudness", song, RATE // 2)
    assert np.abs(result).max() <= 1.0
    held = np.abs(result[:, -RATE:]).mean() / np.abs(song[:, -RATE:]).mean()  # long enough to have arrived
    assert 20 * math.log10(held / gain) == pytest.approx(0, abs=0.5)


@pytest.mark.parametrize(("strategy", "ceiling"), [("loudness", 1.0), ("peak", from_decibels(-1)), ("rms", 1.0)])
def test_what_grows_louder_stays_below_the_ceiling_of_its_file(strategy: str, ceiling: float) -> None:
    song = np.concatenate([noise(1, 0.01), noise(1, 0.3, seed=1)], axis=1)
    result, _ = streamed(strategy, song, RATE // 2)
    assert np.abs(result).max() == pytest.approx(ceiling, abs=1e-3)
    assert np.abs(result).max() <= np.float32(ceiling)


@pytest.mark.parametrize(("before", "after"), [((0.25, 0.05), (1, 0.002)), ((0.5, 0.02), (0.5, 0.03))])
def test_the_gain_moves_by_its_slope_at_most(before: tuple[float, float], after: tuple[float, float]) -> None:
    """Up, and down, in music that asks for more and of which nothing is limited."""
    song = np.concatenate([noise(*before), noise(*after, seed=1)], axis=1)
    result, _ = streamed("rms", song, RATE // 100)
    loud = np.abs(song) > np.abs(song).mean(axis=1, keepdims=True) / 50
    gains = [20 * np.log10(one[heard] / given[heard]) for one, given, heard in zip(result, song, loud, strict=True)]
    where = [np.flatnonzero(heard) for heard in loud]
    slopes = [np.abs(np.diff(gain)) - SLOPE * np.diff(place) / RATE for gain, place in zip(gains, where, strict=True)]
    assert max(slope.max() for slope in slopes) < 1e-4  # decibels: from one sample to the next, and never by a jump
    steps = np.abs(np.diff(20 * np.log10(tenths(result) / tenths(song))))
    assert SLOPE / 10 * 0.8 < steps.max() <= SLOPE / 10 * 1.05  # and it moved as fast as it may


def test_a_silent_beginning_is_not_lifted_without_end() -> None:
    song = np.concatenate([noise(1, 1e-4), noise(1, 0.1, seed=1)], axis=1)
    result, _ = streamed("rms", song, 640)
    assert np.abs(result[:, :RATE]).max() <= MOST_GAIN * np.abs(song[:, :RATE]).max() * 1.001


@pytest.mark.parametrize("strategy", NORMALIZATIONS)
def test_silence_streams_as_silence(strategy: str) -> None:
    result, gain = streamed(strategy, np.zeros((2, 5000), np.float32), 640)
    assert not result.any()
    assert gain == 1


@pytest.mark.parametrize("strategy", NORMALIZATIONS)
def test_a_sample_that_is_no_number_ends_the_take(strategy: str) -> None:
    with pytest.raises(TakeFailed, match="not finite"):
        leveller(strategy, RATE, 1).push(np.array([[0.1, math.nan]], np.float32))


@given(
    st.lists(st.lists(st.floats(-30, 30, width=32), min_size=1, max_size=300), min_size=1, max_size=6),
    st.sampled_from([PEAK, 1.0]),
)
def test_nothing_leaves_the_limiter_beyond_its_ceiling_and_nothing_is_lost(
    pieces: list[list[float]], ceiling: float
) -> None:
    limiter = Limiter(ceiling, 1)
    result = [limiter.push(np.array([piece])) for piece in pieces]
    whole = np.concatenate([*result, limiter.finish()], axis=1)
    assert whole.shape[1] == sum(map(len, pieces))
    assert np.abs(whole).max() <= np.float32(ceiling)


def test_the_limiter_leaves_quiet_music_alone_and_turns_down_gently() -> None:
    quiet = noise(0.1, 0.1).astype(np.float64)
    limiter = Limiter(1.0, 2)
    np.testing.assert_allclose(np.concatenate([limiter.push(quiet), limiter.finish()], axis=1), quiet, atol=1e-7)
    steady = np.full((1, 4 * LOOK_AHEAD), 0.5)
    steady[0, 2 * LOOK_AHEAD] = 4.0
    limiter = Limiter(1.0, 1)
    turned = np.concatenate([limiter.push(steady), limiter.finish()], axis=1)[0]
    assert turned[2 * LOOK_AHEAD] <= 1.0
    assert turned[:LOOK_AHEAD] == pytest.approx(0.5)
    steps = np.abs(np.diff(np.delete(turned, 2 * LOOK_AHEAD)))
    assert steps.max() <= 0.5 / LOOK_AHEAD * 1.5


def test_the_limiter_turns_down_what_stands_around_a_loud_moment() -> None:
    """Its neighbours keep their proportions, before it and behind it: cutting the moment alone would be a click."""
    steady = np.full((1, 6 * LOOK_AHEAD), 0.5)
    loud = 3 * LOOK_AHEAD
    steady[0, loud] = 4.0
    limiter = Limiter(1.0, 1)
    pieces = [limiter.push(steady[:, start : start + 50]) for start in range(0, steady.shape[1], 50)]
    turned = np.concatenate([*pieces, limiter.finish()], axis=1)[0]
    assert turned[loud] == pytest.approx(1.0)
    for beside in (1, -1):
        assert turned[loud + beside] == pytest.approx(0.5 / 4, rel=0.05)
        slope = turned[loud + beside : loud + beside * LOOK_AHEAD : beside]
        assert (np.diff(slope) > 0).all()
        assert np.diff(slope).max() <= 0.5 / LOOK_AHEAD
    assert turned[: loud - LOOK_AHEAD] == pytest.approx(0.5)
    assert turned[loud + LOOK_AHEAD :] == pytest.approx(0.5)


def test_a_running_level_keeps_no_more_than_a_moment_of_samples() -> None:
    level = leveller("loudness", RATE, 2)
    for _ in range(5):
        level.push(noise(1, 0.1))
        assert level._limiter._waiting.shape[1] < LOOK_AHEAD  # type: ignore[attr-defined]
    assert from_decibels(0) == 1


def test_the_numbers_are_those_of_the_documentation() -> None:
    numbers = SLOPE, MOST_GAIN, LOOK_AHEAD
    assert numbers == (6.0, pytest.approx(10.0), 128)
