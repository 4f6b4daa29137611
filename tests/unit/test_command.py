"""The `songstarter` command dispatches without importing what its other subcommands need."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import replace
from hashlib import sha256
from pathlib import Path

import pytest
from tiny_checkpoint import CHECKPOINT

from export.cli import stands
from songstarter.cli import COMMANDS, main

ROOT = Path(__file__).parents[2]
HEAVY = ("torch", "transformers", "onnx", "onnxruntime", "tritonclient")


def test_help_lists_every_subcommand(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        main(["--help"])
    assert end.value.code == 0
    shown = capsys.readouterr().out
    assert all(command.name in shown for command in COMMANDS)


def test_no_subcommand_is_an_error_of_usage() -> None:
    with pytest.raises(SystemExit) as end:
        main([])
    assert end.value.code == 2


def test_an_error_is_one_sentence_and_exit_code_1(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["serve", f"--repository={tmp_path}"]) == 1
    assert capsys.readouterr().err.count("\n") == 1


@pytest.mark.parametrize("arguments", [["--help"], ["serve", "--help"]])
def test_the_parser_imports_nothing_heavy(arguments: list[str]) -> None:
    probe = f"import sys; from songstarter.cli import main\ntry: main({arguments})\nexcept SystemExit: pass\n"
    probe += f"sys.exit(' '.join(set(sys.modules) & set({HEAVY})))"
    environment = {**os.environ, "PYTHONPATH": f"{ROOT}:{ROOT / 'client'}"}
    ran = subprocess.run([sys.executable, "-c", probe], env=environment, capture_output=True, text=True, check=False)
    assert ran.stderr.strip() == ""


def test_an_export_that_stands_whole_is_left_if_asked(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "graph.onnx").write_bytes(b"graph")
    replace(CHECKPOINT, digests={"graph.onnx": sha256(b"graph").hexdigest()}).write(tmp_path)
    form = CHECKPOINT.decoder.precision, CHECKPOINT.decoder.device
    command = ["export", CHECKPOINT.name, f"--into={tmp_path}", f"--precision={form[0]}", f"--device={form[1]}"]
    assert main([*command, "--if-needed"]) == 0
    assert "nothing to do" in capsys.readouterr().out
    assert stands(tmp_path, CHECKPOINT.name, *form)
    (tmp_path / CHECKPOINT.name).mkdir()
    assert stands(tmp_path, str(tmp_path / CHECKPOINT.name), *form)
    assert not stands(tmp_path, CHECKPOINT.name, "int8", "cuda")
    assert not stands(tmp_path / "elsewhere", CHECKPOINT.name, *form)
    (tmp_path / "graph.onnx").write_bytes(b"hpraG")
    assert not stands(tmp_path, CHECKPOINT.name, *form)


@pytest.mark.parametrize("precision", ["fp32", "int8_kv8"])
def test_an_export_of_another_checkpoint_is_neither_taken_for_this_one_nor_replaced_if_not_needed(
    precision: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    manifest = CHECKPOINT.write(tmp_path).read_text()
    command = ["export", "facebook/musicgen-large", f"--into={tmp_path}", f"--precision={precision}", "--if-needed"]
    assert main(command) == 1
    assert capsys.readouterr() == (
        "",
        f"songstarter: {tmp_path} holds an export of tiny, not of facebook/musicgen-large: name another folder with "
        "--into, or leave --if-needed out to replace it\n",
    )
    assert (tmp_path / "manifest.json").read_text() == manifest


@pytest.mark.parametrize("part", ["--codec", "--text-encoder"])
def test_whether_parts_are_those_that_were_exported_is_not_guessed(
    part: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    CHECKPOINT.write(tmp_path)
    assert main(["export", CHECKPOINT.name, f"--into={tmp_path}", "--if-needed", f"{part}=./other"]) == 1
    assert capsys.readouterr() == (
        "",
        "songstarter: found --if-needed with --text-encoder or --codec, and an export does not say what stood in for "
        "its parts: leave --if-needed out\n",
    )


def test_a_missing_package_is_named_with_its_extra(tmp_path: Path) -> None:
    # a machine without torch: the name leads to a module that says so
    (tmp_path / "torch.py").write_text("raise ModuleNotFoundError('No module named torch', name='torch')")
    (tmp_path / "export").mkdir()
    (tmp_path / "export" / "__init__.py").touch()
    (tmp_path / "export" / "cli.py").write_text("def configure(parser): pass\ndef run(args): import torch\n")
    ran = subprocess.run(
        [sys.executable, "-c", "from songstarter.cli import main; raise SystemExit(main(['export']))"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": f"{tmp_path}:{ROOT}"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert ran.returncode == 1
    assert ran.stderr == "songstarter: export needs torch, not installed here: pip install 'songstarter[export]'\n"


def test_a_command_that_was_left_out_says_so(tmp_path: Path) -> None:
    (tmp_path / "songstarter").symlink_to(ROOT / "songstarter")  # as in the images, which have no benchmarks
    (tmp_path / "client").symlink_to(ROOT / "client")
    probe = "import sys; sys.meta_path[:] = [f for f in sys.meta_path if 'editable' not in repr(f).lower()];"
    probe += f"sys.path[:] = [p for p in sys.path if p not in ('', {str(ROOT)!r})] + [{str(tmp_path)!r}];"
    probe += "from songstarter.cli import main; raise SystemExit(main(['bench']))"
    ran = subprocess.run([sys.executable, "-c", probe], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert (ran.returncode, ran.stderr.count("\n")) == (1, 1)
    assert "bench is not part of this installation" in ran.stderr
