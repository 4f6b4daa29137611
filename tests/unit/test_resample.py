import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from songstarter.resample import resample
from songstarter.waveform import Waveform

ZEROS, ROLLOFF = 24, 0.945  # julius as the original calls it (spec 5.3)


def julius(samples: np.ndarray, old: int, new: int) -> np.ndarray:
    """Spec 5.3 written out, for one channel: one windowed sinc per output phase, each of sum 1, ends held."""
    length = len(samples) * new // old
    old, new = old // math.gcd(old, new), new // math.gcd(old, new)
    cutoff = min(old, new) * ROLLOFF
    width = math.ceil(ZEROS * old / cutoff)
    padded = np.pad(samples.astype(np.float64), (width, width + old), mode="edge")
    taps = np.arange(-width, width + old)
    windows = np.lib.stride_tricks.sliding_window_view(padded, len(taps))[::old]
    phases = []
    for phase in range(new):
        zeros = np.clip((taps / old - phase / new) * cutoff, -ZEROS, ZEROS)
        kernel = np.sinc(zeros) * np.cos(zeros * np.pi / ZEROS / 2) ** 2
        phases.append(windows @ (kernel / kernel.sum()))
    return np.stack(phases, axis=1).reshape(-1)[:length]


def band_limited_noise(length: int, band: float, seed: int = 1) -> np.ndarray:
    """Noise of rms 0.25 without anything above this share of its Nyquist frequency."""
    spectrum = np.fft.rfft(np.random.default_rng(seed).standard_normal(length))
    spectrum[int(len(spectrum) * band) :] = 0
    noise = np.fft.irfft(spectrum, length)
    return (noise * 0.25 / noise.std()).astype(np.float32)


@pytest.mark.parametrize("old", [8_000, 16_000, 22_050, 44_100, 48_000, 96_000])
def test_music_within_the_band_comes_out_as_from_julius(old: int) -> None:
    noise = band_limited_noise(old, band=0.8 * min(old, 32_000) / old)
    ours = resample(Waveform(noise[None], old), 32_000).samples[0]
    theirs = julius(noise, old, 32_000)
    assert ours.shape == theirs.shape
    np.testing.assert_allclose(ours[200:-200], theirs[200:-200], rtol=0, atol=3e-4)
    np.testing.assert_allclose(ours, theirs, rtol=0, atol=3e-3)  # the held ends, too
    assert np.sqrt(np.mean((ours - theirs) ** 2)) < 1e-4


def test_a_constant_stays_constant_up_to_its_ends() -> None:
    flat = Waveform(np.full((1, 4410), 0.5, np.float32), 44_100)
    np.testing.assert_allclose(resample(flat, 32_000).samples, 0.5, rtol=0, atol=1e-5)


def test_what_is_above_the_new_nyquist_frequency_is_gone() -> None:
    seconds = np.arange(48_000) / 48_000
    high = Waveform(np.sin(2 * np.pi * 20_000 * seconds).astype(np.float32)[None], 48_000)
    assert np.abs(resample(high, 32_000).samples[0, 200:-200]).max() < 1e-4


def test_equal_rates_give_the_waveform_itself() -> None:
    waveform = Waveform(np.ones((2, 5), np.float32), 32_000)
    assert resample(waveform, 32_000) is waveform


def test_channels_are_resampled_apart() -> None:
    left, right = band_limited_noise(4410, 0.5, seed=2), band_limited_noise(4410, 0.5, seed=3)
    both = resample(Waveform(np.stack([left, right]), 44_100), 32_000).samples
    alone = [resample(Waveform(side[None], 44_100), 32_000).samples[0] for side in (left, right)]
    np.testing.assert_allclose(both, alone, rtol=0, atol=1e-6)


@settings(max_examples=60, deadline=None)
@given(
    st.integers(0, 3000),
    st.sampled_from([1_000, 8_000, 11_025, 22_050, 44_100, 44_101, 48_000, 96_000, 384_000]),
    st.sampled_from([16_000, 32_000, 44_100]),
    st.integers(1, 3),
)
def test_the_length_is_exactly_what_the_spec_says(length: int, old: int, new: int, channels: int) -> None:
    resampled = resample(Waveform(np.ones((channels, length), np.float32), old), new)
    assert resampled.samples.shape == (channels, math.floor(length * new / old))
    assert resampled.rate == new
    assert resampled.samples.dtype == np.float32
    assert np.isfinite(resampled.samples).all()
