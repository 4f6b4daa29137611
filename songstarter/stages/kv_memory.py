"""Keys and values of every slot, allocated once and never moved.

    row    0        1        2        3       ...   2n       2n+1     ...
         guided   unguided  guided   unguided      kept     kept
         └──── slot 0 ────┘ └──── slot 1 ────┘     (see kept_rows.py)

A layer's keys are one block [row, head, position, head size], so the rows of the first n slots are one
contiguous piece of it, and so is any single row: a graph runs on either without a copy. ``decoder.c`` orders bytes
otherwise within a row, by sixteen positions: see ``native/byte_attention.h``.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Protocol

import numpy as np

from songstarter.array import Array
from songstarter.checkpoint import Device
from songstarter.stages.huge_pages import zeros
from songstarter.stages.places import Place
from songstarter.stages.session import Session

ROWS_PER_SLOT = 2
POSITIONS_TOGETHER = 16  # of all heads, where decoder.c orders them
Shape = tuple[int, ...]


class KvMemory(Protocol):
    """One block for each layer's keys and for its values, by the name of the graph input that reads it."""

    @property
    def bytes(self) -> int: ...

    def places(self, first: int, count: int) -> dict[str, Place]:
        """The pieces of ``count`` rows from row ``first``, by block."""

    def copy(self, source: int, target: int, length: int) -> None:
        """Copy at least the first ``length`` positions of one row to another."""


class HostMemory:
    """Memory of this process."""

    def __init__(self, names: Sequence[str], *, shape: Shape, dtype: type[np.generic]) -> None:
        """Allocate one block of ``shape`` [row, head, position, head size] for each name."""
        self._blocks: dict[str, Array] = {name: zeros(shape, dtype) for name in names}

    @property
    def bytes(self) -> int:
        return sum(block.nbytes for block in self._blocks.values())

    def places(self, first: int, count: int) -> dict[str, Place]:
        return {name: _host_place(block[first : first + count]) for name, block in self._blocks.items()}

    def copy(self, source: int, target: int, length: int) -> None:
        for block in self._blocks.values():
            block[target, :, :length] = block[source, :, :length]


class BlockMemory(HostMemory):
    """The same in the order of ``decoder.c``, whose beginning of a row is sixteen positions of all heads, and so on."""

    def copy(self, source: int, target: int, length: int) -> None:
        count = -(-length // POSITIONS_TOGETHER)
        for block in self._blocks.values():
            _, heads, positions, head_size = block.shape
            parts = block.reshape(-1, positions // POSITIONS_TOGETHER, heads * POSITIONS_TOGETHER * head_size)
            parts[target, :count] = parts[source, :count]


class DeviceMemory:
    """Memory of a device, made and copied there by the two graphs of ``export/device_memory.py``.

    Rows are copied whole: a row is one piece of memory, its first positions are not.
    """

    def __init__(self, graphs: tuple[Path, Path], *, device: Device, shape: Shape, dtype: type[np.generic]) -> None:
        """Allocate one block of ``shape`` [row, head, position, head size] for each output of the first graph."""
        zeros, copy = (Session(path, device=device) for path in graphs)
        self._made_by = zeros  # the memory is its allocator's
        self._copy = copy
        self._blocks = zeros.run_to_blocks({"shape": np.array(shape, np.int64)}, dtype)

    @property
    def bytes(self) -> int:
        return sum(_bytes(block.place) for block in self._blocks.values())

    def places(self, first: int, count: int) -> dict[str, Place]:
        return {name: rows_of(block.place, first, count) for name, block in self._blocks.items()}

    def copy(self, source: int, target: int, length: int) -> None:
        targets = {f"{name}_copy": place for name, place in self.places(target, 1).items()}
        self._copy.run_in_place({}, self.places(source, 1) | targets, [])


def with_present(memory: Mapping[str, Place]) -> dict[str, Place]:
    """Memory as a graph's inputs and, in the same places, as its outputs."""
    return dict(memory) | {f"{name}_present": place for name, place in memory.items()}


def rows_of(block: Place, first: int, count: int) -> Place:
    """``count`` rows of a block from row ``first``."""
    row_bytes = _bytes(block) // block.shape[0]
    return replace(block, shape=(count, *block.shape[1:]), address=block.address + first * row_bytes)


def _bytes(place: Place) -> int:
    return math.prod(place.shape) * np.dtype(place.dtype).itemsize


def _host_place(piece: Array) -> Place:
    return Place("cpu", piece.dtype.type, piece.shape, piece.ctypes.data)
