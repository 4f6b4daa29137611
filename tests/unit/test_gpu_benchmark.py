"""The GPU benchmark on the CPU: its verdicts by hand, what it does about failures, and a whole run at a tiny size."""

from __future__ import annotations

import json
import time
from pathlib import Path

import pytest

from benchmarks.gpu import main
from benchmarks.gpu_findings import Findings, verdicts
from benchmarks.gpu_parity import Parity
from benchmarks.gpu_process import Budget, SideFailed, run_side
from benchmarks.measurements import Measurements
from benchmarks.quality import Quality
from benchmarks.report import Case, Question
from benchmarks.roofline import Traffic
from benchmarks.timing import Step


def quality(greedy_equal: float = 1.0) -> Quality:
    return Quality(0.0, greedy_equal, 0.0, greedy_equal)


@pytest.mark.parametrize(
    ("error", "greedy", "drawn", "holds"),
    [
        (0.04, 0.99, 1.0, True),
        (0.06, 0.99, 1.0, False),
        (float("nan"), 0.99, 1.0, False),
        (0.04, 0.97, 1.0, False),
        (0.04, 0.99, 0.99, False),
    ],
)
def test_parity_holds_when_logits_greedy_and_drawn_tokens_all_agree(
    error: float, greedy: float, drawn: float, holds: bool
) -> None:
    parity = Parity("check", "fp16", 3, "decoder.cu", True, error, quality(greedy), drawn)
    assert parity.holds is holds
    assert str(parity).startswith("parity holds" if holds else "parity DOES NOT HOLD")


def case(songs: int, milliseconds: float, peer: float | None) -> Case:
    measurements = Measurements()
    bandwidth = {247: 1e12, 650: 1e12}
    step = [Step(milliseconds / 1e3, milliseconds / 1e3)]
    measurements.add_ours(songs, "fp16", {247: step, 650: step}, bandwidth)
    if peer:
        measurements.add_peer(songs, "sdpa", {247: [peer / 1e3], 650: [peer / 1e3]})
    return measurements.case(Question(songs, "fp16", 8), Traffic(1, 1), None)


def test_a_case_is_held_to_the_aims_of_the_project() -> None:
    # 403 steps make 8 s: at 2 ms a step 9.9 times real time, at 1.5 ms 13.2, at 3 ms 6.6.
    assert [line.split(":")[0] for line in verdicts([case(1, 2, 30), case(1, 1.5, 30), case(1, 3, 40)])] == [
        "above the least",
        "reached",
        "MISSED",
    ]
    assert verdicts([case(4, 2, 19)]) == ["MISSED: 4 songs, fp16: 9.5 times transformers"]
    assert verdicts([case(4, 2, None)]) == []


def test_a_part_that_fails_is_a_line_and_not_the_end() -> None:
    findings = Findings()

    def fail() -> None:
        raise RuntimeError("out of memory\nand much more")

    findings.attempt("transformers sdpa at 64 songs", fail)
    findings.attempt("something else", lambda: None)
    assert findings.failures == ["transformers sdpa at 64 songs: RuntimeError: out of memory\nand much more"]


def test_a_side_that_cannot_begin_says_why(tmp_path: Path) -> None:
    with pytest.raises(SideFailed, match=r"ended with exit code 1: .*CheckpointError: no manifest.json"):
        list(run_side(["measure", tmp_path, "--device", "cpu"], Budget(time.monotonic() + 60)))


def test_nothing_begins_when_the_time_is_spent(tmp_path: Path) -> None:
    with pytest.raises(SideFailed, match="the time was spent"):
        list(run_side(["measure", tmp_path], Budget(time.monotonic() - 1)))


def test_a_side_is_ended_when_the_time_is_spent(tmp_path: Path) -> None:
    start = time.monotonic()
    with pytest.raises(SideFailed, match="ended, because the time was spent"):
        list(run_side(["measure", tmp_path, "--device", "cpu"], Budget(start + 0.05)))


def test_a_machine_without_cuda_is_told_so() -> None:
    with pytest.raises(SystemExit, match="sees no CUDA device"):
        main(["--json", "never-written.json"])


@pytest.mark.slow
def test_a_run_says_whether_parity_holds_and_ends_with_its_document(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "gpu.json"
    wanted = "--size tiny --device cpu --songs 1,3 --takes 1 --steps 2 --played 1 --peers sdpa --budget 250"
    assert main([*wanted.split(), "--folder", str(tmp_path), "--json", str(file)]) == 0
    lines = capsys.readouterr().out.splitlines()
    found = json.loads(lines[-1])
    assert found == json.loads(file.read_text())
    assert lines[-2] == "verdict: parity holds; 4 cases measured, 0 failures"
    assert {(case["songs"], case["precision"]) for case in found["cases"]} == {
        (songs, precision) for songs in (1, 3) for precision in ("fp16", "fp16_kv8")
    }
    assert found["computed_by"] == {"fp16": "onnxruntime", "fp16_kv8": "onnxruntime"}  # on a CPU
    for one in found["cases"]:
        assert one["speedup"] == pytest.approx(one["peer_ms_per_step"] / one["ours_ms_per_step"])
        assert one["ours_ms_per_step"] > 0 < one["greedy_equal"]
    assert list(tmp_path.iterdir()) == [file]
