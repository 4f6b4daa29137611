"""The weights of an exported graph, mapped from its data file by the index that the exporter writes beside it."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from songstarter.array import Array
from songstarter.errors import CheckpointError

INDEX_SUFFIX = ".weights.json"
DATA_SUFFIX = ".data"


@dataclass(frozen=True)
class Weight:
    """Where a weight lies in the data file, and as what."""

    dtype: str
    shape: tuple[int, ...]
    offset: int


@dataclass(frozen=True, eq=False)
class Weights:
    """Every weight of a graph by name; reading one copies nothing."""

    data: Array
    index: Mapping[str, Weight]

    @classmethod
    def of(cls, graph: Path) -> Weights | None:
        """The weights of a graph, None if it has no index beside it.

        Raises:
            CheckpointError: the index or the data cannot be read.
        """
        path = graph.with_name(graph.name + INDEX_SUFFIX)
        if not path.is_file():
            return None
        try:
            found: dict[str, tuple[str, list[int], int]] = json.loads(path.read_text())
            index = {name: Weight(dtype, tuple(shape), offset) for name, (dtype, shape, offset) in found.items()}
            return cls(np.memmap(graph.with_name(graph.name + DATA_SUFFIX), np.uint8, "r"), index)
        except (OSError, ValueError, TypeError, AttributeError) as error:
            raise CheckpointError(
                f"{path.name} or the data beside it cannot be read ({error}): export again"
            ) from error

    def __contains__(self, name: str) -> bool:
        return name in self.index

    def __getitem__(self, name: str) -> Array:
        weight = self.index[name]
        dtype = np.dtype(weight.dtype)
        stop = weight.offset + dtype.itemsize * math.prod(weight.shape)
        array: Array = self.data[weight.offset : stop].view(dtype).reshape(weight.shape)
        return array

    def address(self, name: str) -> int | None:
        """Where a weight lies in this process; None if the graph has none of that name."""
        return self[name].ctypes.data if name in self else None
