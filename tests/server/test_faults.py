"""Real faults under `songstarter serve` with songs in flight: who hears what, within which time, and what heals.

``-o log_cli=true --log-cli-level=INFO`` shows how long each took.
"""

from __future__ import annotations

import io
import json
import logging
import os
import re
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import soundfile
import tritonclient.grpc as triton_grpc
from asking import Answer, ask_generate, ask_grpc, ask_http
from exporting import export_into
from serving import Serve, processes, region_prefix, wait_until
from streams import stream_grpc, stream_sse
from tritonclient.utils import InferenceServerException

from songstarter.checkpoint import Checkpoint
from songstarter.contract import CODEC_DECODER, DECODER, PUBLIC_MODEL, STREAM_MODEL, TEXT_ENCODER
from songstarter.digests import digest
from songstarter.engine.service import SICK
from songstarter.server.canary import canaries
from songstarter.server.wire import HttpDoor

pytestmark = [pytest.mark.triton, pytest.mark.slow]

SHORT = {"duration": 0.2, "num_outputs": 1, "seed": 5}
LONG = {"duration": 30.0, "num_outputs": 8, "seed": 5}  # three seconds and more on two cores, several at once longer
SOME = {"duration": 120.0, "num_outputs": 2, "seed": 5}  # some seconds, also on a machine that has nothing else to do
MOST_SECONDS = 10.0  # from a fault to the error of everybody who waits
log = logging.getLogger(__name__)
STUB = b"triton_python_backend_stub"
needs_mounts = pytest.mark.skipif(
    os.geteuid() != 0 or shutil.which("nsenter") is None or shutil.which("unshare") is None,
    reason="mounts of one's own need root, unshare and nsenter",
)


@pytest.fixture(scope="module")
def sung(embedded_repository: Path, tmp_path_factory: pytest.TempPathFactory) -> list[bytes]:
    """What SHORT sounds like on a server that nothing has happened to."""
    serve = Serve(embedded_repository, tmp_path_factory.mktemp("run"))
    serve.said("ready: HTTP", timeout=60)
    try:
        return ask_grpc(serve.grpc_url, **SHORT).output
    finally:
        serve.end(signal.SIGTERM)


@pytest.fixture
def serving() -> Iterator[list[Serve]]:
    """Servers that a test starts, ended whatever happens."""
    started: list[Serve] = []
    yield started
    for serve in started:
        if serve.process.poll() is None:
            serve.process.send_signal(signal.SIGTERM)
            serve.process.send_signal(signal.SIGINT)
        serve.ended(60)


@pytest.fixture
def serve(serving: list[Serve], embedded_repository: Path, tmp_path: Path) -> Serve:
    serving.append(Serve(embedded_repository, tmp_path / "run", "--exit-timeout=60"))
    serving[0].said("ready: HTTP", timeout=60)
    return serving[0]


@pytest.fixture
def pool() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(8) as executor:
        yield executor


WAYS: Sequence[tuple[Callable[..., Any], str]] = (
    (ask_generate, "url"),
    (ask_http, "url"),
    (ask_grpc, "grpc_url"),
    (stream_grpc, "grpc_url"),
    (stream_sse, "url"),
)


def in_flight(serve: Serve, pool: ThreadPoolExecutor) -> list[Future[Any]]:
    """A long song over every protocol, under way."""
    futures = [pool.submit(ask, getattr(serve, where), **LONG) for ask, where in WAYS]
    door = HttpDoor("127.0.0.1", serve.ports.metrics)

    def all_play() -> bool:
        _, text = door.ask("GET", "/metrics", timeout=5)
        lines = [line for line in text.decode().splitlines() if line.startswith("songstarter_requests_in_flight")]
        return sum(float(line.split()[-1]) for line in lines) >= len(WAYS)

    wait_until(all_play, 60, "not all requests are under way")
    assert not any(future.done() for future in futures)
    return futures


def errors_within(futures: Sequence[Future[Any]], seconds: float) -> list[BaseException]:
    deadline = time.monotonic() + seconds
    found = [future.exception(timeout=max(deadline - time.monotonic(), 0.01)) for future in futures]
    assert all(found), "a request was answered after its server had died"
    return [error for error in found if error]


def victim(run_directory: Path, model: str | None) -> int:
    """The process of a model, or tritonserver itself."""
    names = (b"bin/tritonserver",) if model is None else (STUB, f"/{model}/1/".encode())
    return min(processes(run_directory, *names))


@pytest.mark.parametrize("model", [DECODER, TEXT_ENCODER, CODEC_DECODER, PUBLIC_MODEL, STREAM_MODEL, None])
def test_a_killed_process_ends_what_is_in_flight_with_errors_and_heals(
    serve: Serve, pool: ThreadPoolExecutor, tmp_path: Path, sung: list[bytes], model: str | None
) -> None:
    prefixes = [region_prefix(victim(tmp_path, None))]
    futures = in_flight(serve, pool)
    killed = time.monotonic()
    os.kill(victim(tmp_path, model), signal.SIGKILL)
    errors = errors_within(futures, MOST_SECONDS)
    heard = time.monotonic() - killed
    # Health is the server's word that it takes songs: from here on it must be true.
    wait_until(lambda: healthy(serve), 60, serve.lines)
    ready = time.monotonic() - killed
    assert ask_grpc(serve.grpc_url, **SHORT).output == sung
    log.info("%s killed: errors after %.1f s, ready after %.1f s; %s", model or "tritonserver", heard, ready, errors)
    prefixes.append(region_prefix(victim(tmp_path, None)))
    assert serve.end(signal.SIGTERM) == 0
    assert not processes(tmp_path)
    assert [region for prefix in prefixes for region in Path("/dev/shm").glob(f"{prefix}*")] == []


@pytest.mark.parametrize("model", [DECODER, TEXT_ENCODER, PUBLIC_MODEL, STREAM_MODEL])
def test_a_process_that_hangs_is_noticed_by_its_canary_and_heals(
    serving: list[Serve],
    embedded_repository: Path,
    pool: ThreadPoolExecutor,
    tmp_path: Path,
    sung: list[bytes],
    model: str,
) -> None:
    serving.append(serve := Serve(embedded_repository, tmp_path / "run", "--hang-timeout=10"))
    serve.said("ready: HTTP", timeout=60)
    futures = in_flight(serve, pool)
    stopped = time.monotonic()
    os.kill(victim(tmp_path, model), signal.SIGSTOP)
    # Canaries go round once in 35 s; what the hung process is not needed for may be answered meanwhile.
    # Who waits for the hung one may be named in its place: the decoder cannot hand its songs to a public model.
    serve.said(r"songstarter: \w+ .*; every request in flight is ended, the server starts anew", timeout=60)
    noticed = time.monotonic() - stopped
    for future in futures:
        future.exception(timeout=MOST_SECONDS)
    serve.said("ready: HTTP", times=2, timeout=60)
    assert ask_grpc(serve.grpc_url, **SHORT).output == sung
    log.info("%s stopped: noticed after %.1f s, ready after %.1f s", model, noticed, time.monotonic() - stopped)


def healthy(serve: Serve) -> bool:
    try:
        return HttpDoor("127.0.0.1", serve.ports.http).ask("GET", "/v2/health/ready", timeout=5)[0] == 200
    except OSError:
        return False


def test_a_new_request_to_a_dead_process_fails_within_seconds(serve: Serve, tmp_path: Path) -> None:
    os.kill(victim(tmp_path, TEXT_ENCODER), signal.SIGKILL)
    started = time.monotonic()
    with pytest.raises(Exception, match=r".+"):
        ask_grpc(serve.grpc_url, **SHORT, prompt="piano")
    assert time.monotonic() - started < MOST_SECONDS
    serve.said("ready: HTTP", times=2, timeout=60)


def test_a_server_that_cannot_start_again_ends_with_an_exit_code(
    serving: list[Serve], embedded_repository: Path, tmp_path: Path, pool: ThreadPoolExecutor
) -> None:
    """A graph that is damaged while it is served: the next start finds out."""
    repository = tmp_path / "repository"
    shutil.copytree(embedded_repository, repository)
    serving.append(serve := Serve(repository, tmp_path / "run"))
    serve.said("ready: HTTP", timeout=60)
    (repository / TEXT_ENCODER / "1" / "model.onnx").write_bytes(b"\x00" * 1000)
    futures = in_flight(serve, pool)
    os.kill(victim(tmp_path / "run", None), signal.SIGKILL)
    errors_within(futures, MOST_SECONDS)
    assert serve.ended(30) == 1
    assert "text_encoder/1/model.onnx" in serve.lines[-1]
    assert "is not the file that was exported: export again" in serve.lines[-1]


def vouch_for(graph: Path, repository: Path) -> None:
    """Let the manifest say that a graph is as it was exported."""
    manifest = repository / "manifest.json"
    content = json.loads(manifest.read_text())
    content["digests"][str(graph.relative_to(repository))] = digest(graph)
    manifest.write_text(json.dumps(content))


def test_a_corrupt_graph_is_named_and_nothing_is_served(
    serving: list[Serve], embedded_repository: Path, tmp_path: Path
) -> None:
    """Even where the manifest vouches for it."""
    repository = tmp_path / "repository"
    shutil.copytree(embedded_repository, repository)
    graph = repository / TEXT_ENCODER / "1" / "model.onnx"
    graph.write_bytes(graph.read_bytes()[:5000])
    vouch_for(graph, repository)
    serving.append(serve := Serve(repository, tmp_path / "run"))
    assert serve.ended(60) == 1
    assert "text_encoder did not load" in serve.lines[-1]
    assert not processes(tmp_path)


def test_a_decoder_that_fails_at_whatever_it_does_is_replaced(serving: list[Serve], tmp_path: Path) -> None:
    """Its process lives, its model is ready; a graph that loads and cannot be run stands for a device that is gone."""
    repository = export_into(tmp_path / "repository", "embedded", "fp32")
    graph = repository / DECODER / "1" / "decoder.onnx"
    break_at_every_call(graph)
    vouch_for(graph, repository)
    serving.append(serve := Serve(repository, tmp_path / "run"))
    serve.said("ready: HTTP", timeout=60)
    for _ in range(SICK):
        with pytest.raises(InferenceServerException, match="the decoder's log says why"):
            ask_grpc(serve.grpc_url, **SHORT)
    serve.said(f"decoder answered a test request .* the last {SICK} decode steps failed", timeout=90)
    serve.said("ready: HTTP", timeout=60, times=2)
    assert serve.end(signal.SIGTERM) == 0


def break_at_every_call(path: Path) -> None:
    """Give a graph's logits a shape that they cannot have, which shows when they are there."""
    graph = onnx.load(path, load_external_data=False)
    (node,) = (node for node in graph.graph.node if "logits" in node.output)
    node.output[list(node.output).index("logits")] = "sound_logits"
    graph.graph.initializer.append(onnx.numpy_helper.from_array(np.array([7, 11, 13, 17]), "impossible"))
    graph.graph.node.append(onnx.helper.make_node("Reshape", ["sound_logits", "impossible"], ["logits"]))
    onnx.save(graph, path)


# -- no room ----------------------------------------------------------------------------------------------------------


def with_mount(where: str, size: str) -> tuple[str, ...]:
    """Runs a command under a small tmpfs of its own, which nobody else sees."""
    return ("unshare", "--mount", "sh", "-c", f'mount -t tmpfs -o size={size} tmpfs {where} && exec "$@"', "sh")


def inside(serve: Serve, command: str) -> None:
    subprocess.run(["nsenter", f"--target={serve.process.pid}", "--mount", "sh", "-c", command], check=True)


def fill(serve: Serve, where: Path | str) -> None:
    inside(serve, f"dd if=/dev/zero of={where}/filler bs=64k 2>/dev/null; test -s {where}/filler")


def a_long_melody() -> bytes:
    """29 MB of audio as nobody could refuse it."""
    file = io.BytesIO()
    noise = np.random.default_rng(0).normal(0, 0.1, (120 * 32_000, 2)).astype(np.float32)
    soundfile.write(file, noise, 32_000, format="WAV", subtype="FLOAT")
    return file.getvalue()


@needs_mounts
def test_a_full_disk_stops_no_songs_and_no_restart(
    serving: list[Serve], embedded_repository: Path, tmp_path: Path, sung: list[bytes]
) -> None:
    run = tmp_path / "run"
    run.mkdir()
    serving.append(serve := Serve(embedded_repository, run, within=with_mount(str(run), "16m")))
    serve.said("ready: HTTP", timeout=60)
    fill(serve, run)
    for _ in range(3):
        assert ask_grpc(serve.grpc_url, **SHORT).output == sung
    os.kill(victim(run, DECODER), signal.SIGKILL)
    serve.said("ready: HTTP", times=2, timeout=60)
    assert ask_grpc(serve.grpc_url, **SHORT).output == sung
    assert serve.end(signal.SIGTERM) == 0


@needs_mounts
def test_a_disk_that_is_full_from_the_start_is_one_sentence_and_exit_1(
    serving: list[Serve], embedded_repository: Path, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    run.mkdir()
    serving.append(serve := Serve(embedded_repository, run, within=with_mount(str(run), "64k")))
    assert serve.ended(30) == 1
    expected = rf"songstarter: the server cannot be launched: {run}\S*: No space left on device\n"
    assert re.fullmatch(expected, serve.lines[-1])


@needs_mounts
def test_full_shared_memory_fails_what_needs_it_in_seconds_and_heals(
    serving: list[Serve], embedded_repository: Path, tmp_path: Path, sung: list[bytes]
) -> None:
    serving.append(serve := Serve(embedded_repository, tmp_path / "run", within=with_mount("/dev/shm", "96m")))
    serve.said("ready: HTTP", timeout=60)
    fill(serve, "/dev/shm")
    started = time.monotonic()
    with pytest.raises(InferenceServerException) as caught:
        ask_grpc(serve.grpc_url, **SHORT, input_audio=a_long_melody())
    log.info("/dev/shm full: %.1f s, %s", time.monotonic() - started, caught.value)
    assert time.monotonic() - started < MOST_SECONDS
    assert caught.value.status() == "StatusCode.INTERNAL"
    inside(serve, "rm /dev/shm/filler")
    assert ask_grpc(serve.grpc_url, **SHORT, input_audio=a_long_melody()).output  # it was not the file's fault
    wait_until(lambda: healthy(serve) and sings(serve, sung), 60, serve.lines)


def sings(serve: Serve, sung: list[bytes]) -> bool:
    try:
        return ask_grpc(serve.grpc_url, **SHORT).output == sung
    except Exception:
        return False


@needs_mounts
def test_shared_memory_that_is_too_small_from_the_start_is_exit_1(
    serving: list[Serve], embedded_repository: Path, tmp_path: Path
) -> None:
    serving.append(serve := Serve(embedded_repository, tmp_path / "run", within=with_mount("/dev/shm", "2m")))
    assert serve.ended(60) == 1
    assert "did not load" in serve.lines[-1]
    log.info(serve.lines[-1])


# -- the end ----------------------------------------------------------------------------------------------------------


def test_sigterm_finishes_songs_over_every_protocol_and_exits_0(serve: Serve, pool: ThreadPoolExecutor) -> None:
    futures = [pool.submit(ask, getattr(serve, where), **SOME) for ask, where in WAYS]
    time.sleep(0.7)
    assert not any(future.done() for future in futures)
    code = serve.end(signal.SIGTERM, timeout=80)
    assert code == 0, serve.lines[-15:]
    assert [type(future.result()) for future in futures[:3]] == [Answer] * 3
    for future in futures[3:]:
        assert sum(message["last"] for message in future.result()) == SOME["num_outputs"]
    assert serve.lines[-1] == "songstarter: stopped\n"


def test_nothing_new_is_taken_while_what_plays_is_finished(serve: Serve, pool: ThreadPoolExecutor) -> None:
    """Triton itself takes new gRPC requests as long as HTTP ones play."""
    playing = pool.submit(ask_generate, serve.url, **SOME)
    time.sleep(1.0)
    with triton_grpc.InferenceServerClient(serve.grpc_url) as client:
        assert client.is_server_live()  # a connection that stands, as clients keep one
        serve.process.send_signal(signal.SIGTERM)
        time.sleep(0.5)
        with pytest.raises(InferenceServerException, match="the server is stopping") as refused:
            client.infer(PUBLIC_MODEL, [])
    assert refused.value.status() == "StatusCode.UNAVAILABLE"
    assert not playing.done()
    assert not healthy(serve)
    assert len(playing.result(60).output) == SOME["num_outputs"]
    assert serve.ended(80) == 0


def test_a_process_killed_during_a_stop_ends_it_instead_of_letting_everybody_wait(
    serve: Serve, pool: ThreadPoolExecutor, tmp_path: Path
) -> None:
    futures = in_flight(serve, pool)
    serve.process.send_signal(signal.SIGTERM)
    time.sleep(1.0)
    os.kill(victim(tmp_path, DECODER), signal.SIGKILL)
    errors_within(futures, MOST_SECONDS)
    assert serve.ended(MOST_SECONDS) == 1
    assert "a model's process ended by itself" in "".join(serve.lines)
    assert serve.lines[-1] == "songstarter: stopped before every request in flight was answered\n"


@pytest.mark.parametrize("model", [TEXT_ENCODER, DECODER, STREAM_MODEL])
def test_canaries_name_a_model_that_is_dead(
    serve: Serve, embedded_repository: Path, tmp_path: Path, model: str
) -> None:
    """What probes ask says so before the supervisor has acted, or finds nobody there."""
    watched = {canary.model: canary for canary in canaries(Checkpoint.read(embedded_repository))}
    os.kill(victim(tmp_path, model), signal.SIGKILL)
    door = HttpDoor("127.0.0.1", serve.ports.http)
    assert model in str(watched[model].ask(door, 10.0))
    serve.said("ready: HTTP", times=2, timeout=60)
    assert watched[model].ask(door, 10.0) is None
