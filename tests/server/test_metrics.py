"""What an operator sees of a running server: its metrics, its log, its spans."""

from __future__ import annotations

import json
import subprocess
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from asking import Refused, ask_generate, ask_grpc
from debian_prometheus import PROMTOOL, needs_promtool
from prometheus_client import Metric
from prometheus_client.parser import text_string_to_metric_families

from songstarter.checkpoint import Checkpoint
from songstarter.contract import PUBLIC_MODEL
from songstarter.metrics import FAMILIES, STEPS_PER_OBSERVATION, Family
from songstarter.publisher import PERIOD
from songstarter.server.launch import Ports, Tracing
from songstarter.server.server import Server
from songstarter.stages.decoder import DecoderStage

pytestmark = pytest.mark.triton

SECRET = "a prompt that nobody else may read"
SHORT: dict[str, Any] = {"prompt": SECRET, "duration": 0.5, "num_outputs": 1, "seed": 5}
CODEBOOKS = 8


class Scrape:
    """The text of the metrics endpoint, parsed as Prometheus does."""

    def __init__(self, server: Server) -> None:
        with urllib.request.urlopen(server.metrics_url, timeout=10) as response:
            self.text = response.read().decode()
        self.families: dict[str, Metric] = {family.name: family for family in text_string_to_metric_families(self.text)}

    def family(self, family: Family) -> Metric:
        return self.families[family.name.removesuffix("_total")]  # by which name the parser knows a counter

    def __getitem__(self, name: str) -> float:
        """The sum of a name's samples; ``name{outcome}`` picks one."""
        name, _, outcome = name.rstrip("}").partition("{")
        samples = [sample for family in self.families.values() for sample in family.samples if sample.name == name]
        return sum(sample.value for sample in samples if not outcome or sample.labels["outcome"] == outcome)

    @property
    def labels(self) -> dict[str, str]:
        (sample,) = self.families["songstarter_info"].samples
        return dict(sample.labels)


def growth(server: Server, work: Callable[[], object], names: dict[str, float]) -> dict[str, float]:
    """By how much each of these grew through some work, once the metrics had the time to be published."""
    time.sleep(1.5 * PERIOD)  # for what came before
    before = Scrape(server)
    work()
    deadline = time.monotonic() + 10
    while True:
        after = Scrape(server)
        grown = {name: after[name] - before[name] for name in names}
        if grown == pytest.approx(names) or time.monotonic() > deadline:
            return grown
        time.sleep(0.2)


def refused(server: Server, **fields: Any) -> None:
    with pytest.raises(Refused):
        ask_generate(server.http_url, **fields)


def test_every_metric_of_the_table_is_there_with_its_type_and_help(songs: Server) -> None:
    ask_grpc(songs.grpc_url, **SHORT)
    scrape = Scrape(songs)
    for family in FAMILIES:
        found = scrape.family(family)
        assert (found.type, found.documentation) == (family.kind.lower(), family.help)
        assert found.samples
    known = {family.name.removesuffix("_total") for family in FAMILIES}
    assert {name for name in scrape.families if name.startswith("songstarter_")} == known


def test_labels_have_the_values_of_the_table_and_no_others(songs: Server) -> None:
    scrape = Scrape(songs)
    for family in FAMILIES:
        labels = [sample.labels for sample in scrape.family(family).samples]
        if family.outcomes:
            assert {label["outcome"] for label in labels} == set(family.outcomes)
        assert all(set(label) <= {*family.labels, "le"} for label in labels)
    decoder = Checkpoint.read(songs.repository).decoder
    facts = {"checkpoint": "embedded", "precision": decoder.precision, "device": decoder.device}
    assert scrape.labels.items() >= facts.items()


def test_counts_grow_by_what_was_asked(songs: Server) -> None:
    def work() -> None:
        ask_grpc(songs.grpc_url, **SHORT | {"num_outputs": 3, "duration": 1.0})
        ask_grpc(songs.grpc_url, **SHORT)
        refused(songs, top_k=-1)
        refused(songs, duration=999)

    expected = {
        "songstarter_requests_total{answered}": 2,
        "songstarter_requests_total{invalid}": 2,
        "songstarter_requests_total{failed}": 0,
        "songstarter_takes_total{finished}": 4,
        "songstarter_takes_total{failed}": 0,
        "songstarter_audio_seconds_total": 3.5,
        "songstarter_request_seconds_count": 2,
        "songstarter_first_audio_seconds_count": 2,
        "songstarter_fill_seconds_count": 4,
        # 50 and 25 frames, and as many columns more as the last codebook is late
        "songstarter_steps_total": 53 + 28,
        "songstarter_tokens_total": CODEBOOKS * (3 * 53 + 28),
    }
    assert growth(songs, work, expected) == pytest.approx(expected)


def test_histograms_hold_plausible_times(songs: Server) -> None:
    started = time.monotonic()
    growth(songs, lambda: ask_grpc(songs.grpc_url, **SHORT), {"songstarter_request_seconds_count": 1})
    scrape = Scrape(songs)
    for name in ("step", "fill", "request", "first_audio"):
        mean = scrape[f"songstarter_{name}_seconds_sum"] / scrape[f"songstarter_{name}_seconds_count"]
        assert 0 < mean < 60
    assert scrape["songstarter_step_seconds_count"] == -(-scrape["songstarter_steps_total"] // STEPS_PER_OBSERVATION)
    assert time.monotonic() - started < 60


def test_nothing_is_in_use_once_everything_is_answered(songs: Server) -> None:
    busy = ("slots_in_use", "takes_waiting", "requests_in_flight")
    seen = []
    with ThreadPoolExecutor(4) as threads:
        long_enough = SHORT | {"duration": 10, "num_outputs": 8}  # for those who wait to be seen, once a second
        crowd = [threads.submit(ask_grpc, songs.grpc_url, **long_enough) for _ in range(4)]
        while not all(answer.done() for answer in crowd):
            scrape = Scrape(songs)
            seen.append([scrape[f"songstarter_{name}"] for name in busy])
            time.sleep(0.2)
    assert [max(column) for column in zip(*seen, strict=True)] == [16, 16, 4]
    idle = {f"songstarter_{name}": 0.0 for name in busy}
    deadline = time.monotonic() + 5
    while {name: Scrape(songs)[name] for name in idle} != idle and time.monotonic() < deadline:
        time.sleep(0.2)
    assert {name: Scrape(songs)[name] for name in idle} == idle


def test_kv_memory_and_slots_are_the_stages_own(songs: Server) -> None:
    scrape = Scrape(songs)
    slots = int(scrape["songstarter_slots"])
    stage = DecoderStage(songs.repository, Checkpoint.read(songs.repository), slots=slots)
    assert slots == 16
    assert scrape["songstarter_kv_memory_bytes"] == stage.memory_bytes


@needs_promtool
def test_promtool_finds_nothing_to_complain_about(songs: Server) -> None:
    ours = "\n".join(line for line in Scrape(songs).text.splitlines() if "songstarter_" in line and line[:3] != "nv_")
    check = subprocess.run(
        [str(PROMTOOL), "check", "metrics"], input=ours + "\n", capture_output=True, text=True, check=False
    )
    assert (check.returncode, check.stdout + check.stderr) == (0, "")


# -- the log ----------------------------------------------------------------------------------------------------


def events(server: Server) -> list[dict[str, Any]]:
    """What the log tells of requests and orders."""
    # A line that is being written this moment may be there in part.
    told = [json.loads(line) for line in server.log.lines() if '"event"' in line and line.endswith("}")]
    return [event for event in told if "request" in event]


def told(server: Server, count: int, matches: Callable[[dict[str, Any]], bool]) -> list[dict[str, Any]]:
    """The events that match, once there are so many: a line follows the answer it tells of."""
    deadline = time.monotonic() + 10
    while len(found := [event for event in events(server) if matches(event)]) < count:
        assert time.monotonic() < deadline, f"{len(found)} events of {count} were told"
        time.sleep(0.05)
    return found


def test_a_request_can_be_followed_by_its_id_through_both_models(songs: Server) -> None:
    ask_generate(songs.http_url, **SHORT, id="follow-me")
    order, request = told(songs, 2, lambda event: event["request"] == "follow-me")
    assert (order["event"], order["outcome"], order["variations"], order["frames"]) == ("order", "finished", 1, 25)
    assert (request["event"], request["outcome"], request["variations"]) == ("request", "answered", 1)
    assert 0 < order["waited_seconds"] < order["seconds"] < request["seconds"]


def test_a_request_without_an_id_gets_one(songs: Server) -> None:
    known = {event["request"] for event in events(songs)}
    ask_grpc(songs.grpc_url, **SHORT)
    order, request = told(songs, 2, lambda event: event["request"] not in known)
    assert order["request"] == request["request"]
    assert len(request["request"]) == 16


def test_a_refusal_names_the_field_and_not_what_it_held(songs: Server) -> None:
    refused(songs, output_format=SECRET, id="refuse-me")
    (event,) = told(songs, 1, lambda event: event["request"] == "refuse-me")
    facts = {name: event[name] for name in ("outcome", "error", "field")}
    assert facts == {"outcome": "invalid", "error": "InvalidRequest", "field": "output_format"}


def test_lines_of_a_crowd_stay_whole_and_tell_no_secrets(songs: Server) -> None:
    with ThreadPoolExecutor(16) as threads:
        list(threads.map(lambda number: ask_generate(songs.http_url, **SHORT, id=f"log-crowd-{number}"), range(32)))
    ids = [event["request"] for event in told(songs, 64, lambda event: event["request"].startswith("log-crowd-"))]
    assert sorted(ids) == sorted(2 * [f"log-crowd-{number}" for number in range(32)])
    assert SECRET not in songs.log.path.read_text()


# -- spans ------------------------------------------------------------------------------------------------------


class Collector:
    """An OTLP receiver over HTTP that keeps the spans it is sent, by name."""

    def __init__(self) -> None:
        spans: dict[str, dict[str, Any]] = {}

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                document = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                for resource in document["resourceSpans"]:
                    for scope in resource["scopeSpans"]:
                        spans.update({span["name"]: span for span in scope["spans"]})
                self.send_response(200)
                self.end_headers()

            def log_message(self, *arguments: object) -> None:
                pass

        self.spans = spans
        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}/v1/traces"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def wait_for(self, name: str) -> dict[str, Any]:
        deadline = time.monotonic() + 30
        while name not in self.spans and time.monotonic() < deadline:
            time.sleep(0.1)
        return self.spans[name]


@pytest.fixture
def collector() -> Iterator[Collector]:
    collector = Collector()
    yield collector
    collector.server.shutdown()
    collector.server.server_close()


def test_the_spans_of_a_request_reach_a_collector_under_its_callers_trace(
    embedded_repository: Path, collector: Collector, tmp_path: Path
) -> None:
    trace, caller = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
    with Server(embedded_repository, Ports.free(), tmp_path, tracing=Tracing(collector.url)) as server:
        request = urllib.request.Request(
            f"{server.http_url}/v2/models/{PUBLIC_MODEL}/generate",
            json.dumps(SHORT | {"id": "traced"}).encode(),
            {"traceparent": f"00-{trace}-{caller}-01", "Content-Type": "application/json"},
        )
        urllib.request.urlopen(request, timeout=60).close()
        whole, model = collector.wait_for("InferRequest"), collector.wait_for(PUBLIC_MODEL)
        (event,) = told(server, 1, lambda event: event["event"] == "request")
    assert (whole["traceId"], whole["parentSpanId"]) == (trace, caller)
    assert (model["traceId"], model["parentSpanId"]) == (trace, whole["spanId"])
    attributes = {item["key"]: item["value"] for item in model["attributes"]}
    assert attributes["triton.request_id"]["stringValue"] == "traced"
    assert (event["request"], event["trace_id"]) == ("traced", trace)
    seconds = (int(whole["endTimeUnixNano"]) - int(whole["startTimeUnixNano"])) / 1e9
    assert seconds == pytest.approx(event["seconds"], abs=0.25)
