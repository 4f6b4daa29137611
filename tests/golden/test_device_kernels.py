"""The kernels of a step on a GPU, run by an emulator of CUDA: the same source, arguments and launches, on the CPU.

The emulator is ours and knows no speed; a GPU's own word is in ``benchmarks.gpu``. What it shows is that the kernels
compute what the ONNX graph of the same weights does, and that every launch and address is right.
"""

from __future__ import annotations

import ctypes
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest

from export.checkpoints import Loaded
from songstarter.stages.cuda.compiler import FOLDER
from songstarter.stages.cuda.libraries import Opener
from songstarter.stages.cuda.step import Kernels
from songstarter.stages.device_decoder import DeviceDecoder
from songstarter.stages.sampler import sample_slots
from tests.golden.test_device_decoder import DRAWS, SLOTS, filled, write

EMULATOR = Path(__file__).parents[1] / "emulated_cuda"


@pytest.fixture(scope="session")
def emulated(tmp_path_factory: pytest.TempPathFactory) -> Opener:
    """CUDA's libraries, all of them in one of the host's."""
    compiler = shutil.which("g++")
    assert compiler, "the emulator needs g++"
    library = tmp_path_factory.mktemp("emulated") / "libemulated.so"
    flags = ["-std=c++17", "-O2", "-shared", "-fPIC", f"-I{EMULATOR}", f"-I{FOLDER}"]
    subprocess.run([compiler, *flags, str(EMULATOR / "emulated.cpp"), "-o", str(library)], check=True)
    return lambda name: ctypes.CDLL(str(library))


@pytest.fixture
def decoder_class(emulated: Opener) -> type[DeviceDecoder]:
    class Emulated(DeviceDecoder):
        open_kernels = staticmethod(lambda graph, device: Kernels.of(graph, emulated))

    return Emulated


@pytest.mark.parametrize(("precision", "limit"), [("fp16", 0.01), ("fp16_kv8", 0.1)])
@pytest.mark.parametrize("count", [1, 2, 3, 4, 5])  # of 10 rows the products are cuBLAS's
def test_a_step_of_the_kernels_is_the_graph_s(
    melody_checkpoint: Loaded,
    tmp_path: Path,
    decoder_class: type[DeviceDecoder],
    precision: str,
    limit: float,
    count: int,
) -> None:
    checkpoint = write(melody_checkpoint, precision, tmp_path)  # type: ignore[arg-type]
    ours, graph = decoder_class(tmp_path, checkpoint, slots=SLOTS), DeviceDecoder(tmp_path, checkpoint, slots=SLOTS)
    assert (ours.computed_by, graph.computed_by) == ("decoder.cu", "onnxruntime")
    columns, lengths = filled(ours, melody_checkpoint)
    filled(graph, melody_checkpoint)
    draws = dict(enumerate(DRAWS[:count]))
    for _ in range(4):  # the first is carried out launch by launch, the others from what was captured
        expected = graph.step(columns[:count], lengths[:count])
        found = ours.next_columns(columns, lengths, draws)
        logits = ours.last_logits()[:count]
        assert np.abs(logits - expected).max() < limit * expected.std()
        drawn = sample_slots(logits, draws)
        assert all((found[slot] == drawn[slot]).all() for slot in draws)
        for slot in draws:
            columns[slot] = found[slot]
        lengths[:count] += 1
