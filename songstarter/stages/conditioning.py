"""How a family's graph learns of a prefix: in front of the columns, or beside them."""

from __future__ import annotations

from typing import Protocol

import numpy as np

from songstarter.array import Array
from songstarter.checkpoint import Checkpoint
from songstarter.stages.filling import Prefix, RowFilling
from songstarter.stages.kept_rows import KeptRows
from songstarter.stages.kv_memory import ROWS_PER_SLOT, rows_of
from songstarter.stages.places import InPlace, Place
from songstarter.stages.runtime import CROSS_PREFIX, Runtime
from songstarter.stages.session import DeviceArray

SEEN, HIDDEN = 3e38, -1e9  # how high the score of a place may be, where a row has text and where it has none


class Conditioning(Protocol):
    """What the two families do differently."""

    @property
    def memory_bytes(self) -> int:
        """What it set aside for itself."""

    def begin(self, slot: int, prefix: Prefix, columns: Array) -> list[RowFilling]:
        """Take a prefix into a slot; what its rows must be filled with."""

    def feeds(self, embeddings: Array) -> dict[str, Array]:
        """The extra inputs of a call; ``embeddings`` [row, position, hidden] is zero where a column stands."""

    def shared(self, first: int, count: int) -> Array:
        """What ``count`` rows from row ``first`` share, as ``KeptRows.shared``, but with rows counted from there."""

    def places(self, first: int, count: int) -> dict[str, Place]:
        """Conditioning that lies in fixed memory, for ``count`` rows from row ``first``."""

    def filled(self, filling: RowFilling) -> None:
        """Hear that a row is complete."""

    def copy(self, source: int, target: int) -> None:
        """Give one row the conditioning of another."""


class PrependedPrefix:
    """The melody family: the prefix stands in front of the columns, in the KV memory itself (spec 3.3)."""

    def __init__(self, kept: KeptRows) -> None:
        self._kept = kept

    @property
    def memory_bytes(self) -> int:
        return 0  # it is the decoder's

    def begin(self, slot: int, prefix: Prefix, columns: Array) -> list[RowFilling]:
        return [
            RowFilling(row, embeddings, columns, self._kept.recall(embeddings, row))
            for row, embeddings in enumerate(prefix.rows, slot * ROWS_PER_SLOT)
        ]

    def feeds(self, embeddings: Array) -> dict[str, Array]:
        return {"prefix": embeddings}

    def shared(self, first: int, count: int) -> Array:
        shared: Array = self._kept.shared[first : first + count] - np.array([first, 0], np.int32)
        return shared

    def places(self, first: int, count: int) -> dict[str, Place]:
        return {}

    def filled(self, filling: RowFilling) -> None:
        self._kept.keep(filling.embeddings, filling.row)

    def copy(self, source: int, target: int) -> None:
        self._kept.share_alike(source, target)


class CrossAttendedPrefix:
    """The text family: every layer attends to keys and values made of the text, once per take."""

    def __init__(self, session: InPlace, runtime: Runtime, checkpoint: Checkpoint, slots: int) -> None:
        decoder = checkpoint.decoder
        rows = slots * ROWS_PER_SLOT
        self._session = session
        self._text_places = checkpoint.text.max_tokens
        shape = (rows, decoder.heads, self._text_places, decoder.head_size)
        self._memory = runtime.memory(session.outputs, shape, np.float32, prefix=CROSS_PREFIX)
        self._ceilings = np.full((rows, 1, 1, self._text_places), HIDDEN, np.float32)
        self._ceilings[..., 0] = SEEN  # a row must see something, if only in vain
        self._ceiling = DeviceArray(self._ceilings.copy(), runtime.device)

    @property
    def memory_bytes(self) -> int:
        return self._memory.bytes

    def begin(self, slot: int, prefix: Prefix, columns: Array) -> list[RowFilling]:
        first = slot * ROWS_PER_SLOT
        text = np.zeros((ROWS_PER_SLOT, self._text_places, prefix.guided.shape[1]), np.float32)
        for row, embeddings in enumerate(prefix.rows):
            text[row, : len(embeddings)] = embeddings
        self._session.run_in_place({"text": text}, self._memory.places(first, ROWS_PER_SLOT), [])
        ceilings = self._ceilings[first : first + ROWS_PER_SLOT]
        ceilings[..., : len(prefix.guided)], ceilings[..., len(prefix.guided) :] = SEEN, HIDDEN
        self._ceiling.write(self._ceilings)
        nothing = prefix.guided[:0]
        return [RowFilling(row, nothing, columns, 0) for row, _ in enumerate(prefix.rows, first)]

    def feeds(self, embeddings: Array) -> dict[str, Array]:
        return {}

    def shared(self, first: int, count: int) -> Array:
        return np.zeros((count, 2), np.int32)

    def places(self, first: int, count: int) -> dict[str, Place]:
        return self._memory.places(first, count) | {"text_ceiling": rows_of(self._ceiling.place, first, count)}

    def filled(self, filling: RowFilling) -> None:
        """Columns are a song's own; there is nothing to keep."""

    def copy(self, source: int, target: int) -> None:
        self._memory.copy(source, target, self._text_places)
        self._ceilings[target] = self._ceilings[source]
        self._ceiling.write(self._ceilings)
