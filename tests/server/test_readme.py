"""The README's own commands, run as they stand (but for the port) against a running server."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from songstarter.server.server import Server

pytestmark = pytest.mark.triton

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text()
BLOCK = re.compile(r"(<!-- not run: .+? -->\n)?```(bash|python)\n(.*?)```", re.DOTALL)
# These start servers of their own; the demo has a test to itself.
MAKE_TARGETS = {"make demo", "make serve"}

BLOCKS = [(language, code.strip()) for excuse, language, code in BLOCK.findall(README) if not excuse]


def test_the_readme_shows_every_way_in() -> None:
    code = "\n".join(code for _, code in BLOCKS)
    assert len(BLOCKS) >= 5
    assert all(word in code for word in ("make demo", "make serve", "songstarter generate", "curl", "Client("))


def test_make_knows_the_targets_that_the_readme_names() -> None:
    for target in re.findall(r"`?make ([a-z-]+)", README):
        subprocess.run(["make", "--dry-run", target], cwd=ROOT, check=True, capture_output=True)


@pytest.mark.parametrize(("language", "code"), [block for block in BLOCKS if block[1] not in MAKE_TARGETS])
def test_a_block_runs(songs: Server, tmp_path: Path, language: str, code: str) -> None:
    ports = {"127.0.0.1:8000": f"127.0.0.1:{songs.ports.http}", "127.0.0.1:8001": songs.grpc_url}
    for published, running in ports.items():
        code = code.replace(published, running)
    if "songstarter generate" in code:
        code += f" --url {songs.grpc_url}"
    command = {"bash": ["bash", "-euc", code], "python": [sys.executable, "-c", code]}[language]
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    done = subprocess.run(
        command, cwd=tmp_path, env=os.environ | {"PATH": path}, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    saved = list(tmp_path.glob("out/*"))
    assert saved or '"output"' in done.stdout


def test_every_file_of_the_map_is_there() -> None:
    table = README[README.index("## Map") :]
    named = [
        name for row in re.findall(r"^\| (`.+?) \|", table, re.MULTILINE) for name in re.findall(r"`([^`]+)`", row)
    ]
    folder = Path("songstarter")
    assert len(named) > 15
    for name in named:
        assert (ROOT / name).exists() or (ROOT / folder / name).exists(), name


def test_the_readme_stays_short() -> None:
    assert len(README.splitlines()) < 200
