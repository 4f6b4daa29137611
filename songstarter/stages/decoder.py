"""The decoder graph over slots: rows are filled with what a take begins from, then all step together."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from songstarter.array import Array
from songstarter.checkpoint import Checkpoint, Device, Precision
from songstarter.stages.conditioning import Conditioning, CrossAttendedPrefix, PrependedPrefix
from songstarter.stages.filling import Filling, Prefix
from songstarter.stages.kept_rows import KeptRows
from songstarter.stages.kv_memory import ROWS_PER_SLOT, with_present
from songstarter.stages.native_sampler import open_sampler
from songstarter.stages.places import SHARED, Place
from songstarter.stages.runtime import OnDevice, OnHost
from songstarter.stages.sampler import Columns, Draw

GRAPH = Path("decoder/1/decoder.onnx")
CROSS_GRAPH = Path("decoder/1/cross_attention.onnx")
MEMORY_TYPES: dict[Precision, type[np.generic]] = {
    "fp32": np.float32,
    "fp16": np.float16,
    "fp16_kv8": np.int8,
    "int8": np.float32,
    "int8_kv8": np.int8,
    "int4_kv8": np.int8,
}
KEPT_ROWS = 8  # of a family whose prefix is part of the memory


class DecoderStage:
    """One loaded decoder with memory for a fixed number of slots.

    It knows positions, rows and memory; it does not know takes or requests. It runs on the CPU; its sister
    ``DeviceDecoder`` keeps everything on a device.
    """

    runtime: type[OnHost] | type[OnDevice] = OnHost

    def __init__(
        self, repository: Path, checkpoint: Checkpoint, *, slots: int, threads: int = 0, device: Device = "cpu"
    ) -> None:
        """Load the graph and allocate all memory.

        Raises:
            CheckpointError: a graph is missing, or the device is not to be had.
        """
        decoder = checkpoint.decoder
        self.slots = slots
        self._hidden = decoder.hidden
        self.codebooks = checkpoint.codebooks
        self._vocabulary = checkpoint.vocabulary
        self._sample = open_sampler(checkpoint.vocabulary)
        self._positions = decoder.positions
        self._nothing = checkpoint.special_token + 1  # stands where a position has a piece of the prefix and no column
        runtime = self.runtime((repository / GRAPH).parent, device, threads)
        self._device = device
        self._known_places: dict[tuple[int, int], dict[str, Place]] = {}
        self._session = runtime.open_decoder(repository / GRAPH, decoder.head_size, checkpoint.text.max_tokens)
        self.computed_by = self._session.computed_by
        rows = slots * ROWS_PER_SLOT
        kept = KEPT_ROWS if checkpoint.family == "melody" else 0
        self._memory = runtime.memory(
            [name for name in self._session.inputs if name.startswith(("key_", "value_"))],
            (rows + kept, decoder.heads, decoder.positions, decoder.head_size),
            MEMORY_TYPES[decoder.precision],
            in_blocks=self._session.in_blocks,
        )
        if checkpoint.family == "melody":
            self._conditioning: Conditioning = PrependedPrefix(KeptRows(self._memory, first=rows, count=kept))
        else:
            self._conditioning = CrossAttendedPrefix(runtime.open(repository / CROSS_GRAPH), runtime, checkpoint, slots)

    @property
    def memory_bytes(self) -> int:
        """Set aside for keys and values, of columns and of texts."""
        return self._memory.bytes + self._conditioning.memory_bytes

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
        prefix = np.zeros((1, stop - start, self._hidden), np.float32)
        prefix[0, : len(embeddings)] = embeddings
        tokens = np.full((1, self.codebooks, stop - start), self._nothing)
        tokens[0, :, len(embeddings) :] = columns
        self._call(row.row, tokens, prefix, positions=np.arange(start, stop)[None], held=np.array([stop - 1]))
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

    def next_columns(self, columns: Array, lengths: Array, draws: Mapping[int, Draw]) -> Columns:
        """Feed one column to every slot up to the last that draws, and draw the next for those who do.

        ``columns`` is [slot, codebook] and ``lengths`` [slot, 2], for all slots: what each row holds so far. The
        column of a row that is idle or not filled yet is written at that place too, to be overwritten.
        """
        count = max(draws) + 1
        return self._sample(self.step(columns[:count], lengths[:count]), draws)

    def step(self, columns: Array, lengths: Array) -> Array:
        """Feed one column to each of the first n slots, as ``next_columns`` does.

        Returns logits [slot, 2, codebook, token], guided row first; those of idle rows are of no use.
        """
        rows = len(columns) * ROWS_PER_SLOT
        held = lengths.reshape(-1)
        logits = self._call(
            0,
            np.repeat(columns, ROWS_PER_SLOT, axis=0)[:, :, None].astype(np.int64),
            np.zeros((rows, 1, self._hidden), np.float32),
            positions=held[:, None],
            held=held,
        )
        return logits.reshape(len(columns), ROWS_PER_SLOT, self.codebooks, -1)

    def _call(self, first: int, tokens: Array, embeddings: Array, *, positions: Array, held: Array) -> Array:
        """Run the graph on consecutive rows; ``held`` [row] is the last position of each after the call."""
        count = len(tokens)
        feeds = {
            "tokens": tokens,
            "positions": positions.astype(np.int64),
            "lengths": held.astype(np.int32),
            "longest": np.array([held.max() + 1], np.int32),
        }
        feeds |= self._conditioning.feeds(embeddings) | self._sampler_feeds(count)
        if SHARED in self._session.inputs:
            feeds[SHARED] = self._conditioning.shared(first, count)
        (logits,) = self._session.run_in_place(feeds, self._places(first, count), ["logits"])
        return logits

    def _places(self, first: int, count: int) -> dict[str, Place]:
        """Where ``count`` rows from row ``first`` have their memory: they stay, and every step asks for some."""
        found = self._known_places.get((first, count))
        if found is None:
            found = with_present(self._memory.places(first, count)) | self._conditioning.places(first, count)
            self._known_places[first, count] = found
        return found

    def _sampler_feeds(self, rows: int) -> dict[str, Array]:
        """Inputs of the graph's own sampler, if it has one."""
        return {}
