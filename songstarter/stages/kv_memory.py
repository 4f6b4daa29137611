"""Keys and values of every slot, allocated once and never moved.

    row    0        1        2        3       ...   2n       2n+1     ...
         guided   unguided  guided   unguided      kept     kept
         └──── slot 0 ────┘ └──── slot 1 ────┘     (see kept_rows.py)

A layer's keys are one block [row, head, position, head size], so the rows of the first n slots are one
contiguous piece of it, and so is any single row: a graph runs on either without a copy.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from songstarter.array import Array
from songstarter.stages.session import Place

ROWS_PER_SLOT = 2


class KvMemory:
    """One block for each layer's keys and for its values, by the name of the graph input that reads it."""

    def __init__(self, names: Sequence[str], *, shape: tuple[int, ...], dtype: type[np.generic]) -> None:
        """Allocate one block of ``shape`` [row, head, position, head size] for each name."""
        self._blocks: dict[str, Array] = {name: np.zeros(shape, dtype) for name in names}

    @property
    def bytes(self) -> int:
        return sum(block.nbytes for block in self._blocks.values())

    def places(self, first: int, count: int) -> dict[str, Place]:
        """The pieces of ``count`` rows from row ``first``, by block."""
        return {name: _place(block[first : first + count]) for name, block in self._blocks.items()}

    def copy(self, source: int, target: int, length: int) -> None:
        """Copy the first ``length`` positions of one row to another."""
        for block in self._blocks.values():
            block[target, :, :length] = block[source, :, :length]


def _place(piece: Array) -> Place:
    return Place("cpu", piece.dtype.type, piece.shape, piece.ctypes.data)
