"""The exporter: whole or not at all, and described by its manifest."""

from __future__ import annotations

import hashlib
import shutil
from contextlib import nullcontext
from pathlib import Path

import pytest
from audiocraft_folder import write_audiocraft
from tokenizers import Tokenizer

from export import exporter
from export.checkpoints import Loaded, save
from export.exporter import Export, export
from export.repository import SKELETON
from export.verify import Check
from songstarter.checkpoint import Checkpoint, Precision
from songstarter.cli import main
from songstarter.digests import require_unaltered
from songstarter.errors import CheckpointError, ExportMismatch
from songstarter.stages.opening import open_decoder


def quiet(name: str) -> nullcontext[None]:
    return nullcontext()


@pytest.fixture
def repository(embedded_repository: Path, tmp_path: Path) -> Path:
    """A copy of the embedded checkpoint's export, to be changed at will."""
    return shutil.copytree(embedded_repository, tmp_path / "repository")


@pytest.fixture
def text_folder(text_checkpoint: Loaded, tmp_path: Path) -> Path:
    save(text_checkpoint, tmp_path / "musicgen-tiny")
    return tmp_path / "musicgen-tiny"


def files_of(repository: Path) -> dict[str, str]:
    """By path, but for what a server's Python leaves there."""
    files = [path for path in repository.rglob("*") if path.is_file() and path.suffix != ".pyc"]
    return {str(path.relative_to(repository)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def test_the_manifest_tells_what_the_runtime_must_know(embedded_repository: Path) -> None:
    checkpoint = Checkpoint.read(embedded_repository)
    assert checkpoint.name == "embedded"
    assert checkpoint.family == "melody"
    assert checkpoint.delays == (0, 0, 1, 1, 2, 2, 3, 3)
    assert (checkpoint.codebooks, checkpoint.vocabulary, checkpoint.special_token) == (8, 512, 512)
    assert (checkpoint.sample_rate, checkpoint.frames_per_second, checkpoint.window_frames) == (32_000, 50, 1_500)
    assert checkpoint.melody is not None
    assert checkpoint.melody.frames == 235
    assert checkpoint.melody.samples == 234 * 4096 + 8192
    assert checkpoint.decoder.positions == 2_000  # 235 + 256 + 1500 + 4, rounded up to eights
    assert checkpoint.decoder.hidden == checkpoint.decoder.heads * checkpoint.decoder.head_size


def test_the_digests_are_those_of_every_graph_and_the_tokenizer(embedded_repository: Path) -> None:
    digests, files = Checkpoint.read(embedded_repository).digests, files_of(embedded_repository)
    assert digests == {file: files[file] for file in digests}
    beside = {file for file in files if not file.endswith(("config.pbtxt", "model.py"))}
    assert set(digests) == beside - {"manifest.json"}
    assert {"decoder/1/decoder.onnx", "songstarter/1/tokenizer.json", "codec_decoder/1/model.onnx"} <= set(digests)


def test_a_repository_elsewhere_gets_configurations_and_code(embedded_repository: Path) -> None:
    for model in Checkpoint.read(embedded_repository).models:
        theirs, ours = embedded_repository / model, SKELETON / model
        assert (theirs / "config.pbtxt").read_text() == (ours / "config.pbtxt").read_text()
        if (ours / "1" / "model.py").exists():
            assert (theirs / "1" / "model.py").read_text() == (ours / "1" / "model.py").read_text()


def test_the_tokenizer_neither_pads_nor_cuts(embedded_repository: Path) -> None:
    tokenizer = Tokenizer.from_file(str(embedded_repository / "songstarter" / "1" / "tokenizer.json"))
    lengths = [len(row.ids) for row in tokenizer.encode_batch(["", "synth" + " synth" * 399])]
    assert lengths == [1, 401]


def test_a_file_that_is_not_what_was_exported_is_found(repository: Path) -> None:
    digests = Checkpoint.read(repository).digests
    require_unaltered(repository, digests)
    graph = repository / "codec_decoder" / "1" / "model.onnx"
    graph.write_bytes(graph.read_bytes()[:-1] + b"?")
    with pytest.raises(CheckpointError, match=r"codec_decoder/1/model.onnx in .* is not the file that was exported"):
        require_unaltered(repository, digests)
    graph.unlink()
    with pytest.raises(CheckpointError, match=r"codec_decoder/1/model.onnx is missing"):
        require_unaltered(repository, digests)


def test_exporting_again_writes_the_same_files_and_leaves_an_operator_s_own_configuration(
    repository: Path, embedded_repository: Path
) -> None:
    own = repository / "codec_decoder" / "config.pbtxt"
    shipped = own.read_text()
    own.write_text(mine := shipped.replace("max_batch_size: 4", "max_batch_size: 2"))
    export(Export("embedded", "int8_kv8"), repository, quiet)
    assert own.read_text() == mine
    own.write_text(shipped)
    assert files_of(repository) == files_of(embedded_repository)


def test_a_configuration_of_another_version_is_not_kept_beside_new_code(repository: Path) -> None:
    own = repository / "codec_decoder" / "config.pbtxt"
    own.write_text(own.read_text().replace('"kept"', '"carried"'))
    before = files_of(repository)
    with pytest.raises(CheckpointError, match=r"differs in carried, kept\): put it aside"):
        export(Export("embedded", "int8_kv8"), repository, quiet)
    assert files_of(repository) == before


def test_another_family_takes_the_place_of_the_first(repository: Path, text_folder: Path) -> None:
    export(Export(str(text_folder)), repository, quiet)
    checkpoint = Checkpoint.read(repository)
    assert checkpoint.name == "musicgen-tiny"
    assert (checkpoint.family, checkpoint.melody, checkpoint.delays) == ("text", None, (0, 1, 2, 3))
    assert checkpoint.decoder.positions == 1_504
    assert "melody_encoder" not in checkpoint.models
    assert not (repository / "melody_encoder" / "1" / "model.onnx").exists()
    assert (repository / "decoder" / "1" / "cross_attention.onnx").exists()


def test_an_audiocraft_folder_is_exported_with_the_parts_that_it_names(
    melody_checkpoint: Loaded, tmp_path: Path
) -> None:
    write_audiocraft(melody_checkpoint, tmp_path / "songstarter", reference=True)
    melody_checkpoint.text_encoder.save_pretrained(tmp_path / "t5")
    melody_checkpoint.tokenizer.save_pretrained(tmp_path / "t5")
    melody_checkpoint.codec.save_pretrained(tmp_path / "encodec")
    wanted = Export(str(tmp_path / "songstarter"), text_encoder=str(tmp_path / "t5"), codec=str(tmp_path / "encodec"))
    checks = export(wanted, tmp_path / "repository", quiet)
    public = {"songstarter", "songstarter_stream"}
    assert {check.graph for check in checks} == set(Checkpoint.read(tmp_path / "repository").models) - public


def test_a_graph_that_disagrees_leaves_the_previous_export_as_it_was(
    repository: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = files_of(repository)
    stages = {"codec_decoder": lambda loaded, folder: [Check("codec_decoder", "waveform", 1.0, 1e-4)]}
    monkeypatch.setattr(exporter, "STAGES", stages)
    with pytest.raises(ExportMismatch, match="codec_decoder: waveform"):
        export(Export("embedded"), repository, quiet)
    assert files_of(repository) == before
    assert list(repository.parent.iterdir()) == [repository]


@pytest.mark.parametrize("precision", ["fp16", "fp16_kv8"])
def test_an_export_for_a_gpu_passes_its_checks_on_the_cpu_and_says_so_in_its_manifest(
    precision: Precision, tmp_path: Path
) -> None:
    checks = export(Export("embedded", precision, "cuda"), tmp_path / "repository", quiet)
    assert all(check.passed for check in checks)
    checkpoint = Checkpoint.read(tmp_path / "repository")
    assert (checkpoint.decoder.device, checkpoint.decoder.precision) == ("cuda", precision)
    memory_graphs = {"decoder/1/zeros.onnx", "decoder/1/copy_row.onnx"}
    assert memory_graphs <= checkpoint.digests.keys()
    with pytest.raises(CheckpointError, match="this onnxruntime cannot use cuda"):
        open_decoder(tmp_path / "repository", checkpoint, slots=1)


def test_an_impossible_form_is_refused_before_anything_is_loaded(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="cannot be exported as fp32 on cuda"):
        export(Export(str(tmp_path / "missing"), "fp32", "cuda"), tmp_path / "repository", quiet)
    with pytest.raises(CheckpointError, match="cannot be exported as fp16_kv8 on cpu"):
        export(Export(str(tmp_path / "missing"), "fp16_kv8", "cpu"), tmp_path / "repository", quiet)


def test_the_command_shows_progress_and_the_table(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["export", "embedded", "--into", str(tmp_path / "repository"), "--precision", "int8"]) == 0
    shown = capsys.readouterr().out
    for graph in ("text_encoder", "melody_encoder", "codec_encoder", "codec_decoder", "decoder"):
        assert shown.count(f"{graph} ") >= 2  # its progress and its check
    assert "max error" in shown
    assert Checkpoint.read(tmp_path / "repository").decoder.precision == "int8"


def test_the_command_says_in_one_sentence_what_is_wrong(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["export", str(tmp_path), "--into", str(tmp_path / "repository")]) == 1
    said = capsys.readouterr().err.strip()
    assert "found neither config.json nor state_dict.bin" in said
    assert "\n" not in said
