"""The thread behind a Client: it starts with the first question and ends with the client, closed or dropped."""

from __future__ import annotations

import asyncio
import gc
import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Generator

import pytest
from scripted_server import scripted
from triton_for_client import free_port

from songstarter_client import Chunk, Client
from songstarter_client.loop_thread import LoopThread

CHUNK = {
    "audio": "UklGRg==",
    "variation": 0,
    "seconds": 1.0,
    "total_seconds": 3.0,
    "gain": 1.0,
    "last": False,
    "seed": 7,
    "sample_rate": 32000,
    "channels": 2,
}
STREAM = 200, f"data: {json.dumps(CHUNK)}\n\n".encode()


def threads() -> int:
    return sum(thread.name == "songstarter-client" for thread in threading.enumerate())


def descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))


def soon(holds: Callable[[], bool]) -> bool:
    end = time.monotonic() + 5
    while not holds() and time.monotonic() < end:
        time.sleep(0.02)
    return holds()


def test_a_client_that_was_asked_nothing_has_no_thread() -> None:
    threads_before, descriptors_before = threads(), descriptors()
    clients = [Client("127.0.0.1:1") for _ in range(10)]
    assert threads() <= threads_before
    assert descriptors() <= descriptors_before
    for client in clients:
        client.close()


@pytest.mark.parametrize("scheme", ["grpc", "http"])
def test_dropped_clients_leave_neither_threads_nor_descriptors(scheme: str) -> None:
    url = f"{scheme}://127.0.0.1:{free_port()}"
    threads_before = threads()
    Client(url).ready()  # what the first one brings for all stays
    assert soon(lambda: threads() <= threads_before)
    descriptors_before = descriptors()
    for _ in range(10):
        Client(url).ready()
    assert soon(lambda: threads() <= threads_before)
    assert soon(lambda: descriptors() <= descriptors_before)


def begun(url: str) -> Generator[Chunk, None, None]:
    chunks = Client(url, timeout=20).stream("x")
    assert next(chunks).audio == b"RIFF"
    return chunks


@pytest.mark.filterwarnings("error")
def test_a_dropped_stream_takes_its_client_along(caplog: pytest.LogCaptureFixture) -> None:
    before = threads()
    with scripted(STREAM) as server:
        begun(server.url)
        assert soon(lambda: threads() <= before)
        cycle: list[object] = [begun(server.url)]
        cycle.append(cycle)
        del cycle
        gc.collect()
        assert soon(lambda: threads() <= before)
    assert caplog.messages == []


@pytest.mark.filterwarnings("error")
def test_a_client_that_is_closed_closes_its_streams(caplog: pytest.LogCaptureFixture) -> None:
    with scripted(STREAM) as server:
        with Client(server.url, timeout=20) as client:
            chunks = client.stream("x")
            next(chunks)
        chunks.close()
        del chunks, client
        gc.collect()
    assert caplog.messages == []


def test_the_interpreter_exits_in_silence_in_the_middle_of_a_stream() -> None:
    with scripted(STREAM) as server:
        script = f"from songstarter_client import Client; left = Client('{server.url}').stream('x'); print(next(left))"
        done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=30, check=False)
    assert (done.returncode, done.stderr) == (0, "")


def test_a_client_closes_as_often_as_one_likes_used_or_not() -> None:
    before = threads()
    for use in (lambda client: None, Client.ready):
        client = Client(f"127.0.0.1:{free_port()}")
        use(client)
        closing = [threading.Thread(target=client.close) for _ in range(3)]
        for thread in closing:
            thread.start()
        for thread in closing:
            thread.join(5)
        client.close()
        assert threads() <= before
        with pytest.raises(RuntimeError, match=r"^the client is closed$"):
            client.ready()


@pytest.mark.parametrize("scheme", ["grpc", "http"])
def test_the_interpreter_exits_in_silence_with_a_client_that_nobody_closed(scheme: str) -> None:
    script = (
        "from songstarter_client import Client\n"
        f"left = Client('{scheme}://127.0.0.1:{free_port()}')\n"
        "print(left.ready())"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=30, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "False\n", "")


@pytest.mark.parametrize(("seconds", "said"), [(0.3, "closed in order\n"), (3600, "")])
def test_the_interpreter_waits_for_an_orderly_end_but_not_long(seconds: float, said: str) -> None:
    script = (
        "import asyncio\n"
        "from songstarter_client.loop_thread import LoopThread\n"
        "import weakref\n"
        "async def last(seconds):\n"
        "    await asyncio.sleep(seconds)\n"
        "    print('closed in order')\n"
        "class Owner: loop = LoopThread()\n"
        "owner = Owner()\n"
        "owner.loop.run(asyncio.sleep(0))\n"
        f"weakref.finalize(owner, lambda loop: loop.abandon(last({seconds})), owner.loop)\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=30, check=True)
    assert done.stdout == said


def test_nothing_runs_once_the_end_was_asked_for() -> None:
    async def last() -> None:
        await asyncio.sleep(0.1)

    loop = LoopThread()
    assert loop.run(asyncio.sleep(0, "done")) == "done"
    loop.abandon(last())
    assert not loop.running
    with pytest.raises(RuntimeError, match=r"^the client is closed$"):
        loop.run(asyncio.sleep(0))
    loop.stop(last())
    assert not loop.running
