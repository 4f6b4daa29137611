"""The codec's decoder in C beside the ONNX graph it stands for, on the same weights."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from export.checkpoints.tiny import make_codec
from export.codec_decoder import decoded_in_chunks, decoded_whole, export_codec_decoder, random_codes
from songstarter.array import Array
from songstarter.chunks import KEPT, REACH
from songstarter.stages.graph_weights import Weights
from songstarter.stages.native import processor
from songstarter.stages.native.codec_decoder_layout import CodecDecoderLayout
from songstarter.stages.native.compile import CODEC_DECODER, InstructionSet
from songstarter.stages.native.processor import instruction_set, usable_instruction_sets
from songstarter.stages.native_codec_decoder import MOST_ROWS, NativeCodecDecoder, open_twin
from songstarter.stages.session import Session

pytestmark = pytest.mark.skipif(
    instruction_set(CODEC_DECODER) is None, reason="not compiled, or made for other processors"
)

EVERY_SET = pytest.mark.parametrize("instructions", usable_instruction_sets(CODEC_DECODER), ids=lambda one: one.name)
NEAR = 2e-5  # of samples that reach 1: half a step of 16-bit audio


def made(tmp_path_factory: pytest.TempPathFactory, filters: int, latent: int) -> tuple[Any, Path]:
    with torch.random.fork_rng(), torch.no_grad():
        torch.manual_seed(3)
        codec = make_codec(filters=filters, latent=latent)
    folder = tmp_path_factory.mktemp("codec")
    export_codec_decoder(codec, folder)
    return codec, folder / "model.onnx"


@pytest.fixture(scope="module", params=[(4, 16), (16, 64)], ids=["narrow", "whole-vectors"])
def exported(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, Path]:
    return made(tmp_path_factory, *request.param)


def layout_of(graph: Path) -> CodecDecoderLayout:
    weights = Weights.of(graph)
    assert weights is not None
    layout = CodecDecoderLayout.of(weights)
    assert layout is not None
    return layout


def calls_of(layout: CodecDecoderLayout, rows: int, width: int) -> dict[str, Array]:
    """A call whose rows have lengths, kept columns and memory of their own."""
    random = np.random.default_rng(rows * 1000 + width)
    return {
        "codes": random.integers(0, layout.entries, (rows, layout.codebooks, width + 2 * REACH)),
        "frames": np.concatenate([[[width]], random.integers(1, width + 1, (rows - 1, 1))]),
        "kept": random.integers(0, KEPT + 1, (rows, 1)),
        "memory": random.standard_normal((rows, *layout.memory)).astype(np.float32) / 3,
    }


def rows_of(call: Mapping[str, Array], rows: slice) -> dict[str, Array]:
    return {name: array[rows] for name, array in call.items()}


@EVERY_SET
@pytest.mark.parametrize(("rows", "width"), [(1, 1), (2, 2), (3, 28), (5, 10), (MOST_ROWS, 61), (MOST_ROWS + 3, 100)])
def test_it_computes_the_graph(exported: Any, instructions: InstructionSet, rows: int, width: int) -> None:
    graph = exported[1]
    layout = layout_of(graph)
    call = calls_of(layout, rows, width)
    found, expected = NativeCodecDecoder(layout, instructions).run(call), Session(graph).run(call)
    for name, array in expected.items():
        scale = max(1.0, float(np.abs(array).max()))
        np.testing.assert_allclose(found[name], array, rtol=0, atol=NEAR * scale)


@EVERY_SET
def test_a_song_is_the_whole_song_and_no_chunk_changes_a_bit(exported: Any, instructions: InstructionSet) -> None:
    codec, graph = exported
    native = NativeCodecDecoder(layout_of(graph), instructions)
    song = random_codes(codec, 2, 130)
    whole = decoded_in_chunks(native.run, codec, song, [130])
    torch.testing.assert_close(whole, decoded_whole(codec, song), rtol=0, atol=NEAR)
    for chunks in ([1], [13, 2], [7], [29, 30, 31], [64]):
        assert torch.equal(decoded_in_chunks(native.run, codec, song, chunks), whole)


@EVERY_SET
@pytest.mark.parametrize("frames", range(1, 9))
def test_the_shortest_songs_end_as_the_original_ends_them(exported: Any, instructions: Any, frames: int) -> None:
    codec, graph = exported
    native = NativeCodecDecoder(layout_of(graph), instructions)
    song = random_codes(codec, 2, frames)
    found = decoded_in_chunks(native.run, codec, song, [1, 2])
    torch.testing.assert_close(found, decoded_whole(codec, song), rtol=0, atol=NEAR)


@EVERY_SET
def test_a_row_keeps_its_bits_in_company(exported: Any, instructions: InstructionSet) -> None:
    native = NativeCodecDecoder(layout_of(exported[1]), instructions)
    call = calls_of(layout_of(exported[1]), MOST_ROWS + 3, 40)
    together = native.run(call)
    for row in range(MOST_ROWS + 3):
        alone = native.run(rows_of(call, slice(row, row + 1)))
        for name, array in alone.items():
            assert np.array_equal(array[0], together[name][row])


@EVERY_SET
def test_what_is_no_number_stays_in_its_row(exported: Any, instructions: InstructionSet) -> None:
    native = NativeCodecDecoder(layout_of(exported[1]), instructions)
    call = calls_of(layout_of(exported[1]), 4, 30)
    sound = native.run(call)
    call["memory"][1, 0, 0] = np.nan  # of the LSTM's state: it must reach what is checked, the samples
    for _ in range(2):  # and not in the buffers that the next call works on
        found = native.run(call)
        assert np.isnan(found["waveform"][1]).any()
        for name, array in sound.items():
            assert np.array_equal(np.delete(found[name], 1, axis=0), np.delete(array, 1, axis=0))


def test_instruction_sets_without_tiles_give_the_same_bits(exported: Any) -> None:
    layout = layout_of(exported[1])
    call = calls_of(layout, 3, 50)
    usable = [one for one in usable_instruction_sets(CODEC_DECODER) if "amx_bf16" not in one.needs]
    first, *others = [NativeCodecDecoder(layout, one).run(call) for one in usable]
    for other in others:
        for name, array in first.items():
            assert np.array_equal(other[name], array)


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (lambda call: call | {"codes": call["codes"][:, :1]}, r"codes are \[2, 1, 16\], expected"),
        (lambda call: call | {"codes": call["codes"][:, :, : 2 * REACH]}, "codes are"),
        (lambda call: call | {"codes": call["codes"] + 10**6}, "codes leave 0 to"),
        (lambda call: call | {"codes": call["codes"] * 0 - 1}, "codes leave 0 to"),
        (lambda call: call | {"frames": call["frames"] * 0}, "frames leave 1 to 10"),
        (lambda call: call | {"frames": call["frames"] * 0 + 11}, "frames leave 1 to 10"),
        (lambda call: call | {"kept": call["kept"] * 0 + KEPT + 1}, f"kept leaves 0 to {KEPT}"),
        (lambda call: call | {"kept": call["kept"][:1]}, "frames and kept are of 2 and 1 rows"),
        (lambda call: call | {"memory": call["memory"][:, 1:]}, "memory is"),
    ],
)
def test_what_the_graph_has_no_place_for_is_refused(exported: Any, change: Any, sentence: str) -> None:
    native = open_twin(exported[1])
    assert native is not None
    call = calls_of(layout_of(exported[1]), 2, 10)
    with pytest.raises(ValueError, match=sentence):
        native.run(change(call))
    assert native.run(call)["waveform"].any()


@pytest.mark.parametrize(
    "other",
    [{"num_residual_layers": 2}, {"use_conv_shortcut": True}, {"residual_kernel_size": 5}, {"num_filters": 3}],
    ids=str,
)
def test_other_codecs_run_their_graph(other: dict[str, Any], tmp_path: Path) -> None:
    with torch.random.fork_rng(), torch.no_grad():
        torch.manual_seed(0)
        codec = make_codec(filters=4, latent=16)
        config = codec.config
        for name, value in other.items():
            setattr(config, name, value)
        codec = type(codec)(config).eval()
    export_codec_decoder(codec, tmp_path)
    assert open_twin(tmp_path / "model.onnx") is None


def test_other_processors_run_the_graph_and_the_log_says_so(
    exported: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    assert open_twin(exported[1]) is not None
    (tmp_path / "cpuinfo").write_text("flags\t: fpu sse2\n")
    monkeypatch.setattr(processor, "CPU_FACTS", tmp_path / "cpuinfo")
    assert open_twin(exported[1]) is None
    lines = [json.loads(line) for line in capfd.readouterr().out.splitlines()]
    assert [line["event"] for line in lines] == [CODEC_DECODER, CODEC_DECODER]
    assert lines[0]["computed_by"].startswith("codec_decoder.c for ")
    assert lines[1]["computed_by"] == "onnxruntime"


@pytest.mark.slow
@EVERY_SET
def test_at_its_true_size(instructions: InstructionSet, tmp_path_factory: pytest.TempPathFactory) -> None:
    """Filters 64, latent 128, an LSTM of 1024: the sizes of ``facebook/encodec_32khz``, with random weights."""
    codec, graph = made(tmp_path_factory, 64, 128)
    native = NativeCodecDecoder(layout_of(graph), instructions)
    song = random_codes(codec, 2, 120)
    for chunks in ([15, 50], [120]):
        found = decoded_in_chunks(native.run, codec, song, chunks)
        torch.testing.assert_close(found, decoded_whole(codec, song), rtol=0, atol=NEAR)
