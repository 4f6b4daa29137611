"""Each way a request can fail, and the error it becomes, over both protocols."""

from __future__ import annotations

import asyncio
import itertools
import socket
import threading
import time

import pytest
from relay import Relay
from triton_for_client import Addresses, free_port, received

from songstarter_client import (
    AsyncClient,
    BrokenOff,
    Client,
    InvalidRequest,
    NoServer,
    RefusedRequest,
    RequestFailed,
    SongstarterError,
    TimedOut,
    Unavailable,
)

pytestmark = pytest.mark.triton

FRESH_SEEDS = itertools.count(1000)  # the stand-in counts the tries of each seed


def test_a_refused_field_is_named_in_the_servers_words(client: Client) -> None:
    with pytest.raises(RefusedRequest, match=r"^duration: found -1.0, allowed is above 0 up to 30$") as refusal:
        client.generate(duration=-1)
    assert isinstance(refusal.value, InvalidRequest)
    assert refusal.value.field == "duration"


def test_a_full_server_is_unavailable(client: Client) -> None:
    with pytest.raises(Unavailable, match=r"^the service is full: 16 takes") as full:
        client.generate("busy")
    assert not isinstance(full.value, NoServer)


def test_a_failed_take_is_a_failed_request(client: Client) -> None:
    with pytest.raises(RequestFailed, match=r"^variation 1 could not be finished$"):
        client.generate("broken")


def test_a_request_is_sent_again_until_the_server_has_room(url: str) -> None:
    seed = next(FRESH_SEEDS)
    with Client(url, retries=2, timeout=20) as client:
        assert client.generate("busy twice", seed=seed).seed == seed


def test_retries_end(url: str) -> None:
    with Client(url, retries=1, timeout=20) as client, pytest.raises(Unavailable, match="full"):
        client.generate("busy twice", seed=next(FRESH_SEEDS))


def test_a_timeout_bounds_the_tries_together(url: str) -> None:
    with Client(url, retries=50, timeout=0.7) as client, pytest.raises(TimedOut):
        client.generate("busy")


def test_no_answer_in_time_is_a_timeout_and_the_client_goes_on(client: Client) -> None:
    started = time.monotonic()
    with pytest.raises(TimedOut, match=r"gave no answer within 0.3 s$") as late:
        client.generate("slow", timeout=0.3)
    assert time.monotonic() - started < 2
    assert isinstance(late.value, TimeoutError)
    assert client.generate("next", seed=3).seed == 3


def test_giving_up_over_grpc_frees_the_server(triton: Addresses) -> None:
    with Client(triton.grpc, timeout=20) as client:
        before = received(client.generate().files[0])["cancelled"]
        with pytest.raises(TimedOut):
            client.generate("slow", timeout=0.2)
        deadline = time.monotonic() + 3
        while (now := received(client.generate().files[0])["cancelled"]) == before and time.monotonic() < deadline:
            time.sleep(0.05)
    assert now == before + 1


def test_closing_a_client_ends_what_other_threads_wait_for(url: str) -> None:
    client = Client(url, timeout=20)
    ends: list[BaseException] = []

    def wait() -> None:
        try:
            client.generate("slow")
        except RuntimeError as end:
            ends.append(end)

    waiting = threading.Thread(target=wait)
    waiting.start()
    time.sleep(0.2)
    client.close()
    waiting.join(2)
    assert [str(end) for end in ends] == ["the client is closed"]


def test_the_asynchronous_client_meets_the_same_errors(url: str) -> None:
    async def kinds() -> list[type[BaseException]]:
        async with AsyncClient(url, timeout=0.5) as client:
            prompts = ("busy", "broken", "slow")
            ends = await asyncio.gather(*map(client.generate, prompts), return_exceptions=True)
        return [type(end) for end in ends]

    assert asyncio.run(kinds()) == [Unavailable, RequestFailed, TimedOut]


def test_cancelling_a_task_ends_its_request_and_no_other(url: str) -> None:
    async def cancel_one() -> int:
        async with AsyncClient(url, timeout=20) as client:
            doomed = asyncio.create_task(client.generate("slow"))
            await asyncio.sleep(0.1)
            doomed.cancel()
            with pytest.raises(asyncio.CancelledError):
                await doomed
            return (await client.generate("other", seed=9)).seed

    assert asyncio.run(cancel_one()) == 9


@pytest.mark.parametrize("scheme", ["grpc", "http"])
def test_where_nobody_listens_the_message_says_how_to_start_a_server(scheme: str) -> None:
    port = free_port()
    expected = rf"^no server answers at 127.0.0.1:{port}; start one with `songstarter serve`$"
    with Client(f"{scheme}://127.0.0.1:{port}", timeout=20) as client:
        with pytest.raises(NoServer, match=expected):
            client.generate("anyone?")
        assert not client.ready()
        with pytest.raises(NoServer, match=r"was ready within 0.5 s$"):
            client.wait_ready(timeout=0.5)


@pytest.mark.parametrize("scheme", ["grpc", "http"])
def test_a_host_that_no_one_knows_is_no_server(scheme: str) -> None:
    with Client(f"{scheme}://songstarter.invalid:1", timeout=20) as client, pytest.raises(NoServer):
        client.generate("anyone?")


def test_the_other_protocols_port_is_told_apart(triton: Addresses) -> None:
    crossed = (triton.grpc.replace("grpc:", "http:"), "HTTP"), (triton.http.replace("http:", "grpc:"), "gRPC")
    for url, wanted in crossed:
        with Client(url, timeout=20) as client, pytest.raises(NoServer, match=f"does not speak {wanted}"):
            client.generate("anyone?")


def test_a_connection_cut_while_the_song_is_made_is_broken_off_and_not_tried_again(url: str) -> None:
    scheme, _, port = url.rpartition(":")

    async def cut_in_the_middle() -> None:
        relay = Relay(int(port))
        async with AsyncClient(f"{scheme}:{await relay.open()}", timeout=20, retries=1) as client:
            assert (await client.generate(seed=4)).seed == 4
            waiting = asyncio.create_task(client.generate("slow"))
            await asyncio.sleep(0.2)
            await relay.cut()
            await waiting

    with pytest.raises(BrokenOff, match=r"ended the connection before it had answered$"):
        asyncio.run(cut_in_the_middle())


@pytest.mark.parametrize("scheme", ["grpc", "http"])
def test_a_server_that_accepts_and_says_nothing_is_a_timeout(scheme: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"{scheme}://127.0.0.1:{silent.getsockname()[1]}"
        with Client(url, timeout=0.5) as client, pytest.raises(TimedOut):
            client.generate("hello?")


@pytest.mark.parametrize(
    ("url", "protocol", "allowed"),
    [
        ("ftp://127.0.0.1:8001", None, "grpc or http or grpcs or https as protocol"),
        ("http://127.0.0.1:8000", "grpc", "grpc or grpcs as protocol"),
        ("grpcs://127.0.0.1:8000", "http", "http or https as protocol"),
        ("127.0.0.1:port", None, "HOST"),
        ("127.0.0.1:70000", None, "HOST"),
        ("127.0.0.1:8000/v2", None, "HOST"),
        ("", None, "HOST"),
    ],
)
def test_an_address_that_is_none_is_refused(url: str, protocol: str | None, allowed: str) -> None:
    with pytest.raises(InvalidRequest, match=rf"^url: found .*allowed is {allowed}"):
        Client(url, protocol=protocol)  # type: ignore[arg-type]


def test_a_closed_client_says_so_and_closes_again(url: str) -> None:
    with Client(url) as client:
        pass
    client.close()
    with pytest.raises(RuntimeError, match=r"^the client is closed$"):
        client.generate("late")


def test_one_except_catches_everything(client: Client) -> None:
    for prompt in ("busy", "broken", "gone"):
        with pytest.raises(SongstarterError):
            client.generate(prompt)
