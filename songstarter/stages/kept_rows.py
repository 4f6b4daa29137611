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

SHARED_AT_LEAST = 0.5  # of what a row has in common with another it also shares with more of them, or it does not


class KeptRows:
    """Rows of a memory that hold the keys and values of known embeddings [position, hidden].

    ``shared`` [row, 2] is, for each row before them, a kept row that begins with the same numbers, and for how many
    positions it does. They are the same because one was copied from the other: where a device rounds otherwise when a
    row is filled otherwise, embeddings that begin alike are not enough.
    """

    def __init__(self, memory: KvMemory, *, first: int, count: int) -> None:
        self.shared: Array = np.zeros((first, 2), np.int32)
        self._memory = memory
        self._free = list(range(first, first + count))
        self._held: dict[int, Array] = {}  # row -> its embeddings, least recently used first
        self._copied: dict[int, tuple[int, int]] = {}  # row -> the kept row it began as a copy of, and for how long

    def recall(self, embeddings: Array, target: int) -> int:
        """Copy the longest kept beginning of ``embeddings`` to row ``target``; how many positions that fills."""
        length, row = max(((_common(held, embeddings), row) for row, held in self._held.items()), default=(0, 0))
        if not length:
            self.shared[target] = 0
            return 0
        self._use(row)
        self._memory.copy(row, target, length)
        elder, common = self._copied.get(row, (row, 0))
        if common < length * SHARED_AT_LEAST:
            self.shared[target] = row, length
        else:  # rather what others share too
            self._use(elder)
            self.shared[target] = elder, min(common, length)
        return length

    def keep(self, embeddings: Array, source: int) -> None:
        """Keep row ``source``, which holds these embeddings, unless a kept row begins with them already."""
        if any(_common(held, embeddings) == len(embeddings) for held in self._held.values()):
            return
        if not self._free:
            self._free.append(self._forget())
        row = self._free[-1]
        self._memory.copy(source, row, len(embeddings))
        self._held[self._free.pop()] = embeddings.copy()  # alone: they are part of an order's, whose windows may go
        elder, common = map(int, self.shared[source])
        if common < len(embeddings) * SHARED_AT_LEAST:
            self.shared[source] = row, len(embeddings)
        else:
            self._copied[row] = elder, common
            self._use(elder)

    def share_alike(self, source: int, target: int) -> None:
        """Hear that one row became a copy of another."""
        self.shared[target] = self.shared[source]

    def _use(self, row: int) -> None:
        self._held[row] = self._held.pop(row)

    def _forget(self) -> int:
        row = next(iter(self._held))
        del self._held[row]
        self._copied.pop(row, None)
        self._copied = {young: found for young, found in self._copied.items() if found[0] != row}
        self.shared[self.shared[:, 0] == row] = 0
        return row


def _common(one: Array, other: Array) -> int:
    """How many positions two sequences of embeddings have in common from the start."""
    shorter = min(len(one), len(other))
    unequal = (one[:shorter] != other[:shorter]).any(axis=1)
    return int(np.argmax(unequal)) if unequal.any() else shorter
