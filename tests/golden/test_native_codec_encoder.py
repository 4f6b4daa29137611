"""The codec's encoder in C beside the ONNX graph it stands for, on the same weights."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import EncodecModel

from export.checkpoints.tiny import make_codec
from export.codec_encoder import encoded_alone, export_codec_encoder
from songstarter.array import Array
from songstarter.stages.graph_weights import Weights
from songstarter.stages.native import processor
from songstarter.stages.native.codec_encoder_layout import CodecEncoderLayout
from songstarter.stages.native.compile import CODEC_ENCODER, InstructionSet
from songstarter.stages.native.processor import instruction_set, usable_instruction_sets
from songstarter.stages.native_codec_encoder import MOST_ROWS, NativeCodecEncoder, open_twin
from songstarter.stages.session import Session

pytestmark = pytest.mark.skipif(
    instruction_set(CODEC_ENCODER) is None, reason="not compiled, or made for other processors"
)

EVERY_SET = pytest.mark.parametrize("instructions", usable_instruction_sets(CODEC_ENCODER), ids=lambda one: one.name)
HOP = 640
UNEQUAL = 2e-3  # of codes: of two entries nearly as near, rounding may choose the other one


def made(tmp_path_factory: pytest.TempPathFactory, filters: int, latent: int) -> tuple[Any, Path]:
    with torch.random.fork_rng(), torch.no_grad():
        torch.manual_seed(3)
        codec = make_codec(filters=filters, latent=latent)
    folder = tmp_path_factory.mktemp("codec")
    export_codec_encoder(codec, folder)
    return codec, folder / "model.onnx"


@pytest.fixture(scope="module", params=[(4, 16), (16, 64)], ids=["narrow", "whole-vectors"])
def exported(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, Path]:
    return made(tmp_path_factory, *request.param)


def layout_of(graph: Path) -> CodecEncoderLayout:
    weights = Weights.of(graph)
    assert weights is not None
    layout = CodecEncoderLayout.of(weights)
    assert layout is not None
    return layout


def call_of(lengths: list[int]) -> dict[str, Array]:
    """Noise of these lengths, silence behind it."""
    width = -(-max(lengths) // HOP) * HOP
    samples = np.array(lengths)[:, None]
    noise = np.random.default_rng(sum(lengths)).standard_normal((len(lengths), width)).astype(np.float32) * 0.1
    return {"waveform": noise * (np.arange(width) < samples), "samples": samples}


@EVERY_SET
@pytest.mark.parametrize(
    "lengths",
    [
        [1],
        [2, 3, 7, 31, 320, HOP - 1],
        [HOP],
        [HOP + 1, 13 * HOP, 14 * HOP, 15 * HOP + 3, 16 * HOP - 1],  # around what is computed together
        [14 * HOP + 1, 14 * HOP + 100, 14 * HOP + 183, 14 * HOP + 184, 28 * HOP + 1, 28 * HOP + 330],  # and little more
        [50 * HOP],
        [29 * HOP + 17 * row for row in range(MOST_ROWS + 3)],
    ],
    ids=str,
)
def test_it_computes_the_graph(exported: Any, instructions: InstructionSet, lengths: list[int]) -> None:
    codec, graph = exported
    call = call_of(lengths)
    found = NativeCodecEncoder(layout_of(graph), instructions).run(call)["codes"]
    assert (found != Session(graph).run(call)["codes"]).mean() <= UNEQUAL
    for row, length in enumerate(lengths):
        _, codes = encoded_alone(codec, torch.from_numpy(call["waveform"][row, :length]))
        assert (found[row, :, : codes.shape[1]] != codes.numpy()).mean() <= UNEQUAL
        assert not found[row, :, codes.shape[1] :].any()


@EVERY_SET
def test_a_row_keeps_its_codes_in_company_and_before_whatever_follows_it(exported: Any, instructions: Any) -> None:
    native = NativeCodecEncoder(layout_of(exported[1]), instructions)
    call = call_of([700, 31 * HOP, 5 * HOP + 1, 31 * HOP - 5])
    together = native.run(call)["codes"]
    for row, length in enumerate(call["samples"][:, 0]):
        disturbed = call["waveform"][row : row + 1].copy()
        disturbed[0, length:] = np.nan
        alone = native.run({"waveform": disturbed, "samples": call["samples"][row : row + 1]})["codes"][0]
        assert np.array_equal(alone[:, : -(-length // HOP)], together[row, :, : -(-length // HOP)])


@EVERY_SET
def test_what_is_no_number_stays_in_its_row(exported: Any, instructions: InstructionSet) -> None:
    native = NativeCodecEncoder(layout_of(exported[1]), instructions)
    call = call_of([20 * HOP] * 3)
    sound = native.run(call)["codes"]
    call["waveform"][1] = np.nan
    for _ in range(2):  # and not in the buffers that the next call works on
        found = native.run(call)["codes"]
        assert np.array_equal(found[[0, 2]], sound[[0, 2]])


def test_instruction_sets_without_tiles_give_the_same_codes(exported: Any) -> None:
    call = call_of([40 * HOP, 33 * HOP])
    usable = [one for one in usable_instruction_sets(CODEC_ENCODER) if "amx_bf16" not in one.needs]
    first, *others = [NativeCodecEncoder(layout_of(exported[1]), one).run(call)["codes"] for one in usable]
    assert all(np.array_equal(first, other) for other in others)


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"waveform": np.zeros((2, 0), np.float32)}, "waveforms are of 0 samples"),
        ({"samples": np.array([[5]])}, "samples are of 1 rows, waveforms of 2"),
        ({"samples": np.array([[5], [0]])}, "samples leave 1 to 1280"),
        ({"samples": np.array([[5], [1281]])}, "samples leave 1 to 1280"),
    ],
)
def test_what_the_graph_has_no_place_for_is_refused(exported: Any, change: dict[str, Array], sentence: str) -> None:
    native = open_twin(exported[1])
    assert native is not None
    call = call_of([1280, 700])
    with pytest.raises(ValueError, match=sentence):
        native.run(call | change)
    assert native.run(call)["codes"].any()


@pytest.mark.parametrize(
    "other", [{"num_residual_layers": 2}, {"use_conv_shortcut": True}, {"kernel_size": 5}, {"num_filters": 3}], ids=str
)
def test_other_codecs_run_their_graph(other: dict[str, Any], tmp_path: Path) -> None:
    with torch.random.fork_rng(), torch.no_grad():
        torch.manual_seed(0)
        codec = make_codec(filters=4, latent=16)
        config = codec.config
        for name, value in other.items():
            setattr(config, name, value)
        codec = type(codec)(config).eval()
    export_codec_encoder(codec, tmp_path)
    assert open_twin(tmp_path / "model.onnx") is None


def test_other_processors_run_the_graph_and_the_log_says_so(
    exported: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    assert open_twin(exported[1]) is not None
    (tmp_path / "cpuinfo").write_text("flags\t: fpu sse2\n")
    monkeypatch.setattr(processor, "CPU_FACTS", tmp_path / "cpuinfo")
    assert open_twin(exported[1]) is None
    lines = [json.loads(line) for line in capfd.readouterr().out.splitlines()]
    assert [line["event"] for line in lines] == [CODEC_ENCODER, CODEC_ENCODER]
    assert lines[0]["computed_by"].startswith("codec_encoder.c for ")
    assert lines[1]["computed_by"] == "onnxruntime"


@pytest.mark.slow
@EVERY_SET
def test_at_its_true_size(instructions: InstructionSet, tmp_path_factory: pytest.TempPathFactory) -> None:
    """Filters 64, latent 128, an LSTM of 1024: the sizes of ``facebook/encodec_32khz``, with random weights."""
    _, graph = made(tmp_path_factory, 64, 128)
    call = call_of([50 * HOP, 33 * HOP + 100])
    found = NativeCodecEncoder(layout_of(graph), instructions).run(call)["codes"]
    assert (found != Session(graph).run(call)["codes"]).mean() <= UNEQUAL


@pytest.mark.parametrize("ratios", [[16], [7, 16], [2, 3, 2, 2], [2, 16], [4, 1, 4]], ids=str)
def test_other_ratios_give_the_graph_s_codes_or_are_left_to_it(ratios: list[int], tmp_path: Path) -> None:
    with torch.random.fork_rng(), torch.no_grad():
        torch.manual_seed(0)
        config = make_codec(filters=4, latent=16).config
        config.upsampling_ratios = ratios
        config.sampling_rate = 50 * int(np.prod(ratios))
        config.num_filters = 2 * 32 // 2 ** len(ratios)
        codec = EncodecModel(config).eval()
    export_codec_encoder(codec, tmp_path)
    twin = open_twin(tmp_path / "model.onnx")
    assert (twin is None) == (1 in ratios)
    if twin is None:
        return
    hop = config.hop_length
    for length in (1, hop - 1, 14 * hop, *(14 * hop + more for more in range(1, hop + 1, 5)), 43 * hop + 1):
        width = -(-length // hop) * hop
        noise = np.random.default_rng(length).standard_normal((1, width)).astype(np.float32)
        call = {"waveform": noise * (np.arange(width) < length), "samples": np.array([[length]])}
        assert (twin.run(call)["codes"] != Session(tmp_path / "model.onnx").run(call)["codes"]).mean() <= UNEQUAL
