"""Where a decoder's graphs run and its memory lies: in this process, or on a device."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np

from songstarter.checkpoint import Device
from songstarter.stages.dimensions import HEAD_SIZE
from songstarter.stages.kv_memory import BlockMemory, DeviceMemory, HostMemory, KvMemory, Shape
from songstarter.stages.native_session import open_native
from songstarter.stages.places import InPlace
from songstarter.stages.session import Session

ZEROS_FILE = "zeros.onnx"
COPY_FILE = "copy_row.onnx"
CROSS_PREFIX = "cross_"  # of the names of a text's keys and values, and of the graphs that make their memory


class Runtime(Protocol):
    """Opens graphs and makes memory for them."""

    @property
    def device(self) -> Device: ...

    def open(self, path: Path) -> InPlace:
        """Load a graph."""

    def open_decoder(self, path: Path, head_size: int, text_places: int) -> InPlace:
        """Load a decoder's graph: in C where that is made for it; ready to be captured where there is such a thing."""

    def memory(
        self, names: Sequence[str], shape: Shape, dtype: type[np.generic], *, prefix: str = "", in_blocks: bool = False
    ) -> KvMemory:
        """Blocks of zeros, ``shape`` [row, head, position, head size] each; ``in_blocks`` as their reader has them."""


@dataclass(frozen=True)
class OnHost:
    """Graphs on the CPU, on memory of numpy; those that are written in C too run as that."""

    folder: Path
    device: Device
    threads: int

    def open(self, path: Path) -> Session:
        return Session(path, device=self.device, threads=self.threads)

    def open_decoder(self, path: Path, head_size: int, text_places: int) -> InPlace:
        if head_size != HEAD_SIZE:
            return self.open(path)
        return open_native(path, threads=self.threads, text_places=text_places) or self.open(path)

    def memory(
        self, names: Sequence[str], shape: Shape, dtype: type[np.generic], *, prefix: str = "", in_blocks: bool = False
    ) -> KvMemory:
        kind = BlockMemory if in_blocks else HostMemory
        return kind(names, shape=shape, dtype=dtype)


@dataclass(frozen=True)
class OnDevice:
    """Graphs on a device, on memory that never leaves it; ``folder`` holds the graphs that make it."""

    folder: Path
    device: Device
    threads: int

    def open(self, path: Path) -> Session:
        return Session(path, device=self.device, threads=self.threads)

    def open_decoder(self, path: Path, head_size: int, text_places: int) -> Session:
        return Session(path, device=self.device, threads=self.threads, captures=True)

    def memory(
        self, names: Sequence[str], shape: Shape, dtype: type[np.generic], *, prefix: str = "", in_blocks: bool = False
    ) -> KvMemory:
        graphs = self.folder / f"{prefix}{ZEROS_FILE}", self.folder / f"{prefix}{COPY_FILE}"
        return DeviceMemory(graphs, device=self.device, shape=shape, dtype=dtype)
