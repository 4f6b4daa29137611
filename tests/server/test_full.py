"""A service that is full says so at once, over every protocol, and takes requests again afterwards."""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import tritonclient.grpc as triton_grpc
from asking import Refused, ask_generate, ask_grpc, ask_http, inputs
from serving import wait_until
from tritonclient.utils import InferenceServerException

from songstarter.contract import PUBLIC_MODEL
from songstarter.server.launch import LEAST_THREADS, Ports
from songstarter.server.server import Server

pytestmark = pytest.mark.triton

LONG = {"prompt": "drone", "duration": 30.0, "num_outputs": 1, "seed": 1}
SHORT = {"prompt": "drone", "duration": 0.5, "num_outputs": 1, "seed": 1}


@pytest.fixture(scope="module")
def server(embedded_repository: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """Two slots, room for three waiting takes, two requests at once."""
    repository = shutil.copytree(embedded_repository, tmp_path_factory.mktemp("small") / "repository")
    bound(repository / "decoder" / "config.pbtxt", {"slots": 2, "max_waiting": 3})
    bound(repository / "songstarter" / "config.pbtxt", {"max_requests": 2})
    with Server(repository, Ports.free(), tmp_path_factory.mktemp("run")) as server:
        yield server


MANY = LEAST_THREADS + 8
IN_THE_DECODER = ("songstarter_slots_in_use", "songstarter_takes_waiting")


@pytest.fixture
def wide_server(embedded_repository: Path, tmp_path: Path) -> Iterator[Server]:
    """One slot, and more requests at once than Triton would give threads to a process by itself."""
    repository = shutil.copytree(embedded_repository, tmp_path / "repository")
    bound(repository / "decoder" / "config.pbtxt", {"slots": 1, "max_waiting": MANY})
    bound(repository / "songstarter" / "config.pbtxt", {"max_requests": MANY})
    with Server(repository, Ports.free(), tmp_path / "run") as server:
        yield server


def bound(config: Path, values: dict[str, int]) -> None:
    text = config.read_text()
    for name, value in values.items():
        head, key, tail = text.partition(f'key: "{name}" value {{ string_value: "')
        assert key
        text = head + key + str(value) + tail[tail.index('"') :]
    config.write_text(text)


def test_a_full_decoder_is_unavailable_over_every_protocol(server: Server) -> None:
    fields = SHORT | {"num_outputs": 6}
    with pytest.raises(InferenceServerException, match="6 takes are more than this server has") as caught:
        ask_grpc(server.grpc_url, **fields)
    assert caught.value.status() == "StatusCode.UNAVAILABLE"
    with pytest.raises(InferenceServerException, match="6 takes are more") as caught:
        ask_http(server.http_url, **fields)
    assert caught.value.status() == "503"
    with pytest.raises(Refused, match=r"400.*6 takes are more"):  # Triton's own way with /generate
        ask_generate(server.http_url, **fields)
    assert len(ask_grpc(server.grpc_url, **SHORT).output) == 1


def test_more_requests_than_places_are_unavailable_at_once(server: Server) -> None:
    with ThreadPoolExecutor(2) as threads:
        under_way = [threads.submit(ask_grpc, server.grpc_url, **LONG) for _ in range(2)]
        time.sleep(0.5)
        started = time.monotonic()
        with pytest.raises(InferenceServerException, match="2 requests are under way, which is the bound") as caught:
            ask_grpc(server.grpc_url, **SHORT)
        assert time.monotonic() - started < 2
        assert caught.value.status() == "StatusCode.UNAVAILABLE"
        assert not any(request.done() for request in under_way)
        assert under_way[0].result().output == under_way[1].result().output
    assert len(ask_grpc(server.grpc_url, **SHORT).output) == 1


def test_many_who_wait_keep_nobody_from_hearing_that_the_service_is_full(wide_server: Server) -> None:
    """Each of them has a call of the decoder open, which holds a thread of Triton's until the song begins."""

    def orders() -> float:
        _, text = wide_server.metrics_door.ask("GET", "/metrics", timeout=5)
        lines = [line for line in text.decode().splitlines() if line.startswith(IN_THE_DECODER)]
        return sum(float(line.split()[-1]) for line in lines)

    with triton_grpc.InferenceServerClient(wide_server.grpc_url) as client:
        calls = [client.async_infer(PUBLIC_MODEL, inputs(LONG), lambda result, error: None) for _ in range(MANY)]
        wait_until(lambda: orders() == MANY, 60, "not every request waits in the decoder")
        for _ in range(3):
            with pytest.raises(InferenceServerException, match=f"{MANY} requests are under way"):
                client.infer(PUBLIC_MODEL, inputs(SHORT), client_timeout=2)
        for call in calls:
            call.cancel()
        wait_until(lambda: not orders(), 20, "not every order was cancelled")
    assert len(ask_grpc(wide_server.grpc_url, **SHORT).output) == 1
