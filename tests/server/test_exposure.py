"""A server that others may reach: who is let in, what is closed to all, and that the key stays a secret."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from queue import SimpleQueue
from typing import Any
from urllib.error import HTTPError

import numpy as np
import pytest
import tritonclient.grpc as triton_grpc
import tritonclient.http as triton_http
from tiny_repository import SLEEPER, add_python, write_manifest
from tritonclient.utils import InferenceServerException

from songstarter.contract import PUBLIC_MODEL
from songstarter.key import Key
from songstarter.server.canary import canaries
from songstarter.server.exposure import Exposure
from songstarter.server.launch import Ports
from songstarter.server.server import Server
from songstarter_client import Client, RefusedKey

pytestmark = pytest.mark.triton

ELSEWHERE = "127.0.0.2"  # loopback too, and not where a server listens unasked
KEY = Key("0123456789abcdef+/==")
WRONG = {"Authorization": "Bearer 0123456789abcdef+/=", "triton-grpc-protocol-authorization": "Bearer no"}
SHORT = {"duration": 0.2, "num_outputs": 1, "seed": 5}


@pytest.fixture(scope="module")
def keyed(embedded_repository: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    exposure = Exposure(ELSEWHERE, KEY)
    with Server(embedded_repository, Ports.free(), tmp_path_factory.mktemp("run"), exposure=exposure) as server:
        yield server


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """As `songstarter serve` starts one when nothing is said."""
    folder = tmp_path_factory.mktemp("plain")
    add_python(folder / "repository", "sleeper", SLEEPER)
    repository = write_manifest(folder / "repository", ["sleeper"])
    with Server(repository, Ports.free(), folder / "run", exit_timeout=5) as server:
        yield server


def status(url: str, body: object = None, headers: dict[str, str] | None = None) -> tuple[int, str]:
    """What any HTTP client gets: GET without a body, POST with one."""
    data = None if body is None else json.dumps(body).encode()
    try:
        with urllib.request.urlopen(urllib.request.Request(url, data, headers or {}), timeout=30) as answer:
            return answer.status, answer.read().decode()
    except HTTPError as error:
        return error.code, error.read().decode()


def seconds(library: Any) -> list[Any]:
    given = library.InferInput("duration", [1], "FP32")
    given.set_data_from_numpy(np.array([0.2], np.float32))
    return [given]


# -- with a key, and without ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("headers", [{}, WRONG], ids=["no key", "wrong key"])
@pytest.mark.parametrize("verb", ["infer", "generate", "generate_stream", "versions/1/infer"])
@pytest.mark.parametrize("model", [PUBLIC_MODEL, "decoder", "text_encoder"])
def test_http_without_the_key_is_refused(keyed: Server, model: str, verb: str, headers: dict[str, str]) -> None:
    code, body = status(f"{keyed.http_url}/v2/models/{model}/{verb}", SHORT, headers)
    assert code == 403
    assert "restricted" in body


@pytest.mark.parametrize("path", ["/v2", "/v2/models/stats", f"/v2/models/{PUBLIC_MODEL}/config", "/v2/models/decoder"])
def test_what_the_server_tells_of_itself_needs_the_key_too(keyed: Server, path: str) -> None:
    assert status(f"{keyed.http_url}{path}")[0] == 403
    assert status(f"{keyed.http_url}{path}", headers=KEY.http_headers)[0] == 200


def test_http_with_the_key_makes_a_song(keyed: Server) -> None:
    code, body = status(f"{keyed.http_url}/v2/models/{PUBLIC_MODEL}/generate", SHORT, KEY.http_headers)
    assert code == 200
    assert json.loads(body)["output"].startswith("data:audio/wav;base64,")


def test_tritonclient_over_http_takes_the_key_as_a_header(keyed: Server) -> None:
    with triton_http.InferenceServerClient(keyed.http_url.removeprefix("http://"), network_timeout=60) as client:
        with pytest.raises(InferenceServerException, match="restricted"):
            client.infer(PUBLIC_MODEL, seconds(triton_http))
        assert client.infer(PUBLIC_MODEL, seconds(triton_http), headers=KEY.http_headers).as_numpy("output").size == 4


@pytest.mark.parametrize("headers", [{}, WRONG], ids=["no key", "wrong key"])
def test_grpc_without_the_key_is_refused(keyed: Server, headers: dict[str, str]) -> None:
    metadata = {name: value for name, value in headers.items() if name.islower()}
    with (
        triton_grpc.InferenceServerClient(keyed.grpc_url) as client,
        pytest.raises(InferenceServerException, match="restricted"),
    ):
        client.infer(PUBLIC_MODEL, seconds(triton_grpc), headers=metadata)


def test_a_grpc_stream_needs_the_key(keyed: Server) -> None:
    assert "restricted" in str(first_of_a_stream(keyed, {}))
    assert first_of_a_stream(keyed, KEY.grpc_metadata) is None


def first_of_a_stream(server: Server, headers: dict[str, str]) -> Exception | None:
    heard: SimpleQueue[Exception | None] = SimpleQueue()
    with triton_grpc.InferenceServerClient(server.grpc_url) as client:
        client.start_stream(callback=lambda result, error: heard.put(error), headers=headers)
        with suppress(InferenceServerException):  # a stream may be refused before the first request is on its way
            client.async_stream_infer(PUBLIC_MODEL, seconds(triton_grpc))
        error = heard.get(timeout=60)
        client.stop_stream(cancel_requests=True)
    return error


def test_grpc_with_the_key_makes_a_song(keyed: Server) -> None:
    with triton_grpc.InferenceServerClient(keyed.grpc_url) as client:
        answer = client.infer(PUBLIC_MODEL, seconds(triton_grpc), headers=KEY.grpc_metadata)
    assert answer.as_numpy("output").size == 4


@pytest.mark.parametrize("protocol", ["grpc", "http"])
def test_the_client_shows_its_key(keyed: Server, protocol: str) -> None:
    url = f"grpc://{keyed.grpc_url}" if protocol == "grpc" else keyed.http_url
    with Client(url, timeout=60, key=KEY.text) as client:
        assert len(client.generate("piano", **SHORT).files) == 1
    with Client(url, timeout=60, retries=3) as client, pytest.raises(RefusedKey, match="asks for a key"):
        client.generate("piano", **SHORT)


def test_the_command_finds_its_key_in_a_file_or_the_environment(keyed: Server, tmp_path: Path) -> None:
    (tmp_path / "key").write_text(f"{KEY.text}\n")
    command = [sys.executable, "-m", "songstarter.cli", "generate", "piano", "--duration=0.2", "--num-outputs=1"]
    command += [f"--url={keyed.grpc_url}", f"--out={tmp_path}"]

    def run(*more: str, **environment: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run([*command, *more], env=environment, capture_output=True, text=True, check=False)

    assert run(f"--key-file={tmp_path / 'key'}").returncode == 0
    assert run(SONGSTARTER_KEY=KEY.text).returncode == 0
    assert run(SONGSTARTER_KEY_FILE=str(tmp_path / "key")).returncode == 0
    without = run()
    assert without.returncode == 1
    assert "asks for a key" in without.stderr
    assert KEY.text not in without.stderr


# -- what everybody may, and what nobody may --------------------------------------------------------------------------


def test_probes_of_health_and_metrics_need_no_key(keyed: Server) -> None:
    for path in ("/v2/health/live", "/v2/health/ready", f"/v2/models/{PUBLIC_MODEL}/ready"):
        assert status(f"{keyed.http_url}{path}")[0] == 200
    with triton_grpc.InferenceServerClient(keyed.grpc_url) as client:
        assert client.is_server_ready()
        assert client.is_model_ready(PUBLIC_MODEL)
    assert "songstarter_slots" in status(keyed.metrics_url)[1]


def test_canaries_show_the_key(keyed: Server) -> None:
    assert [canary.ask(keyed.door, 30.0) for canary in canaries(keyed.checkpoint)] == [None] * len(
        keyed.checkpoint.models
    )


CLOSED_OVER_HTTP = (
    ("/v2/repository/index", {}),
    ("/v2/repository/models/sleeper/load", {"parameters": {"config": "{}"}}),
    ("/v2/repository/models/sleeper/unload", {}),
    ("/v2/systemsharedmemory/region/mine/register", {"key": "/mine", "offset": 0, "byte_size": 64}),
    ("/v2/systemsharedmemory/unregister", {}),
    ("/v2/systemsharedmemory/status", None),
    ("/v2/cudasharedmemory/region/mine/register", {"raw_handle": {"b64": ""}, "device_id": 0, "byte_size": 64}),
    ("/v2/cudasharedmemory/status", None),
    ("/v2/logging", {"log_file": "somewhere"}),
    ("/v2/logging", None),
    ("/v2/trace/setting", {"trace_file": ["somewhere"], "trace_level": ["TIMESTAMPS"]}),
    ("/v2/models/sleeper/trace/setting", None),
)


@pytest.mark.parametrize("which", ["plain", "keyed"])
@pytest.mark.parametrize(("path", "body"), CLOSED_OVER_HTTP)
def test_what_changes_a_server_is_closed_over_http(
    request: pytest.FixtureRequest, which: str, path: str, body: object
) -> None:
    server: Server = request.getfixturevalue(which)
    code, message = status(f"{server.http_url}{path}", body, KEY.http_headers)
    assert code == 403
    assert "restricted" in message


CLOSED_OVER_GRPC: tuple[tuple[str, tuple[Any, ...]], ...] = (
    ("get_model_repository_index", ()),
    ("load_model", ("sleeper",)),
    ("unload_model", ("sleeper",)),
    ("register_system_shared_memory", ("mine", "/mine", 64)),
    ("unregister_system_shared_memory", ()),
    ("get_system_shared_memory_status", ()),
    ("register_cuda_shared_memory", ("mine", b"", 0, 64)),
    ("get_cuda_shared_memory_status", ()),
    ("update_log_settings", ({"log_file": "somewhere"},)),
    ("get_log_settings", ()),
    ("update_trace_settings", (None, {"trace_level": "TIMESTAMPS"})),
    ("get_trace_settings", ()),
)


@pytest.mark.parametrize("which", ["plain", "keyed"])
@pytest.mark.parametrize(("call", "arguments"), CLOSED_OVER_GRPC)
def test_what_changes_a_server_is_closed_over_grpc(
    request: pytest.FixtureRequest, which: str, call: str, arguments: tuple[Any, ...]
) -> None:
    server: Server = request.getfixturevalue(which)
    with (
        triton_grpc.InferenceServerClient(server.grpc_url) as client,
        pytest.raises(InferenceServerException, match="restricted"),
    ):
        getattr(client, call)(*arguments, headers=KEY.grpc_metadata)


# -- where it listens, and who sees the key ---------------------------------------------------------------------------


def listening(pid: int) -> set[tuple[str, int]]:
    """Addresses and ports of a process's listening TCP sockets, out of /proc."""
    inodes = set()
    for descriptor in Path(f"/proc/{pid}/fd").iterdir():
        target = str(descriptor.readlink()) if descriptor.is_symlink() else ""
        if target.startswith("socket:["):
            inodes.add(target[8:-1])
    found = set()
    for table in ("tcp", "tcp6"):
        for line in Path(f"/proc/{pid}/net/{table}").read_text().splitlines()[1:]:
            fields = line.split()
            if fields[3] == "0A" and fields[9] in inodes:
                host, port = fields[1].split(":")
                found.add((readable(host), int(port, 16)))
    return found


def readable(host: str) -> str:
    """/proc's words of four bytes in machine order, as dotted numbers; gRPC maps IPv4 into IPv6."""
    data = b"".join(bytes.fromhex(host[at : at + 8])[::-1] for at in range(0, len(host), 8))
    if len(data) == 16 and data.startswith(bytes(10) + b"\xff\xff"):
        data = data[12:]
    return socket.inet_ntop(socket.AF_INET if len(data) == 4 else socket.AF_INET6, data)


@pytest.mark.parametrize(("which", "host"), [("plain", "127.0.0.1"), ("keyed", ELSEWHERE)])
def test_it_listens_where_it_was_asked_to_and_nowhere_else(
    request: pytest.FixtureRequest, which: str, host: str
) -> None:
    server: Server = request.getfixturevalue(which)
    assert listening(server.pid) == {(host, port) for port in vars(server.ports).values()}
    for pids in server.stubs().values():
        assert listening(pids[0]) == set()


def test_no_command_line_shows_the_key(keyed: Server) -> None:
    pids = [keyed.pid, *(pid for stubs in keyed.stubs().values() for pid in stubs)]
    lines = [Path(f"/proc/{pid}/cmdline").read_bytes() for pid in pids]
    assert b"SONGSTARTER_ARGUMENT_0" in lines[0]
    assert all(secret not in line for line in lines for secret in (KEY.text.encode(), b"closed="))
    shown = subprocess.run(["ps", "-ww", "-eo", "args"], capture_output=True, text=True, check=True).stdout
    assert KEY.text not in shown
    assert KEY.text not in keyed.log.path.read_text()


def test_the_environment_that_holds_the_key_is_the_owners_alone(keyed: Server) -> None:
    assert Path(f"/proc/{keyed.pid}/environ").stat().st_mode & 0o077 == 0
