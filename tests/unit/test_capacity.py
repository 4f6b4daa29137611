"""Scaling on paper: arithmetic that a hand can check, a queue that theory knows, the chart's rule, the page in docs."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path
from random import Random

import pytest

from benchmarks.autoscaler import DOWN, UP, Autoscaler, Load, Rule, pods_for, rule_of_chart
from benchmarks.capacity import main
from benchmarks.capacity_day import MAX_WAITING, SLOTS
from benchmarks.capacity_rows import Wish, row_of
from benchmarks.hardware import GPU_PRECISIONS, GPUS, MODELS, PRECISIONS, Gpu, Model, memory_of_slots
from benchmarks.simulation import DAY, SHARES, Demand, Outcome, Pods, Simulation, arrivals, share_at, simulate
from benchmarks.step_time import Measured, Predicted, measured_in
from songstarter.checkpoint import Checkpoint
from songstarter.engine.order import OrderDesk
from songstarter.metrics import KV_MEMORY

ROOT = Path(__file__).parents[2]
RULE = Rule(least=1, most=8, waiting_per_slot=0.25, slots_in_use=0.75, up_window=15, down_window=600)
PODS = Pods(
    step_seconds=(0.0, *(0.01 + 0.001 * n for n in range(1, 17))), steps=1503, max_waiting=512, start_seconds=180
)
DEMAND = Demand(peak=1200, variations=4, patience=300)
WISH = Wish(requests_per_hour=3600, variations=4, take_seconds=30, utilisation=0.5)


def predicted(gpu: Gpu, precision: str = "fp16", *, efficiency: float = 1, overhead_ms: float = 0) -> Predicted:
    model = MODELS["stereo-melody-large"]
    return Predicted(gpu, model, precision, PRECISIONS[precision], efficiency, overhead_ms, gpu.price)


# Step times


@pytest.mark.parametrize(
    ("name", "parameters"),
    [
        ("small", 420_371_456),
        ("stereo-small", 437_152_768),
        ("medium", 1_838_737_920),
        ("stereo-medium", 1_863_909_888),
        ("large", 3_256_956_928),
        ("stereo-large", 3_290_519_552),
        ("melody", 1_385_625_600),
        ("stereo-melody", 1_410_797_568),
        ("melody-large", 2_451_480_576),
        ("stereo-melody-large", 2_485_043_200),
    ],
)
def test_the_models_have_as_many_parameters_as_the_published_files(name: str, parameters: int) -> None:
    assert MODELS[name].parameters == parameters


def test_a_step_is_bytes_over_the_reached_bandwidth_and_the_overhead() -> None:
    # 2 x 2,449,870,848 B of weights; 3 songs x 2 rows x context 998 x 393,216 B of keys and values; half of 1 TB/s.
    machine = predicted(Gpu("paper", 1e12, 10**11, 1.0), efficiency=0.5, overhead_ms=0.3)
    assert machine.milliseconds(3, 30) == pytest.approx((4.899741696 + 2.354577408) / 0.5 + 0.3)
    # 8 s: the mean context is 247 + 201.
    assert machine.milliseconds(3, 8) == pytest.approx((4.899741696 + 6 * 448 * 393_216 / 1e9) / 0.5 + 0.3)


def test_8_bit_keys_and_values_halve_the_memory_of_a_song_and_leave_the_weights() -> None:
    half, full = predicted(GPUS["H200"], "fp16_kv8"), predicted(GPUS["H200"])
    assert half.memory_needed(8) * 2 == full.memory_needed(8)
    assert half.memory_available == full.memory_available


def test_memory_is_counted_as_a_server_takes_it() -> None:
    # Two rows for each of 8 slots and 8 that keep beginnings, each with 235 + 256 + 1500 + 4 positions, in eights.
    assert predicted(GPUS["H200"]).memory_needed(8) == (2 * 8 + 8) * 2000 * 393_216
    # A text is no prefix that could be kept; it has keys and values of its own: fp32, 256 of them, for each row.
    text = replace(predicted(GPUS["H200"]), shape=MODELS["small"])
    assert text.memory_needed(4) == 2 * 4 * 1504 * 2 * 24 * 1024 * 2 + 2 * 4 * 256 * 2 * 24 * 1024 * 4


def test_a_real_decoder_takes_that_memory(embedded_repository: Path) -> None:
    decoder = Checkpoint.read(embedded_repository).decoder
    model = Model("embedded", decoder.layers, decoder.hidden, codebooks=8, attends_to_text=False)
    desk = OrderDesk(embedded_repository, slots=3, max_waiting=1)
    (taken,) = (value for series, value in desk.readings().values.items() if series.family is KV_MEMORY)
    desk.close()
    assert taken == memory_of_slots(model, PRECISIONS["int8_kv8"], 3)


@pytest.mark.parametrize(
    ("gpu", "precision", "slots"), [("L40S", "fp16", 16), ("L4", "fp16", 2), ("L4", "fp16_kv8", 8)]
)
def test_as_many_slots_fit_as_their_memory_and_the_kept_rows_let(gpu: str, precision: str, slots: int) -> None:
    machine = predicted(GPUS[gpu], precision)
    assert machine.most_songs == slots
    assert machine.memory_needed(slots) <= machine.memory_available < machine.memory_needed(slots + 1)


def test_what_does_not_fit_is_not_planned_with(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(GPUS, "L4", replace(GPUS["L4"], memory=10**10))
    main(["--docs", str(tmp_path)])
    assert not re.search(r"^\| L4 ", (tmp_path / "capacity.md").read_text(), re.MULTILINE)
    with pytest.raises(SystemExit, match="no hardware is called 'L4' and has memory and times for songs of 30 s"):
        main(["--hardware", "L4"])


@pytest.mark.parametrize(
    ("gpu", "precision", "real_time_by_songs"),
    [
        ("H200", "fp16", {1: 17, 4: 48, 8: 69, 16: 88, 32: 102, 64: 111, 128: 116}),
        ("H100 SXM", "fp16", {1: 12, 4: 33, 8: 48, 16: 61, 32: 71, 64: 78, 128: 81}),
        ("A100-80", "fp16", {1: 7, 4: 20, 8: 29, 16: 37, 32: 43, 64: 47}),
        ("L40S", "fp16", {1: 3.0, 4: 8.6, 8: 12, 16: 16, 32: 18}),
        ("A10G", "fp16", {1: 2.1, 4: 6.0, 8: 8.6}),
        ("L4", "fp16", {1: 1.06, 4: 3.0, 8: 4.3, 16: 5.5}),
        ("H200", "fp16_kv8", {1: 18, 8: 96, 16: 137, 32: 176, 64: 204, 128: 222}),
        ("H200", "int8_kv8", {1: 34, 8: 137, 16: 176, 32: 204, 128: 233}),
    ],
)
def test_at_full_bandwidth_it_is_the_roofline_that_the_project_states(
    gpu: str, precision: str, real_time_by_songs: dict[int, float]
) -> None:
    machine = predicted(GPUS[gpu], precision)
    found = {songs: songs * 20 / machine.milliseconds(songs, 30) for songs in real_time_by_songs}
    assert found == pytest.approx(real_time_by_songs, rel=0.03)  # they are rounded to two digits


def test_songs_per_second_machines_and_cost_follow_from_the_step() -> None:
    # 10 songs in 1503 steps of 20 ms: 30.06 s.
    machine = Measured("paper", "any", "fp32", "it.json", price=3.0, steps={30: {10: 20.0}})
    row = row_of(machine, 10, 30, WISH)
    assert row.songs_per_second == pytest.approx(10 / 30.06)
    assert row.requests_per_second == pytest.approx(2.5 / 30.06)
    assert row.audio_seconds_per_second == pytest.approx(300 / 30.06)
    # Of 4 songs per second a machine half full makes 0.166: 24.05 of them.
    assert row.machines_for_demand == 25
    # An hour makes 600 min of audio, but for the three columns beyond: 598.8.
    assert row.usd_per_audio_minute == pytest.approx(3 / 598.8, rel=1e-4)


def test_between_measured_numbers_of_songs_lies_a_straight_line_and_beyond_them_nothing() -> None:
    machine = Measured("paper", "any", "fp32", "it.json", 1.0, {8: {2: 10.0, 4: 20.0, 16: 44.0}})
    assert [machine.milliseconds(songs, 8) for songs in (1, 2, 3, 4, 10, 16)] == [10, 10, 15, 20, 32, 44]
    with pytest.raises(ValueError, match=r"it\.json has at most 16 songs at once, not 17"):
        machine.milliseconds(17, 8)
    with pytest.raises(ValueError, match=r"it\.json has takes of \[8\] s, none of 30 s"):
        machine.milliseconds(4, 30)


def test_what_lies_between_measurements_is_not_called_measured() -> None:
    machine = Measured("paper", "any", "fp32", "it.json", 1.0, {8: {2: 10.0, 4: 20.0, 16: 44.0}})
    found = {songs: row_of(machine, songs, 8, WISH).basis for songs in (1, 2, 3, 4, 10, 16)}
    measured, estimated = "measured: it.json", "estimated from it.json"
    assert found == {1: estimated, 2: measured, 3: estimated, 4: measured, 10: estimated, 16: measured}


def measurement_of(gpu: str) -> str:
    """What the decode benchmark writes of a GPU, by its driver's name for it."""
    cases = [
        {"songs": songs, "precision": "fp16", "take_seconds": take, "ours_ms_per_step": step}
        for songs, take, step in ((1, 8, 2.0), (1, 30, 2.5), (16, 8, 4.0), (16, 30, 7.0))
    ]
    facts = {"gpu": gpu, "cpu": "any (avx2)", "cores": 16, "revision": "abc"}
    return json.dumps({"benchmark": "decode", "machine": facts, "size": {"name": "large"}, "cases": cases})


@pytest.mark.parametrize(
    ("driver", "name"),
    [
        ("NVIDIA H200", "H200"),
        ("NVIDIA H100 80GB HBM3", "H100 SXM"),
        ("NVIDIA A100-SXM4-80GB", "A100-80"),
        ("A100-SXM-80GB", "A100-80"),
        ("NVIDIA A100 80GB PCIe", "A100-80"),
        ("NVIDIA L40S", "L40S"),
        ("NVIDIA A10G", "A10G"),
        ("NVIDIA L4", "L4"),
    ],
)
def test_a_gpu_is_known_by_its_driver_s_name(driver: str, name: str, tmp_path: Path) -> None:
    (tmp_path / "it.json").write_text(measurement_of(driver))
    (found,) = measured_in(tmp_path, {})
    assert (found.hardware, found.price) == (name, GPUS[name].price)


@pytest.mark.parametrize(
    "driver",
    [
        "NVIDIA H100 PCIe",
        "NVIDIA H100 NVL",
        "NVIDIA H100 80GB HBM3 MIG 1g.10gb",
        "NVIDIA GH200 480GB",
        "NVIDIA A100-SXM4-40GB",
        "NVIDIA L40",
        "NVIDIA A10",
    ],
)
def test_a_gpu_that_is_like_one_of_ours_is_another_and_its_price_is_asked_for(driver: str, tmp_path: Path) -> None:
    (tmp_path / "it.json").write_text(measurement_of(driver))
    (found,) = measured_in(tmp_path, {driver: 2.5})
    assert (found.hardware, found.price) == (driver, 2.5)
    with pytest.raises(SystemExit, match=f"on '{driver}', whose price is not known: add --price '{driver}=USD'"):
        measured_in(tmp_path, {})


def test_only_precisions_that_a_gpu_can_be_exported_for_are_planned_with(capsys: pytest.CaptureFixture[str]) -> None:
    assert set(GPU_PRECISIONS) <= set(PRECISIONS)
    with pytest.raises(SystemExit) as end:
        main(["--precision", "fp16,int8_kv8"])
    assert end.value.code == 2
    assert "no GPU plays int8_kv8; there are fp16, fp16_kv8" in capsys.readouterr().err


def test_what_was_measured_takes_the_place_of_its_prediction(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "h200.json").write_text(measurement_of("NVIDIA H200"))
    (tmp_path / "other.json").write_text(json.dumps({"benchmark": "serving"}))
    main(["--results", str(tmp_path), "--hardware", "H200", "--precision", "fp16", "--docs", str(tmp_path / "docs")])
    document = json.loads(capsys.readouterr().out.splitlines()[-1])
    h200 = {(row["songs"], row["take_seconds"]): row for row in document["rows"] if row["hardware"] == "H200"}
    assert h200[16, 30]["ms_per_step"] == 7.0
    bases = {songs: row["basis"] for (songs, _), row in h200.items()}
    measured, estimated = "measured: h200.json, revision abc", "estimated from h200.json, revision abc"
    assert bases == {1: measured, 4: estimated, 8: estimated, 16: measured}
    assert {row["basis"] for row in document["rows"] if row["hardware"] != "H200"} == {"predicted, not measured"}
    assert document["day"]["basis"] == estimated  # 1 to 16 songs at once
    page = (tmp_path / "docs/capacity.md").read_text()
    assert f"H200 ({estimated})" in page
    assert re.search(rf"^\| H200 +\| +2.5 · \S+ \| +≈ 3.4 · .* {measured} \|$", page, re.MULTILINE)


# The autoscaler


def test_pods_are_load_over_target_and_stay_within_a_tenth_of_it() -> None:
    four = Load(serving=4, starting=0, waiting=0, playing=0, arriving=True)
    assert [pods_for(total, 0.75, four) for total in (0, 1.5, 2.6, 3.0, 3.2, 3.4, 6.0)] == [0, 2, 4, 4, 4, 5, 8]


def test_starting_pods_count_as_idle_on_the_way_up_and_as_loaded_on_the_way_down() -> None:
    load = Load(serving=2, starting=2, waiting=0, playing=0, arriving=True)
    assert pods_for(2.0, 0.25, load) == 8  # 8 pods' worth, whoever is starting
    assert pods_for(0.75, 0.25, load) == 4  # too much for two, not enough for four: wait for those that start
    assert pods_for(0.25, 0.25, load) == 3  # one pod's worth, and two that are yet to show


def test_scaling_down_waits_for_its_window_and_then_goes_one_pod_at_a_time() -> None:
    autoscaler = Autoscaler(replace(RULE, least=2))
    pods = 4
    pods = autoscaler.decide(0, Load(pods, 0, waiting=0, playing=3.0, arriving=True))
    assert pods == 4
    history = {}
    for time in range(15, 2000, 15):
        pods = history[time] = autoscaler.decide(time, Load(pods, 0, waiting=0, playing=0.1, arriving=False))
    assert {history[time] for time in range(15, 600, 15)} == {4}
    assert [time for time in history if time > 15 and history[time] < history[time - 15]] == [600, 900]
    assert pods == 2


def test_scaling_up_doubles_or_adds_two_within_half_a_minute_and_stops_at_the_most() -> None:
    autoscaler, pods, history = Autoscaler(RULE), 1, []
    for time in range(0, 105, 15):
        pods = autoscaler.decide(time, Load(1, pods - 1, waiting=5.0, playing=1.0, arriving=True))
        history.append(pods)
    assert history == [3, 3, 6, 6, 8, 8, 8]


def test_without_least_the_last_pod_goes_after_a_window_of_silence_and_an_arrival_brings_the_first() -> None:
    autoscaler = Autoscaler(replace(RULE, least=0))
    silence = Load(1, 0, waiting=0, playing=0, arriving=False)
    decisions = {time: autoscaler.decide(time, silence) for time in range(0, 615, 15)}
    assert [time for time, pods in decisions.items() if pods == 0] == [600]
    nothing = replace(silence, serving=0)
    assert autoscaler.decide(630, nothing) == 0
    assert autoscaler.decide(645, replace(nothing, arriving=True)) == 1


def test_the_rule_and_its_policies_are_the_chart_s() -> None:
    assert rule_of_chart().most >= rule_of_chart().least
    helpers = (ROOT / "deploy/helm/songstarter/templates/_helpers.tpl").read_text()
    up, down = helpers.split("scaleUp:")[1].split("scaleDown:")
    policy = re.compile(r"\{type: (\w+), value: (\d+), periodSeconds: (\d+)\}")
    ours = [[("Percent" if one.percent else "Pods", one.percent or one.pods, one.period) for one in UP]]
    ours += [[("Pods", one.pods, one.period) for one in DOWN]]
    charts = [[(kind, int(n), int(period)) for kind, n, period in policy.findall(part)] for part in (up, down)]
    assert ours == charts


def test_a_pod_s_slots_and_queue_are_the_decoder_s() -> None:
    config = (ROOT / "model_repository/decoder/config.pbtxt").read_text()
    stated = dict(re.findall(r'key: "(\w+)" value \{ string_value: "(\d+)" \}', config))
    assert (stated["slots"], stated["max_waiting"]) == (str(SLOTS), str(MAX_WAITING))


# The simulation


def test_the_day_is_straight_between_full_hours_and_arrivals_follow_it() -> None:
    assert share_at(9 * 3600) == SHARES[9]
    assert share_at(9.5 * 3600) == pytest.approx((SHARES[9] + SHARES[10]) / 2)
    times = arrivals(DEMAND, seed=3)
    expected = DEMAND.peak * sum(SHARES)
    assert len(times) == pytest.approx(expected, abs=4 * expected**0.5)  # four standard deviations
    assert times == sorted(times)


@pytest.mark.parametrize("least", [0, 1])
@pytest.mark.parametrize("until", [DAY, 20 * 3600.0])  # the second ends at the busiest
def test_every_request_is_finished_or_refused_or_still_there(least: int, until: float) -> None:
    outcome = simulate(PODS, DEMAND, replace(RULE, least=least), seed=2, until=until)
    assert len(outcome.arrived) == outcome.finished + outcome.refused + outcome.inside
    assert outcome.finished > 1000
    assert len(outcome.waits) >= outcome.finished


def test_requests_beyond_the_queue_are_refused_and_none_is_lost() -> None:
    small = replace(PODS, max_waiting=40)
    outcome = simulate(small, DEMAND, replace(RULE, most=1), seed=2, until=12 * 3600)
    assert outcome.refused > 100
    assert outcome.inside > 0
    assert len(outcome.arrived) == outcome.finished + outcome.refused + outcome.inside
    assert max(moment.waiting for moment in outcome.moments) <= 40


def test_a_seed_means_a_day() -> None:
    first, again, other = (simulate(PODS, DEMAND, RULE, seed=seed, until=9 * 3600) for seed in (5, 5, 6))
    assert first == again
    assert first.arrived != other.arrived


def test_a_lone_slot_waits_as_long_as_queueing_theory_says() -> None:
    # M/D/1 at 70 %: the mean wait is 0.7 / (2 * 0.3) of a service time, and 30 % wait not at all.
    pods = Pods(step_seconds=(0.0, 0.01), steps=1000, max_waiting=10**6, start_seconds=0)
    random, times, now = Random(4), [], 0.0
    while now < 400_000:
        now += random.expovariate(0.07)
        times.append(now)
    one = replace(RULE, least=1, most=1)
    outcome = Simulation(pods, replace(DEMAND, variations=1), one, seed=1).run(times, until=400_000)
    waits = [wait for _, wait in outcome.waits]
    assert sum(waits) / len(waits) == pytest.approx(10 * 0.7 / 0.6, rel=0.05)
    assert sum(wait == 0 for wait in waits) / len(waits) == pytest.approx(0.3, abs=0.02)


def test_takes_that_share_a_pod_share_its_pace() -> None:
    # Two slots: alone 1 s a step, together 2 s. The second comes at 50 s, the first has 50 of 100 steps left: 100 s.
    # Then the second has 50 left, alone: done at 200 s. The third waits for the first's slot until 150 s.
    pods = Pods(step_seconds=(0.0, 1.0, 2.0), steps=100, max_waiting=10, start_seconds=0)
    fixed = replace(RULE, most=1)
    three = Simulation(pods, replace(DEMAND, variations=1), fixed, seed=1).run([0, 50, 60], until=1000)
    assert [wait for _, wait in three.waits] == pytest.approx([0, 0, 90])
    alone = Simulation(pods, replace(DEMAND, variations=1), fixed, seed=1)
    assert alone.run([0, 50], until=199.9).finished == 1
    assert Simulation(pods, replace(DEMAND, variations=1), fixed, seed=1).run([0, 50], until=200.1).finished == 2


def test_a_pod_serves_no_one_before_its_start_is_over() -> None:
    # The last pod went after 600 s of silence. Someone comes at 1000 s, is seen at 1005 s, and served 180 s later.
    nothing = replace(RULE, least=0)
    lone = Simulation(PODS, DEMAND, nothing, seed=1).run([1000.0], until=2000)
    assert lone.waits == [(1000.0, pytest.approx(185))]
    day = simulate(PODS, DEMAND, RULE, seed=1)
    pods = {moment.time: moment.serving + moment.starting for moment in day.moments}
    grown = [moment for moment in day.moments if moment.time >= 195 and moment.serving > 1]
    assert grown
    assert all(moment.serving <= pods[moment.time - 165] for moment in grown)


def test_whoever_finds_no_pod_for_longer_than_their_patience_is_refused() -> None:
    slow = replace(PODS, start_seconds=400)
    outcome = Simulation(slow, DEMAND, replace(RULE, least=0), seed=1).run([1000.0, 1200.0], until=3000)
    assert (outcome.refused, outcome.finished) == (1, 1)


def test_pods_are_paid_for_until_their_last_song_is_done_and_not_longer() -> None:
    fixed = simulate(PODS, DEMAND, replace(RULE, least=3, most=3), seed=1)
    assert fixed.pod_seconds == pytest.approx(3 * DAY)
    # One pod of yesterday; a request at 590 s keeps it from going until 600 s after its four songs are done.
    outcome = Simulation(PODS, DEMAND, replace(RULE, least=0), seed=1).run([590.0], until=5000)
    done = 590 + PODS.steps * PODS.step_seconds[4]
    assert done + 585 <= outcome.pod_seconds <= done + 615


def test_a_leaving_pod_gets_no_more_requests_and_is_gone_after_two_songs_time() -> None:
    day = simulate(PODS, DEMAND, RULE, seed=1)
    runs, longest = 0, 0
    for moment in day.moments:
        runs = runs + 1 if moment.leaving else 0
        longest = max(longest, runs)
    # Pods leave 300 s apart; one song takes up to 39 s, and one more may have waited for a slot.
    assert 1 <= longest <= 2 * 39 / 15 + 1


def test_a_share_of_waits_is_the_least_that_so_many_stayed_within() -> None:
    outcome = Outcome(waits=[(0.0, float(wait)) for wait in range(1, 101)])
    assert [outcome.waited(share) for share in (0.5, 0.95, 0.99, 1.0)] == [50, 95, 99, 100]


# The page


def test_the_page_and_the_picture_in_docs_are_what_the_planner_writes(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "out.json"
    main(["--docs", str(tmp_path), "--json", str(file)])
    lines = capsys.readouterr().out.splitlines()
    assert json.loads(lines[-1]) == json.loads(file.read_text())
    for name in ("capacity.md", "capacity.svg"):
        again = "changed since: run python -m benchmarks.capacity --docs docs"
        assert (tmp_path / name).read_text() == (ROOT / "docs" / name).read_text(), again
    assert (tmp_path / "capacity.md").read_text().count("\n") < 100


def test_hardware_that_is_not_known_is_answered_with_what_is() -> None:
    with pytest.raises(SystemExit, match=r"no hardware is called 'H300' .* 30 s; there are: H100 SXM, A100-80"):
        main(["--hardware", "H300"])
