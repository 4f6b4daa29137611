"""What is sent again and what is not, and how long: on servers that a test writes out."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator

import pytest
from scripted_server import scripted
from triton_for_client import free_port

from songstarter_client import BrokenOff, Client, NoServer, RefusedRequest, TimedOut, Unavailable, client

FULL = 503, b'{"error": "the service is full"}'
REFUSED = 400, b'{"error": "INVALID_ARG: a server is here now"}'


def whole(asking: Client) -> object:
    return asking.generate("x")


def streamed(asking: Client) -> object:
    return list(asking.stream("x"))


@pytest.fixture(params=[whole, streamed])
def ask(request: pytest.FixtureRequest) -> Callable[[Client], object]:
    way: Callable[[Client], object] = request.param
    return way


@pytest.fixture
def short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client, "FIRST_PAUSE", 0.01)


@pytest.mark.usefixtures("short_pauses")
def test_a_full_server_is_asked_again(ask: Callable[[Client], object]) -> None:
    with scripted(FULL) as server, Client(server.url, timeout=20, retries=2) as asking:
        with pytest.raises(Unavailable, match=r"^the service is full$"):
            ask(asking)
        assert server.requests == 3


@pytest.mark.usefixtures("short_pauses")
def test_a_song_that_may_have_begun_is_not_begun_again(ask: Callable[[Client], object]) -> None:
    with scripted(None) as server, Client(server.url, timeout=20, retries=2) as asking:
        with pytest.raises(BrokenOff, match=r"ended the connection before it had answered$"):
            ask(asking)
        assert server.requests == 1


@pytest.mark.usefixtures("short_pauses")
def test_neither_is_one_whose_server_ended_the_stream_without_a_chunk() -> None:
    with scripted((200, b"")) as server, Client(server.url, timeout=20, retries=2) as asking:
        with pytest.raises(BrokenOff, match=r"ended the stream before the song was complete$"):
            streamed(asking)
        assert server.requests == 1


def test_who_nobody_answers_asks_again(ask: Callable[[Client], object], monkeypatch: pytest.MonkeyPatch) -> None:
    tried = threading.Event()

    def pauses(retries: int) -> Iterator[float]:
        yield 0.0
        tried.set()
        yield from [0.2] * (retries - 1)

    monkeypatch.setattr(client, "_pauses", pauses)
    port = free_port()
    ends: list[RefusedRequest] = []

    def patient() -> None:
        with Client(f"http://127.0.0.1:{port}", timeout=20, retries=50) as asking:
            try:
                ask(asking)
            except RefusedRequest as refusal:
                ends.append(refusal)

    waiting = threading.Thread(target=patient)
    waiting.start()
    assert tried.wait(20)
    with scripted(REFUSED, port):
        waiting.join(20)
    assert [str(end).endswith("a server is here now") for end in ends] == [True]


@pytest.mark.parametrize("scheme", ["grpc", "http"])
def test_pauses_between_the_tries_are_part_of_the_timeout(ask: Callable[[Client], object], scheme: str) -> None:
    at_least = 0.25 + 0.5  # of two pauses
    with (
        Client(f"{scheme}://127.0.0.1:{free_port()}", timeout=at_least - 0.05, retries=2) as asking,
        pytest.raises(TimedOut) as late,
    ):
        ask(asking)
    assert not isinstance(late.value, NoServer)
