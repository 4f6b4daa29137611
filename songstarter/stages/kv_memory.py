"""Keys and values of every slot, allocated once and never moved.

    row    0        1        2        3        ...
         guided   unguided  guided   unguided
         └──── slot 0 ────┘ └──── slot 1 ────┘

A layer's keys are one block [row, head, position, head size], so the rows of the first n slots are one
contiguous piece of it, and so are the two rows of any slot: a graph runs on either without a copy.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from songstarter.array import Array
from songstarter.stages.session import Place

ROWS_PER_SLOT = 2


@dataclass(frozen=True)
class Block:
    """One array [row, ...] in host memory, seen by graphs as pieces of consecutive rows."""

    array: Array

    @classmethod
    def zeros(cls, shape: tuple[int, ...], dtype: type[np.generic]) -> Block:
        return cls(np.zeros(shape, dtype))

    def rows(self, first: int, count: int) -> Place:
        piece = self.array[first : first + count]
        return Place("cpu", self.array.dtype.type, piece.shape, piece.ctypes.data)


class KvMemory:
    """The blocks of every layer, by the name of the graph input that reads them."""

    def __init__(self, names: Sequence[str], *, shape: tuple[int, ...], dtype: type[np.generic]) -> None:
        """Allocate one block of ``shape`` [row, head, position, head size] for each name."""
        self._blocks = {name: Block.zeros(shape, dtype) for name in names}

    @property
    def bytes(self) -> int:
        return sum(block.array.nbytes for block in self._blocks.values())

    def places(self, first: int, count: int) -> dict[str, Place]:
        """The pieces of ``count`` rows from row ``first``, under the names of inputs and of outputs."""
        pieces = {name: block.rows(first, count) for name, block in self._blocks.items()}
        return pieces | {f"{name}_present": piece for name, piece in pieces.items()}

    def copy(self, source: int, target: int, length: int) -> None:
        """Copy the first ``length`` positions of one slot's rows to another slot's."""
        at, to = source * ROWS_PER_SLOT, target * ROWS_PER_SLOT
        for block in self._blocks.values():
            piece = block.array[at : at + ROWS_PER_SLOT, :, :length]
            block.array[to : to + ROWS_PER_SLOT, :, :length] = piece
