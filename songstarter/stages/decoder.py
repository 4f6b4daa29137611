"""The decoder graph over slots: rows are filled with what a take begins from, then all step together."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np

from songstarter.array import Array
from songstarter.checkpoint import Checkpoint, Precision
from songstarter.errors import CheckpointError
from songstarter.stages.kept_rows import KeptRows
from songstarter.stages.kv_memory import ROWS_PER_SLOT, KvMemory
from songstarter.stages.session import Place, Session

GRAPH = Path("decoder/1/decoder.onnx")
CROSS_GRAPH = Path("decoder/1/cross_attention.onnx")
MEMORY_TYPES: dict[Precision, type[np.generic]] = {
    "fp32": np.float32,
    "fp16": np.float16,
    "int8": np.float32,
    "int8_kv8": np.int8,
}
KEPT_ROWS = 8
# A call of one position takes other kernels, whose last bits differ. Two and more agree to the last bit however
# a row is cut into pieces, so that a song does not depend on what was kept or on who else was playing.
FEWEST = 2


@dataclass(frozen=True, eq=False)
class Prefix:
    """What a take is conditioned on: guided and null embeddings, each [position, hidden].

    A take that is not guided (guidance 1) has no null twin, and its slot's second row stays idle.
    """

    guided: Array
    null: Array | None

    @property
    def rows(self) -> tuple[Array, ...]:
        """One sequence of embeddings for each row of a slot that is used."""
        return (self.guided,) if self.null is None else (self.guided, self.null)


@dataclass(eq=False)
class RowFilling:
    """A row on its way: ``embeddings`` [position, hidden] and then ``columns`` [codebook, column] go in."""

    row: int
    embeddings: Array
    columns: Array
    filled: int

    @property
    def length(self) -> int:
        return len(self.embeddings) + self.columns.shape[1]

    @property
    def left(self) -> int:
        return self.length - self.filled

    def piece(self, most: int) -> tuple[Array, Array, int, int]:
        """The next embeddings and columns, at most ``most`` together, and where they begin and end."""
        start = min(self.filled, max(self.length - FEWEST, 0))
        stop = min(self.length, start + max(most, FEWEST))
        if self.length - stop < FEWEST:
            stop = self.length
        split = len(self.embeddings)
        columns = self.columns[:, max(start - split, 0) : max(stop - split, 0)]
        return self.embeddings[start:stop], columns, start, stop


@dataclass(eq=False)
class Filling:
    """A slot on its way: its rows that still lack something."""

    slot: int
    rows: list[RowFilling]
    lengths: Array  # [2]: what each row of the slot holds in the end

    @property
    def left(self) -> int:
        """Positions still to be computed, over all rows."""
        return sum(row.left for row in self.rows)

    @property
    def done(self) -> bool:
        return not self.rows


class Conditioning(Protocol):
    """How a family's graph learns of a prefix: in front of the columns, or beside them."""

    def begin(self, slot: int, prefix: Prefix, columns: Array) -> list[RowFilling]:
        """Take a prefix into a slot; what its rows must be filled with."""

    def feeds(self, first: int, count: int, embeddings: Array) -> dict[str, Array]:
        """The extra inputs of a call over ``count`` rows from row ``first``; ``embeddings`` is [row, place, hidden]."""

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

    def begin(self, slot: int, prefix: Prefix, columns: Array) -> list[RowFilling]:
        return [
            RowFilling(row, embeddings, columns, self._kept.recall(embeddings, row))
            for row, embeddings in enumerate(prefix.rows, slot * ROWS_PER_SLOT)
        ]

    def feeds(self, first: int, count: int, embeddings: Array) -> dict[str, Array]:
        return {"prefix": embeddings}

    def places(self, first: int, count: int) -> dict[str, Place]:
        return {}

    def filled(self, filling: RowFilling) -> None:
        self._kept.keep(filling.embeddings, filling.row)

    def copy(self, source: int, target: int) -> None:
        """Nothing lies outside the KV memory."""


class CrossAttendedPrefix:
    """The text family: every layer attends to keys and values made of the text, once per take."""

    def __init__(self, session: Session, checkpoint: Checkpoint, slots: int) -> None:
        decoder = checkpoint.decoder
        rows = slots * ROWS_PER_SLOT
        self._session = session
        self._text_places = checkpoint.text.max_tokens
        shape = (rows, decoder.heads, self._text_places, decoder.head_size)
        self._memory = KvMemory(session.outputs, shape=shape, dtype=np.float32)
        self._lengths = np.ones(rows, np.int64)

    def begin(self, slot: int, prefix: Prefix, columns: Array) -> list[RowFilling]:
        first = slot * ROWS_PER_SLOT
        text = np.zeros((ROWS_PER_SLOT, self._text_places, prefix.guided.shape[1]), np.float32)
        for row, embeddings in enumerate(prefix.rows):
            text[row, : len(embeddings)] = embeddings
        self._session.run_in_place({"text": text}, self.places(first, ROWS_PER_SLOT), [])
        self._lengths[first : first + ROWS_PER_SLOT] = len(prefix.guided)
        nothing = prefix.guided[:0]
        return [RowFilling(row, nothing, columns, 0) for row, _ in enumerate(prefix.rows, first)]

    def feeds(self, first: int, count: int, embeddings: Array) -> dict[str, Array]:
        return {"text_lengths": self._lengths[first : first + count]}

    def places(self, first: int, count: int) -> dict[str, Place]:
        return self._memory.places(first, count)

    def filled(self, filling: RowFilling) -> None:
        """Columns are a song's own; there is nothing to keep."""

    def copy(self, source: int, target: int) -> None:
        self._memory.copy(source, target, self._text_places)
        self._lengths[target] = self._lengths[source]


class DecoderStage:
    """One loaded decoder with memory for a fixed number of slots.

    It knows positions, rows and memory; it does not know takes, requests or sampling.
    """

    def __init__(self, repository: Path, checkpoint: Checkpoint, *, slots: int, threads: int = 0) -> None:
        """Load the graph and allocate all memory.

        Raises:
            CheckpointError: a graph is missing or made for a device that this machine has not.
        """
        decoder = checkpoint.decoder
        if decoder.device != "cpu":
            raise CheckpointError(f"the decoder was exported for {decoder.device}, which this release cannot run")
        self.slots = slots
        self._hidden = decoder.hidden
        self._codebooks = checkpoint.codebooks
        self._session = Session(repository / GRAPH, device=decoder.device, threads=threads)
        rows = slots * ROWS_PER_SLOT
        self._memory = KvMemory(
            [name for name in self._session.inputs if name.startswith(("key_", "value_"))],
            shape=(rows + KEPT_ROWS, decoder.heads, decoder.positions, decoder.head_size),
            dtype=MEMORY_TYPES[decoder.precision],
        )
        if checkpoint.family == "melody":
            self._conditioning: Conditioning = PrependedPrefix(KeptRows(self._memory, first=rows, count=KEPT_ROWS))
        else:
            cross = Session(repository / CROSS_GRAPH, device=decoder.device, threads=threads)
            self._conditioning = CrossAttendedPrefix(cross, checkpoint, slots)

    @property
    def memory_bytes(self) -> int:
        return self._memory.bytes

    def begin(self, slot: int, prefix: Prefix, columns: Array) -> Filling:
        """Begin to fill a slot with a prefix and with ``columns`` [codebook, column], which are known."""
        rows = self._conditioning.begin(slot, prefix, columns.astype(np.int64))
        lengths = np.zeros(ROWS_PER_SLOT, np.int64)
        lengths[: len(rows)] = [row.length for row in rows]
        return Filling(slot, [row for row in rows if row.left], lengths)

    def fill(self, filling: Filling, most: int) -> None:
        """Go on filling a slot, by at most ``most`` positions."""
        row = filling.rows[0]
        embeddings, columns, start, stop = row.piece(most)
        self._call(
            row.row,
            columns[None],
            embeddings[None].astype(np.float32),
            positions=np.arange(start, stop)[None],
            held=np.array([stop - 1]),
        )
        row.filled = stop
        if not row.left:
            self._conditioning.filled(row)
            filling.rows.pop(0)

    def copy(self, source: int, target: int, lengths: Array) -> None:
        """Give a slot the first ``lengths`` [2] positions of another's rows: the beginning they share."""
        for index, length in enumerate(lengths):
            rows = source * ROWS_PER_SLOT + index, target * ROWS_PER_SLOT + index
            self._memory.copy(*rows, int(length))
            self._conditioning.copy(*rows)

    def step(self, columns: Array, lengths: Array) -> Array:
        """Feed one column to each of the first n slots.

        ``columns`` is [slot, codebook]; ``lengths`` [slot, 2] is what each row holds so far. The column of a row
        that is idle or not filled yet is written at that place too, and its result is of no use. Returns logits
        [slot, 2, codebook, token], guided row first.
        """
        rows = len(columns) * ROWS_PER_SLOT
        held = lengths.reshape(-1)
        logits = self._call(
            0,
            np.repeat(columns, ROWS_PER_SLOT, axis=0)[:, :, None].astype(np.int64),
            np.zeros((rows, 0, self._hidden), np.float32),
            positions=held[:, None],
            held=held,
        )
        return logits.reshape(len(columns), ROWS_PER_SLOT, self._codebooks, -1)

    def _call(self, first: int, tokens: Array, embeddings: Array, *, positions: Array, held: Array) -> Array:
        """Run the graph on consecutive rows; ``held`` [row] is the last position of each after the call."""
        count = len(tokens)
        feeds = {
            "tokens": tokens,
            "positions": positions.astype(np.int64),
            "lengths": held.astype(np.int32),
            "longest": np.array([held.max() + 1], np.int32),
        } | self._conditioning.feeds(first, count, embeddings)
        memory = self._memory.places(first, count)
        places = memory | {f"{name}_present": place for name, place in memory.items()}
        (logits,) = self._session.run_in_place(feeds, places | self._conditioning.places(first, count), ["logits"])
        return logits
