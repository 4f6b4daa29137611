"""`songstarter generate` as a shell sees it: exit codes, stdout, stderr, files."""

from __future__ import annotations

import argparse
import json
import os
import pty
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from triton_for_client import Addresses, free_port, received

from songstarter import contract
from songstarter_client import cli

COMMAND = (sys.executable, "-m", "songstarter.cli", "generate")


def generate(*arguments: str, folder: Path) -> subprocess.CompletedProcess[str]:
    command = [*COMMAND, *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=30, cwd=folder, check=False)


def parser() -> argparse.ArgumentParser:
    made = argparse.ArgumentParser()
    cli.configure(made)
    return made


@pytest.mark.triton
def test_the_paths_of_the_files_are_all_that_stdout_gets(url: str, tmp_path: Path) -> None:
    done = generate("dark synth", "--seed", "5", "--num-outputs", "2", "-o", "songs", "--url", url, folder=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.splitlines() == ["songs/dark-synth-5-1.wav", "songs/dark-synth-5-2.wav"]
    assert all((tmp_path / line).read_bytes().startswith(b"RIFF") for line in done.stdout.splitlines())


@pytest.mark.triton
def test_every_flag_reaches_the_server(triton: Addresses, tmp_path: Path) -> None:
    (tmp_path / "melody.wav").write_bytes(b"a melody")
    given = {
        "input_audio": "melody.wav",
        "duration": 4.5,
        "continuation": True,
        "continuation_start": 1.0,
        "continuation_end": -1.0,
        "normalization_strategy": "rms",
        "top_k": 0,
        "top_p": 0.5,
        "temperature": 0.0,
        "classifier_free_guidance": 2.0,
        "output_format": "mp3",
        "seed": 0,
        "num_outputs": 1,
    }
    flags = [text for name, value in given.items() for text in as_flag(name, value)]
    done = generate("p", *flags, "--json", "--quiet", "--url", triton.grpc, folder=tmp_path)
    document = json.loads(done.stdout)
    assert document["request"] == {"prompt": "p", **given}
    assert given.keys() == {field.name for field in contract.FIELDS} - {"prompt", "output_encoding"}
    arrived = received((tmp_path / document["files"][0]).read_bytes())["inputs"]
    sent = {"prompt": "p", "output_encoding": "raw", **given, "input_audio": "a melody"}
    assert {name: value for name, (_, _, value) in arrived.items()} == sent


def as_flag(name: str, value: object) -> list[str]:
    flag = "--" + name.replace("_", "-")
    return [flag] if value is True else [flag, str(value)]


@pytest.mark.triton
def test_json_is_one_document_for_scripts(url: str, tmp_path: Path) -> None:
    done = generate("p", "--num-outputs", "2", "--json", "-o", "out", "--url", url, folder=tmp_path)
    document = json.loads(done.stdout)
    assert document.pop("elapsed_seconds") > 0
    assert document == {
        "files": ["out/p-7-1.wav", "out/p-7-2.wav"],
        "format": "wav",
        "seed": 7,
        "sample_rate": 32000,
        "request": {"prompt": "p", "num_outputs": 2},
    }


@pytest.mark.triton
@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["p", "--duration", "-1"], 2, "duration: found -1.0, allowed is above 0 up to 30"),
        (["busy"], 3, "the service is full: 16 takes are being made, 64 wait"),
        (["slow", "--timeout", "0.3"], 4, "{address} gave no answer within 0.3 s"),
        (["broken"], 1, "variation 1 could not be finished"),
    ],
)
def test_each_failure_has_its_exit_code_and_one_sentence(
    triton: Addresses, tmp_path: Path, arguments: list[str], code: int, message: str
) -> None:
    done = generate(*arguments, "--url", triton.grpc, folder=tmp_path)
    address = triton.grpc.removeprefix("grpc://")
    assert (done.returncode, done.stdout) == (code, "")
    assert done.stderr == f"songstarter: {message.format(address=address)}\n"
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["p", "--url", "127.0.0.1:{port}"], 3, "no server answers at 127.0.0.1:{port}; start one with"),
        (["p", "--url", "http://127.0.0.1:{port}"], 3, "no server answers at 127.0.0.1:{port}; start one with"),
        (["p", "--url", "smb://x"], 2, "url: found 'smb://x', allowed is grpc or http or grpcs or https as protocol"),
        (["p", "--input-audio", "none.wav"], 2, "input_audio: found 'none.wav' (No such file or directory)"),
        (["p", "--seed", "many"], 2, "argument --seed: invalid int value: 'many'"),
        (["p", "--output-format", "ogg"], 2, "argument --output-format: invalid choice: 'ogg'"),
        (["p", "-o", "occupied"], 1, "occupied"),
        ([], 2, "the following arguments are required: PROMPT"),
    ],
)
def test_what_fails_without_a_server_has_its_exit_code(
    tmp_path: Path, arguments: list[str], code: int, words: str
) -> None:
    (tmp_path / "occupied").write_text("a file where a folder should be")
    port = free_port()
    done = generate(*(argument.format(port=port) for argument in arguments), folder=tmp_path)
    assert (done.returncode, done.stdout) == (code, "")
    assert words.format(port=port) in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.triton
@pytest.mark.parametrize("protocol", ["grpc", "http"])
def test_ctrl_c_ends_quietly_and_leaves_nothing(triton: Addresses, tmp_path: Path, protocol: str) -> None:
    command = [*COMMAND, "slow", "--url", getattr(triton, protocol)]
    terminal, theirs = pty.openpty()
    waiting = subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.PIPE, stderr=theirs)
    os.close(theirs)
    seen = b""
    while b" 0.5 s" not in seen:
        seen += os.read(terminal, 4096)
    waiting.send_signal(signal.SIGINT)
    stdout, _ = waiting.communicate(timeout=5)
    seen += os.read(terminal, 4096)
    os.close(terminal)
    assert (waiting.returncode, stdout) == (130, b"")
    assert seen.endswith(b"\x1b[K")  # the live line is wiped, and nothing follows it
    assert list(tmp_path.iterdir()) == []


@pytest.mark.triton
@pytest.mark.parametrize(("flags", "shown"), [([], True), (["--quiet"], False)])
def test_a_terminal_sees_the_seconds_pass_unless_told_not_to(
    triton: Addresses, tmp_path: Path, flags: list[str], shown: bool
) -> None:
    terminal, theirs = pty.openpty()
    command = [*COMMAND, "slow", "--timeout", "0.5", "--url", triton.grpc, *flags]
    done = subprocess.run(command, cwd=tmp_path, stderr=theirs, stdout=subprocess.PIPE, timeout=30, check=False)
    os.close(theirs)
    seen = os.read(terminal, 4096).decode()
    os.close(terminal)
    assert done.returncode == 4
    assert ("\x1b[Kwaiting for grpc://127.0.0.1" in seen) is shown
    assert seen.splitlines()[-1].rpartition("\x1b[K")[2].startswith("songstarter: ")


def test_help_names_every_field_and_every_exit_code() -> None:
    text = parser().format_help()
    flags = [name for name in (field.name for field in contract.FIELDS) if name not in {"prompt", "output_encoding"}]
    assert all(f"--{name.replace('_', '-')}" in text for name in flags)
    assert all(f"  {code} " in text for code in (0, 1, 2, 3, 4, 130))


def test_building_the_parser_imports_no_tritonclient() -> None:
    script = (
        "import argparse, sys; from songstarter_client import cli; cli.configure(argparse.ArgumentParser());"
        "print([name for name in sys.modules if name.partition('.')[0] in ('tritonclient', 'grpc', 'aiohttp')])"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=30, check=True)
    assert done.stdout == "[]\n"
