"""A decoder on a device: a step is one upload of small inputs, one replay, and the sampled columns that come back.

    host                          device
    columns, lengths, settings ─► tokens, positions, ... ─► decoder ─► logits ─► sampler ─► columns ─► host
                                                             ▲  │
                                                             KV memory

A step over n slots runs as a captured graph of the next larger bucket: 1, 2, 4, ... slots, and all of them. The
slots beyond the n are idle or have their own length, and what is written there is overwritten. With ``fewest_slots``
as many as there are, one bucket is all there is, and a song never meets kernels of another shape.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from songstarter.array import Array
from songstarter.stages.decoder import DecoderStage
from songstarter.stages.kv_memory import ROWS_PER_SLOT
from songstarter.stages.packed_inputs import PackedInputs
from songstarter.stages.replay_guard import ReplayGuard
from songstarter.stages.runtime import OnDevice
from songstarter.stages.sampler import SETTINGS, Columns, Draw, numbers_of, settings_of
from songstarter.stages.session import DeviceArray, Place, Session

NO_NUMBERS = -1  # the sampler's column for logits that are none


@dataclass(frozen=True)
class Bucket:
    """A step over a fixed number of slots: what runs it, and every place it reads and writes."""

    run: Callable[[], None]
    inputs: PackedInputs
    arrays: Mapping[str, DeviceArray]
    places: Mapping[str, Place]

    def write(self, columns: Array, lengths: Array, draws: Mapping[int, Draw]) -> None:
        """Bring to the device what the next run reads: see ``DecoderStage.next_columns``."""
        views = self.inputs.views
        slots = views["settings"].shape[1]
        held = lengths[:slots].reshape(-1)
        views["tokens"][:] = np.repeat(columns[:slots], ROWS_PER_SLOT, axis=0)[:, :, None]
        views["positions"][:, 0] = views["lengths"][:] = held
        drawing, order = list(draws), list(draws.values())
        views["settings"][..., 0, 0][:, drawing] = settings_of(order)
        views["uniforms"][..., 0][:, drawing] = np.moveaxis(numbers_of(order, columns.shape[1]), -1, 0)
        self.inputs.send()

    def read(self) -> Array:
        """The columns [slot, codebook] that the last run drew."""
        return self.arrays["columns"].read()


class DeviceDecoder(DecoderStage):
    """One loaded decoder whose memory, logits and sampling stay on its device.

    Its steps must come from one thread, the one that captured them.
    """

    _session: Session
    runtime = OnDevice

    def __init__(self, *arguments: Any, fewest_slots: int = 1, **settings: Any) -> None:
        super().__init__(*arguments, **settings)
        self._fewest_slots = fewest_slots
        self._buckets: dict[int, Bucket] = {}
        self._guard = ReplayGuard()

    def next_columns(self, columns: Array, lengths: Array, draws: Mapping[int, Draw]) -> Columns:
        """As the host's, drawn where the logits are."""
        slots = bucket_of(max(max(draws) + 1, self._fewest_slots), self.slots)
        if slots not in self._buckets:
            self._buckets[slots] = self._bucket(slots)
        bucket = self._buckets[slots]
        bucket.write(columns, lengths, draws)
        self._guard.check(slots, bucket.places)
        bucket.run()
        found = bucket.read()
        return {slot: None if found[slot, 0] == NO_NUMBERS else found[slot] for slot in draws}

    def _bucket(self, slots: int) -> Bucket:
        """The step over the first ``slots`` slots; its first run captures it under that number."""
        rows, columns, codebooks = slots * ROWS_PER_SLOT, (slots, self.codebooks), self.codebooks
        inputs = PackedInputs(
            {
                "tokens": (np.int64, (rows, codebooks, 1)),
                "positions": (np.int64, (rows, 1)),
                "lengths": (np.int32, (rows,)),
                "pairs": (np.int64, (ROWS_PER_SLOT, slots)),
                "settings": (np.float32, (SETTINGS, slots, 1, 1)),
                "uniforms": (np.float64, (2, *columns, 1)),
            },
            self._device,
        )
        inputs.views["pairs"][:] = _pairs(slots)
        fixed = {
            "logits": DeviceArray(np.zeros((rows, codebooks, self._vocabulary), np.float32), self._device),
            "columns": DeviceArray(np.zeros(columns, np.int64), self._device),
            # Read on the host when a graph is captured, to split the work for the longest row there can be. How long
            # each row is, is read from ``lengths`` on the device.
            "longest": DeviceArray(np.array([self._positions], np.int32), "cpu"),
        }
        prefix = np.zeros((rows, 1, self._hidden), np.float32)
        fixed |= {name: DeviceArray(array, self._device) for name, array in self._conditioning.feeds(prefix).items()}
        places = self._places(0, rows) | inputs.places | {name: array.place for name, array in fixed.items()}
        return Bucket(self._session.bind(places, graph_id=slots).run, inputs, fixed, places)

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
