"""The soak in small: `python -m benchmarks.soak` as anybody starts it."""

from __future__ import annotations

import json
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

from benchmarks.soak.ledger import Ledger

ROOT = Path(__file__).parents[2]


@pytest.mark.triton
@pytest.mark.slow
def test_a_short_soak_accounts_for_every_request(embedded_repository: Path, tmp_path: Path) -> None:
    file = tmp_path / "soak.json"
    options = ["--minutes=0.3", "--requests=10000", "--workers=6", "--longest=4", "--rest=1", f"--json={file}"]
    command = [sys.executable, "-m", "benchmarks.soak", f"--repository={embedded_repository}", *options]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    found = json.loads(done.stdout.splitlines()[-1])
    assert found == json.loads(file.read_text())
    requests = found["requests"]
    assert requests["answered"] + requests["refused"] + requests["cancelled"] == requests["sent"] > 10
    assert (found["processes_died"], found["left_under_way"], found["changed_afterwards"]) == (False, {}, [])
    assert "total" in found["memory"]["slope_mib_per_hour"]
    before, after = found["memory"]["mib_at_rest"]["decoder"]
    assert 0 < before <= after + 50
    assert done.returncode == 0


@pytest.mark.parametrize("end", ["wrong", "failed", "lost"])
def test_one_bad_end_among_good_ones_is_not_well(end: str) -> None:
    said: list[str] = []
    ledger = Ledger(tell=said.append)
    for kind, how in (("short", "answered"), ("bad", "refused"), ("long", "cancelled")):
        ledger.note_sent(kind)
        ledger.note(kind, how)
    assert ledger.well
    ledger.note_sent("short")
    assert ledger.unaccounted == 1
    assert not ledger.well
    ledger.note("short", end, remark="short 3: what happened")
    assert ledger.unaccounted == 0
    assert not ledger.well
    assert said == [f"{end}: short 3: what happened"]
    assert ledger.document()["by_kind"]["short"] == Counter({"answered": 1, end: 1})
