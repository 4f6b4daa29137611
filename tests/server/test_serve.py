"""`songstarter serve` as an operator meets it: a process, its exit code, its stderr, its signals."""

from __future__ import annotations

import os
import re
import shutil
import signal
import socket
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from urllib.error import HTTPError, URLError
from urllib.request import Request, urlopen

import pytest
from serving import Serve, leaked_regions, processes, wait_until
from tiny_repository import BROKEN, SLEEPER, SLOW, add_lookup, add_python, look_up, sleep, write_manifest

from songstarter.checkpoint import Checkpoint

ROOT = Path(__file__).parents[2]

pytestmark = pytest.mark.triton


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    folder = tmp_path / "repository"
    add_lookup(folder)
    add_python(folder, "sleeper", SLEEPER)
    return write_manifest(folder, ["lookup", "sleeper"])


@pytest.fixture
def serve(repository: Path, tmp_path: Path) -> Iterator[Serve]:
    others = set(leaked_regions())
    started = Serve(repository, tmp_path / "run", "--exit-timeout=10")
    try:
        started.said("ready: HTTP")
        yield started
    finally:
        started.kill()
    assert not processes(tmp_path)
    wait_until(lambda: set(leaked_regions()) <= others, 5, "regions remain in /dev/shm")


@pytest.fixture
def pool() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(4) as executor:
        yield executor


def in_flight(serve: Serve, pool: ThreadPoolExecutor, seconds: float) -> Future[list[float]]:
    future = pool.submit(sleep, serve.url, seconds)
    time.sleep(0.5)
    assert not future.done()
    return future


def test_sigterm_lets_a_request_in_flight_finish_and_exits_0(serve: Serve, pool: ThreadPoolExecutor) -> None:
    answer = in_flight(serve, pool, 2.0)
    assert serve.end(signal.SIGTERM) == 0
    assert answer.result() == [2.0]
    assert serve.lines[-1] == "songstarter: stopped\n"


def test_a_second_ctrl_c_ends_at_once(serve: Serve, pool: ThreadPoolExecutor, tmp_path: Path) -> None:
    answer = in_flight(serve, pool, 8.0)
    serve.process.send_signal(signal.SIGINT)
    serve.said("requests in flight have 10 s")
    started = time.monotonic()
    assert serve.end(signal.SIGINT) == 1
    assert time.monotonic() - started < 2
    assert serve.lines[-1] == "songstarter: stopped before every request in flight was answered\n"
    with pytest.raises((URLError, ConnectionError)):
        answer.result()


def test_a_killed_python_process_is_noticed_and_healed(serve: Serve, pool: ThreadPoolExecutor, tmp_path: Path) -> None:
    answer = in_flight(serve, pool, 20.0)
    (victim,) = processes(tmp_path, b"triton_python_backend_stub", b"sleeper")
    started = time.monotonic()
    os.kill(victim, signal.SIGKILL)
    with pytest.raises((URLError, ConnectionError, HTTPError)):
        answer.result(timeout=10)
    assert time.monotonic() - started < 10
    serve.said("the Python process of sleeper .* ended by itself")
    serve.said("ready: HTTP", times=2)
    assert sleep(serve.url, 0.0) == [0.0]
    assert look_up(serve.url, [3]) == [30.0]
    assert serve.end(signal.SIGTERM) == 0


def test_a_killed_tritonserver_is_noticed_and_healed(serve: Serve, tmp_path: Path) -> None:
    (victim,) = processes(tmp_path, b"bin/tritonserver")
    os.kill(victim, signal.SIGKILL)
    serve.said("tritonserver ended by itself .SIGKILL.")
    serve.said("ready: HTTP", times=2)
    assert look_up(serve.url, [1]) == [10.0]
    assert serve.end(signal.SIGINT) == 0


def test_a_killed_supervisor_takes_its_server_along(serve: Serve, tmp_path: Path) -> None:
    serve.process.kill()
    wait_until(lambda: not processes(tmp_path), 15, "processes remain")


def test_a_model_that_does_not_load_is_one_sentence_and_exit_1(repository: Path, tmp_path: Path) -> None:
    add_python(repository, "broken", BROKEN)
    write_manifest(repository, ["lookup", "broken"])
    started = time.monotonic()
    serve = Serve(repository, tmp_path / "run")
    assert serve.ended() == 1
    assert time.monotonic() - started < 10
    reason = 'broken did not load: Internal: ValueError: the manifest says "9" codebooks, the graph has 8'
    assert serve.lines[1:] == [f"songstarter: {reason}\n"]
    assert not processes(tmp_path)


def test_folders_whose_names_a_shell_would_misread_are_served(tmp_path: Path) -> None:
    folder = tmp_path / "My Songs (new); $HOME's"
    add_lookup(folder)
    write_manifest(folder, ["lookup"])
    links = set(Path(tempfile.gettempdir()).glob("songstarter-*"))
    serve = Serve(folder, folder / "a run")
    serve.said("ready: HTTP")
    assert look_up(serve.url, [4]) == [40.0]
    assert serve.end(signal.SIGTERM) == 0
    assert set(Path(tempfile.gettempdir()).glob("songstarter-*")) <= links


def test_a_large_body_that_a_client_calls_a_form_does_not_end_the_server(serve: Serve) -> None:
    # What `curl -d` and urllib call every body; with usual stacks four megabytes are a SIGSEGV.
    with pytest.raises(HTTPError):
        urlopen(Request(f"{serve.url}/v2/models/lookup/generate", b"x" * 48 * 2**20), timeout=20)
    assert look_up(serve.url, [2]) == [20.0]
    assert not re.search("ended by itself", "".join(serve.lines))
    assert serve.end(signal.SIGTERM) == 0


def test_a_signal_while_models_load_ends_at_once(repository: Path, tmp_path: Path) -> None:
    add_python(repository, "slow", SLOW)
    write_manifest(repository, ["lookup", "slow"])
    serve = Serve(repository, tmp_path / "run")
    serve.said(r"loading slow \(2 s\)")
    started = time.monotonic()
    assert serve.end(signal.SIGTERM) == 0
    assert time.monotonic() - started < 2
    assert not processes(tmp_path)


def test_a_file_that_is_not_what_was_exported_is_not_served(repository: Path, tmp_path: Path) -> None:
    replace(Checkpoint.read(repository), digests={"lookup/1/model.onnx": "0" * 64}).write(repository)
    serve = Serve(repository, tmp_path / "run")
    assert serve.ended() == 1
    assert "lookup/1/model.onnx in" in serve.lines[-1]
    assert "is not the file that was exported: export again" in serve.lines[-1]


def test_a_model_that_loads_too_long_is_named(repository: Path, tmp_path: Path) -> None:
    add_python(repository, "slow", SLOW)
    write_manifest(repository, ["lookup", "slow"])
    serve = Serve(repository, tmp_path / "run", "--start-timeout=1")
    assert serve.ended() == 1
    assert "slow did not load within 1 s" in serve.lines[-1]
    assert not processes(tmp_path)


def test_a_model_without_its_folder_is_named(repository: Path, tmp_path: Path) -> None:
    write_manifest(repository, ["lookup", "absent"])
    serve = Serve(repository, tmp_path / "run")
    assert serve.ended() == 1
    assert "absent did not load: model not found in any model repository" in serve.lines[-1]


def test_a_port_in_use_is_named_with_its_flag(repository: Path, tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        serve = Serve(repository, tmp_path / "run", f"--grpc-port={port}")
        assert serve.ended() == 1
    assert serve.lines[-1] == f"songstarter: port {port} of 127.0.0.1 is in use: choose another with --grpc-port\n"


def test_a_repository_without_a_manifest_says_to_export(tmp_path: Path) -> None:
    serve = Serve(tmp_path, tmp_path / "run")
    assert serve.ended() == 1
    assert len(serve.lines) == 1
    assert "songstarter export" in serve.lines[0]


def test_an_address_that_others_reach_is_refused_without_a_key(repository: Path, tmp_path: Path) -> None:
    serve = Serve(repository, tmp_path / "run", "--host=0.0.0.0")
    assert serve.ended() == 1
    assert "--host 0.0.0.0 lets others reach the server, and there is no key" in serve.lines[-1]
    assert not processes(tmp_path)


def test_what_is_set_counts_although_the_repository_says_otherwise(embedded_repository: Path, tmp_path: Path) -> None:
    serve = Serve(embedded_repository, tmp_path / "run", "--set", "decoder.slots=2")
    metrics = f"http://127.0.0.1:{serve.ports.metrics}/metrics"

    def slots() -> list[str]:
        with urlopen(metrics, timeout=10) as answer:
            return re.findall(r"^songstarter_slots(?:\{.*\})? (\S+)$", answer.read().decode(), re.MULTILINE)

    try:
        serve.said("ready: HTTP", timeout=60)
        wait_until(lambda: slots() == ["2"], 10, "two slots")
    finally:
        serve.end(signal.SIGTERM)


def test_a_configuration_with_a_value_that_is_not_allowed_ends_the_start_with_a_sentence(
    embedded_repository: Path, tmp_path: Path
) -> None:
    repository = shutil.copytree(embedded_repository, tmp_path / "repository")
    config = repository / "decoder" / "config.pbtxt"
    text = config.read_text()
    assert text.count('"16"') == 1  # the slots
    config.write_text(text.replace('"16"', '"8.7"'))
    serve = Serve(repository, tmp_path / "run")
    assert serve.ended(60) == 1
    assert "found slots = '8.7' in config.pbtxt of decoder; expected is a whole number, 1 to" in serve.lines[-1]
