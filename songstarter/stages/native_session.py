"""The doorway to ``native/decoder.c``: an int8 decoder's graph, computed without onnxruntime.

It has the graph's inputs and results and takes its weights from the graph's data file, so that whoever runs one can
run the other; what rows share it takes beside them. 8-bit memory it lays out in its own way (``in_blocks``), so that a
memory is one's or the other's. The graph is its twin: it runs where this cannot, and tests hold the two together.
"""

from __future__ import annotations

import ctypes
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from songstarter.array import Array
from songstarter.stages.cores import usable_cores
from songstarter.stages.graph_weights import Weights
from songstarter.stages.native.compile import DECODER, InstructionSet
from songstarter.stages.native.layout import KINDS, Layout, addresses
from songstarter.stages.native.processor import instruction_set
from songstarter.stages.places import SHARED, Place

MOST_ROWS = 64  # of a call, as in products.h
BYTES_FOR_A_CORE = 8 << 20
ROWS = ("tokens", "prefix", "memory_rows", "places", "shared", "text_lengths")


class Call(ctypes.Structure):
    """``Call`` of ``decoder.c``."""

    _fields_ = (
        ("rows", ctypes.c_int32),
        ("first_asked", ctypes.c_int32),
        *((name, ctypes.c_void_p) for name in (*ROWS, "memory", "logits")),
    )


def open_native(graph: Path, *, threads: int, text_places: int) -> NativeSession | None:
    """A session for a decoder graph, or None where there can be none: another precision, processor or shape.

    ``threads`` 0 takes every core that the weights keep busy; ``text_places`` is how wide the memory of a text is.

    Raises:
        CheckpointError: the graph's weights cannot be read.
        MemoryError: they find no room in the order that ``decoder.c`` reads them in.
    """
    instructions = instruction_set(DECODER)
    weights = Weights.of(graph) if instructions else None
    layout = Layout.of(weights) if weights else None
    if instructions is None or layout is None:
        return None
    return NativeSession(layout, instructions, threads or _busy(layout.bytes), text_places)


def _busy(weight_bytes: int) -> int:
    """How many cores a step's weights keep busy: a smaller share is done before the others have been met."""
    return max(1, min(usable_cores(), weight_bytes // BYTES_FOR_A_CORE))


class NativeSession:
    """Stands where ``Session`` would; the memory it works on is the caller's, and it moves none of it."""

    def __init__(self, layout: Layout, instructions: InstructionSet, threads: int, text_places: int) -> None:
        """Raises MemoryError where the weights find no room."""
        self._opened: ctypes.c_void_p | None = None
        self._layout = layout
        self._library = ctypes.CDLL(str(instructions.library(DECODER)))
        self._library.decoder_open.restype = ctypes.c_void_p
        shape = layout.shape(text_places=text_places if layout.attends_to_text else 0, threads=threads)
        address = self._library.decoder_open(ctypes.byref(shape), layout.parts())
        if not address:
            raise MemoryError("there is no memory for the decoder's weights")
        self._opened = ctypes.c_void_p(address)
        self._library.decoder_weight_bytes.restype = ctypes.c_int64
        self.weight_bytes: int = self._library.decoder_weight_bytes(self._opened)  # of what every step multiplies by
        self._last_memory: tuple[Mapping[str, Place], ctypes.Array[ctypes.c_void_p]] = {}, addresses([])
        self.computed_by = f"decoder.c for {instructions.name}"
        self.in_blocks = layout.remembers_bytes
        memory = [name for names in layout.memory_names for name in names]
        conditioning = ("text_ceiling",) if layout.attends_to_text else ("prefix", SHARED)
        self.inputs = ("tokens", "positions", *conditioning, *memory)
        self.outputs = ("logits", *(f"{name}_present" for name in memory if not name.startswith("cross_")))

    def run_in_place(
        self, feeds: Mapping[str, Array], places: Mapping[str, Place], results: Sequence[str]
    ) -> list[Array]:
        """As ``Session.run_in_place``; the only result to ask for is ``logits`` [row, codebook, token].

        Either one row has several positions, of which the last is asked for, or every row has one.
        """
        count, codebooks, positions = feeds["tokens"].shape
        rows = {
            "tokens": _rows(feeds["tokens"].transpose(0, 2, 1), np.int64, codebooks),
            "memory_rows": np.repeat(np.arange(count, dtype=np.int32), positions),
            "places": _rows(feeds["positions"], np.int32),
        }
        if "prefix" in feeds:
            rows["prefix"] = _rows(feeds["prefix"], np.float32, self._layout.hidden)
            if SHARED in feeds:
                rows["shared"] = np.repeat(feeds[SHARED], positions, axis=0)
        else:
            rows["text_lengths"] = np.repeat(_text_lengths(places["text_ceiling"]), positions)
        logits = np.empty((count, self._layout.logits), np.float32)
        self._run(rows, self._memory(places), logits, last_only=positions > 1)
        return [logits.reshape(count, codebooks, -1)]

    def __del__(self) -> None:
        if self._opened is not None:
            self._library.decoder_close(self._opened)

    def _run(
        self,
        rows: Mapping[str, Array],
        memory: ctypes.Array[ctypes.c_void_p],
        logits: Array,
        *,
        last_only: bool,
    ) -> None:
        """Carry out calls over all rows, as many at a time as a call may have."""
        total = len(rows["places"])
        for start in range(0, total, MOST_ROWS):
            count = min(MOST_ROWS, total - start)
            call = Call(
                rows=count,
                first_asked=count - 1 if last_only else 0,
                memory=ctypes.addressof(memory),
                logits=logits[0 if last_only else start :].ctypes.data,
                **{name: array[start:].ctypes.data for name, array in rows.items()},
            )
            self._library.decoder_run(self._opened, ctypes.byref(call))

    def _memory(self, places: Mapping[str, Place]) -> ctypes.Array[ctypes.c_void_p]:
        """Where each layer's memory lies; null for a text's where there is none. Step after step it is the same."""
        known, found = self._last_memory
        if known is not places:
            names = ((*of_layer, *[""] * (len(KINDS) - len(of_layer))) for of_layer in self._layout.memory_names)
            found = addresses([places[name].address if name else None for of_layer in names for name in of_layer])
            self._last_memory = places, found
        return found


def _rows(array: Array, dtype: type[np.generic], *width: int) -> Array:
    return np.ascontiguousarray(array.reshape(-1, *width), dtype)


def _text_lengths(ceiling: Place) -> Array:
    """How many places of text each row has: there its ceiling [row, 1, 1, place] is high."""
    rows, *_, width = ceiling.shape
    heights = np.ctypeslib.as_array((ctypes.c_float * (rows * width)).from_address(ceiling.address))
    lengths: Array = (heights.reshape(rows, width) > 0).sum(axis=1).astype(np.int32)
    return lengths
