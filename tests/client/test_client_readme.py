"""The code of the client's README, run as it stands but for the server's addresses."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from triton_for_client import Addresses

README = (Path(__file__).parents[2] / "client" / "README.md").read_text()

pytestmark = pytest.mark.triton


def blocks(language: str) -> list[str]:
    found = re.findall(rf"^```{language}\n(.*?)^```", README, re.MULTILINE | re.DOTALL)
    assert found, f"client/README.md holds no {language} block"
    return found


def at_hand(code: str, triton: Addresses) -> str:
    return code.replace("http://127.0.0.1:8000", triton.http).replace("127.0.0.1:8001", triton.grpc)


@pytest.mark.parametrize("code", blocks("python"))
def test_its_python_runs(code: str, triton: Addresses, tmp_path: Path) -> None:
    (tmp_path / "melody.wav").write_bytes(b"a melody")
    command = [sys.executable, "-c", at_hand(code, triton)]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=30, check=False)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize("line", [line for block in blocks("sh") for line in block.splitlines()])
def test_its_commands_run(line: str, triton: Addresses, tmp_path: Path) -> None:
    (tmp_path / "melody.wav").write_bytes(b"a melody")
    program, *arguments = shlex.split(at_hand(line, triton))
    assert program == "songstarter"
    address = [] if "--url" in arguments else ["--url", triton.grpc]
    command = [sys.executable, "-m", "songstarter.cli", *arguments, *address]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=30, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert list((tmp_path / "songs").iterdir())
