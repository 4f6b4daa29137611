import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from songstarter.contract import NORMALIZATIONS
from songstarter.errors import TakeFailed
from songstarter.loudness import METERS, Loudness, high_pass, high_shelf
from songstarter.waveform import Waveform
from tests.support.levels import lufs, normalize

RATE = 32_000


def sine(hertz: float, amplitude: float, gains: tuple[float, ...] = (1.0,), seconds: float = 2.0) -> Waveform:
    """The same sine in as many channels as there are gains."""
    moments = np.arange(int(RATE * seconds)) / RATE
    tone = amplitude * np.sin(2 * np.pi * hertz * moments)
    return Waveform((np.array(gains)[:, None] * tone).astype(np.float32), RATE)


def waveform(*channels: list[float]) -> Waveform:
    return Waveform(np.array(channels, np.float32), RATE)


def one_after_the_other(*pieces: Waveform) -> Waveform:
    return Waveform(np.concatenate([piece.samples for piece in pieces], axis=1), RATE)


CHECK_VECTORS = [  # spec 5.1: signal, LUFS, gain to -14
    pytest.param(sine(997, 0.5, (1, 1)), -6.0669, 0.401184, id="997 Hz, 0.5, both channels"),
    pytest.param(sine(997, 0.5), -9.0772, 0.567359, id="997 Hz, 0.5, mono"),
    pytest.param(sine(440, 0.25, (1, 0)), -15.7774, 1.227077, id="440 Hz, 0.25, left only"),
    pytest.param(sine(997, 1.0), -3.2829, 0.291170, id="997 Hz, 1.0, mono: the shelf clamps"),
    pytest.param(sine(997, 2.0), -1.8323, 0.246384, id="997 Hz, 2.0, mono: the shelf clamps hard"),
]


@pytest.mark.parametrize(("signal", "level", "gain"), CHECK_VECTORS)
def test_loudness_reads_what_the_spec_lists(signal: Waveform, level: float, gain: float) -> None:
    assert lufs(signal) == pytest.approx(level, abs=2e-4)
    scaled = normalize(signal, "loudness").samples
    np.testing.assert_allclose(scaled, np.clip(signal.samples * gain, -1, 1), rtol=2e-5, atol=1e-7)


def test_the_filters_are_those_of_the_spec_at_32_khz() -> None:
    shelf, rumble = high_shelf(RATE), high_pass(RATE)
    assert shelf.b == pytest.approx((1.511321311, -2.4657134436, 1.0421171358), abs=1e-9)
    assert shelf.a == pytest.approx((1, -1.5395728725, 0.6272978758), abs=1e-9)
    assert rumble.b == pytest.approx((0.9925802295, -1.9851604591, 0.9925802295), abs=1e-9)
    assert rumble.a == pytest.approx((1, -1.98513283, 0.9851880882), abs=1e-9)


@pytest.mark.parametrize("rate", [16_000, 32_000, 44_100, 48_000])
def test_the_shelf_lifts_the_top_by_four_decibels_at_every_rate(rate: int) -> None:
    shelf = high_shelf(rate)
    at_zero = sum(shelf.b) / sum(shelf.a)
    at_nyquist = np.dot(shelf.b, (1, -1, 1)) / np.dot(shelf.a, (1, -1, 1))
    assert 20 * math.log10(at_zero) == pytest.approx(0, abs=1e-6)
    assert 20 * math.log10(at_nyquist) == pytest.approx(4, abs=1e-6)
    assert sum(high_pass(rate).b) == pytest.approx(0, abs=1e-12)


def test_a_long_silence_does_not_make_music_read_quieter() -> None:
    music = sine(440, 0.25)
    with_rest = one_after_the_other(music, sine(440, 0.0, seconds=8))
    # without gates four fifths of silence would read 7 LU lower; the blocks astride the end cost 0.6
    assert lufs(with_rest) == pytest.approx(lufs(music), abs=0.7)


def test_a_quiet_passage_does_not_make_music_read_quieter() -> None:
    music, passage = sine(440, 0.25), sine(440, 0.01, seconds=8)  # 28 dB below: far from the absolute gate
    assert lufs(one_after_the_other(music, passage)) == pytest.approx(lufs(music), abs=0.7)


@pytest.mark.parametrize(("decibels", "quieter"), [(-18, 0.0), (-8, 2.4)])
def test_the_relative_gate_stands_ten_units_below_what_is_heard(decibels: float, quieter: float) -> None:
    # Both halves together read 2.9 (or 2.4) below the louder one, and the gate is ten below that.
    music, passage = sine(440, 0.25), sine(440, 0.25 * 10 ** (decibels / 20))
    assert lufs(music) - lufs(one_after_the_other(music, passage)) == pytest.approx(quieter, abs=0.5)


def test_silence_does_not_lower_the_relative_gate() -> None:
    """It is measured above the absolute gate alone: else a long rest would let quiet passages count."""
    music, passage, rest = sine(440, 0.25), sine(440, 0.25 * 10 ** (-18 / 20)), sine(440, 0.0, seconds=60)
    assert lufs(one_after_the_other(music, passage, rest)) == pytest.approx(lufs(music), abs=0.7)


def test_a_signal_shorter_than_a_block_is_measured_as_one_block() -> None:
    blip = sine(997, 0.5, seconds=0.1)
    assert lufs(blip) == pytest.approx(-9.08, abs=0.1)
    assert normalize(blip, "loudness").samples.max() == pytest.approx(0.2837, abs=0.003)


def test_quiet_noise_is_not_made_loud() -> None:
    quiet = sine(440, 0.0019 * math.sqrt(2))
    np.testing.assert_array_equal(normalize(quiet, "loudness").samples, quiet.samples)
    audible = sine(440, 0.0021 * math.sqrt(2))
    assert normalize(audible, "loudness").samples.max() > 10 * audible.samples.max()


def test_a_drift_that_the_gates_take_away_keeps_its_level() -> None:
    # loud enough to be measured (rms above 0.002), but so low in frequency that the filters leave nothing
    rise = np.linspace(0, 0.0042, 200_000, dtype=np.float32)
    slow = Waveform(rise[None], RATE)
    assert math.isnan(lufs(slow))
    np.testing.assert_array_equal(normalize(slow, "loudness").samples, slow.samples)


def test_hot_takes_are_clipped_after_the_gain() -> None:
    # one loud click in quiet noise: the gain that lifts the noise throws the click beyond full scale
    samples = np.random.default_rng(5).normal(0, 0.01, (2, 2 * RATE)).astype(np.float32)
    samples[:, RATE] = 0.9
    loud = normalize(Waveform(samples, RATE), "loudness").samples
    assert loud.max() == 1.0
    assert np.abs(loud).max() <= 1.0


def test_peak_puts_the_highest_sample_of_all_channels_at_minus_one_decibel() -> None:
    result = normalize(waveform([0.1, -0.2, 0.0], [0.05, 0.4, -0.1]), "peak").samples
    np.testing.assert_allclose(result, [[0.22281274, -0.44562547, 0], [0.11140637, 0.89125094, -0.22281274]], rtol=1e-6)


def test_peak_counts_what_is_below_zero_too() -> None:
    result = normalize(waveform([0.1, -0.8, 0.2]), "peak").samples
    np.testing.assert_allclose(result, [[0.11140637, -0.89125094, 0.22281274]], rtol=1e-6)


def test_peak_lifts_even_the_faintest_take() -> None:
    faintest = np.finfo(np.float32).smallest_subnormal
    result = normalize(Waveform(np.array([[0, faintest]], np.float32), RATE), "peak").samples
    np.testing.assert_allclose(result, [[0, 0.89125094]], rtol=1e-6)


def test_clip_limits_at_minus_one_decibel_and_changes_nothing_else() -> None:
    result = normalize(waveform([0.5, 0.95, -2.0, -0.89]), "clip").samples
    np.testing.assert_allclose(result, [[0.5, 0.89125094, -0.89125094, -0.89]], rtol=1e-6)


def test_rms_aims_the_mono_mix_at_minus_eighteen_decibels() -> None:
    # mix [0.3, -0.3]: rms 0.3, gain 0.12589254 / 0.3 = 0.41964181
    result = normalize(waveform([0.2, -0.4], [0.4, -0.2]), "rms").samples
    np.testing.assert_allclose(result, [[0.08392836, -0.16785672], [0.16785672, -0.08392836]], rtol=1e-6)


def test_rms_clips_what_the_gain_throws_beyond_full_scale() -> None:
    # mix: one 0.8 among 99 zeros: rms 0.08, gain 1.5736568
    result = normalize(waveform([0.8] + [0.0] * 99), "rms").samples
    assert result[0, 0] == 1.0
    assert not result[0, 1:].any()


def test_rms_drives_channels_that_nearly_cancel_into_the_clip() -> None:
    result = normalize(waveform([0.5, -0.5, 0.5], [-0.4999, 0.4999, -0.4999]), "rms").samples
    np.testing.assert_array_equal(result, [[1, -1, 1], [-1, 1, -1]])


def test_rms_leaves_channels_that_cancel_exactly_as_they_are() -> None:
    opposed = waveform([0.5, 0.0, -0.25], [-0.5, 0.0, 0.25])
    np.testing.assert_array_equal(normalize(opposed, "rms").samples, opposed.samples)


@pytest.mark.parametrize("strategy", NORMALIZATIONS)
def test_silence_stays_silence(strategy: str) -> None:
    silence = waveform([0.0] * 1000, [0.0] * 1000)
    np.testing.assert_array_equal(normalize(silence, strategy).samples, silence.samples)


@pytest.mark.parametrize("strategy", NORMALIZATIONS)
@pytest.mark.parametrize("broken", [math.nan, math.inf, -math.inf])
def test_a_take_that_is_not_finite_fails_and_is_not_written(strategy: str, broken: float) -> None:
    with pytest.raises(TakeFailed, match="not finite"):
        normalize(waveform([0.1, broken]), strategy)


def test_the_strategies_are_those_of_the_contract() -> None:
    assert set(METERS) == set(NORMALIZATIONS)


@pytest.mark.filterwarnings("error")
@given(
    st.lists(st.lists(st.floats(-4, 4, width=32), min_size=3, max_size=3), min_size=1, max_size=40),
    st.sampled_from(NORMALIZATIONS),
)
def test_no_take_leaves_normalisation_broken_or_beyond_full_scale(columns: list[list[float]], strategy: str) -> None:
    take = Waveform(np.array(columns, np.float32).T.copy(), RATE)
    result = normalize(take, strategy)
    assert result.samples.shape == take.samples.shape
    assert result.samples.dtype == np.float32
    assert np.isfinite(result.samples).all()
    assert np.abs(result.samples).max() <= 1.0


@pytest.mark.parametrize("strategy", NORMALIZATIONS)
@pytest.mark.parametrize("piece", [100, 3_201, 12_800, 50_000])
def test_a_take_heard_in_pieces_has_the_gain_of_the_whole(strategy: str, piece: int) -> None:
    take = np.random.default_rng(8).normal(0, 0.05, (2, 3 * RATE)).astype(np.float32)
    take[:, RATE:] *= 3
    whole, pieces = METERS[strategy](RATE), METERS[strategy](RATE)
    whole.hear(take)
    for start in range(0, take.shape[1], piece):
        pieces.hear(take[:, start : start + piece])
    assert pieces.gain == pytest.approx(whole.gain, rel=1e-9)


def test_a_meter_keeps_ten_numbers_a_second_and_less_than_a_block_of_samples() -> None:
    meter = Loudness(RATE)
    for _ in range(20):
        meter.hear(np.full((2, RATE), 0.1, np.float32))
        assert meter._rest.shape[1] < 0.4 * RATE
    assert len(meter._energies) == 197
