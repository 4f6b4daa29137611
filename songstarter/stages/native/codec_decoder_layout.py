"""What ``codec_decoder.c`` must know of an exported codec's decoder, made of its graph's weights.

An up-sampling's outputs are (phase, channel), and the last convolution makes ``LANES`` samples at once from all the
columns that these see.
"""

from __future__ import annotations

import ctypes
from collections.abc import Iterator
from functools import cached_property

import numpy as np

from songstarter.array import Array
from songstarter.chunks import AHEAD, KEPT, REACH
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
    recurrence,
    recurrent_layers,
    whole,
)

FIRST_LEVEL, LEVEL_LAYERS = 1, 3  # in the graph's up-sampling half: ELU, up, block, and the same again


class Shape(ctypes.Structure):
    """``Shape`` of ``codec_decoder.c``."""

    _fields_ = (
        *((name, ctypes.c_int32) for name in ["codebooks", "table_rows", "latent", "wide", "layers", "levels"]),
        ("level", LevelShape * MOST_LEVELS),
    )


class CodecDecoderLayout(CodecLayout):
    """A codec decoder's dimensions and products."""

    @classmethod
    def of(cls, weights: Weights) -> CodecDecoderLayout | None:
        """The layout of a codec that ``codec_decoder.c`` is made for; None of other layers or odd dimensions."""
        layout = cls(weights)
        return layout if fits(weights, layout.levels, {"conv", layout.last}) and layout._divides() else None

    @property
    def layers(self) -> int:
        return recurrent_layers(self.weights)

    @property
    def halo(self) -> int:
        """Frames that the up-sampling half hears on either side of its own."""
        reach = REACH  # columns, of the signal behind a level
        for level in reversed(self.levels):
            reach += 1
            trimmed = level.factor - level.factor // 2
            before, after = (trimmed - reach) // level.factor - 1, (level.factor - 1 + reach + trimmed) // level.factor
            reach = max(-before, after)
        return reach

    @property
    def memory(self) -> tuple[int, int]:
        return 2 * self.layers + KEPT, self.wide

    @cached_property
    def levels(self) -> list[Level]:
        """Every up-sampling with the block behind it."""
        found: list[Level] = []
        number = FIRST_LEVEL
        while level := level_of(self.weights, _layer(number + 1), f"{_layer(number)}.conv", _phases):
            found.append(level)
            number += LEVEL_LAYERS
        return found

    @property
    def last(self) -> str:
        """The convolution behind all levels and their last ELU."""
        return f"{_layer(FIRST_LEVEL + LEVEL_LAYERS * len(self.levels))}.conv"

    def shape(self) -> Shape:
        return Shape(
            codebooks=self.codebooks,
            table_rows=self.entries,
            latent=self.latent,
            wide=self.wide,
            layers=self.layers,
            levels=len(self.levels),
            level=(LevelShape * MOST_LEVELS)(*[level.shape for level in self.levels]),
        )

    def parts(self) -> Iterator[Array]:
        """Arrays in the order of ``codec_decoder_open``."""
        yield np.stack([self.weights[f"tables.{book}"] for book in range(self.codebooks)])
        yield from convolution(self.weights, "conv", self.latent)
        yield from recurrence(self.weights)
        inputs = self.wide
        for level in self.levels:
            yield from self._up_sampling(level, inputs)
            yield from block(self.weights, level)
            inputs = whole(level.channels)
        yield from self._samples(inputs)

    def _divides(self) -> bool:
        outputs, _, taps = self.weights[f"{self.last}.weight"].shape
        return (
            (outputs, taps) == (1, 2 * REACH + 1)
            and self.latent % LANES == 0
            and self.hop % LANES == 0
            and self.halo <= AHEAD
        )

    def _up_sampling(self, level: Level, inputs: int) -> Iterator[Array]:
        """Weights [2 * inputs, phase * channels] of the graph's convolution of two columns, and bias."""
        weight = self.weights[f"{level.resampling}.weight"].reshape(level.channels, level.factor, -1, 2)
        dense = np.zeros((2, inputs, level.factor, whole(level.channels)), np.float32)
        dense[:, : weight.shape[2], :, : level.channels] = weight.transpose(3, 2, 1, 0)
        yield dense.reshape(2 * inputs, -1)
        bias = self.weights[f"{level.resampling}.bias"].reshape(level.channels, level.factor)
        yield np.pad(bias.T, ((0, 0), (0, whole(level.channels) - level.channels)))

    def _samples(self, inputs: int) -> Iterator[Array]:
        """Weights [column * inputs, sample] of ``LANES`` samples, each of which sees its own columns, and bias."""
        weight = self.weights[f"{self.last}.weight"][0]  # [input, tap]
        given, taps = weight.shape
        dense = np.zeros((LANES + taps - 1, inputs, LANES), np.float32)
        for sample in range(LANES):
            dense[sample : sample + taps, :given, sample] = weight.T
        yield dense.reshape(-1, LANES)
        yield np.repeat(self.weights[f"{self.last}.bias"], LANES)


def _phases(outputs: int, taps: int, channels: int) -> int:
    """Every phase is a channel of its own (``export/ragged.py``), of two columns."""
    return outputs // channels if taps == 2 else 0


def _layer(number: int) -> str:
    return f"upsampling.layers.{number}"
