"""Priority, deadline and id, given to the client and kept by a running server, whole songs and streams alike."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Any

import pytest
from test_metrics import told

from songstarter.server.server import Server
from songstarter_client import AsyncClient, Client, DeadlinePassed, RefusedRequest, TimedOut

pytestmark = pytest.mark.triton

LONG: dict[str, Any] = {"duration": 300.0, "num_outputs": 2, "seed": 1}
SHORT: dict[str, Any] = {"duration": 0.5, "num_outputs": 1, "seed": 1}
WAYS: dict[str, Callable[..., object]] = {
    "whole": lambda client, **fields: client.generate("drone", **fields),
    "stream": lambda client, **fields: list(client.stream("drone", **fields)),
}


@pytest.fixture(params=["grpc", "http"])
def url(request: pytest.FixtureRequest, songs: Server) -> str:
    return songs.http_url if request.param == "http" else f"grpc://{songs.grpc_url}"


def line_of(server: Server, request_id: str | None) -> dict[str, Any]:
    """What the server's log says of a request, once it says something."""
    (event,) = told(server, 1, lambda event: event["event"] == "request" and event["request"] == request_id)
    return event


@pytest.mark.parametrize("way", WAYS)
def test_a_deadline_that_passes_is_unavailable_and_in_the_log(songs: Server, url: str, way: str) -> None:
    since = time.monotonic()
    with (
        Client(url, timeout=60, retries=2) as client,
        pytest.raises(DeadlinePassed, match=r"^the deadline of 1.5 s has passed$") as late,
    ):
        WAYS[way](client, deadline=1.5, **LONG)
    assert 1.5 < time.monotonic() - since < 4
    line = line_of(songs, late.value.request_id)
    assert (line["outcome"], line["error"]) == ("cancelled", "DeadlineExceeded")


@pytest.mark.parametrize("way", WAYS)
def test_a_request_is_found_in_the_log_by_the_id_it_came_with(songs: Server, url: str, way: str) -> None:
    name = f"{way} over {url}"
    with Client(url, timeout=60) as client:
        WAYS[way](client, request_id=name, priority=1, deadline=50, **SHORT)
    assert line_of(songs, name)["outcome"] == "answered"


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("priority", [0, 6])
def test_a_priority_that_is_none_is_refused(songs: Server, url: str, way: str, priority: int) -> None:
    sentence = rf"^priority: found {priority}, allowed is a whole number, 1 \(first\) to 5$"
    with Client(url, timeout=60) as client, pytest.raises(RefusedRequest, match=sentence) as refused:
        WAYS[way](client, priority=priority, **SHORT)
    line = line_of(songs, refused.value.request_id)
    assert (line["outcome"], line["field"]) == ("invalid", "priority")


def test_a_song_that_nobody_waits_for_any_longer_stops(songs: Server, url: str) -> None:
    with Client(url, timeout=1.5) as client, pytest.raises(TimedOut) as late:
        client.generate("drone", **LONG)
    line = line_of(songs, late.value.request_id)
    assert line["outcome"] == "cancelled"
    assert 1 < line["seconds"] < 4


def test_the_asynchronous_client_takes_them_too(songs: Server, url: str) -> None:
    async def ask() -> None:
        async with AsyncClient(url, timeout=60) as client:
            await client.generate("drone", request_id=f"async {url}", priority=5, deadline=50, **SHORT)
            with pytest.raises(DeadlinePassed):
                async for _ in client.stream("drone", request_id=f"async stream {url}", deadline=1, **LONG):
                    pass

    asyncio.run(ask())
    assert line_of(songs, f"async {url}")["outcome"] == "answered"
    assert line_of(songs, f"async stream {url}")["outcome"] == "cancelled"
