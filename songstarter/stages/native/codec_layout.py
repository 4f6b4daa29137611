"""What ``codec.c`` must know of an exported codec's decoder, made of its graph's weights: every layer as one product.

A convolution over columns [moment, channel] is a matrix product of the columns that it sees, laid end to end. Channels
are padded with zeros to whole vectors. An up-sampling's outputs are (phase, channel), and the last convolution makes
``LANES`` samples at once from all the columns that these see (spec 4.2).
"""

from __future__ import annotations

import ctypes
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from songstarter.array import Array
from songstarter.chunks import KEPT, REACH
from songstarter.stages.graph_weights import Weights

LANES = 16  # of a vector, as in vectors.h
MOST_LAYERS, MOST_LEVELS = 4, 8  # as in codec.c
MOST_PHASES = LANES
UNITS = 32  # what the LSTM's width is a multiple of
FIRST_LEVEL, LEVEL_LAYERS = 1, 3  # in the graph's up-sampling half: ELU, up, block, and the same again


class LevelShape(ctypes.Structure):
    """``LevelShape`` of ``codec.c``."""

    _fields_ = tuple((name, ctypes.c_int32) for name in ["factor", "channels", "narrow"])


class Shape(ctypes.Structure):
    """``Shape`` of ``codec.c``."""

    _fields_ = (
        *((name, ctypes.c_int32) for name in ["codebooks", "table_rows", "latent", "wide", "layers", "levels"]),
        ("level", LevelShape * MOST_LEVELS),
    )


@dataclass(frozen=True)
class Level:
    """One up-sampling and the block behind it."""

    key: str
    block: str
    factor: int
    channels: int
    narrow: int


@dataclass(frozen=True, eq=False)
class CodecLayout:
    """A codec decoder's dimensions and products."""

    weights: Weights

    @classmethod
    def of(cls, weights: Weights) -> CodecLayout | None:
        """The layout of a codec that ``codec.c`` is made for; None of one with other layers or odd dimensions."""
        layout = cls(weights)
        return layout if layout._fits() else None

    @property
    def codebooks(self) -> int:
        return sum(name.startswith("tables.") for name in self.weights.index)

    @property
    def table_rows(self) -> int:
        return self.weights["tables.0"].shape[0]

    @property
    def latent(self) -> int:
        return self.weights["tables.0"].shape[1]

    @property
    def wide(self) -> int:
        return self.weights["conv.weight"].shape[0]

    @property
    def layers(self) -> int:
        return sum(name.startswith("lstm.") and name.endswith(".state") for name in self.weights.index)

    @property
    def hop(self) -> int:
        return int(np.prod([level.factor for level in self.levels]))

    @property
    def memory(self) -> tuple[int, int]:
        return 2 * self.layers + KEPT, self.wide

    @cached_property
    def levels(self) -> list[Level]:
        """Every up-sampling with its block, until there is none."""
        found: list[Level] = []
        for number in range(FIRST_LEVEL, 10**6, LEVEL_LAYERS):
            key, block = f"upsampling.layers.{number}.conv", f"upsampling.layers.{number + 1}.block.layers"
            if f"{block}.3.conv.weight" not in self.weights:
                return found
            narrow, channels, _ = self.weights[f"{block}.1.conv.weight"].shape
            factor = self.weights[f"{key}.weight"].shape[0] // channels
            found.append(Level(key, block, factor, channels, narrow))
        return found

    @property
    def last(self) -> str:
        """The layer behind all levels and their last ELU."""
        return f"upsampling.layers.{FIRST_LEVEL + LEVEL_LAYERS * len(self.levels)}.conv"

    def shape(self) -> Shape:
        levels = [LevelShape(level.factor, _whole(level.channels), _whole(level.narrow)) for level in self.levels]
        return Shape(
            codebooks=self.codebooks,
            table_rows=self.table_rows,
            latent=self.latent,
            wide=self.wide,
            layers=self.layers,
            levels=len(levels),
            level=(LevelShape * MOST_LEVELS)(*levels),
        )

    def parts(self) -> Iterator[Array]:
        """Arrays in the order of ``codec_open``."""
        yield np.stack([self.weights[f"tables.{book}"] for book in range(self.codebooks)])
        yield from self._convolution("conv", self.latent)
        for layer in range(self.layers):
            yield self.weights[f"lstm.{layer}.input"][0].T
            yield self.weights[f"lstm.{layer}.bias"][0].reshape(2, -1).sum(axis=0)
            yield self.weights[f"lstm.{layer}.state"][0].T
        inputs = self.wide
        for level in self.levels:
            yield from self._up_sampling(level, inputs)
            inputs = _whole(level.channels)
            yield from self._convolution(f"{level.block}.1.conv", inputs)
            yield from self._convolution(f"{level.block}.3.conv", _whole(level.narrow))
        yield from self._samples(inputs)

    def _fits(self) -> bool:
        known = {"tables.0", "conv.weight", "lstm.0.state"} <= set(self.weights.index)
        if not known or not self.levels or f"{self.last}.weight" not in self.weights:
            return False
        used = {name.rsplit(".", 1)[0] for name in self.weights.index if name.endswith("conv.weight")}
        expected = {"conv", self.last}
        for level in self.levels:
            expected |= {level.key, f"{level.block}.1.conv", f"{level.block}.3.conv"}
        widths = {self.weights[f"{level.block}.1.conv.weight"].shape[2] for level in self.levels}
        return (
            used == expected
            and widths == {3}
            and self.weights[f"{self.last}.weight"].shape[::2] == (1, 2 * REACH + 1)
            and self.latent % LANES == 0
            and self.wide % UNITS == 0
            and self.layers <= MOST_LAYERS
            and len(self.levels) <= MOST_LEVELS
            and self.hop % LANES == 0
            and all(1 < level.factor <= MOST_PHASES for level in self.levels)
        )

    def _convolution(self, name: str, inputs: int) -> Iterator[Array]:
        """Weights [tap * inputs, output] and bias, channels padded."""
        weight = self.weights[f"{name}.weight"]  # [output, input, tap]
        outputs, given, taps = weight.shape
        dense = np.zeros((taps, inputs, _whole(outputs)), np.float32)
        dense[:, :given, :outputs] = weight.transpose(2, 1, 0)
        yield dense.reshape(taps * inputs, -1)
        yield _padded(self.weights[f"{name}.bias"])

    def _up_sampling(self, level: Level, inputs: int) -> Iterator[Array]:
        """Weights [2 * inputs, phase * channels] of the graph's convolution of two columns, and bias."""
        weight = self.weights[f"{level.key}.weight"].reshape(level.channels, level.factor, -1, 2)
        dense = np.zeros((2, inputs, level.factor, _whole(level.channels)), np.float32)
        dense[:, : weight.shape[2], :, : level.channels] = weight.transpose(3, 2, 1, 0)
        yield dense.reshape(2 * inputs, -1)
        bias = self.weights[f"{level.key}.bias"].reshape(level.channels, level.factor)
        yield np.pad(bias.T, ((0, 0), (0, _whole(level.channels) - level.channels)))

    def _samples(self, inputs: int) -> Iterator[Array]:
        """Weights [column * inputs, sample] of ``LANES`` samples, each of which sees its own columns, and bias."""
        weight = self.weights[f"{self.last}.weight"][0]  # [input, tap]
        given, taps = weight.shape
        dense = np.zeros((LANES + taps - 1, inputs, LANES), np.float32)
        for sample in range(LANES):
            dense[sample : sample + taps, :given, sample] = weight.T
        yield dense.reshape(-1, LANES)
        yield np.repeat(self.weights[f"{self.last}.bias"], LANES)


def _whole(channels: int) -> int:
    """Channels in whole vectors."""
    return channels + -channels % LANES


def _padded(bias: Array) -> Array:
    return np.pad(bias, (0, _whole(len(bias)) - len(bias)))
