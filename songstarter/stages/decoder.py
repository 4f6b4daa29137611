"""The decoder graph over slots: a first call for each take, then one call a step for all of them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np

from songstarter.array import Array
from songstarter.checkpoint import Checkpoint
from songstarter.errors import CheckpointError
from songstarter.stages.kv_memory import ROWS_PER_SLOT, KvMemory
from songstarter.stages.session import Place, Session

GRAPH = Path("decoder/1/decoder.onnx")
CROSS_GRAPH = Path("decoder/1/cross_attention.onnx")
MEMORY_TYPES: dict[str, type[np.generic]] = {"fp32": np.float32, "int8": np.float32, "fp16": np.float16}


@dataclass(frozen=True, eq=False)
class Prefix:
    """What a take is conditioned on: guided and null embeddings, each [position, hidden]."""

    guided: Array
    null: Array

    @property
    def rows(self) -> Array:
        """[2, position, hidden]: the rows of a slot."""
        return np.stack([self.guided, self.null]).astype(np.float32)

    @property
    def positions(self) -> int:
        return len(self.guided)


class Conditioning(Protocol):
    """How a family's graph learns of a prefix: in front of the columns, or beside them."""

    def first_positions(self, prefix: Prefix) -> int:
        """How many positions the prefix takes in the KV memory."""

    def begin(self, slot: int, prefix: Prefix) -> dict[str, Array]:
        """Take the prefix into a slot; the extra inputs of its first call."""

    def go_on(self, slots: int) -> dict[str, Array]:
        """The extra inputs of a later call over the first ``slots`` slots."""

    def places(self, first: int, count: int) -> dict[str, Place]:
        """Conditioning that lies in fixed memory, for ``count`` rows from row ``first``."""

    def copy(self, source: int, target: int) -> None:
        """Give one slot the conditioning of another."""


class PrependedPrefix:
    """The melody family: the prefix stands in front of the columns, in the KV memory itself (spec 3.3)."""

    def __init__(self, hidden: int) -> None:
        self._hidden = hidden

    def first_positions(self, prefix: Prefix) -> int:
        return prefix.positions

    def begin(self, slot: int, prefix: Prefix) -> dict[str, Array]:
        return {"prefix": prefix.rows}

    def go_on(self, slots: int) -> dict[str, Array]:
        return {"prefix": np.zeros((slots * ROWS_PER_SLOT, 0, self._hidden), np.float32)}

    def places(self, first: int, count: int) -> dict[str, Place]:
        return {}

    def copy(self, source: int, target: int) -> None:
        """Nothing lies outside the KV memory."""


class CrossAttendedPrefix:
    """The text family: every layer attends to keys and values made of the text, once per take."""

    def __init__(self, session: Session, checkpoint: Checkpoint, slots: int) -> None:
        self._session = session
        decoder = checkpoint.decoder
        rows = slots * ROWS_PER_SLOT
        self._places = checkpoint.text.max_tokens
        shape = (rows, decoder.heads, self._places, decoder.head_size)
        self._memory = KvMemory(session.outputs, shape=shape, dtype=np.float32)
        self._lengths = np.ones(rows, np.int64)

    def first_positions(self, prefix: Prefix) -> int:
        return 0

    def begin(self, slot: int, prefix: Prefix) -> dict[str, Array]:
        text = np.zeros((ROWS_PER_SLOT, self._places, prefix.guided.shape[1]), np.float32)
        text[:, : prefix.positions] = prefix.rows
        rows = slice(slot * ROWS_PER_SLOT, (slot + 1) * ROWS_PER_SLOT)
        self._session.run_in_place({"text": text}, self._written(rows.start), [])
        self._lengths[rows] = prefix.positions
        return {"text_lengths": self._lengths[rows]}

    def go_on(self, slots: int) -> dict[str, Array]:
        return {"text_lengths": self._lengths[: slots * ROWS_PER_SLOT]}

    def places(self, first: int, count: int) -> dict[str, Place]:
        pieces = self._memory.places(first, count)
        return {name: pieces[name] for name in self._session.outputs}

    def copy(self, source: int, target: int) -> None:
        self._memory.copy(source, target, self._places)
        for row in range(ROWS_PER_SLOT):
            self._lengths[target * ROWS_PER_SLOT + row] = self._lengths[source * ROWS_PER_SLOT + row]

    def _written(self, first: int) -> dict[str, Place]:
        return self.places(first, ROWS_PER_SLOT)


class DecoderStage:
    """One loaded decoder with memory for a fixed number of slots.

    It knows positions, rows and memory; it does not know takes, requests or sampling.
    """

    def __init__(self, repository: Path, checkpoint: Checkpoint, *, slots: int, threads: int = 0) -> None:
        decoder = checkpoint.decoder
        if decoder.device != "cpu":
            raise CheckpointError(f"the decoder was exported for {decoder.device}, which this release cannot run")
        self.slots = slots
        self._logit_shape = (ROWS_PER_SLOT, checkpoint.codebooks, checkpoint.vocabulary)
        self._session = Session(repository / GRAPH, device=decoder.device, threads=threads)
        self._memory = KvMemory(
            [name for name in self._session.inputs if name.startswith(("key_", "value_"))],
            shape=(slots * ROWS_PER_SLOT, decoder.heads, decoder.positions, decoder.head_size),
            dtype=MEMORY_TYPES[decoder.precision],
        )
        self._conditioning: Conditioning = (
            PrependedPrefix(decoder.hidden)
            if checkpoint.family == "melody"
            else CrossAttendedPrefix(
                Session(repository / CROSS_GRAPH, device=decoder.device, threads=threads), checkpoint, slots
            )
        )

    @property
    def memory_bytes(self) -> int:
        return self._memory.bytes

    def begin(self, slot: int, prefix: Prefix, columns: Array) -> tuple[Array, int]:
        """Fill a slot with a prefix and the columns known so far.

        ``columns`` is [codebook, column]. Returns logits [2, codebook, token] for the next column, guided row
        first, and the number of positions the slot holds now.
        """
        length = self._conditioning.first_positions(prefix) + columns.shape[1]
        feeds: dict[str, Array] = {
            "tokens": np.broadcast_to(columns, (ROWS_PER_SLOT, *columns.shape)).astype(np.int64),
            "positions": np.broadcast_to(np.arange(length), (ROWS_PER_SLOT, length)),
            "lengths": np.full(ROWS_PER_SLOT, length - 1, np.int32),
            "longest": np.array([length], np.int32),
        }
        feeds |= self._conditioning.begin(slot, prefix)
        return self._call(feeds, slot * ROWS_PER_SLOT, ROWS_PER_SLOT), length

    def copy(self, source: int, target: int, length: int) -> None:
        """Give a slot the first ``length`` positions of another: the beginning they share."""
        self._memory.copy(source, target, length)
        self._conditioning.copy(source, target)

    def step(self, columns: Array, lengths: Array) -> Array:
        """Feed one column to each of the first n slots.

        ``columns`` is [slot, codebook]; ``lengths`` [slot] is what each slot holds so far, 0 where it is idle (its
        result is then of no use). Returns logits [slot, 2, codebook, token].
        """
        slots, rows = len(columns), len(columns) * ROWS_PER_SLOT
        held = np.repeat(lengths, ROWS_PER_SLOT)
        feeds: dict[str, Array] = {
            "tokens": np.repeat(columns, ROWS_PER_SLOT, axis=0)[:, :, None].astype(np.int64),
            "positions": held[:, None].astype(np.int64),
            "lengths": held.astype(np.int32),
            "longest": np.array([held.max() + 1], np.int32),
        }
        feeds |= self._conditioning.go_on(slots)
        return self._call(feeds, 0, rows).reshape(slots, *self._logit_shape)

    def _call(self, feeds: dict[str, Array], first: int, count: int) -> Array:
        places = self._memory.places(first, count) | self._conditioning.places(first, count)
        (logits,) = self._session.run_in_place(feeds, places, ["logits"])
        return logits
