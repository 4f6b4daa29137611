"""A decoder on a device: a step is one upload of small inputs, one replay, and the sampled columns that come back.

    host                          device
    columns, lengths, settings ─► tokens, positions, ... ─► decoder ─► logits ─► sampler ─► columns ─► host
                                                             ▲  │
                                                           KV memory

A step over n slots runs as a captured graph of the next larger bucket: 1, 2, 4, ... slots, and all of them. The
slots beyond the n are idle or have their own length, and what is written there is overwritten. With ``fewest_slots``
as many as there are, one bucket is all there is, and a song never meets kernels of another shape. What is captured
are the project's own kernels where they are made for the decoder, else the nodes of its ONNX graph; rows are filled by
the ONNX graph in any case.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from songstarter.array import Array
from songstarter.checkpoint import Checkpoint, Device
from songstarter.errors import DeviceError
from songstarter.stages.buckets import Bucket, GraphBucket, KernelBucket, open_kernels, step_inputs, write_inputs
from songstarter.stages.cuda.step import Kernels
from songstarter.stages.decoder import GRAPH, DecoderStage
from songstarter.stages.kv_memory import ROWS_PER_SLOT
from songstarter.stages.packed_inputs import PackedInputs
from songstarter.stages.places import SHARED
from songstarter.stages.replay_guard import ReplayGuard
from songstarter.stages.runtime import OnDevice
from songstarter.stages.sampler import SETTINGS, Columns, Draw
from songstarter.stages.session import DeviceArray, Session

NO_NUMBERS = -1  # the sampler's column for logits that are none


def kernels_on(device: Device, graph: Path, checkpoint: Checkpoint, slots: int) -> Kernels | None:
    """The project's own kernels, where the device is one for them."""
    return open_kernels(graph, checkpoint, slots) if device == "cuda" else None


class DeviceDecoder(DecoderStage):
    """One loaded decoder whose memory, logits and sampling stay on its device.

    Its steps must come from one thread, the one that captured them.
    """

    _session: Session
    runtime = OnDevice
    kernels_on = staticmethod(kernels_on)

    def __init__(
        self,
        repository: Path,
        checkpoint: Checkpoint,
        *,
        fewest_slots: int = 1,
        device: Device = "cpu",
        **settings: Any,
    ) -> None:
        super().__init__(repository, checkpoint, device=device, **settings)
        self._fewest_slots = fewest_slots
        self._buckets: dict[int, Bucket] = {}
        self._guard = ReplayGuard()
        self._kernels: Kernels | None = None
        try:
            self._kernels = self.kernels_on(device, repository / GRAPH, checkpoint, self.slots)
        except DeviceError as error:
            self.computed_by += f", because {error}"
        if self._kernels:
            self.computed_by = self._kernels.computed_by

    def next_columns(self, columns: Array, lengths: Array, draws: Mapping[int, Draw]) -> Columns:
        """As the host's, drawn where the logits are."""
        slots = bucket_of(max(max(draws) + 1, self._fewest_slots), self.slots)
        if slots not in self._buckets:
            self._buckets[slots] = self._bucket(slots)
        self._last = bucket = self._buckets[slots]
        write_inputs(bucket.views, columns, lengths, draws)
        if SHARED in bucket.views:
            bucket.views[SHARED][:] = self._conditioning.shared(0, slots * ROWS_PER_SLOT)
        found = bucket.run()
        sound = (found != NO_NUMBERS).all(axis=1)
        return {slot: found[slot] if sound[slot] else None for slot in draws}

    def last_logits(self) -> Array:
        """Those [slot, 2, codebook, token] from which the last columns were drawn."""
        logits = self._last.logits()
        return logits.reshape(-1, ROWS_PER_SLOT, *logits.shape[1:])

    def _bucket(self, slots: int) -> Bucket:
        """The step over the first ``slots`` slots."""
        rows = slots * ROWS_PER_SLOT
        memory = self._places(0, rows)
        if self._kernels:
            return KernelBucket(self._kernels, slots, self.codebooks, memory)
        inputs = PackedInputs(step_inputs(slots, self.codebooks), self._device)
        fixed: dict[str, Array] = {
            "logits": np.zeros((rows, self.codebooks, self._vocabulary), np.float32),
            "columns": np.zeros((slots, self.codebooks), np.int64),
            "pairs": _pairs(slots),
            **self._conditioning.feeds(np.zeros((rows, 1, self._hidden), np.float32)),
        }
        arrays = {name: DeviceArray(array, self._device) for name, array in fixed.items()}
        # Read on the host when a graph is captured, to split the work for the longest row there can be. How long
        # each row is, is read from ``lengths`` on the device.
        arrays["longest"] = DeviceArray(np.array([self._positions], np.int32), "cpu")
        return GraphBucket(self._session, slots, inputs, arrays, memory, self._guard)

    def _sampler_feeds(self, rows: int) -> dict[str, Array]:
        """A call outside a bucket draws nothing that is used: its slots, or its one row, are greedy."""
        slots = max(rows // ROWS_PER_SLOT, 1)
        return {
            "pairs": np.minimum(_pairs(slots), rows - 1),
            "settings": np.zeros((SETTINGS, slots, 1, 1), np.float32),
            "uniforms": np.zeros((2, slots, self.codebooks, 1)),
        }


def bucket_of(slots: int, most: int) -> int:
    """The smallest power of two that holds so many slots, or all there are."""
    return min(1 << (slots - 1).bit_length(), most)


def _pairs(slots: int) -> Array:
    """[2, slot]: the guided and the unguided row of each slot."""
    return np.arange(slots * ROWS_PER_SLOT).reshape(slots, ROWS_PER_SLOT).T
