"""A waveform's loudness, and the waveform at the level of its file, at once instead of piece by piece."""

from __future__ import annotations

from dataclasses import replace

from songstarter.loudness import METERS, Loudness, levelled, require_finite
from songstarter.waveform import Waveform


def lufs(waveform: Waveform) -> float:
    meter = Loudness(waveform.rate)
    meter.hear(waveform.samples)
    return meter.lufs


def normalize(waveform: Waveform, strategy: str) -> Waveform:
    require_finite(waveform.samples)
    meter = METERS[strategy](waveform.rate)
    meter.hear(waveform.samples)
    return replace(waveform, samples=levelled(waveform.samples, meter))
