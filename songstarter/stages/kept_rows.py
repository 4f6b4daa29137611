"""Beginnings that were computed before and may come again.

The null prefix is the same for every request, and so is the melody part of every request without a melody:
attention looks back only, so rows whose embeddings begin alike have keys and values that begin alike. A few
rows of the KV memory are set aside for such beginnings, the least recently used makes room.
"""

from __future__ import annotations

import numpy as np

from songstarter.array import Array
from songstarter.stages.kv_memory import KvMemory


class KeptRows:
    """Rows of a memory that hold the keys and values of known embeddings [position, hidden]."""

    def __init__(self, memory: KvMemory, *, first: int, count: int) -> None:
        self._memory = memory
        self._free = list(range(first, first + count))
        self._held: dict[int, Array] = {}  # row -> its embeddings, least recently used first

    def recall(self, embeddings: Array, target: int) -> int:
        """Copy the longest kept beginning of ``embeddings`` to row ``target``; how many positions that fills."""
        length, row = max(((_common(held, embeddings), row) for row, held in self._held.items()), default=(0, 0))
        if length:
            self._held[row] = self._held.pop(row)
            self._memory.copy(row, target, length)
        return length

    def keep(self, embeddings: Array, source: int) -> None:
        """Keep row ``source``, which holds these embeddings, unless a kept row begins with them already."""
        if any(_common(held, embeddings) == len(embeddings) for held in self._held.values()):
            return
        row = self._free.pop() if self._free else self._forget()
        self._memory.copy(source, row, len(embeddings))
        self._held[row] = embeddings.copy()  # alone: they are part of an order's, whose other windows may go

    def _forget(self) -> int:
        row = next(iter(self._held))
        del self._held[row]
        return row


def _common(one: Array, other: Array) -> int:
    """How many positions two sequences of embeddings have in common from the start."""
    shorter = min(len(one), len(other))
    unequal = (one[:shorter] != other[:shorter]).any(axis=1)
    return int(np.argmax(unequal)) if unequal.any() else shorter
