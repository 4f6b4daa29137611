"""The benchmarks' arithmetic, by cases that a hand can check, and their document, from a run at a tiny size."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from benchmarks.decode import main
from benchmarks.measurements import Measurements
from benchmarks.quality import compare
from benchmarks.report import Question, prediction
from benchmarks.roofline import Traffic, milliseconds, traffic_of
from benchmarks.shapes import SIZES, contexts_along, last_context, mean_along
from benchmarks.timing import Step, first_context
from export.graph import Graph

CASE_FIELDS = {
    "songs",
    "precision",
    "take_seconds",
    "ours_ms_per_step",
    "peer_ms_per_step",
    "peer_variant",
    "speedup",
    "roofline_fraction",
    "audio_seconds_per_second",
    "sampling_share",
}


def test_takes_of_8_and_30_seconds_end_at_the_contexts_the_project_states() -> None:
    assert last_context(8) == 650
    assert last_context(30) == 1750


def test_contexts_reach_both_ends_of_every_take_with_no_wide_gap() -> None:
    assert contexts_along([8]) == [247, 448, 650]
    contexts = contexts_along([30, 8])
    assert {247, 650, 1750} <= set(contexts)
    assert max(np.diff(contexts)) <= 400


def test_a_mean_along_a_take_weighs_each_stretch_by_its_length() -> None:
    # From 247 to 447 the mean is 2, from 447 to 650 it is 3.
    found = mean_along(8, {247: 1.0, 447: 3.0, 650: 3.0, 1750: 99.0})
    assert found == pytest.approx((200 * 2 + 203 * 3) / 403)


def test_a_mean_of_contexts_that_miss_an_end_is_refused() -> None:
    with pytest.raises(ValueError, match="reach from 247 to 650"):
        mean_along(8, {247: 1.0, 600: 3.0})


def test_the_middle_step_is_at_the_wanted_context() -> None:
    # 94, 95 are for warming up; 96 to 103 are timed.
    assert first_context(100, steps=8) == 94


def test_a_step_reads_every_weight_once_and_two_rows_of_memory_for_each_song() -> None:
    traffic = Traffic(weights=1000, per_position=10)
    assert traffic.bytes_per_step(songs=3, context=50) == 1000 + 3 * 2 * 50 * 10
    assert traffic.bytes_per_step(songs=3, context=50, shared=20) == 1000 + (20 + 3 * 2 * 30) * 10
    assert milliseconds(2e9, 20e9) == pytest.approx(100)


def test_a_graph_s_traffic_counts_products_and_not_tables_that_are_looked_up(tmp_path: Path) -> None:
    with Graph(tmp_path / "decoder.onnx") as graph:
        graph.input("key_0", np.float32, ["row", 2, 100, 64])
        graph.input("value_0", np.int8, ["row", 2, 100, 64])
        index = graph.constant(np.array([0, 1], np.int64))
        rows = graph.node("Gather", [graph.weight("table", np.zeros((500, 16), np.float32)), index], "rows")
        graph.node("MatMul", [rows, graph.weight("product", np.zeros((16, 8), np.float32))], "out")
        graph.output("out", np.float32, [2, 8])
    traffic = traffic_of(tmp_path / "decoder.onnx")
    assert traffic.per_position == 2 * 64 * (4 + 1)
    assert 16 * 8 * 4 <= traffic.weights < 16 * 8 * 4 + 64  # no more beside the product than its small constants


def test_the_prediction_follows_from_bytes_and_bandwidth() -> None:
    # 700 MB of weights; 2 rows x 213 positions x 1 MB of memory, and 235 MB that both share: 1361 MB at 10 GB/s.
    card = prediction([Question(1, "int8", 8)], {"int8": Traffic(700_000_000, 1_000_000)}, 10e9)
    assert card.splitlines()[1].split() == ["1", "int8", "8", "700.0", "661.0", "136.1", "194.4"]


def test_a_case_is_medians_along_the_take_beside_the_best_variant_of_the_peer() -> None:
    measurements = Measurements()
    quick = [Step(0.010, 0.009), Step(0.010, 0.009), Step(9.0, 0.009)]
    slow = [Step(0.040, 0.036)]
    # A neighbour slows the machine's memory to a quarter in the second round: that must not show in the fraction.
    for steps, bandwidth in ((quick, 10e9), (slow, 2.5e9), (quick, 10e9)):
        measurements.add_ours(2, "int8", {247: steps, 650: steps}, {247: bandwidth, 650: bandwidth})
    measurements.add_peer(2, "eager", {247: [0.3], 650: [0.3]})
    measurements.add_peer(2, "sdpa", {247: [0.2], 650: [0.2]})
    measurements.add_peer(1, "sdpa", {247: [0.1], 650: [0.1]})
    case = measurements.case(Question(2, "int8", 8), Traffic(50_000_000, 0), None)
    assert case.ours_ms_by_round == pytest.approx([10, 40, 10])
    assert case.roofline_ms_by_round == pytest.approx([5, 20, 5])
    assert case.ours_ms_per_step == pytest.approx(10)
    assert (case.peer_variant, case.peer_ms_per_step) == ("sdpa", pytest.approx(200))
    assert case.speedup == pytest.approx(20)
    assert case.roofline_fraction == pytest.approx(0.5)
    assert case.sampling_share == pytest.approx(0.1)
    assert case.audio_seconds_per_second == pytest.approx(2 * 8 / (403 * 0.010))
    assert measurements.promising(2, 8, ["eager", "sdpa"]) == ["sdpa"]


def test_the_distance_of_equal_logits_is_nothing_and_of_swapped_ones_as_computed_by_hand() -> None:
    logits = np.log(np.array([[[[3.0, 1.0]], [[3.0, 1.0]]]]))  # both rows say 3/4 and 1/4, so guidance changes nothing
    same, swapped = compare(logits, logits), compare(logits, logits[..., ::-1])
    assert (same.kl_divergence, same.greedy_equal) == (0, 1)
    assert swapped.kl_divergence == pytest.approx(0.5 * np.log(3))
    assert swapped.greedy_equal_before_guidance == 0


def test_the_sizes_are_those_of_the_published_checkpoints() -> None:
    shapes = {name: (size.layers, size.hidden, size.heads, size.codebooks) for name, size in SIZES.items()}
    assert shapes["small"] == (24, 1024, 16, 8)
    assert shapes["medium"] == (48, 1536, 24, 8)
    assert shapes["large"] == (48, 2048, 32, 8)


def test_a_run_ends_with_its_document_on_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "out.json"
    wanted = "--size tiny --songs 2 --precision fp32,int8 --takes 1 --steps 2 --rounds 1 --peers sdpa"
    main([*wanted.split(), "--cache", str(tmp_path), "--json", str(file)])
    lines = capsys.readouterr().out.splitlines()
    found = json.loads(lines[-1])
    assert found == json.loads(file.read_text())
    assert "predicted" in lines[0]
    assert [(case["songs"], case["precision"]) for case in found["cases"]] == [(2, "fp32"), (2, "int8")]
    for case in found["cases"]:
        assert case.keys() >= CASE_FIELDS
        assert case["speedup"] == pytest.approx(case["peer_ms_per_step"] / case["ours_ms_per_step"])
        assert 0 < case["sampling_share"] < 1
        assert case["ours_ms_per_step"] > 0
    assert found["peers_not_running"] == found["skipped"] == []
    assert found["quality"].keys() == {"int8"}
    assert 0 < found["quality"]["int8"]["kl_divergence"] < 0.1
    assert {"cpu", "cores", "onnxruntime", "torch", "transformers", "revision"} <= found["machine"].keys()
