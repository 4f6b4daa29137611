"""What ``codec_encoder.c`` must know of an exported codec's encoder, made of its graph's weights."""

from __future__ import annotations

import ctypes
from collections.abc import Iterator
from functools import cached_property

import numpy as np

from songstarter.array import Array
from songstarter.chunks import REACH
from songstarter.stages.graph_weights import Weights
from songstarter.stages.native.signal_weights import (
    LANES,
    MOST_LEVELS,
    CodecLayout,
    Level,
    LevelShape,
    block,
    convolution,
    fits,
    level_of,
    padded,
    recurrence,
    recurrent_layers,
    whole,
)

FIRST, FIRST_LEVEL, LEVEL_LAYERS = 0, 1, 3  # in the graph: convolution; block, ELU, down, and the same again
BEHIND_LEVELS = 2  # LSTM and ELU
MOST_CODEBOOKS = 32  # as in codec_encoder.c


class Shape(ctypes.Structure):
    """``Shape`` of ``codec_encoder.c``."""

    _fields_ = (
        *((name, ctypes.c_int32) for name in ["codebooks", "entries", "latent", "wide", "layers", "levels", "halo"]),
        ("level", LevelShape * MOST_LEVELS),
    )


class CodecEncoderLayout(CodecLayout):
    """A codec encoder's dimensions and products."""

    @classmethod
    def of(cls, weights: Weights) -> CodecEncoderLayout | None:
        """The layout of a codec that ``codec_encoder.c`` is made for; None of other layers or odd dimensions."""
        layout = cls(weights)
        convolutions = {f"{_layer(FIRST)}.conv", layout.last}
        return layout if fits(weights, layout.levels, convolutions) and layout._divides() else None

    @property
    def halo(self) -> int:
        """Frames that the down-sampling half hears on either side of its own."""
        reach, samples = REACH, 1  # of a column
        for level in self.levels:
            reach += (1 + (level.factor + 1) // 2) * samples
            samples *= level.factor
        return -(-reach // self.hop)

    @cached_property
    def levels(self) -> list[Level]:
        """Every block with the down-sampling behind it."""
        found: list[Level] = []
        number = FIRST_LEVEL
        while level := level_of(self.weights, _layer(number), f"{_layer(number + 2)}.conv", _half_of_taps):
            found.append(level)
            number += LEVEL_LAYERS
        return found

    @property
    def last(self) -> str:
        """The convolution behind the LSTM and its ELU."""
        return f"{_layer(FIRST_LEVEL + LEVEL_LAYERS * len(self.levels) + BEHIND_LEVELS)}.conv"

    def shape(self) -> Shape:
        return Shape(
            codebooks=self.codebooks,
            entries=self.entries,
            latent=self.latent,
            wide=self.wide,
            layers=recurrent_layers(self.weights),
            levels=len(self.levels),
            halo=self.halo,
            level=(LevelShape * MOST_LEVELS)(*[level.shape for level in self.levels]),
        )

    def parts(self) -> Iterator[Array]:
        """Arrays in the order of ``codec_encoder_open``."""
        yield from convolution(self.weights, f"{_layer(FIRST)}.conv", 1)
        for level in self.levels:
            yield from block(self.weights, level)
            yield from convolution(self.weights, level.resampling, whole(level.channels))
        yield from recurrence(self.weights)
        yield from convolution(self.weights, self.last, self.wide)
        for book in range(self.codebooks):
            table = self.weights[f"tables.{book}"]
            yield np.pad(table.T, ((0, 0), (0, whole(len(table)) - len(table))))
            yield padded(-(table**2).sum(axis=1) / 2)
            yield table

    def _divides(self) -> bool:
        ends = (self.weights[f"{name}.weight"] for name in (f"{_layer(FIRST)}.conv", self.last))
        return (
            all(end.shape[2] == 2 * REACH + 1 for end in ends)
            and self.latent % LANES == 0
            and self.codebooks <= MOST_CODEBOOKS
        )


def _half_of_taps(outputs: int, taps: int, channels: int) -> int:
    return taps // 2


def _layer(number: int) -> str:
    return f"layers.layers.{number}"
