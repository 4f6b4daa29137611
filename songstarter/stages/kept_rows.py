"""Beginnings that were computed before and may come again.

The null prefix is the same for every request, and so is the melody part of every request without a melody:
attention looks back only, so rows whose embeddings begin alike have keys and values that begin alike. A few
rows of the KV memory are set aside for such beginnings, the least recently used makes room.

    row 0 (guided)     melody of silence | a prompt  | columns ...        its own numbers, copied here and computed
    row 1 (unguided)   melody of silence | no prompt | columns ...
    ...                └─── shared ────┘
    kept row           melody of silence | a prompt                       what all of them may read instead

A row holds all of its positions itself, so that it needs no kept row. But where many rows share a beginning, a
decoder that reads it in one place finds it in its cache.
"""

from __future__ import annotations

import numpy as np

from songstarter.array import Array
from songstarter.stages.kv_memory import KvMemory


class KeptRows:
    """Rows of a memory that hold the keys and values of known embeddings [position, hidden].

    ``shared`` [row, 2] is, for each row before them, a kept row that begins with the same numbers, and for how many
    positions it does.
    """

    def __init__(self, memory: KvMemory, *, first: int, count: int) -> None:
        self.shared: Array = np.zeros((first, 2), np.int32)
        self._memory = memory
        self._free = list(range(first, first + count))
        self._held: dict[int, Array] = {}  # row -> its embeddings, first kept first
        self._order_of_use: dict[int, None] = {}  # rows, least recently used first

    def recall(self, embeddings: Array, target: int) -> int:
        """Copy the longest kept beginning of ``embeddings`` to row ``target``; how many positions that fills."""
        alike = self._alike(embeddings)
        row = max(alike, key=alike.__getitem__, default=None)
        if row is not None:
            self._use(row)
            self._memory.copy(row, target, alike[row])
        self._share(alike, target)
        return 0 if row is None else alike[row]

    def keep(self, embeddings: Array, source: int) -> None:
        """Keep row ``source``, which holds these embeddings, unless a kept row begins with them already."""
        alike = self._alike(embeddings)
        if max(alike.values(), default=0) < len(embeddings):
            row = self._free.pop() if self._free else self._forget()
            self._memory.copy(source, row, len(embeddings))
            self._held[row] = embeddings.copy()  # alone: they are part of an order's, whose other windows may go
            self._use(row)
            alike = self._alike(embeddings)
        self._share(alike, source)

    def share_alike(self, source: int, target: int) -> None:
        """Hear that one row became a copy of another."""
        self.shared[target] = self.shared[source]

    def _alike(self, embeddings: Array) -> dict[int, int]:
        """How many positions of ``embeddings`` each kept row begins with, where that is any."""
        common = {row: _common(held, embeddings) for row, held in self._held.items()}
        return {row: length for row, length in common.items() if length}

    def _share(self, alike: dict[int, int], target: int) -> None:
        """Note what a row shares: the oldest beginning that is not much shorter than others, as others chose too."""
        enough = max(alike.values(), default=0) / 2
        row = next((row for row, length in alike.items() if length >= enough), None)
        if row is None:
            self.shared[target] = 0
        else:
            self._use(row)
            self.shared[target] = row, alike[row]

    def _use(self, row: int) -> None:
        self._order_of_use.pop(row, None)
        self._order_of_use[row] = None

    def _forget(self) -> int:
        row = next(iter(self._order_of_use))
        del self._order_of_use[row], self._held[row]
        self.shared[self.shared[:, 0] == row] = 0
        return row


def _common(one: Array, other: Array) -> int:
    """How many positions two sequences of embeddings have in common from the start."""
    shorter = min(len(one), len(other))
    unequal = (one[:shorter] != other[:shorter]).any(axis=1)
    return int(np.argmax(unequal)) if unequal.any() else shorter
