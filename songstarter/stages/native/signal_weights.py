"""Layers of a codec's graph as the matrix products that ``signal_products.h`` computes.

A convolution over columns [moment, channel] is a product of the columns that it sees, laid end to end. Channels are
padded with zeros to whole vectors (spec 4.2).
"""

from __future__ import annotations

import ctypes
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np

from songstarter.array import Array
from songstarter.stages.graph_weights import Weights

LANES = 16  # of a vector, as in vectors.h
MOST_LAYERS, MOST_LEVELS, MOST_FACTOR = 4, 8, 16  # as in codec_decoder.c and codec_encoder.c
UNITS, MOST_UNITS = 32, 2048  # what an LSTM's width is a multiple of, and the most of it
BLOCK_TAPS = (3, 1)


class LevelShape(ctypes.Structure):
    """``LevelShape`` of ``codec_decoder.c`` and ``codec_encoder.c``."""

    _fields_ = tuple((name, ctypes.c_int32) for name in ["factor", "channels", "narrow"])


@dataclass(frozen=True)
class Level:
    """A residual block and the convolution that changes the rate beside it, by their names in the graph."""

    block: str
    resampling: str
    factor: int
    channels: int
    narrow: int

    @property
    def inner(self) -> str:
        return f"{self.block}.block.layers.1.conv"

    @property
    def outer(self) -> str:
        return f"{self.block}.block.layers.3.conv"

    @property
    def names(self) -> set[str]:
        return {self.inner, self.outer, self.resampling}

    @property
    def shape(self) -> LevelShape:
        return LevelShape(self.factor, whole(self.channels), whole(self.narrow))


@dataclass(frozen=True, eq=False)
class CodecLayout(ABC):
    """What both halves of a codec have: tables, levels and an LSTM between them."""

    weights: Weights

    @property
    @abstractmethod
    def levels(self) -> list[Level]:
        """Every block with its resampling, from the graph's start to its end."""

    @property
    def codebooks(self) -> int:
        return sum(name.startswith("tables.") for name in self.weights.index)

    @property
    def entries(self) -> int:
        """Rows of a table."""
        return self.weights["tables.0"].shape[0]

    @property
    def latent(self) -> int:
        return self.weights["tables.0"].shape[1]

    @property
    def wide(self) -> int:
        return self.weights["lstm.0.state"].shape[2]

    @property
    def hop(self) -> int:
        return int(np.prod([level.factor for level in self.levels]))


def level_of(weights: Weights, block: str, resampling: str, factor_of: Callable[[int, int, int], int]) -> Level | None:
    """The level of those names, None where the graph has none; its factor by the resampling's outputs and taps and by
    the block's channels."""
    level = Level(block, resampling, 0, 0, 0)
    if not {f"{name}.weight" for name in level.names} <= weights.index.keys():
        return None
    narrow, channels, _ = weights[f"{level.inner}.weight"].shape
    outputs, _, taps = weights[f"{resampling}.weight"].shape
    return Level(block, resampling, factor_of(outputs, taps, channels), channels, narrow)


def fits(weights: Weights, levels: list[Level], others: set[str]) -> bool:
    """Whether these are all of a graph's convolutions, of sizes that the products are made for."""
    names = others.union(*(level.names for level in levels))
    found = {name.removesuffix(".weight") for name in weights.index if name.endswith("conv.weight")}
    return (
        found == names
        and 0 < len(levels) <= MOST_LEVELS
        and all(1 < level.factor <= MOST_FACTOR for level in levels)
        and all(
            tuple(weights[f"{name}.weight"].shape[2] for name in (level.inner, level.outer)) == BLOCK_TAPS
            for level in levels
        )
        and 0 < recurrent_layers(weights) <= MOST_LAYERS
        and weights["lstm.0.state"].shape[2] % UNITS == 0
        and weights["lstm.0.state"].shape[2] <= MOST_UNITS
    )


def recurrent_layers(weights: Weights) -> int:
    return sum(name.startswith("lstm.") and name.endswith(".state") for name in weights.index)


def convolution(weights: Weights, name: str, inputs: int) -> Iterator[Array]:
    """Weights [tap * inputs, output] and bias of a convolution."""
    weight = weights[f"{name}.weight"]  # [output, input, tap]
    outputs, given, taps = weight.shape
    dense = np.zeros((taps, inputs, whole(outputs)), np.float32)
    dense[:, :given, :outputs] = weight.transpose(2, 1, 0)
    yield dense.reshape(taps * inputs, -1)
    yield padded(weights[f"{name}.bias"])


def block(weights: Weights, level: Level) -> Iterator[Array]:
    """Weights and bias of a block's two convolutions."""
    yield from convolution(weights, level.inner, whole(level.channels))
    yield from convolution(weights, level.outer, whole(level.narrow))


def recurrence(weights: Weights) -> Iterator[Array]:
    """Of each LSTM layer weights [input, gate] and bias, and weights [state, gate]."""
    for layer in range(recurrent_layers(weights)):
        yield weights[f"lstm.{layer}.input"][0].T
        yield weights[f"lstm.{layer}.bias"][0].reshape(2, -1).sum(axis=0)
        yield weights[f"lstm.{layer}.state"][0].T


def whole(channels: int) -> int:
    """Channels in whole vectors."""
    return channels + -channels % LANES


def padded(bias: Array) -> Array:
    return np.pad(bias, (0, whole(len(bias)) - len(bias)))
