"""Memory that computations work on where it lies, whoever carries them out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from songstarter.array import Array
from songstarter.checkpoint import Device

SHARED = "shared"  # an input [row, 2] int32 of decoders that are no graphs: see Conditioning.shared
ONNXRUNTIME = "onnxruntime"  # what computes a graph where nothing faster does


@dataclass(frozen=True)
class Place:
    """A tensor at a fixed address: what a graph reads and writes without copying."""

    device: Device
    dtype: type[np.generic]
    shape: tuple[int, ...]
    address: int


class InPlace(Protocol):
    """A graph's computation on memory that stays where it is, whoever carries it out."""

    computed_by: str
    in_blocks: bool  # whether its keys and values lie in blocks: see kv_memory.py

    @property
    def inputs(self) -> tuple[str, ...]: ...

    @property
    def outputs(self) -> tuple[str, ...]: ...

    def run_in_place(
        self, feeds: Mapping[str, Array], places: Mapping[str, Place], results: Sequence[str]
    ) -> list[Array]:
        """Run with some inputs and outputs bound to ``places``; return ``results`` as arrays."""
