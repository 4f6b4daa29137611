"""`songstarter bench` against a running server: what it says is what was sent."""

from __future__ import annotations

import json
import threading
import urllib.request
from pathlib import Path
from typing import Any

import pytest
from certificates import Certificate
from relay import Relay, running

from songstarter.cli import main
from songstarter.server.launch import Ports
from songstarter.server.server import Server

pytestmark = pytest.mark.triton

SCENARIO = """
prompts = ["piano, d minor", "techno"]
deck = 4
melody_share = 0.25
continuation_share = 0.25
melody_seconds = 1.0
opening_seconds = 0.2
[durations]
"0.5" = 1
[variations]
"1" = 1
"2" = 1
"""


@pytest.fixture
def scenario(tmp_path: Path) -> str:
    path = tmp_path / "tiny.toml"
    path.write_text(SCENARIO)
    return str(path)


def last_line(text: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(text.splitlines()[-1])
    return found


def test_a_sweep_beside_the_bare_engine_ends_in_a_document_and_a_report(
    songs: Server, scenario: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    html, copy = tmp_path / "reports" / "bench.html", tmp_path / "bench.json"
    arguments = ["--url", songs.grpc_url, "--statistics", f"127.0.0.1:{songs.ports.http}", "--scenario", scenario]
    arguments += ["--concurrency", "1,4", "--seconds", "1", "--bare", str(songs.repository)]
    assert main(["bench", *arguments, "--html", str(html), "--json", str(copy)]) == 0
    said = capsys.readouterr()
    found = last_line(said.out)
    assert found == json.loads(copy.read_text())
    assert "4 in flight" in said.err
    assert html.read_text().startswith("<!doctype html>")
    assert found["server"].startswith("triton ")
    for level, load in zip(found["levels"], (1, 4), strict=True):
        assert level["load"] == load
        assert level["errors"] == {}
        assert level["requests"] >= load
        assert level["requests_per_second"] > 0
        stages = {stage["model"]: stage for stage in level["stages"]}
        # Triton counted what was sent, the request of each place that warmed it up included.
        assert stages["songstarter"]["requests"] == len(level["samples"]) == level["sent"]
        assert level["stages_doubt"] is None
        assert stages["codec_decoder"]["requests"] >= len(level["samples"])
        assert stages["codec_decoder"]["mean_batch"] >= 2  # a call for both channels
        assert stages["codec_decoder"]["busy_share"] > 0
    assert [level["errors"] for level in found["bare"]["levels"]] == [{}, {}]
    assert all(0 < ratio < 5 for ratio in found["bare"]["ratios"].values())


def test_arrivals_over_http_show_in_prometheus_while_they_last(
    songs: Server, scenario: str, capsys: pytest.CaptureFixture[str]
) -> None:
    port = Ports.free().metrics
    seen: list[str] = []
    over = threading.Event()

    def scrape() -> None:
        while not over.wait(0.1):
            try:
                with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=5) as answer:
                    seen.append(answer.read().decode())
            except OSError:
                continue

    scraping = threading.Thread(target=scrape)
    scraping.start()
    try:
        arguments = ["--url", songs.http_url, "--scenario", scenario, "--rate", "2", "--seconds", "3"]
        assert main(["bench", *arguments, "--metrics-port", str(port)]) == 0
    finally:
        over.set()
        scraping.join()
    found = last_line(capsys.readouterr().out)["levels"]
    assert [(level["loop"], level["load"], level["errors"]) for level in found] == [("open", 2.0, {})]
    assert found[0]["stages"]  # an HTTP address is where the statistics are, too
    assert any('songstarter_bench_load{loop="open"} 2.0' in text for text in seen)


def test_a_server_behind_tls_is_loaded_and_its_statistics_are_read(
    songs: Server, scenario: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    certificate = Certificate.made(tmp_path)
    grpc, http = (Relay(port, certificate.context) for port in (songs.ports.grpc, songs.ports.http))
    with running(grpc) as grpc_port, running(http) as http_port:
        arguments = ["--url", f"grpcs://127.0.0.1:{grpc_port}", "--statistics", f"https://127.0.0.1:{http_port}"]
        arguments += ["--ca-file", str(certificate.file), "--scenario", scenario, "--concurrency", "1"]
        assert main(["bench", *arguments, "--requests", "1"]) == 0
    level = last_line(capsys.readouterr().out)["levels"][0]
    assert level["errors"] == {}
    assert level["stages"]


def test_refusals_are_counted_by_kind(songs: Server, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "half.toml"
    # The deck's one long song is more than this server makes.
    path.write_text('prompts = ["a"]\ndeck = 2\n[durations]\n"0.5" = 1\n"301" = 1\n')
    arguments = ["--url", songs.grpc_url, "--scenario", str(path), "--concurrency", "2", "--seconds", "1"]
    assert main(["bench", *arguments]) == 0
    level = last_line(capsys.readouterr().out)["levels"][0]
    assert level["errors"].keys() == {"RefusedRequest"}
    assert 0 < sum(level["errors"].values()) < level["requests"]
    assert level["stages_doubt"] is None  # refusals are counted there, or were never asked for


def test_a_server_that_answers_nothing_ends_the_run_with_one_sentence(
    songs: Server, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "long.toml"
    path.write_text('prompts = ["a"]\n[durations]\n"301" = 1\n')
    assert (
        main(["bench", "--url", songs.grpc_url, "--scenario", str(path), "--concurrency", "1", "--seconds", "1"]) == 1
    )
    assert "answered none of" in capsys.readouterr().err.splitlines()[-1]


def test_without_triton_s_http_port_the_figures_of_the_caller_remain(
    songs: Server, scenario: str, capsys: pytest.CaptureFixture[str]
) -> None:
    nobody = f"127.0.0.1:{Ports.free().http}"
    arguments = ["--url", songs.grpc_url, "--statistics", nobody, "--scenario", scenario]
    assert main(["bench", *arguments, "--concurrency", "1", "--requests", "2"]) == 0
    said = capsys.readouterr()
    assert "queue times and batch sizes stay unknown" in said.err
    found = last_line(said.out)
    assert found["levels"][0]["stages"] == []
    assert nobody in found["statistics_missing"]
    assert 2 <= found["levels"][0]["requests"] <= 3


def test_streams_are_heard_before_they_are_complete(
    songs: Server, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "four.toml"
    path.write_text('prompts = ["a"]\ndeck = 1\n[durations]\n"8" = 1\n')
    arguments = ["--url", songs.http_url, "--scenario", str(path), "--stream", "--concurrency", "1", "--seconds", "3"]
    assert main(["bench", *arguments, "--html", str(tmp_path / "streams.html")]) == 0
    said = capsys.readouterr().out
    assert "would have stalled while playing" in said
    level = last_line(said)["levels"][0]
    assert level["errors"] == {}
    assert 0 < level["first_audio"]["p50"] < level["latency"]["p50"]
    assert {stage["model"] for stage in level["stages"]} >= {"songstarter_stream", "decoder", "codec_decoder"}
    assert level["stages_doubt"] is None
