"""The load generator's arithmetic, by cases that a hand can check, and its loops against made-up servers."""

from __future__ import annotations

import argparse
import asyncio
import io
import json
import re
import time
import urllib.request
import wave
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from benchmarks.serving import cli, plots
from benchmarks.serving.arrivals import poisson
from benchmarks.serving.asking import Heard, Player
from benchmarks.serving.axes import linear, logarithmic
from benchmarks.serving.figures import Level, level, spread
from benchmarks.serving.findings import Findings
from benchmarks.serving.knee import held, highest_held
from benchmarks.serving.load import Bounds, Sender, closed_loop, open_loop
from benchmarks.serving.page import page
from benchmarks.serving.plan import Plan
from benchmarks.serving.progress import Progress
from benchmarks.serving.prometheus import Exporter
from benchmarks.serving.records import Record, Run
from benchmarks.serving.report import document, prediction, stream_line, table, verdict, words
from benchmarks.serving.run import http_address
from benchmarks.serving.scenario import Asked, BadScenario, Scenario
from benchmarks.serving.triton import Stretch, stage_figures
from songstarter.errors import Unavailable

SCENARIO = Scenario(prompts=("a",))


def record(began: float, ended: float, *, scheduled: float | None = None, error: str | None = None) -> Record:
    audio = 0.0 if error else 8.0
    return Record(0, began if scheduled is None else scheduled, began, None, ended, audio, error)


# -- figures --------------------------------------------------------------------------------------------------


def test_percentiles_lie_between_their_neighbours() -> None:
    found = spread([float(number) for number in range(101)])
    assert found is not None
    assert (found.p50, found.p90, found.p95, found.p99, found.max, found.mean) == (50, 90, 95, 99, 100, 50)
    two = spread([1.0, 2.0])
    assert two is not None
    assert (two.p50, two.max) == (1.5, 2.0)
    assert spread([]) is None


@pytest.mark.parametrize(
    ("requests", "told"), [(9, ""), (10, "p90"), (19, "p90"), (20, "p90 p95"), (99, "p90 p95"), (100, "p90 p95 p99")]
)
def test_a_percentile_needs_enough_requests_to_be_one(requests: int, told: str) -> None:
    found = spread([1.0] * requests)
    assert found is not None
    assert [name for name in ("p90", "p95", "p99") if getattr(found, name) is not None] == told.split()


def test_songs_at_the_edges_of_a_window_count_by_the_time_they_spend_in_it() -> None:
    # The window is 10 to 20: half of the first request lies in it, all of the second, a quarter of the third.
    run = Run([record(8, 12), record(12, 19), record(19, 23), record(25, 26)], 10, 20)
    found = level("closed", 1, [run])
    assert found.requests_per_second == pytest.approx(1.75 / 10)
    assert found.audio_seconds_per_second == pytest.approx(8 * 1.75 / 10)
    # Latencies are those of the two that began in it, and so is latency over duration, of songs of 8 s.
    assert found.requests == 2
    assert found.latency is not None
    assert (found.latency.p50, found.latency.max) == (5.5, 7)
    assert found.latency_over_duration == pytest.approx(5.5 / 8)


def test_steady_requests_give_their_true_rate_whatever_the_window() -> None:
    run = Run([record(3 * number, 3 * number + 3) for number in range(10)], 4.5, 20.2)
    assert level("closed", 1, [run]).requests_per_second == pytest.approx(1 / 3)


def test_failures_are_counted_by_kind_and_make_no_audio() -> None:
    run = Run([record(0, 1), record(1, 2, error="Unavailable"), record(2, 3, error="TimedOut")], 0, 4)
    found = level("closed", 1, [run])
    assert found.errors == {"Unavailable": 1, "TimedOut": 1}
    assert found.failed_share == pytest.approx(2 / 3)
    assert found.requests_per_second == 0.25
    assert level("closed", 1, [Run([record(1, 2, error="TimedOut")], 0, 4)]).latency is None


def arriving(rate: float, latency: float, errors: int = 0) -> Level:
    """As steady as can be, from long before the window to its end."""
    good = [record(number, number + latency) for number in range(-20, 20)]
    return level("open", rate, [Run(good + [record(1, 2, error="Unavailable")] * errors, 0, 20)])


def test_the_knee_is_the_highest_rate_before_one_that_is_not_held() -> None:
    levels = [arriving(1, 1.0), arriving(2, 1.5), arriving(4, 9.0), arriving(8, 1.0)]
    assert highest_held(levels, None) == 2
    assert highest_held(levels, 10.0) == 8
    assert highest_held([arriving(1, 1.0), arriving(2, 1.0, errors=1)], None) == 1
    assert highest_held(levels, 0.5) is None


def test_too_few_requests_say_neither_that_a_rate_is_held_nor_that_it_is_not() -> None:
    few = level("open", 2, [Run([record(number, number + 99) for number in range(19)], 0, 19)])
    assert held(few, limit=1.0) is None
    assert held(arriving(1, 1.0), limit=1.0)
    assert held(arriving(1, 1.1), limit=1.0) is False
    assert highest_held([few], None) is None
    assert highest_held([arriving(1, 1.0), few, arriving(4, 1.0)], None) == 4
    said = verdict([arriving(1, 1.0), few], None)
    assert said == [
        "the highest rate that was held: 1/s",
        "too few requests to say whether 2/s was held: 19 of 20",
    ]
    assert verdict([few], None) == said[1:]
    assert verdict([arriving(1, 9.0), few], 1.0) == [
        "no rate was held",
        "1/s was not held: p95 is 9 s, the limit 1 s",
        said[1],
    ]
    assert verdict([], None) == []


def counters(executions: dict[int, int], queue_ns: int) -> dict[str, Any]:
    requests = sum(executions.values())
    batches = [
        {"batch_size": size, "compute_infer": {"count": count, "ns": count * 50_000_000}}
        for size, count in executions.items()
    ]
    inferences = sum(size * count for size, count in executions.items())
    statistics = {"queue": {"count": requests, "ns": queue_ns}, "fail": {"count": 0}}
    return {
        "name": "codec",
        "inference_count": inferences,
        "execution_count": requests,
        "inference_stats": statistics,
        "batch_stats": batches,
    }


def test_triton_s_figures_are_what_its_counters_grew_by() -> None:
    before, after = counters({1: 10}, 10_000_000), counters({1: 12, 4: 6}, 26_000_000)
    found = stage_figures([Stretch({"codec": before}, {"codec": after, "idle": counters({}, 0)}, seconds=2.0)])
    assert [stage.model for stage in found] == ["codec"]
    stage = found[0]
    assert (stage.executions, stage.batches, stage.mean_batch) == (8, {1: 2, 4: 6}, 26 / 8)
    assert (stage.queue_ms, stage.compute_ms, stage.busy_share) == (2.0, 50.0, 0.2)


# -- arrivals and loops ---------------------------------------------------------------------------------------


def test_arrivals_are_poisson_and_the_same_for_the_same_seed() -> None:
    times = list(poisson(50.0, 200.0, seed=3))
    assert times == list(poisson(50.0, 200.0, seed=3))
    assert times != list(poisson(50.0, 200.0, seed=4))
    gaps = [later - earlier for earlier, later in pairwise(times)]
    mean = sum(gaps) / len(gaps)
    deviation = (sum((gap - mean) ** 2 for gap in gaps) / len(gaps)) ** 0.5
    assert 0 < times[0] < times[-1] < 200
    assert mean == pytest.approx(1 / 50, rel=0.05)
    assert deviation == pytest.approx(mean, rel=0.05)  # as only an exponential distribution has it


class SlowServer:
    """Answers one request at a time, at once, but stands still for 600 ms as soon as 200 ms are over."""

    def __init__(self) -> None:
        self._turn = asyncio.Lock()
        self._stops_at = time.monotonic() + 0.2
        self._stopped = False

    async def __call__(self, asked: Asked) -> Heard:
        async with self._turn:
            if time.monotonic() > self._stops_at and not self._stopped:
                self._stopped = True
                await asyncio.sleep(0.6)
            await asyncio.sleep(0.001)
        return Heard(1.0)


def slow_ones(run: Run) -> int:
    return sum(one.latency > 0.1 for one in run.counted)


@pytest.mark.parametrize("most_in_flight", [1000, 1])
def test_a_server_that_stands_still_shows_in_every_request_that_was_due_meanwhile(most_in_flight: int) -> None:
    async def load() -> Run:
        arrivals = [0.01 * number for number in range(100)]
        return await open_loop(Sender(SlowServer(), SCENARIO.requests()), arrivals, (0.0, 1.0), most_in_flight)

    # 50 requests are due more than 0.1 s before the server goes on, even where they could not all be sent.
    assert slow_ones(asyncio.run(load())) >= 45


def test_one_caller_who_waits_for_answers_meets_a_standstill_once() -> None:
    async def load() -> Run:
        return await closed_loop(Sender(SlowServer(), SCENARIO.requests()), 1, Bounds(seconds=1.0, warmup=0))

    run = asyncio.run(load())
    assert slow_ones(run) < 10 < len(run.counted)


def test_a_closed_loop_keeps_its_number_in_flight_and_counts_after_warming_up() -> None:
    under_way, most = 0, 0

    async def ask(asked: Asked) -> Heard:
        nonlocal under_way, most
        under_way += 1
        most = max(most, under_way)
        await asyncio.sleep(0.02)
        under_way -= 1
        return Heard(1.0)

    run = asyncio.run(closed_loop(Sender(ask, SCENARIO.requests()), 4, Bounds(seconds=0.3, warmup=2)))
    assert most == 4
    assert len([one for one in run.records if one.scheduled < run.opened]) >= 8
    assert run.seconds == pytest.approx(0.3)
    assert all(one.ended <= max(other.ended for other in run.records) for one in run.counted)
    assert sorted(one.number for one in run.records) == list(range(len(run.records)))


def test_a_closed_loop_ends_after_the_wished_number_of_requests() -> None:
    async def ask(asked: Asked) -> Heard:
        await asyncio.sleep(0.01)
        return Heard(1.0)

    bounds = Bounds(seconds=60, requests=6, warmup=0)
    run = asyncio.run(closed_loop(Sender(ask, SCENARIO.requests()), 2, bounds))
    assert 6 <= len(run.counted) <= 8
    assert run.seconds < 5


def test_a_window_waits_for_a_request_of_each_place_however_long_they_take() -> None:
    async def ask(asked: Asked) -> Heard:
        await asyncio.sleep(0.2 + 0.01 * (asked.number % 4))
        return Heard(1.0)

    run = asyncio.run(closed_loop(Sender(ask, SCENARIO.requests()), 4, Bounds(seconds=0.05)))
    assert len(run.counted) >= 4
    assert 0.05 < run.seconds < 1
    found = level("closed", 4, [run])
    assert found.requests_per_second == pytest.approx(4 / 0.215, rel=0.1)


def test_a_server_that_refuses_is_not_asked_without_a_pause() -> None:
    async def refuse(asked: Asked) -> Heard:
        raise Unavailable("full")

    run = asyncio.run(closed_loop(Sender(refuse, SCENARIO.requests()), 1, Bounds(seconds=0.35, warmup=0)))
    assert 2 <= len(run.records) <= 5
    assert {one.error for one in run.records} == {"Unavailable"}


# -- scenarios ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["default", "mixed", "short"])
def test_the_package_s_scenarios_can_be_read(name: str) -> None:
    scenario = Scenario.read(name)
    assert scenario.name == name
    assert len(scenario.first()) == scenario.deck


def test_a_deck_holds_each_kind_as_often_as_its_share_says() -> None:
    cards = Scenario.parse(
        {
            "prompts": ["a", "b"],
            "deck": 20,
            "durations": {"8": 3, "30": 1},
            "variations": {"1": 1, "4": 1},
            "melody_share": 0.25,
            "continuation_share": 0.1,
            "fields": {"output_format": "mp3"},
        }
    ).first()
    assert Counter(card.fields["duration"] for card in cards) == {8.0: 15, 30.0: 5}
    assert Counter(card.takes for card in cards) == {1: 10, 4: 10}
    assert Counter("input_audio" in card.fields for card in cards) == {True: 7, False: 13}
    assert sum(card.fields.get("continuation", False) for card in cards) == 2
    assert Counter(card.prompt for card in cards) == {"a": 10, "b": 10}
    assert {card.fields["output_format"] for card in cards} == {"mp3"}


def test_a_run_can_be_repeated_request_for_request_with_a_new_seed_each() -> None:
    def requests() -> list[Asked]:
        return [asked for _, asked in zip(range(50), Scenario.read("mixed").requests(), strict=False)]

    assert requests() == requests()
    assert len({asked.fields["seed"] for asked in requests()}) == 50
    assert requests()[3].prompt == requests()[43].prompt


def test_melodies_are_wav_files_of_the_wished_length() -> None:
    cards = Scenario.parse({"prompts": ["a"], "melody_share": 1.0, "melody_seconds": 1.5, "deck": 2}).first()
    tunes = [card.fields["input_audio"] for card in cards]
    assert tunes[0] != tunes[1]
    with wave.open(io.BytesIO(tunes[0])) as file:
        assert file.getnframes() == 1.5 * file.getframerate()


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("", "prompts: found nothing"),
        ("prompts = []", "prompts: found []"),
        ("prompts = ['a']\ntempo = 3", "tempo: no such key; there are prompts, name"),
        ("prompts = ['a']\nmelody_share = 1.5", "melody_share: found 1.5, expected a share"),
        ("prompts = ['a']\nopening_seconds = 0", "opening_seconds: found 0, expected seconds"),
        ("prompts = ['a']\ndeck = 0", "deck: found 0, expected a whole number"),
        ("prompts = ['a']\nseed = true", "seed: found True"),
        ("prompts = ['a']\n[durations]\nlong = 1", "durations: found 'long', expected a number"),
        ("prompts = ['a']\n[durations]\n8 = 0", "durations: found {'8': 0}, expected values with their weights"),
        ("prompts = ['a']\n[variations]\n9 = 1", "variations: found {'9': 1}"),
        ("prompts = ['a']\n[fields]\nseed = 1", "fields: found {'seed': 1}, expected some of"),
        ("prompts = [", "is not TOML"),
    ],
)
def test_a_bad_scenario_is_refused_with_the_key_and_what_is_allowed(tmp_path: Path, line: str, said: str) -> None:
    path = tmp_path / "bad.toml"
    path.write_text(line)
    with pytest.raises(BadScenario, match=re.escape(said)):
        Scenario.read(str(path))


def test_a_scenario_that_is_not_there_is_answered_with_those_that_are() -> None:
    with pytest.raises(BadScenario, match="one of default, mixed, short"):
        Scenario.read("none")


# -- reports --------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def findings() -> Findings:
    """Two loads in flight, two rates with failures, and the bare engine."""

    def run(latency: float, count: int, failed: int = 0) -> Run:
        good = [record(0.1 * number, 0.1 * number + latency) for number in range(count)]
        return Run(good + [record(0.5, 0.6, error="<Unavailable>")] * failed, 0, 5)

    found = Findings(server="triton 2.51.0")
    found.runs = {("closed", 1): [run(0.8, 6)], ("closed", 8): [run(2.0, 30)]}
    found.runs |= {("open", 1.5): [run(0.9, 21)], ("open", 3.0): [run(4.0, 25, failed=3)]}
    found.bare = {1: [run(0.5, 6)], 8: [run(1.5, 30)]}
    found.stretches = {
        ("closed", 8): [Stretch({"codec": counters({1: 10}, 0)}, {"codec": counters({2: 30}, 10**8)}, 5)]
    }
    return found


PLAN = Plan(scenario=SCENARIO, scenario_name="default", bounds=Bounds(5.0), url="x", concurrency=(1, 8))


def test_the_report_is_one_file_that_asks_for_nothing_outside(findings: Findings) -> None:
    html = page(PLAN, findings, {"revision": "abc", "cpu": "a <fast> one"})
    assert not re.search(
        r"(?:src|href|action)\s*=|url\(|@import|https?:|//[a-z]|<(?:script|link|img|iframe|object)", html
    )
    assert html.count("<svg") == 4
    assert "the highest rate that was held: 1.5/s" in html
    assert "p99 takes 100" in html
    assert "a &lt;fast&gt; one" in html
    assert "<Unavailable>" not in html
    assert "3 &lt;Unavailable&gt;" in html


def test_every_picture_stays_on_its_paper(findings: Findings) -> None:
    levels = findings.levels
    pictures = [
        plots.throughput(levels, {1: 3.0, 8: 20.0}),
        plots.latency_cdf(levels, findings.runs),
        plots.latency_against_rate(levels, 1.5),
        plots.time_line(levels, findings.runs),
    ]
    for picture in pictures:
        points = [pair.split(",") for line in re.findall(r'points="([^"]+)"', picture) for pair in line.split()]
        points += re.findall(r'cx="([\d.-]+)" cy="([\d.-]+)"', picture)
        assert points
        assert all(0 <= float(x) <= 640 and 0 <= float(y) <= 360 for x, y in points)


@pytest.mark.parametrize("make", [plots.throughput, plots.latency_against_rate])
def test_a_picture_of_nothing_is_left_out(make: Callable[..., str]) -> None:
    assert make([], {}) == ""


def test_ticks_are_round_numbers_that_hold_the_values() -> None:
    assert list(linear("x", 23).ticks) == [0, 5, 10, 15, 20, 25]
    assert linear("x", 0.003).high >= 0.003
    scale = logarithmic("y", 0.3, 7)
    assert [round(tick, 6) for tick in scale.ticks] == [0.2, 0.5, 1, 2, 5, 10]
    assert scale.share(0.2) == 0
    assert scale.share(10) == 1
    assert logarithmic("y", 2, 2).high > 2


def test_the_document_says_all_that_the_table_says(findings: Findings) -> None:
    found = json.loads(json.dumps(document(PLAN, findings)))
    assert [one["load"] for one in found["levels"]] == [1, 8, 1.5, 3.0]
    assert found["bare"]["ratios"].keys() == {"1", "8"}
    assert len(found["levels"][3]["samples"]) == 28
    assert found["knee_per_second"] == 1.5
    assert found["latency_limit"] == pytest.approx(4 * 0.8)
    assert [one.get("held") for one in found["levels"]] == [None, None, True, False]
    assert found["levels"][3]["not_held_because"] == "11% failed"
    assert [one["latency"]["p90"] is None for one in found["levels"]] == [True, False, False, False]
    assert [one["latency"]["p95"] is None for one in found["levels"]] == [True, False, False, False]
    assert [one["latency"]["p99"] for one in found["levels"]] == [None] * 4
    assert all(one["latency"]["p50"] and one["latency"]["max"] for one in found["levels"])
    assert {"latency", "requests_per_second", "audio_seconds_per_second", "errors"} <= found["levels"][0].keys()
    assert table(findings.levels).count("\n") == 4
    said = words(PLAN, findings)
    assert "errors at 3/s: 3 <Unavailable>" in said
    assert "the highest rate that was held: 1.5/s" in said
    assert "'-' for a percentile: too few requests for it; p90 takes 10, p95 takes 20, p99 takes 100" in said
    assert "codec" in said
    assert "8 s of audio" in prediction(PLAN)


def test_progress_says_a_line_now_and_then(monkeypatch: pytest.MonkeyPatch) -> None:
    stream = io.StringIO()
    progress = Progress(stream)
    progress.start("4 in flight")
    for one in (record(0, 1), record(0, 1, error="TimedOut")):
        progress.began()
        progress.ended(one, "window")
    assert stream.getvalue() == ""
    later = time.monotonic() + 11
    monkeypatch.setattr(time, "monotonic", lambda: later)
    progress.began()
    assert stream.getvalue() == "4 in flight: 11 s, 1 under way, 1 TimedOut, 1 answered, 8 s of audio\n"


def test_prometheus_sees_the_run_while_it_lasts() -> None:
    with Exporter(0, "127.0.0.1") as exporter:
        exporter.start("closed", 4)
        exporter.began()
        exporter.began()
        exporter.ended(record(0, 1.5), "window")
        exporter.ended(record(0, 9.0), "warm_up")
        port = exporter.port
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=5) as answer:
            text = answer.read().decode()
    for line in (
        'songstarter_bench_requests_total{outcome="answered",phase="window"} 1.0',
        'songstarter_bench_requests_total{outcome="answered",phase="warm_up"} 1.0',
        "songstarter_bench_requests_in_flight 0.0",
        'songstarter_bench_load{loop="closed"} 4.0',
        'songstarter_bench_audio_seconds_total{phase="window"} 8.0',
        'songstarter_bench_latency_seconds_bucket{le="+Inf",phase="window"} 1.0',
        'songstarter_bench_latency_seconds_bucket{le="2.0",phase="warm_up"} 0.0',
    ):
        assert line in text


# -- the command line -----------------------------------------------------------------------------------------


def parsed(*words: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    cli.configure(parser)
    return parser.parse_args(words)


def test_a_plan_without_loads_sweeps_concurrency() -> None:
    assert cli._plan(parsed("--url", "x")).concurrency == (1, 2, 4, 8, 16)
    assert cli._plan(parsed("--url", "x", "--rate", "1,2.5,knee")) == Plan(
        scenario=Scenario.read("default"),
        scenario_name="default",
        bounds=Bounds(20.0, None, 1),
        url="x",
        rates=(1.0, 2.5),
        find_knee=True,
    )


@pytest.mark.parametrize(
    "words",
    [[], ["--url=x", "--serve=y"], ["--url=x", "--concurrency=0"], ["--url=x", "--rate=-1"], ["--url=x", "--rate=a"]],
)
def test_bad_usage_is_refused(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        parsed(*words)
    assert end.value.code == 2
    capsys.readouterr()


def test_statistics_are_looked_for_where_triton_has_its_http_port() -> None:
    assert http_address("10.0.0.1:8001").url == "http://10.0.0.1:8000"
    assert http_address("http://10.0.0.1:9000").url == "http://10.0.0.1:9000"


def test_a_proxy_with_tls_is_taken_to_route_both_protocols_by_one_port() -> None:
    assert http_address("grpcs://songs.example").url == "https://songs.example:443"
    assert http_address("https://songs.example:8443").url == "https://songs.example:8443"


def test_a_player_falls_silent_as_long_as_its_next_chunk_is_late() -> None:
    player = Player()
    for seconds, now in [(0.0, 1.0), (0.2, 2.0), (0.2, 2.1), (1.2, 2.5), (2.2, 3.0), (3.2, 4.6)]:
        player.hear(seconds, now)
    # from 2.0 on: 0.2 s, 0.3 s of silence, 2 s until 4.5, 0.1 s of silence
    assert (player.began, player.stalled) == (2.0, pytest.approx(0.4))


def test_streams_that_stalled_are_a_share_of_those_that_were_heard() -> None:
    records = [replace(record(0.0, 1.0), first_audio=0.25, stalled=stalled) for stalled in (0.0, 0.0, 0.5, 0.0)]
    found = level("closed", 1, [Run([*records, record(0.0, 1.0)], 0.0, 1.0)])
    assert found.stalled_share == 0.25
    assert found.first_audio is not None
    assert (found.first_audio.p50, found.first_audio.p99) == (0.25, None)
    assert "first audio after 0.250 / - / - / - s" in (stream_line(found) or "")
    assert level("closed", 1, [Run([record(0.0, 1.0)], 0.0, 1.0)]).stalled_share is None
