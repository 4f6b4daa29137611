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
    command = ["export", "no/checkpoint", f"--into={tmp_path}", f"--precision={form[0]}", f"--device={form[1]}"]
    assert main([*command, "--if-needed"]) == 0
    assert "nothing to do" in capsys.readouterr().out
    assert stands(tmp_path, *form)
    assert not stands(tmp_path, "int8", "cuda")
    assert not stands(tmp_path / "elsewhere", *form)
    (tmp_path / "graph.onnx").write_bytes(b"hpraG")
    assert not stands(tmp_path, *form)


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
