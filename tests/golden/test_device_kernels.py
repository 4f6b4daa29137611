"""The kernels of a step on a GPU, run by an emulator of CUDA: the same source, arguments and launches, on the CPU.

The emulator is ours and knows no speed; a GPU's own word is in ``benchmarks.gpu``. What it shows is that the kernels
compute what the ONNX graph of the same weights does, and that every launch and address is right.
"""

from __future__ import annotations

import ctypes
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from benchmarks import gpu_blocks
from export.checkpoints import Loaded
from songstarter.errors import DeviceError
from songstarter.stages.buckets import open_kernels
from songstarter.stages.cuda import chain, layout
from songstarter.stages.cuda.compiler import CAPABILITIES, FOLDER, compile_kernels
from songstarter.stages.cuda.libraries import Opener, open_library
from songstarter.stages.decoder import GRAPH
from songstarter.stages.device_decoder import DeviceDecoder
from songstarter.stages.dimensions import HEAD_SIZE
from songstarter.stages.filling import Prefix
from songstarter.stages.sampler import sample_slots
from tests.golden.test_device_decoder import DRAWS, SLOTS, fill, filled, prefix_of, write

NO_COLUMNS = np.zeros((8, 0), np.int64)


@pytest.fixture
def decoder_class(emulated: Opener) -> type[DeviceDecoder]:
    class Emulated(DeviceDecoder):
        kernels_on = staticmethod(lambda device, *where: open_kernels(*where, emulated))

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


def test_logits_that_are_no_numbers_end_their_own_take(
    melody_checkpoint: Loaded, tmp_path: Path, decoder_class: type[DeviceDecoder]
) -> None:
    stage = decoder_class(tmp_path, write(melody_checkpoint, "fp16", tmp_path), slots=3)
    prefix = prefix_of(melody_checkpoint, 0)
    poisoned = Prefix(np.where(np.arange(len(prefix.guided))[:, None] == 3, np.nan, prefix.guided), prefix.null)
    columns = np.random.default_rng(1).integers(0, 2048, (3, melody_checkpoint.codebooks))
    lengths = np.stack([fill(stage, slot, one, NO_COLUMNS) for slot, one in enumerate([prefix, poisoned, prefix])])
    draws = dict.fromkeys(range(3), DRAWS[1])
    found = stage.next_columns(columns, lengths, draws)
    expected = sample_slots(stage.last_logits(), draws)
    assert found[1] is None
    assert expected[1] is None
    assert all((found[slot] == expected[slot]).all() for slot in (0, 2))


def test_a_song_s_columns_are_the_same_at_any_place_among_as_many(
    melody_checkpoint: Loaded, tmp_path: Path, decoder_class: type[DeviceDecoder]
) -> None:
    stage = decoder_class(tmp_path, write(melody_checkpoint, "fp16_kv8", tmp_path), slots=4)
    columns, lengths = np.full((4, melody_checkpoint.codebooks), 7), np.zeros((4, 2), np.int64)
    for slot, seed in enumerate([5, 6, 5, 7]):
        lengths[slot] = fill(stage, slot, prefix_of(melody_checkpoint, seed), NO_COLUMNS)
    draws = {0: DRAWS[1], 1: DRAWS[0], 2: DRAWS[1], 3: DRAWS[2]}
    for _ in range(3):
        found = stage.next_columns(columns, lengths, draws)
        logits = stage.last_logits()
        assert (logits[0] == logits[2]).all()
        assert (found[0] == found[2]).all()
        columns, lengths = np.stack([found[slot] for slot in range(4)]), lengths + 1


def test_without_a_library_the_graph_plays_and_says_why(melody_checkpoint: Loaded, tmp_path: Path) -> None:
    class WithoutCuda(DeviceDecoder):
        kernels_on = staticmethod(lambda device, *where: open_kernels(*where))

    stage = WithoutCuda(tmp_path, write(melody_checkpoint, "fp16", tmp_path), slots=SLOTS)
    assert stage.computed_by.startswith("onnxruntime, because libcuda.so.1 cannot be opened (")
    columns, lengths = filled(stage, melody_checkpoint)
    assert stage.next_columns(columns, lengths, {0: DRAWS[0]})[0] is not None


def test_without_memory_for_the_weights_the_graph_plays_and_all_is_given_back(
    melody_checkpoint: Loaded,
    tmp_path: Path,
    decoder_class: type[DeviceDecoder],
    emulated: Opener,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    allocated = emulated("libcuda.so.1").allocated_bytes
    allocated.restype = ctypes.c_size_t
    before = allocated()
    monkeypatch.setenv("EMULATED_DEVICE_BYTES", str(before + (33 << 20)))  # cuBLAS's workspace and little more
    stage = decoder_class(tmp_path, write(melody_checkpoint, "fp16", tmp_path), slots=2)
    assert stage.computed_by == "onnxruntime, because cuMemAlloc_v2 failed on the device with code 2: emulated"
    assert allocated() == before
    monkeypatch.setenv("EMULATED_DEVICE_BYTES", str(before + (1 << 30)))
    stage = decoder_class(tmp_path, write(melody_checkpoint, "fp16", tmp_path), slots=2)
    assert "beside a second copy of the weights only " in stage.computed_by
    assert allocated() == before


def test_no_step_takes_memory(
    melody_checkpoint: Loaded, tmp_path: Path, decoder_class: type[DeviceDecoder], emulated: Opener
) -> None:
    allocated = emulated("libcuda.so.1").allocated_bytes
    allocated.restype = ctypes.c_size_t
    stage = decoder_class(tmp_path, write(melody_checkpoint, "fp16", tmp_path), slots=SLOTS)
    columns, lengths = filled(stage, melody_checkpoint)
    before = allocated()
    for count in (1, 2, 3, 5, 1):
        stage.next_columns(columns, lengths, dict(enumerate(DRAWS[:count])))
    assert allocated() == before


def test_what_cannot_be_captured_is_launched_each_time(
    melody_checkpoint: Loaded, tmp_path: Path, decoder_class: type[DeviceDecoder], monkeypatch: pytest.MonkeyPatch
) -> None:
    stage = decoder_class(tmp_path, write(melody_checkpoint, "fp16", tmp_path), slots=1)
    columns, lengths = filled(stage, melody_checkpoint, slots=1)
    monkeypatch.setenv("EMULATED_CAPTURES", "0")
    found = [stage.next_columns(columns, lengths, {0: DRAWS[1]})[0] for _ in range(3)]
    expected = sample_slots(stage.last_logits(), {0: DRAWS[1]})[0]
    assert all((one == expected).all() for one in found)


def test_sizes_in_the_kernels_source_are_those_of_the_host() -> None:
    source = "".join(path.read_text() for path in FOLDER.glob("*.h"))
    found = dict(re.findall(r"constexpr int (\w+) = ([^;]+);", source))
    assert {name: int(found[name]) for name in ("THREADS", "ATTENDING", "COLUMNS")} == {
        "THREADS": chain.THREADS,
        "ATTENDING": chain.ATTENDING,
        "COLUMNS": layout.COLUMNS,
    }
    assert int(found["HEAD"]) == HEAD_SIZE
    assert int(found["TOKENS"]) == layout.MOST_TOKENS
    assert found["LEFT"] == "HEAD + 2"
    assert chain.LEFT == HEAD_SIZE + 2
    assert (found["DOWN"], found["WARPS"]) == ("THREADS / ACROSS", "THREADS / WARP")
    assert chain.THREADS // int(found["ACROSS"]) == chain.DOWN
    assert chain.THREADS // int(found["WARP"]) == chain.WARPS
    assert 4 * int(found["QUADS"]) * chain.THREADS == layout.WIDEST


def test_a_decoder_that_attends_to_text_is_left_to_its_graph(
    text_checkpoint: Loaded, tmp_path: Path, emulated: Opener
) -> None:
    checkpoint = write(text_checkpoint, "fp16", tmp_path)
    assert open_kernels(tmp_path / GRAPH, checkpoint, SLOTS, emulated) is None


def test_a_decoder_with_heads_of_another_size_is_left_to_its_graph(
    melody_checkpoint: Loaded, tmp_path: Path, emulated: Opener
) -> None:
    checkpoint = write(melody_checkpoint, "fp16", tmp_path)
    assert open_kernels(tmp_path / GRAPH, checkpoint, SLOTS, emulated)
    of_wide_heads = replace(checkpoint, decoder=replace(checkpoint.decoder, heads=1, head_size=128))
    assert open_kernels(tmp_path / GRAPH, of_wide_heads, SLOTS, emulated) is None


@pytest.mark.parametrize("capability", CAPABILITIES)
def test_cuda_s_own_compiler_takes_the_kernels(capability: tuple[int, int]) -> None:
    assert compile_kernels(open_library, capability).startswith(b"\x7fELF")


def test_what_the_compiler_refuses_is_told() -> None:
    with pytest.raises(DeviceError, match=r"decoder\.cu cannot be compiled .* capability 1\.0: .*architecture"):
        compile_kernels(open_library, (1, 0))


@pytest.mark.slow
def test_sizes_of_blocks_can_be_compared(emulated: Opener, capsys: pytest.CaptureFixture[str]) -> None:
    gpu_blocks.main(["--size", "tiny", "--layers", "1", "--songs", "1", "--context", "20", "--steps", "1"], emulated)
    lines = capsys.readouterr().out.splitlines()
    assert [line.split("  ")[0] for line in lines] == [
        "as it is",
        *(f"{name} {value}" for name, values in gpu_blocks.CHANGES for value in values),
        "as it is",
    ]
    assert all(float(line.split(": ")[1]) > 0 for line in lines)
