"""The doorway to onnxruntime: opening a graph and running it on memory that stays where it is."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnxruntime as ort

from songstarter.array import Array
from songstarter.checkpoint import Device
from songstarter.errors import CheckpointError

PROVIDERS: dict[Device, str] = {"cpu": "CPUExecutionProvider", "cuda": "CUDAExecutionProvider"}


@dataclass(frozen=True)
class Place:
    """A tensor at a fixed address: what a graph reads and writes without copying."""

    device: Device
    dtype: type[np.generic]
    shape: tuple[int, ...]
    address: int


class Session:
    """One loaded graph on one device."""

    def __init__(self, path: Path, *, device: Device = "cpu", threads: int = 0) -> None:
        """Load the graph; ``threads`` 0 takes every core.

        Raises:
            CheckpointError: the file is missing or damaged, or the device is not to be had.
        """
        if PROVIDERS[device] not in ort.get_available_providers():
            raise CheckpointError(
                f"this onnxruntime cannot use {device}, it has {', '.join(ort.get_available_providers())}: "
                "install onnxruntime-gpu, or export with --device cpu"
            )
        options = ort.SessionOptions()
        options.intra_op_num_threads = threads
        options.log_severity_level = 3
        try:
            self._session = ort.InferenceSession(str(path), options, providers=[PROVIDERS[device]])
        except Exception as error:  # onnxruntime's own exceptions share no base but this
            raise CheckpointError(f"the graph {path.name} cannot be loaded ({error}): export again") from error
        self._input_names = frozenset(self.inputs)

    @property
    def inputs(self) -> tuple[str, ...]:
        return tuple(node.name for node in self._session.get_inputs())

    @property
    def outputs(self) -> tuple[str, ...]:
        return tuple(node.name for node in self._session.get_outputs())

    def run(self, feeds: Mapping[str, Array]) -> dict[str, Array]:
        """Every output of the graph, by name."""
        return dict(zip(self.outputs, self._session.run(None, dict(feeds)), strict=True))

    def run_in_place(
        self, feeds: Mapping[str, Array], places: Mapping[str, Place], results: Sequence[str]
    ) -> list[Array]:
        """Run with some inputs and outputs bound to ``places``; return ``results`` as arrays."""
        binding = self._session.io_binding()
        for name in results:
            binding.bind_output(name, "cpu")
        for name, array in feeds.items():
            binding.bind_cpu_input(name, np.ascontiguousarray(array))
        for name, place in places.items():
            bind = binding.bind_input if name in self._input_names else binding.bind_output
            bind(name, place.device, 0, place.dtype, place.shape, place.address)
        self._session.run_with_iobinding(binding)
        return [value.numpy() for value in binding.get_outputs()[: len(results)]]
