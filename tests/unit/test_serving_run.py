"""A run of the load generator from its command line on, with songs that nobody had to make."""

from __future__ import annotations

import asyncio
import json
import re
import signal
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from benchmarks.serving import bare_process, report, run
from benchmarks.serving.asking import Heard, Streamed
from benchmarks.serving.figures import level
from benchmarks.serving.files import Files, NotWritten
from benchmarks.serving.findings import Findings
from benchmarks.serving.load import Bounds, Sender, closed_loop, open_loop
from benchmarks.serving.plan import Plan
from benchmarks.serving.records import Phase, Record, Run
from benchmarks.serving.report import INCOMPLETE, document, table, words
from benchmarks.serving.scenario import Asked, Scenario
from benchmarks.serving.triton import StageFigures, Stretch, doubt
from songstarter.cli import main
from songstarter_client import RequestFailed

SCENARIO = Scenario(prompts=("a",), variations={4: 1.0})
PLAN = Plan(scenario=SCENARIO, scenario_name="default", bounds=Bounds(5.0), url="x", concurrency=(1,))
NOBODY = "127.0.0.1:1"  # where Triton's statistics are not


class Songs:
    """In place of the client: a song takes a hundredth of a second, and what is to happen at the nth does then."""

    def __init__(self) -> None:
        self.asked = 0
        self.happens: dict[int, Callable[[], None]] = {}

    def __call__(self, *_: object, **__: object) -> Songs:
        return self

    async def __aenter__(self) -> Songs:
        return self

    async def __aexit__(self, *_: object) -> None:
        pass

    async def wait_ready(self, timeout: float) -> None:
        pass

    async def generate(self, prompt: str, **fields: Any) -> SimpleNamespace:
        self.asked += 1
        self.happens.get(self.asked, lambda: None)()
        await asyncio.sleep(0.01)
        return SimpleNamespace(files=[b""] * fields["num_outputs"])


@pytest.fixture
def songs(monkeypatch: pytest.MonkeyPatch) -> Songs:
    found = Songs()
    monkeypatch.setattr(run, "AsyncClient", found)
    return found


def bench(*words: str) -> int:
    return main(["bench", "--url", "x", "--statistics", NOBODY, "--requests", "3", *words])


def last_line(capsys: pytest.CaptureFixture[str]) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(capsys.readouterr().out.splitlines()[-1])
    return found


def loads(found: dict[str, Any]) -> list[float]:
    return [one["load"] for one in found["levels"]]


# -- what a run leaves ----------------------------------------------------------------------------------------


def test_each_level_is_in_the_files_before_the_next_one_begins(songs: Songs, tmp_path: Path) -> None:
    copy, html = tmp_path / "new" / "bench.json", tmp_path / "bench.html"
    seen = []

    def look() -> None:
        seen.append((json.loads(copy.read_text()), html.read_text()))

    songs.happens = dict.fromkeys(range(5, 8), look)  # one that warms up and three that count came before
    assert bench("--concurrency", "1,2", "--json", str(copy), "--html", str(html)) == 0
    assert [(loads(found), found["complete"]) for found, _ in seen] == [([1], False)] * 3
    assert all(INCOMPLETE in page for _, page in seen)
    whole = json.loads(copy.read_text())
    assert (loads(whole), whole["complete"]) == ([1, 2], True)
    assert INCOMPLETE not in html.read_text()
    assert sorted(tmp_path.rglob("*.*")) == [html, copy]  # and nothing half written


def test_ctrl_c_ends_a_run_with_what_it_had_measured(
    songs: Songs, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    copy = tmp_path / "bench.json"
    songs.happens = {6: lambda: signal.raise_signal(signal.SIGINT)}
    assert bench("--concurrency", "1,2,4", "--json", str(copy)) == 130
    said = capsys.readouterr().out
    assert INCOMPLETE in said
    found = json.loads(said.splitlines()[-1])
    assert found == json.loads(copy.read_text())
    assert (loads(found), found["complete"]) == ([1], False)
    assert len(found["load_average"]) == 2


def test_ctrl_c_before_anything_was_measured_leaves_nothing(
    songs: Songs, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    songs.happens = {1: lambda: signal.raise_signal(signal.SIGINT)}
    assert bench("--concurrency", "1", "--json", str(tmp_path / "bench.json")) == 130
    assert not list(tmp_path.iterdir())
    assert "levels" not in capsys.readouterr().out


def test_a_mistake_in_a_later_level_costs_no_level_before(
    songs: Songs, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(*_: object) -> Run:
        raise ZeroDivisionError

    monkeypatch.setattr(bare_process, "measure", fail)
    with pytest.raises(ZeroDivisionError):
        bench("--concurrency", "1,2", "--bare", "nowhere")
    assert loads(last_line(capsys)) == [1]


def test_a_round_that_the_bare_engine_has_not_played_yet_has_no_ratio() -> None:
    findings = Findings()
    one = Run([Record(0, 0.0, 0.0, None, 1.0, 8.0, None)], 0.0, 1.0)
    findings.runs = {("closed", 1): [one, one]}
    findings.bare = {1: [one]}
    assert document(PLAN, findings)["bare"]["ratios"] == {"1": 1.0}


def test_a_file_that_cannot_be_written_ends_no_run(
    songs: Songs, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").write_text("")
    assert bench("--concurrency", "1,2", "--json", str(tmp_path / "file" / "bench.json")) == 1
    said = capsys.readouterr()
    assert loads(json.loads(said.out.splitlines()[-1])) == [1, 2]
    assert re.fullmatch(r"songstarter: .*bench\.json was not written: .*", said.err.splitlines()[-1])


def test_the_files_are_complete_even_where_nobody_reads_stdout(
    songs: Songs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    copy = tmp_path / "bench.json"
    monkeypatch.setattr(report, "table", broken_pipe)
    with pytest.raises(BrokenPipeError):
        bench("--concurrency", "1", "--json", str(copy))
    assert json.loads(copy.read_text())["complete"]


def broken_pipe(*_: object) -> str:
    raise BrokenPipeError


def test_a_file_is_replaced_at_once_or_left_as_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "bench.json"
    path.write_text("before")

    def half(self: Path, text: str) -> int:
        with self.open("w") as file:
            file.write(text[:3])
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_text", half)
    with pytest.raises(NotWritten, match="No space left"):
        Files(json=path).write(PLAN, Findings())
    assert path.read_text() == "before"
    assert list(tmp_path.iterdir()) == [path]


# -- what a request comes to ----------------------------------------------------------------------------------


@pytest.mark.parametrize("problem", [ValueError("?"), OSError("?"), RuntimeError("?")])
def test_whatever_a_request_ends_with_is_a_kind_of_error_and_the_run_goes_on(problem: Exception) -> None:
    async def ask(asked: Asked) -> Heard:
        if asked.number == 1:
            raise problem
        return Heard(1.0)

    async def load() -> Run:
        return await open_loop(Sender(ask, SCENARIO.requests()), [0.0, 0.001, 0.002], (0.0, 1.0))

    found = level("open", 3, [asyncio.run(load())])
    assert (found.requests, found.errors) == (3, {type(problem).__name__: 1})


class Broken:
    """A client whose streams end after the chunks of the variations that are named."""

    def __init__(self, *variations: int) -> None:
        self._variations = variations

    async def stream(self, prompt: str, **fields: object) -> AsyncIterator[SimpleNamespace]:
        for variation in self._variations:
            yield SimpleNamespace(variation=variation, seconds=0.2)


@pytest.mark.parametrize("variations", [(), (0, 2, 3)])
def test_a_stream_that_leaves_variations_out_has_failed(variations: tuple[int, ...]) -> None:
    client: Any = Broken(*variations)
    with pytest.raises(RequestFailed, match=f"{len(variations)} variations came, 4 were asked for"):
        asyncio.run(Streamed(client)(next(SCENARIO.requests())))


def test_latency_over_duration_counts_one_variation_as_a_listener_does() -> None:
    four = Record(0, 0.0, 0.0, None, 16.0, audio_seconds=32.0, error=None, takes=4)
    findings = Findings()
    findings.runs = {("closed", 1): [Run([four], 0.0, 16.0)]}
    [found] = findings.levels
    assert found.latency_over_duration == 2.0  # who waits 16 s for a song of 8 s waits twice as long as it plays
    assert found.audio_seconds_per_second == 2.0
    assert document(PLAN, findings)["levels"][0]["latency_over_duration"] == 2.0
    assert "latency_over_duration" in table([found]).splitlines()[0]
    assert "latency over duration: a request's latency over the seconds of one of its" in words(PLAN, findings)


def test_a_request_s_record_knows_how_many_variations_it_asked_for() -> None:
    async def ask(asked: Asked) -> Heard:
        return Heard(asked.audio_seconds)

    record = asyncio.run(Sender(ask, SCENARIO.requests()).send("window"))
    assert (record.audio_seconds, record.takes, record.duration) == (32.0, 4, 8.0)


# -- what warms up --------------------------------------------------------------------------------------------


class Notes:
    """A watcher that remembers."""

    def __init__(self) -> None:
        self.ended_in: list[tuple[Record, Phase]] = []

    def began(self) -> None:
        pass

    def ended(self, record: Record, phase: Phase) -> None:
        self.ended_in.append((record, phase))


async def uneven(asked: Asked) -> Heard:
    await asyncio.sleep(0.01 + 0.005 * (asked.number % 5))
    return Heard(1.0)


def phases(load: Callable[[Sender], Any]) -> Iterator[tuple[Phase, bool]]:
    """What a watcher was told of each request, and whether it counts in the end."""
    notes = Notes()
    found: Run = asyncio.run(load(Sender(uneven, SCENARIO.requests(), [notes])))
    assert len(notes.ended_in) == len(found.records)
    return ((phase, record in found.counted) for record, phase in notes.ended_in)


@pytest.mark.parametrize("requests", [None, 7])
def test_a_watcher_of_a_closed_loop_knows_which_requests_count(requests: int | None) -> None:
    told = list(phases(lambda sender: closed_loop(sender, 4, Bounds(0.2, requests, warmup=2))))
    assert {phase for phase, _ in told} == {"warm_up", "window", "after"}
    assert all(counts == (phase == "window") for phase, counts in told)


def test_a_watcher_of_an_open_loop_knows_which_requests_count() -> None:
    arrivals = [0.01 * number for number in range(20)]
    told = list(phases(lambda sender: open_loop(sender, arrivals, (0.055, 0.3))))
    assert {phase for phase, _ in told} == {"warm_up", "window"}
    assert all(counts == (phase == "window") for phase, counts in told)


# -- Triton's statistics --------------------------------------------------------------------------------------


def counted(requests: int, failed: int = 0, model: str = "songstarter") -> StageFigures:
    return StageFigures(model, requests, failed, requests, 1.0, {1: requests}, 0.0, 0.0, 0.0)


@pytest.mark.parametrize(("requests", "failed"), [(40, 0), (30, 10), (38, 0), (42, 0), (30, 0)])
def test_triton_may_count_what_failed_on_the_way_or_not_and_test_requests(requests: int, failed: int) -> None:
    # Ten of forty failed, perhaps before they reached the server.
    assert doubt([counted(requests, failed)], "songstarter", answered=30, sent=40, seconds=1.0) is None


@pytest.mark.parametrize(("requests", "said"), [(20, "40 were answered: ask one server"), (80, "40 were sent: others")])
def test_statistics_of_another_server_or_other_callers_are_doubted(requests: int, said: str) -> None:
    found = doubt([counted(requests)], "songstarter", answered=40, sent=40, seconds=20.0)
    assert found is not None
    assert f"Triton counted {requests} requests of songstarter, {said}" in found


def test_the_document_says_what_the_stages_cover_and_where_that_is_in_doubt() -> None:
    def snapshot(requests: int) -> dict[str, dict[str, Any]]:
        statistics = {"queue": {"count": requests, "ns": 0}, "fail": {"count": 0}}
        return {
            "songstarter": {"execution_count": requests, "inference_count": requests} | {"inference_stats": statistics}
        }

    findings = Findings()
    records = [Record(number, number, number, None, number + 1, 8.0, None) for number in range(-10, 30)]
    findings.runs = {("closed", 1): [Run(records, 0, 30)]}
    findings.stretches = {("closed", 1): [Stretch(snapshot(100), snapshot(140), 40.0)]}
    found = document(PLAN, findings)
    assert "those that warmed up included" in found["definitions"]["stages"]
    [one] = found["levels"]
    assert (one["sent"], one["requests"], one["stages"][0]["requests"], one["stages_doubt"]) == (40, 30, 40, None)

    findings.stretches = {("closed", 1): [Stretch(snapshot(100), snapshot(115), 40.0)]}
    assert "Triton counted 15" in document(PLAN, findings)["levels"][0]["stages_doubt"]
    assert "at 1 in flight Triton counted 15 requests of songstarter, 40 were answered" in words(PLAN, findings)
