"""The fuzz run in small: `python -m benchmarks.fuzz` as anybody starts it."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.mark.triton
@pytest.mark.slow
def test_hundreds_of_broken_requests_break_nothing(embedded_repository: Path, tmp_path: Path) -> None:
    command = [
        sys.executable,
        "-m",
        "benchmarks.fuzz",
        "--requests=400",
        "--seed=1",
        f"--json={tmp_path / 'fuzz.json'}",
    ]
    done = subprocess.run(
        [*command, f"--repository={embedded_repository}"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    found = json.loads(done.stdout.splitlines()[-1])
    assert found == json.loads((tmp_path / "fuzz.json").read_text())
    harm = {name: found[name] for name in ("crash", "before_the_crash", "hung_requests", "good_requests_failed")}
    assert (found["requests"], found["crashes"], found["hangs"]) == (400, 0, 0), harm
    assert found["good_requests_failed"] == []
    assert found["good_requests"] == 5
    assert done.returncode == 0
