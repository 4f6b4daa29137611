"""The command line and environment of a server follow from the repository's manifest."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

import pytest
from tiny_checkpoint import CHECKPOINT

from songstarter.errors import PortInUse, ServerError
from songstarter.server.backends import Installation
from songstarter.server.launch import Launch, Ports, Tracing
from songstarter.settings import VARIABLE


@pytest.fixture
def launch(tmp_path: Path) -> Launch:
    installation = Installation(tmp_path / "tritonserver", tmp_path / "backends", tmp_path / "lib")
    return Launch(installation, tmp_path / "repository", CHECKPOINT, Ports(), 30, "region_")


@pytest.fixture
def gpu_launch(launch: Launch) -> Launch:
    return replace(launch, checkpoint=replace(CHECKPOINT, decoder=replace(CHECKPOINT.decoder, device="cuda")))


def test_only_the_models_of_the_manifest_are_loaded(launch: Launch) -> None:
    loaded = [flag for flag in launch.command if flag.startswith("--load-model")]
    assert loaded == ["--load-model=text_encoder", "--load-model=decoder"]
    assert "--model-control-mode=explicit" in launch.command


def test_every_listener_is_on_loopback(launch: Launch) -> None:
    listeners = [flag for flag in launch.command if "-address=" in flag]
    assert listeners == [f"--{name}-address=127.0.0.1" for name in ("http", "grpc", "metrics")]
    assert {"--http-port=8000", "--grpc-port=8001", "--metrics-port=8002"} <= set(launch.command)


def test_triton_finds_this_interpreter_and_its_libpython_first(launch: Launch) -> None:
    assert launch.environment["PATH"].split(":")[0] == str(Path(sys.executable).parent)
    assert launch.environment["LD_LIBRARY_PATH"].split(":")[0] == str(launch.installation.library_directory)


def test_triton_has_threads_for_a_call_and_an_answer_of_every_request(launch: Launch) -> None:
    assert "--backend-config=python,thread-pool-size=32" in launch.command
    config = launch.repository / "songstarter_stream" / "config.pbtxt"
    config.parent.mkdir(parents=True)
    config.write_text('parameters { key: "max_requests" value { string_value: "64" } }')
    assert "--backend-config=python,thread-pool-size=144" in launch.command


def test_a_configuration_that_does_not_say_how_many_requests_is_refused(launch: Launch) -> None:
    config = launch.repository / "songstarter" / "config.pbtxt"
    config.parent.mkdir(parents=True)
    config.write_text('backend: "python"')
    with pytest.raises(ServerError, match="does not say how many requests"):
        _ = launch.command


def test_the_repository_says_how_many_requests_its_public_models_hold(launch: Launch) -> None:
    repository = Path(__file__).parents[2] / "model_repository"
    assert replace(launch, repository=repository).threads == 2 * 64 + 16


def test_what_is_set_reaches_the_models_and_counts_for_the_threads(
    launch: Launch, monkeypatch: pytest.MonkeyPatch
) -> None:
    repository = Path(__file__).parents[2] / "model_repository"
    monkeypatch.setenv(VARIABLE, '{"decoder.slots": "1"}')  # of a server that this one's operator knows nothing of
    assert launch.environment[VARIABLE] == "{}"
    asked = replace(launch, repository=repository, settings={"songstarter.max_requests": "100"})
    assert asked.environment[VARIABLE] == '{"songstarter.max_requests": "100"}'
    assert asked.threads == 2 * 100 + 16


def test_requests_that_are_set_to_no_number_are_refused(launch: Launch) -> None:
    repository = Path(__file__).parents[2] / "model_repository"
    asked = replace(launch, repository=repository, settings={"songstarter.max_requests": "many"})
    with pytest.raises(ServerError, match=r"found 'many', expected .* or --set songstarter\.max_requests=64"):
        _ = asked.command


def test_an_operator_may_set_glibc_otherwise(launch: Launch, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MALLOC_ARENA_MAX", raising=False)
    assert launch.environment["MALLOC_ARENA_MAX"] == "2"
    monkeypatch.setenv("MALLOC_ARENA_MAX", "8")
    assert launch.environment["MALLOC_ARENA_MAX"] == "8"


def test_graphs_exported_for_the_cpu_keep_triton_off_a_gpu(launch: Launch) -> None:
    assert launch.environment["CUDA_VISIBLE_DEVICES"] == ""
    assert {"--allow-gpu-metrics=false", "--pinned-memory-pool-byte-size=0"} <= set(launch.command)


def test_graphs_exported_for_a_gpu_leave_the_gpus_as_they_are(
    gpu_launch: Launch, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "1")
    assert gpu_launch.environment["CUDA_VISIBLE_DEVICES"] == "1"
    assert not any("gpu-metrics" in flag or "pinned" in flag for flag in gpu_launch.command)


def test_one_port_cannot_serve_two_listeners() -> None:
    with pytest.raises(PortInUse, match="port 8180 is given to both --http-port and --metrics-port"):
        Ports(8180, 8181, 8180).check_free()


def test_nothing_is_traced_unless_asked_for(launch: Launch) -> None:
    assert not any(flag.startswith("--trace") for flag in launch.command)


def test_spans_go_where_they_are_asked_to_go(launch: Launch) -> None:
    command = replace(launch, tracing=Tracing("http://127.0.0.1:4318/v1/traces", every=100)).command
    expected = {"mode=opentelemetry", "opentelemetry,url=http://127.0.0.1:4318/v1/traces", "rate=100"}
    assert {f"--trace-config={setting}" for setting in expected} <= set(command)
