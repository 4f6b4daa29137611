"""Samples and their rate, travelling together."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

Samples: TypeAlias = npt.NDArray[np.float32]


@dataclass(frozen=True, eq=False)
class Waveform:
    """A piece of sound: samples [channel, sample], full scale at +-1, and samples per second."""

    samples: Samples
    rate: int

    def __post_init__(self) -> None:
        if self.samples.ndim != 2 or self.samples.dtype != np.float32:
            found = f"{self.samples.dtype} of shape {self.samples.shape}"
            raise ValueError(f"a waveform holds float32 samples [channel, sample], found {found}")

    @property
    def channels(self) -> int:
        return int(self.samples.shape[0])

    @property
    def length(self) -> int:
        """Samples per channel."""
        return int(self.samples.shape[1])

    @property
    def seconds(self) -> float:
        return self.length / self.rate

    def slice_seconds(self, start: float, end: float | None) -> Waveform:
        """Samples [int(rate * start), int(rate * end)) of every channel; end None: to the end (spec 1.4).

        An end behind the clip means the clip's end; a slice that holds nothing is empty, not an error.
        """
        last = self.length if end is None else int(self.rate * end)
        return replace(self, samples=self.samples[:, int(self.rate * start) : last])

    def mono(self) -> Waveform:
        """One channel: the mean of all."""
        return replace(self, samples=self.samples.mean(axis=0, keepdims=True))

    def with_channels(self, channels: int) -> Waveform:
        """The channel rule of spec 5.3: to one the mean, from one duplicates, from more the first ones.

        Raises:
            ValueError: there are fewer channels than asked for, and more than one.
        """
        if channels == self.channels:
            return self
        if channels == 1:
            return self.mono()
        if self.channels == 1:
            return replace(self, samples=np.repeat(self.samples, channels, axis=0))
        if self.channels < channels:
            raise ValueError(f"{self.channels} channels cannot become {channels}")
        return replace(self, samples=self.samples[:channels])
