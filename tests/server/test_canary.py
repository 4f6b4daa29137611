"""A canary tells a model that answers from one that does not, and a supervisor acts on it."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from tiny_repository import SLEEPER, add_python, free_ports, write_manifest

from songstarter import contract
from songstarter.checkpoint import Checkpoint, Melody
from songstarter.contract import Tensor
from songstarter.errors import ServerDied
from songstarter.server.canary import Body, Canary, StageCanary, Streamed, canaries
from songstarter.server.server import Server
from songstarter.server.supervise import Patience, Supervisor
from songstarter.server.wire import HttpDoor

SECONDS = Tensor("seconds", "FP32", (1,))
STAGES = (contract.TEXT_ENCODER, contract.MELODY_ENCODER, contract.CODEC_ENCODER, contract.CODEC_DECODER)


def asking(seconds: float, *answers: int) -> Canary:
    return Canary("sleeper", Body.of((SECONDS, np.array([seconds]))), answers or (200,))


@pytest.fixture(scope="module")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("repository")
    add_python(folder, "sleeper", SLEEPER)
    return write_manifest(folder, ["sleeper"])


@pytest.fixture(scope="module")
def server(repository: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with Server(repository, free_ports(), tmp_path_factory.mktemp("run"), exit_timeout=5) as running:
        yield running


@pytest.mark.triton
class TestAsking:
    def test_a_model_that_answers_is_well(self, server: Server) -> None:
        assert asking(0.0).ask(server.door, 5.0) is None

    def test_a_refusal_may_be_the_answer_that_is_wanted(self, server: Server) -> None:
        assert asking(-1.0, 400, 503).ask(server.door, 5.0) is None

    def test_another_status_is_reported_with_its_message(self, server: Server) -> None:
        assert asking(-1.0).ask(server.door, 5.0) == (
            "sleeper answered a test request with status 400 instead of 200: seconds: found less than 0"
        )

    def test_a_late_answer_is_none(self, server: Server) -> None:
        assert asking(1.5).ask(server.door, 0.5) == "sleeper has not answered a test request for 0.5 s"

    def test_a_late_answer_is_forgiven_while_the_model_answers_others(self, server: Server) -> None:
        late = asking(1.5)
        canary = StageCanary(late.model, late.body)
        with ThreadPoolExecutor(2) as others:
            for _ in range(2):
                others.submit(asking(0.4).ask, server.door, 10.0)
            time.sleep(0.1)  # they are in the queue
            assert canary.ask(server.door, 1.0) is None
        assert canary.ask(server.door, 0.5) == "sleeper has not answered a test request for 0.5 s"

    def test_stubs_are_listed_by_model(self, server: Server) -> None:
        assert [len(pids) for pids in server.stubs().values()] == [1]
        assert set(server.stubs()) == {"sleeper"}

    def test_nothing_that_listens_is_reported(self) -> None:
        assert "could not be asked" in str(asking(0.0).ask(HttpDoor("127.0.0.1", free_ports().http), 5.0))


@pytest.mark.triton
def test_a_model_that_hangs_is_restarted_and_then_given_up(repository: Path, tmp_path: Path) -> None:
    said: list[str] = []
    ready: list[int] = []
    supervisor = Supervisor(
        lambda go_on: Server(repository, free_ports(), tmp_path),
        [asking(30.0)],
        said.append,
        ready=lambda server: ready.append(server.pid),
        patience=Patience(canary_period=0.1, canary_timeout=0.5, restarts=1),
    )
    with pytest.raises(ServerDied, match=r"sleeper has not answered .* restarted 1 times within 300 s"):
        supervisor.run()
    assert len(set(ready)) == 2
    assert len(said) == 1
    assert said[0].endswith("every request in flight is ended, the server starts anew")


def test_each_model_with_a_row_is_asked_for_exactly_its_inputs(repository: Path) -> None:
    checkpoint = replace(
        Checkpoint.read(repository),
        melody=Melody(frames=4, samples=30, block_samples=10),
        models=(*STAGES, contract.DECODER, contract.PUBLIC_MODEL, contract.STREAM_MODEL),
    )
    watched = {canary.model: canary.body for canary in canaries(checkpoint)}
    assert tuple(watched) == checkpoint.models
    assert watched.pop(contract.DECODER) == Streamed({"pulse": True})
    assert watched.pop(contract.STREAM_MODEL) == Streamed({"duration": -1.0})
    inputs = {model: json.loads(body.head)["inputs"] for model, body in watched.items()}
    shapes = {model: [tensor["shape"] for tensor in tensors] for model, tensors in inputs.items()}
    assert shapes == {
        "text_encoder": [[1, 4], [1, 4]],
        "melody_encoder": [[1, 10], [1, 1]],
        "codec_encoder": [[1, 50], [1, 1]],
        "codec_decoder": [[1, 1, 7], [1, 1], [1, 1], [1, 6, 8]],
        "songstarter": [[1]],
    }
    names = {model: tuple(tensor["name"] for tensor in tensors) for model, tensors in inputs.items()}
    assert names.pop(contract.PUBLIC_MODEL) == ("duration",)
    assert names == {
        contract.TEXT_ENCODER: tuple(tensor.name for tensor in contract.TEXT_ENCODER_INPUTS),
        contract.MELODY_ENCODER: tuple(tensor.name for tensor in contract.MELODY_ENCODER_INPUTS),
        contract.CODEC_ENCODER: tuple(tensor.name for tensor in contract.CODEC_ENCODER_INPUTS),
        contract.CODEC_DECODER: tuple(tensor.name for tensor in contract.CODEC_DECODER_INPUTS),
    }
