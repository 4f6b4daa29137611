"""The exported stage graphs against transformers, each row of a ragged batch against the row alone."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from export.checkpoints import Loaded
from export.checkpoints.tiny import make_codec
from export.codec_decoder import export_codec_decoder
from export.codec_encoder import CodecEncoder, encoded_alone, export_codec_encoder, random_waveforms
from export.exporter import STAGES
from export.melody_encoder import HOP, POINTS, embedded_alone, samples_of
from export.verify import Check, require_agreement, run_graph, table
from songstarter import contract
from songstarter.errors import ExportMismatch
from songstarter.stages.session import Session

SAMPLES = samples_of(235)
BORDERS = {
    contract.TEXT_ENCODER: contract.TEXT_ENCODER_OUTPUTS,
    contract.MELODY_ENCODER: contract.MELODY_ENCODER_OUTPUTS,
    contract.CODEC_ENCODER: contract.CODEC_ENCODER_OUTPUTS,
    contract.CODEC_DECODER: contract.CODEC_DECODER_OUTPUTS,
}


@pytest.fixture(scope="session")
def graphs(melody_checkpoint: Loaded, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The stage graphs of the tiny stereo-melody checkpoint, by model; their own checks have passed."""
    folder = tmp_path_factory.mktemp("stages")
    for model, write in STAGES.items():
        require_agreement(write(melody_checkpoint, folder / model))
    return {model: folder / model / "model.onnx" for model in STAGES}


def ragged(rows: list[torch.Tensor], width: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Rows padded on the right, and their lengths [row, 1]."""
    padded = [torch.nn.functional.pad(row, (0, width - row.shape[-1])) for row in rows]
    return torch.stack(padded), torch.tensor([[row.shape[-1]] for row in rows])


def test_prompts_are_encoded_as_transformers_does_whatever_they_are_padded_to(
    graphs: dict[str, Path], melody_checkpoint: Loaded
) -> None:
    prompts = ["", "dark synth", "a long prompt with bells, 🎹, drums and a very slow trumpet, 70 bpm"]
    tokenizer, model = melody_checkpoint.tokenizer, melody_checkpoint.model
    batch = tokenizer(prompts, return_tensors="pt", padding="max_length", max_length=80)
    found = run_graph(graphs["text_encoder"], dict(batch))["embeddings"]
    for row, prompt in zip(found, prompts, strict=True):
        tokens = tokenizer(prompt, return_tensors="pt").input_ids
        with torch.no_grad():
            expected = model.enc_to_dec_proj(model.text_encoder(tokens).last_hidden_state)[0]
        torch.testing.assert_close(row[: len(expected)], expected, rtol=0, atol=1e-4)
        assert not row[len(expected) :].any()


def test_audio_is_encoded_the_same_in_company_as_alone(graphs: dict[str, Path], melody_checkpoint: Loaded) -> None:
    lengths = [640 * 30, 640 * 29 + 1, 12_345, 1, 641]
    waveform, samples = random_waveforms(lengths, 640 * 30)
    codes = run_graph(graphs["codec_encoder"], {"waveform": waveform, "samples": samples})["codes"]
    unequal = total = 0
    for row, audio, length in zip(codes, waveform, lengths, strict=True):
        _, expected = encoded_alone(melody_checkpoint.codec, audio[:length])
        assert expected.shape[1] == -(-length // 640)
        unequal += (row[:, : expected.shape[1]] != expected).sum().item()
        total += expected.numel()
        assert not row[:, expected.shape[1] :].any()
    assert unequal <= total / 1000


# Around every layer's reflection: 3 samples, then steps of 4, 16, 80 and 640.
SHORT = [*range(1, 20), 31, 32, 33, 79, 80, 81, 159, 161, 639, 640, 641, 1279, 1281, 5_000]


@pytest.mark.parametrize("mode", ["reflect", "constant"])
def test_even_the_shortest_openings_are_encoded_as_the_original_does(mode: str) -> None:
    with torch.random.fork_rng(), torch.no_grad():
        torch.manual_seed(2)
        codec = make_codec(filters=4, latent=16)
    for module in codec.modules():
        if hasattr(module, "pad_mode"):
            module.pad_mode = mode
    waveform, samples = random_waveforms(SHORT, 6_400)
    with torch.no_grad():
        embeddings, frames = CodecEncoder(codec).embed(waveform, samples)
    for row, count, audio, length in zip(embeddings, frames[:, 0], waveform, SHORT, strict=True):
        expected, _ = encoded_alone(codec, audio[:length])
        torch.testing.assert_close(row[:, :count], expected, rtol=0, atol=1e-4)


def test_what_follows_a_row_in_the_batch_is_never_heard(melody_checkpoint: Loaded) -> None:
    encoder = CodecEncoder(melody_checkpoint.codec)
    waveform, samples = random_waveforms([5_001, 12_800], 12_800)
    with torch.no_grad():
        before = encoder(waveform, samples)
        waveform[0, 5_001:] = 1e3
        assert torch.equal(before, encoder(waveform, samples))


def pitch_classes(path: Path, loaded: Loaded, waveforms: list[torch.Tensor]) -> list[list[int]]:
    """Which row of the projection each embedding is: [melody][chroma frame]."""
    waveform, samples = ragged(waveforms, SAMPLES)
    embeddings = run_graph(path, {"waveform": waveform, "samples": samples})["embeddings"]
    projection = loaded.model.audio_enc_to_dec_proj
    with torch.no_grad():
        rows = projection(torch.eye(12))
    distances = (embeddings[:, :, None] - rows).norm(dim=3)
    assert distances.min(dim=2).values.max() < 1e-4
    return distances.argmin(dim=2).tolist()


def tone(hertz: float, seconds: float) -> torch.Tensor:
    return torch.sin(2 * torch.pi * hertz * torch.arange(int(seconds * 32_000)) / 32_000) / 2


def test_a_tone_is_its_pitch_class_and_silence_is_the_first(graphs: dict[str, Path], melody_checkpoint: Loaded) -> None:
    melodies = [tone(440, 10), tone(261.63, 30), tone(880 * 2 ** (1 / 12), 3), torch.zeros(50_000), torch.zeros(1)]
    classes = pitch_classes(graphs["melody_encoder"], melody_checkpoint, melodies)
    assert [set(row) for row in classes] == [{9}, {0}, {10}, {0}, {0}]


def test_a_short_melody_is_repeated_frame_by_frame(graphs: dict[str, Path], melody_checkpoint: Loaded) -> None:
    melody = torch.cat([tone(440, 2), tone(523.25, 2), tone(659.26, 1.5)])
    [classes] = pitch_classes(graphs["melody_encoder"], melody_checkpoint, [melody])
    period = 1 + len(melody) // HOP
    assert classes == [classes[frame % period] for frame in range(235)]
    assert set(classes[:period]) == {9, 0, 4}


def chroma_by_hand(waveform: np.ndarray) -> list[int]:
    """Spec 3.2 once more, in numpy's double precision and with librosa's definition of a pitch class's filter."""
    missing = max(POINTS - len(waveform), 0)
    padded = np.pad(np.pad(waveform, (missing // 2, missing - missing // 2)), POINTS // 2, mode="reflect")
    window = np.sin(np.pi * np.arange(POINTS) / POINTS) ** 2
    starts = range(0, len(padded) - POINTS + 1, HOP)
    power = np.array([np.abs(np.fft.rfft(padded[start : start + POINTS] * window)) ** 2 for start in starts])
    octaves = np.log2(np.arange(1, POINTS) * 32_000 / POINTS / 27.5)
    octaves = np.concatenate([[octaves[0] - 1.5], octaves])
    widths = np.append(np.maximum(np.diff(12 * octaves), 1), 1)
    apart = (12 * octaves - np.arange(12)[:, None] + 6) % 12 - 6
    filters = np.exp(-0.5 * (2 * apart / widths) ** 2)
    filters /= np.sqrt((filters**2).sum(0))
    filters = np.roll(filters * np.exp(-0.5 * ((octaves - 5) / 2) ** 2), -3, axis=0)[:, : POINTS // 2 + 1]
    frames = (power @ filters.T).argmax(1)
    return [int(frames[frame % len(frames)]) for frame in range(235)]


@pytest.mark.parametrize("length", [1_000, POINTS - 1, POINTS, 40_001, 5 * POINTS + 3, 958_000])
def test_noise_has_the_chroma_that_the_formula_says(
    graphs: dict[str, Path], melody_checkpoint: Loaded, length: int
) -> None:
    noise = torch.randn(length, generator=torch.Generator().manual_seed(length))
    [classes] = pitch_classes(graphs["melody_encoder"], melody_checkpoint, [noise])
    expected = chroma_by_hand(noise.double().numpy())
    assert sum(one != other for one, other in zip(classes, expected, strict=True)) == 0
    assert len(set(classes)) > 1


def test_the_melody_s_reference_is_the_library_s_own_null_for_silence(melody_checkpoint: Loaded) -> None:
    one_hot = torch.zeros(1, 1, 12)
    one_hot[..., 0] = 1
    with torch.no_grad():
        expected = melody_checkpoint.model.audio_enc_to_dec_proj(one_hot)[0]
    torch.testing.assert_close(embedded_alone(melody_checkpoint, torch.zeros(1)), expected.expand(235, -1))


@pytest.mark.parametrize("model", list(STAGES))
def test_graphs_leave_open_exactly_what_the_contract_leaves_open(graphs: dict[str, Path], model: str) -> None:
    """Triton's own backend refuses a graph that is more exact than its config.pbtxt."""
    import onnxruntime

    session = onnxruntime.InferenceSession(graphs[model], providers=["CPUExecutionProvider"])
    shapes = {output.name: output.shape for output in session.get_outputs()}
    for tensor in BORDERS[model]:
        open_sizes = [isinstance(size, str) for size in shapes[tensor.name]]
        assert open_sizes == [True, *(size < 0 for size in tensor.dims)]


def test_a_graph_that_disagrees_is_named() -> None:
    good, bad = Check("melody_encoder", "embeddings", 0.0, 1e-4), Check("decoder", "logits", 0.25, 1e-4)
    with pytest.raises(ExportMismatch, match=r"^decoder: logits differs from its torch module by 2\.5e-01"):
        require_agreement([good, bad])
    assert table([good, bad]).splitlines()[2].endswith("FAILED")
    with pytest.raises(ExportMismatch):
        require_agreement([Check("decoder", "logits", float("nan"), 1e-4)])


@pytest.mark.slow
def test_the_codec_at_its_true_size_is_encodec(tmp_path: Path) -> None:
    """Filters 64, latent 128, an LSTM of 1024: the sizes of ``facebook/encodec_32khz``, with random weights."""
    with torch.random.fork_rng(), torch.no_grad():
        torch.manual_seed(0)
        codec = make_codec(filters=64, latent=128)
    halves = [sum(weight.numel() for weight in half.parameters()) for half in (codec.encoder, codec.decoder)]
    assert halves == [28_441_984, 28_442_690]
    require_agreement(export_codec_decoder(codec, tmp_path / "decoder"))
    require_agreement(export_codec_encoder(codec, tmp_path / "encoder"))
    assert Session(tmp_path / "decoder" / "model.onnx").inputs == (
        "codes",
        "frames",
        "kept",
        "memory",
    )
