"""Who goes away or runs out of time frees what was taken: over every protocol, wherever the request is."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from statistics import median
from typing import Any

import numpy as np
import pytest
import tritonclient.grpc as triton_grpc
from asking import Refused, ask_grpc, inputs, post
from test_metrics import Scrape, growth, told
from tritonclient.utils import InferenceServerException

from songstarter.contract import DECODER, PUBLIC_MODEL
from songstarter.server.server import Server

pytestmark = pytest.mark.triton

LONG: dict[str, Any] = {"prompt": "drone", "duration": 300.0, "num_outputs": 2, "seed": 1}
SHORT: dict[str, Any] = {"prompt": "drone", "duration": 1.0, "num_outputs": 2, "seed": 1}
SOON = 0.15  # seconds: a hundred milliseconds and a step


def start(server: Server, request_id: str, fields: dict[str, Any]) -> Callable[[], None]:
    """Begin a call; what is returned cancels it, as Triton sees a caller too whose connection is gone."""
    client = triton_grpc.InferenceServerClient(server.grpc_url)
    call = client.async_infer(PUBLIC_MODEL, inputs(fields), lambda result, error: None, request_id=request_id)

    def cancel() -> None:
        call.cancel()
        client.close()

    return cancel


def wait_until(server: Server, **gauges: int) -> None:
    """Wait until metrics, which are a second old at most, say so."""
    deadline = time.monotonic() + 30
    while (found := {name: Scrape(server)[f"songstarter_{name}"] for name in gauges}) != gauges:
        assert time.monotonic() < deadline, found
        time.sleep(0.05)


def order_of(server: Server, request_id: str) -> dict[str, Any]:
    """What the decoder's log says of a request, once it says something."""
    (event,) = told(server, 1, lambda event: event["event"] == "order" and event["request"] == request_id)
    return event


def seconds_until(event: dict[str, Any], since: datetime) -> float:
    return (datetime.fromisoformat(event["time"]) - since).total_seconds()


def test_a_caller_who_cancels_frees_the_slots_within_a_tenth_of_a_second_and_a_step(songs: Server) -> None:
    took = []
    for number in range(5):
        cancel = start(songs, f"cancelled-{number}", LONG)
        wait_until(songs, slots_in_use=2)
        since = datetime.now(UTC)
        cancel()
        order = order_of(songs, f"cancelled-{number}")
        assert (order["outcome"], order["error"]) == ("cancelled", "Cancelled")
        took.append(seconds_until(order, since))
        wait_until(songs, slots_in_use=0)
    assert median(took) < SOON, took
    assert max(took) < 2, took


def test_a_client_that_waits_no_longer_frees_the_slots(songs: Server) -> None:
    with (
        triton_grpc.InferenceServerClient(songs.grpc_url) as client,
        pytest.raises(InferenceServerException, match="Deadline Exceeded"),
    ):
        client.infer(PUBLIC_MODEL, inputs(LONG), request_id="waits-no-longer", client_timeout=2)
    assert order_of(songs, "waits-no-longer")["outcome"] == "cancelled"
    wait_until(songs, slots_in_use=0, requests_in_flight=0)


def test_takes_that_wait_for_a_slot_wait_no_longer(songs: Server) -> None:
    crowd = [start(songs, f"crowd-{number}", LONG | {"num_outputs": 8}) for number in range(2)]
    wait_until(songs, slots_in_use=16)
    cancel = start(songs, "in-vain", LONG)
    wait_until(songs, takes_waiting=2)
    cancel()
    order = order_of(songs, "in-vain")
    assert (order["outcome"], order.get("waited_seconds")) == ("cancelled", None)
    for leave in crowd:
        leave()
    for number in range(2):
        assert order_of(songs, f"crowd-{number}")["outcome"] == "cancelled"


def test_neighbours_do_not_notice(songs: Server) -> None:
    alone = ask_grpc(songs.grpc_url, **SHORT).output
    over = threading.Event()

    def come_and_go(number: int) -> None:
        while not over.is_set():
            cancel = start(songs, f"restless-{number}", LONG | {"num_outputs": 3, "duration": 45.0})
            time.sleep(0.1 + 0.07 * number)
            cancel()

    with ThreadPoolExecutor(4) as threads:
        restless = [threads.submit(come_and_go, number) for number in range(4)]
        try:
            outputs = [ask_grpc(songs.grpc_url, **SHORT).output for _ in range(4)]
        finally:
            over.set()
    assert [future.exception() for future in restless] == [None] * 4
    assert outputs == [alone] * 4


def test_the_counters_tell_of_the_cancelled(songs: Server) -> None:
    def work() -> None:
        cancel = start(songs, "counted", LONG)
        wait_until(songs, slots_in_use=2)
        cancel()
        wait_until(songs, slots_in_use=0)
        with pytest.raises(Refused):
            generate(songs, LONG | {"deadline": 2})

    expected = {
        "songstarter_requests_total{cancelled}": 2,
        "songstarter_requests_total{failed}": 0,
        "songstarter_takes_total{cancelled}": 4,
        "songstarter_takes_total{failed}": 0,
    }
    assert growth(songs, work, expected) == pytest.approx(expected)


# -- deadlines --------------------------------------------------------------------------------------------------


def generate(server: Server, fields: dict[str, Any]) -> dict[str, Any]:
    body = json.dumps(fields).encode()
    reply: dict[str, Any] = json.loads(post(f"{server.http_url}/v2/models/{PUBLIC_MODEL}/generate", body))
    return reply


def infer(server: Server, fields: dict[str, Any], parameters: dict[str, Any]) -> None:
    tensor = {"name": "duration", "shape": [1], "datatype": "FP32", "data": [fields["duration"]]}
    body = json.dumps({"id": parameters.pop("id"), "inputs": [tensor], "parameters": parameters}).encode()
    post(f"{server.http_url}/v2/models/{PUBLIC_MODEL}/infer", body)


@pytest.mark.parametrize("deadline", [1.5, 2])
def test_a_deadline_is_kept_over_grpc(songs: Server, deadline: float) -> None:
    since = time.monotonic()
    with (
        triton_grpc.InferenceServerClient(songs.grpc_url) as client,
        pytest.raises(InferenceServerException, match=f"the deadline of {deadline} s has passed$") as caught,
    ):
        client.infer(PUBLIC_MODEL, inputs(LONG), request_id=f"late-{deadline}", parameters={"deadline": deadline})
    assert caught.value.status() == "StatusCode.UNAVAILABLE"
    assert deadline < time.monotonic() - since < deadline + 2
    order = order_of(songs, f"late-{deadline}")
    assert (order["outcome"], order["error"]) == ("cancelled", "Cancelled")
    (request,) = told(songs, 1, lambda event: event["event"] == "request" and event["request"] == f"late-{deadline}")
    assert (request["outcome"], request["error"]) == ("cancelled", "DeadlineExceeded")


def test_a_deadline_is_kept_over_http(songs: Server) -> None:
    with pytest.raises(Refused, match=r"400.*the deadline of 2 s has passed"):  # Triton's own way with /generate
        generate(songs, LONG | {"deadline": 2})
    with pytest.raises(Refused, match=r"503.*the deadline of 2 s has passed"):
        infer(songs, LONG, {"id": "late-infer", "deadline": 2})
    assert order_of(songs, "late-infer")["outcome"] == "cancelled"


def test_a_deadline_that_is_kept_changes_nothing(songs: Server) -> None:
    assert generate(songs, SHORT | {"deadline": 100})["output"] == generate(songs, SHORT)["output"]


@pytest.mark.parametrize("deadline", [0, -1, "soon", True, 86_401])
def test_a_deadline_that_is_none_is_refused(songs: Server, deadline: object) -> None:
    with pytest.raises(Refused, match=r"400.*deadline: found .*, allowed is seconds, more than 0 and at most 86400"):
        generate(songs, SHORT | {"deadline": deadline})


# -- the decoder's own border -----------------------------------------------------------------------------------


def test_cancelling_what_is_not_under_way_does_no_harm(songs: Server) -> None:
    tensor = triton_grpc.InferInput("cancel", [1], "BYTES")
    tensor.set_data_from_numpy(np.array([b"nobody"], object))
    responses: list[Any] = []
    with triton_grpc.InferenceServerClient(songs.grpc_url) as client:
        client.start_stream(lambda result, error: responses.append(error or result))
        client.async_stream_infer(DECODER, [tensor], enable_empty_final_response=True)
        client.stop_stream()
    (response,) = responses
    assert response.get_response().parameters["triton_final_response"].bool_param
