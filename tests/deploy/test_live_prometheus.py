"""A real Prometheus scrapes a loaded server: what rules, dashboard and autoscalers ask has an answer."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Iterator
from typing import Any

import promql_parser
import pytest
from asking import ask_grpc
from debian_prometheus import Prometheus, needs_prometheus, running
from manifests import dashboard, one, plain, rules, write_rules
from metrics import missing, queries, selectors

from songstarter.server.server import Server

pytestmark = [pytest.mark.triton, pytest.mark.promtool, needs_prometheus]

# As the operator's PodMonitor labels what it scrapes; five seconds as in prometheus.yaml would only take longer.
CONFIGURATION = """
global: {{scrape_interval: 1s, evaluation_interval: 1s}}
rule_files: [{rules}]
scrape_configs:
  - job_name: songstarter
    static_configs:
      - targets: ["{target}"]
        labels: {{namespace: songstarter, pod: songstarter-0, service: songstarter}}
"""
SCRAPES = 4  # a rate needs two, the first of them before there is anything to count
ASKED: dict[str, Any] = {"prompt": "bass, a minor, 90 bpm", "duration": 1, "num_outputs": 2, "seed": 1}
# On a healthy server alerts and the dashboard's marks for restarts find nothing,
SILENT = {f"rule {rule['alert']}" for rule in rules() if "alert" in rule} | {
    f"dashboard: {mark['name']}" for mark in dashboard()["annotations"]["list"]
}
ELSEWHERE = ("nv_gpu_", "container_", "nginx_ingress_")  # and these are not a server's without a GPU.
QUERIES = list(queries())


@pytest.fixture(scope="module")
def prometheus(songs: Server, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Prometheus]:
    """Prometheus after some scrapes of a server that is making songs, and still makes them."""
    folder = tmp_path_factory.mktemp("prometheus")
    rules_file = write_rules(one(plain(), "PrometheusRule"), folder)
    configuration = CONFIGURATION.format(rules=rules_file, target=songs.metrics_url.split("/")[2])
    enough = threading.Event()

    def keep_asking() -> None:
        while not enough.is_set():
            ask_grpc(songs.grpc_url, **ASKED)

    caller = threading.Thread(target=keep_asking)
    with running(configuration, folder) as prometheus:
        caller.start()
        try:
            _wait(prometheus, 'count_over_time(up{job="songstarter"}[5m])', SCRAPES)
            _wait(prometheus, 'increase(songstarter_requests_total{outcome="answered"}[5m])', 1)
            yield prometheus
        finally:
            enough.set()
            caller.join()


def _wait(prometheus: Prometheus, promql: str, least: float) -> None:
    deadline = time.monotonic() + 60
    while (prometheus.value(promql) or 0) < least:
        assert time.monotonic() < deadline, f"{promql} stays below {least}"
        time.sleep(0.5)


def test_every_metric_that_is_used_is_scraped(prometheus: Prometheus) -> None:
    assert missing(set(prometheus.get("/api/v1/label/__name__/values")), gpu=False) == {}


@pytest.mark.parametrize(("place", "query"), QUERIES, ids=[f"{place}-{n}" for n, (place, _) in enumerate(QUERIES)])
def test_a_query_has_an_answer_of_numbers(prometheus: Prometheus, place: str, query: str) -> None:
    answer = prometheus.query(query)
    assert answer or place in SILENT or _asks_elsewhere(query), place
    assert not any(math.isinf(float(series["value"][1])) for series in answer)


def _asks_elsewhere(query: str) -> bool:
    return any(selector.name.startswith(ELSEWHERE) for selector in selectors(promql_parser.parse(query)))


def test_rules_are_evaluated_and_no_alert_fires(prometheus: Prometheus) -> None:
    groups = prometheus.get("/api/v1/rules")["groups"]
    health = {rule["name"]: rule["health"] for group in groups for rule in group["rules"]}
    assert health == dict.fromkeys(health, "ok")
    assert len(health) == len(rules())
    assert prometheus.get("/api/v1/alerts")["alerts"] == []


def test_the_numbers_are_those_of_the_load(prometheus: Prometheus) -> None:
    """One caller with two variations at a time: never more than two slots, and two seconds of audio an answer."""
    assert 0 < (prometheus.value("rate(songstarter_slot_seconds_total[1m])") or 0) <= 2
    assert prometheus.value("songstarter_slots") == 16
    answers = prometheus.value('increase(songstarter_requests_total{outcome="answered"}[1m])') or 0
    audio = prometheus.value("increase(songstarter_audio_seconds_total[1m])") or 0
    assert audio == pytest.approx(2 * answers, rel=0.01)
