"""What can be measured of a waveform: its tempo, its scale, its pitches over time, and what it is close to.

Waveforms are mono, [sample] at 32 kHz.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from scipy.signal import stft
from transformers.audio_utils import chroma_filter_bank, mel_filter_bank

from training.composer import MODES, TEMPOS
from training.synthesiser import RATE

Array = np.ndarray

ONSET_POINTS, ONSET_HOP = 1024, 256
ONSETS_PER_SECOND = RATE / ONSET_HOP
CHROMA_POINTS, CHROMA_HOP = 16_384, 4_096
TOLERANCE = 0.04  # of a tempo
RESOLUTIONS = (2048, 1024, 512, 256)


def tempo(waveform: Array) -> float:
    """Beats a minute, between 68 and 163: where the onsets' autocorrelation, over one to four beats, is highest."""
    onsets = _onsets(waveform)
    onsets = onsets - onsets.mean()
    similarity = np.fft.irfft(np.abs(np.fft.rfft(onsets, 2 * len(onsets))) ** 2)[: len(onsets)]
    similarity = similarity / np.arange(len(onsets), 0, -1)
    tempos = np.arange(TEMPOS[0] - 2, TEMPOS[-1] + 3, 0.25)
    beat = 60 / tempos * ONSETS_PER_SECOND
    lags = np.arange(len(similarity))
    scores = sum(weight * np.interp(beat * count, lags, similarity) for count, weight in ((1, 1.0), (2, 1.0), (4, 1.0)))
    return float(tempos[np.argmax(scores)])


def tempo_matches(found: float, wanted: float) -> tuple[bool, bool]:
    """Whether a tempo is met within 4 %, and whether it is so when half and double count as well."""
    met = [abs(found / wanted / factor - 1) <= TOLERANCE for factor in (1, 0.5, 2)]
    return met[0], any(met)


def _onsets(waveform: Array) -> Array:
    """How much louder each moment is than the last, over all bands."""
    loud = np.log1p(100 * _magnitudes(waveform, ONSET_POINTS, ONSET_HOP) @ _mel_bank(ONSET_POINTS))
    rise = np.maximum(np.diff(loud, axis=0), 0).sum(1)
    return np.convolve(rise, np.hanning(5) / np.hanning(5).sum(), "same")


def scale_of(waveform: Array) -> int:
    """The tonic of the major scale that the pitch classes resemble most; a minor key has its relative major's."""
    profile = np.sqrt(chromagram(waveform).mean(0))
    return int(np.argmax([np.corrcoef(profile, np.roll(_major(), tonic))[0, 1] for tonic in range(12)]))


def scale_asked(tonic: int, mode: str) -> int:
    return tonic if mode == "major" else (tonic + 3) % 12


def share_in_scale(waveform: Array, tonic: int) -> float:
    """How much of the energy at the twelve pitch classes lies in a major scale; at random it is 7/12."""
    profile = chromagram(waveform).mean(0)
    return float(profile[_major_of(tonic)].sum() / profile.sum())


def _major() -> Array:
    return np.isin(np.arange(12), MODES["major"]).astype(float)


def _major_of(tonic: int) -> list[int]:
    return [(tonic + degree) % 12 for degree in MODES["major"]]


def chromagram(waveform: Array) -> Array:
    """Energy of each pitch class, eight times a second: [frame, 12]; each frame's own loudest is 1."""
    energy = _magnitudes(waveform, CHROMA_POINTS, CHROMA_HOP) ** 2 @ _chroma_bank()
    return energy / (energy.max(axis=1, keepdims=True) + 1e-9)


def chroma_agreement(one: Array, other: Array) -> float:
    """In how many moments two waveforms have the same loudest pitch class."""
    first, second = chromagram(one).argmax(1), chromagram(other).argmax(1)
    count = min(len(first), len(second))
    return float((first[:count] == second[:count]).mean())


def timbre(waveform: Array) -> Array:
    """What a sound is like whatever it plays: levels of bands, how they vary, and how they rise and fall."""
    loud = np.log1p(1000 * _magnitudes(waveform, ONSET_POINTS, ONSET_HOP) @ _mel_bank(ONSET_POINTS))
    moves = np.diff(loud, axis=0)
    rises, falls = np.maximum(moves, 0).mean(0), np.maximum(-moves, 0).mean(0)
    return np.concatenate([loud.mean(0), loud.std(0), rises, falls, np.quantile(loud, 0.1, axis=0)])


def spectral_distance(found: Array, wanted: Array) -> float:
    """Mean distance of log magnitudes, in decibels, over four resolutions."""
    pairs = ([_magnitudes(x, points, points // 4) for x in (found, wanted)] for points in RESOLUTIONS)
    return float(np.mean([np.abs(20 * np.log10((a + 1e-4) / (b + 1e-4))).mean() for a, b in pairs]))


def signal_to_noise(found: Array, wanted: Array) -> float:
    """SI-SNR in decibels: of what is heard, the part that is the wanted signal, at whatever level, to the rest."""
    found, wanted = found - found.mean(), wanted - wanted.mean()
    signal = (found @ wanted) / (wanted @ wanted) * wanted
    return float(10 * np.log10((signal @ signal) / ((found - signal) @ (found - signal) + 1e-12)))


def _magnitudes(waveform: Array, points: int, hop: int) -> Array:
    """[frame, frequency]; a sine of amplitude 1 measures about 0.5."""
    return np.abs(stft(waveform, nperseg=points, noverlap=points - hop, padded=False)[2].T)


@lru_cache
def _mel_bank(points: int) -> Array:
    bins = points // 2 + 1
    return mel_filter_bank(bins, 40, 30.0, 15_000.0, RATE, norm=None, mel_scale="htk")


@lru_cache
def _chroma_bank() -> Array:
    return chroma_filter_bank(sampling_rate=RATE, num_frequency_bins=CHROMA_POINTS, tuning=0, num_chroma=12).T


class Classifier:
    """Least squares from timbres to classes, with a little ridge: simple, and as good as its examples."""

    def __init__(self, features: Array, labels: list[str]) -> None:
        self.classes = sorted(set(labels))
        self._mean, self._spread = features.mean(0), features.std(0) + 1e-6
        known = self._scaled(features)
        targets = np.array([[label == name for name in self.classes] for label in labels], float)
        self._weights = np.linalg.solve(known.T @ known + len(known) * 0.01 * np.eye(known.shape[1]), known.T @ targets)

    def __call__(self, features: Array) -> list[str]:
        return [self.classes[i] for i in (self._scaled(features) @ self._weights).argmax(1)]

    def _scaled(self, features: Array) -> Array:
        return np.pad((features - self._mean) / self._spread, ((0, 0), (0, 1)), constant_values=1.0)
