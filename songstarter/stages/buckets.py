"""A step over a fixed number of slots on a device, and what carries it out: the captured graph, or our own kernels."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Protocol

import numpy as np

from songstarter.array import Array
from songstarter.checkpoint import Checkpoint
from songstarter.stages.cuda.libraries import Opener, open_library
from songstarter.stages.cuda.step import Kernels
from songstarter.stages.dimensions import HEAD_SIZE
from songstarter.stages.kv_memory import ROWS_PER_SLOT
from songstarter.stages.packed_inputs import Layout, PackedInputs, Packing
from songstarter.stages.places import SHARED, Place
from songstarter.stages.replay_guard import ReplayGuard
from songstarter.stages.sampler import SETTINGS, Draw, numbers_of, settings_of
from songstarter.stages.session import DeviceArray, Session


class Bucket(Protocol):
    """One number of slots."""

    @property
    def views(self) -> Mapping[str, Array]:
        """What the next run reads: see ``step_inputs`` and ``kernel_inputs``."""

    def run(self) -> Array:
        """Carry out the step; the columns [slot, codebook] that it drew."""

    def logits(self) -> Array:
        """The logits [row, codebook, token] of the last run."""


def step_inputs(slots: int, codebooks: int) -> Layout:
    """The small inputs of a step, which differ from one to the next."""
    rows = slots * ROWS_PER_SLOT
    return {
        "tokens": (np.int64, (rows, codebooks, 1)),
        "positions": (np.int64, (rows, 1)),
        "lengths": (np.int32, (rows,)),
        "settings": (np.float32, (SETTINGS, slots, 1, 1)),
        "uniforms": (np.float64, (2, slots, codebooks, 1)),
    }


def kernel_inputs(slots: int, codebooks: int) -> Layout:
    """The same for our own kernels, which read what rows share in one place."""
    return {**step_inputs(slots, codebooks), SHARED: (np.int32, (slots * ROWS_PER_SLOT, 2))}


def write_inputs(views: Mapping[str, Array], columns: Array, lengths: Array, draws: Mapping[int, Draw]) -> None:
    """Note what a step reads: see ``DecoderStage.next_columns``."""
    slots = views["settings"].shape[1]
    held = lengths[:slots].reshape(-1)
    views["tokens"][:] = np.repeat(columns[:slots], ROWS_PER_SLOT, axis=0)[:, :, None]
    views["positions"][:, 0] = views["lengths"][:] = held
    drawing, order = list(draws), list(draws.values())
    views["settings"][..., 0, 0][:, drawing] = settings_of(order)
    views["uniforms"][..., 0][:, drawing] = np.moveaxis(numbers_of(order, columns.shape[1]), -1, 0)


class GraphBucket:
    """Runs the decoder's graph, which is captured at its first run under the number of slots."""

    def __init__(
        self,
        session: Session,
        slots: int,
        inputs: PackedInputs,
        arrays: Mapping[str, DeviceArray],
        memory: Mapping[str, Place],
        guard: ReplayGuard,
    ) -> None:
        """``arrays`` are what the graph reads and writes beside ``inputs`` and ``memory``."""
        self.views: Mapping[str, Array] = inputs.views
        self._slots, self._inputs, self._arrays, self._guard = slots, inputs, arrays, guard
        self._places = {**memory, **inputs.places, **{name: array.place for name, array in arrays.items()}}
        self._binding = session.bind(self._places, graph_id=slots)

    def run(self) -> Array:
        self._inputs.send()
        self._guard.check(self._slots, self._places)
        self._binding.run()
        return self._arrays["columns"].read()

    def logits(self) -> Array:
        return self._arrays["logits"].read()


class KernelBucket:
    """Runs the project's own kernels: one launch, one wait, and no copies but of a step's small inputs and columns."""

    def __init__(self, kernels: Kernels, slots: int, codebooks: int, memory: Mapping[str, Place]) -> None:
        packing = Packing(kernel_inputs(slots, codebooks))
        exchange = kernels.exchange.part(packing.bytes, slots * codebooks * np.dtype(np.int64).itemsize)
        self.views: Mapping[str, Array] = packing.views(exchange.given)
        self._columns: Array = exchange.found.view(np.int64).reshape(slots, codebooks)
        self._kernels, self._rows = kernels, slots * ROWS_PER_SLOT
        places = {name: place.address for name, place in memory.items()} | packing.addresses(exchange.given_at)
        self._step = kernels.bind(exchange, places, self._rows)

    def run(self) -> Array:
        self._step.run()
        return self._columns.copy()

    def logits(self) -> Array:
        return self._kernels.logits(self._rows)


def open_kernels(graph: Path, checkpoint: Checkpoint, slots: int, opener: Opener = open_library) -> Kernels | None:
    """The project's own kernels for a decoder graph and up to so many slots; None where they are not made for it.

    Raises:
        DeviceError: something that they need is missing.
    """
    if checkpoint.decoder.head_size != HEAD_SIZE:
        return None
    given = Packing(kernel_inputs(slots, checkpoint.codebooks)).bytes
    return Kernels.of(graph, slots * ROWS_PER_SLOT, given, opener)
