"""The doorway to onnxruntime: opening a graph and running it on memory that stays where it is."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import onnxruntime as ort

from songstarter.array import Array
from songstarter.checkpoint import Device
from songstarter.errors import CheckpointError
from songstarter.stages.cores import granted_cores
from songstarter.stages.places import ONNXRUNTIME, Place

PROVIDERS: dict[Device, str] = {"cpu": "CPUExecutionProvider", "cuda": "CUDAExecutionProvider"}
# Memory grows by what is asked, not to the next power of two. fp32 products stay fp32. Attention takes the kernels
# that were looked into (flash, else memory-efficient), and not cuDNN's, which is the default from Hopper on.
OPTIONS: dict[Device, dict[str, str]] = {
    "cpu": {},
    "cuda": {"arena_extend_strategy": "kSameAsRequested", "use_tf32": "0", "sdpa_kernel": "3"},
}
CAPTURING: dict[Device, dict[str, str]] = {"cpu": {}, "cuda": {"enable_cuda_graph": "1"}}
CUDA_LIBRARIES = Path("nvidia", "cu13", "lib")  # of pip's packages
NOT_CAPTURED = -1  # a run's graph id: nothing is captured and nothing replayed


class DeviceArray:
    """An array on a device that stays at one address; the host writes to it and reads it whole."""

    def __init__(self, array: Array, device: Device) -> None:
        self._initial = array  # on the CPU its memory is the array's
        self._value = ort.OrtValue.ortvalue_from_numpy(array, device, 0)
        self._device = device

    @property
    def place(self) -> Place:
        return Place(self._device, self._initial.dtype.type, self._initial.shape, self._value.data_ptr())

    def write(self, array: Array) -> None:
        self._value.update_inplace(array)

    def read(self) -> Array:
        """A copy, for on the CPU onnxruntime's own is the memory itself."""
        return np.array(self._value.numpy())


class Block:
    """A result that stayed on its device."""

    def __init__(self, value: ort.OrtValue, device: Device, dtype: type[np.generic]) -> None:
        self._value = value
        self.place = Place(device, dtype, tuple(value.shape()), value.data_ptr())


class Session:
    """One loaded graph on one device."""

    computed_by = ONNXRUNTIME
    in_blocks = False

    def __init__(
        self, path: Path, *, device: Device = "cpu", threads: int = 0, captures: bool = False, spins: bool = True
    ) -> None:
        """Load the graph; ``threads`` 0 takes every core granted. One that ``captures`` can be run as a CUDA graph.

        Where it ``spins``, threads that wait for work keep their cores: good for a decoder's many small operators, bad
        for whoever else needs the cores.

        Raises:
            CheckpointError: the file is missing or damaged, or the device is not to be had.
        """
        provider = PROVIDERS[device]
        if provider not in providers():
            raise CheckpointError(
                f"this onnxruntime cannot use {device}, it has {', '.join(providers())}: "
                "install onnxruntime-gpu, or export with --device cpu"
            )
        options = OPTIONS[device] | (CAPTURING[device] if captures else {})
        self._session = _open(path, threads, spins, provider, options)
        if provider not in self._session.get_providers():  # onnxruntime goes on without, saying so on stderr
            _find_libraries()
            self._session = _open(path, threads, spins, provider, options)
        if provider not in self._session.get_providers():
            raise CheckpointError(
                f"{path.name} was exported for {device}, which onnxruntime cannot start here: is there a GPU, "
                "its driver, and the cudart, cuBLAS and cuRAND of CUDA 13 that onnxruntime-gpu needs?"
            )
        self._device = device
        self._input_names = frozenset(self.inputs)
        self._uncaptured = _run_options(NOT_CAPTURED)

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
        self._bind(binding, feeds, places)
        self._session.run_with_iobinding(binding, self._uncaptured)
        return [value.numpy() for value in binding.get_outputs()[: len(results)]]

    def run_to_blocks(self, feeds: Mapping[str, Array], dtype: type[np.generic]) -> dict[str, Block]:
        """Run and leave every output, all of one type, on the device."""
        binding = self._session.io_binding()
        for name in self.outputs:
            binding.bind_output(name, self._device)
        self._bind(binding, feeds, {})
        self._session.run_with_iobinding(binding, self._uncaptured)
        blocks = (Block(value, self._device, dtype) for value in binding.get_outputs())
        return dict(zip(self.outputs, blocks, strict=True))

    def bind(self, places: Mapping[str, Place], *, graph_id: int) -> Binding:
        """A run that can be repeated: every input and output in its place; on CUDA captured under its id."""
        binding = self._session.io_binding()
        self._bind(binding, {}, places)
        return Binding(self._session, binding, _run_options(graph_id))

    def _bind(self, binding: ort.IOBinding, feeds: Mapping[str, Array], places: Mapping[str, Place]) -> None:
        for name, array in feeds.items():
            binding.bind_cpu_input(name, np.ascontiguousarray(array))
        for name, place in places.items():
            bind = binding.bind_input if name in self._input_names else binding.bind_output
            bind(name, place.device, 0, place.dtype, place.shape, place.address)


class Binding:
    """A prepared run of a session."""

    def __init__(self, session: ort.InferenceSession, binding: ort.IOBinding, options: ort.RunOptions) -> None:
        self._session, self._binding, self._options = session, binding, options

    def run(self) -> None:
        """Run and wait until it is done."""
        self._session.run_with_iobinding(self._binding, self._options)


def providers() -> list[str]:
    """What this onnxruntime was built for."""
    known: list[str] = ort.get_available_providers()
    return known


def _open(path: Path, threads: int, spins: bool, provider: str, options: dict[str, str]) -> ort.InferenceSession:
    settings = ort.SessionOptions()
    settings.intra_op_num_threads = threads or granted_cores() or 0  # 0: every core, by onnxruntime's own count
    settings.log_severity_level = 3
    settings.add_session_config_entry("session.intra_op.allow_spinning", str(int(spins)))
    try:
        return ort.InferenceSession(str(path), settings, providers=[(provider, options)])
    except Exception as error:  # onnxruntime's own exceptions share no base but this
        raise CheckpointError(f"the graph {path.name} cannot be loaded ({error}): export again") from error


def _find_libraries() -> None:
    """Load CUDA's libraries where pip puts them; what onnxruntime says of it must not be taken for an output.

    By itself onnxruntime looks beside itself alone, and packages may lie in several places.
    """
    places = (Path(place, CUDA_LIBRARIES).resolve() for place in sys.path)
    with contextlib.redirect_stdout(sys.stderr):
        ort.preload_dlls()
        for folder in filter(Path.is_dir, places):
            ort.preload_dlls(directory=str(folder))


def _run_options(graph_id: int) -> ort.RunOptions:
    options = ort.RunOptions()
    options.add_run_config_entry("gpu_graph_id", str(graph_id))
    return options
