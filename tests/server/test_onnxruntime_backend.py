"""The project's Python-based backend under a real Triton."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from urllib.error import HTTPError
from urllib.request import urlopen

import numpy as np
import pytest
import torch
import tritonclient.http as triton_http
from tiny_repository import LOOKUP, add_lookup, free_ports, look_up, refusal, version, write_manifest
from tritonclient.utils import InferenceServerException

from export.checkpoints.tiny import make_codec
from export.codec_decoder import export_codec_decoder, memory_of, random_codes
from songstarter.contract import CODEC_DECODER
from songstarter.errors import ModelNotLoaded
from songstarter.server.server import Server
from songstarter.stages.native.processor import instruction_set
from songstarter.stages.native_codec_decoder import open_twin
from songstarter.stages.session import Session

pytestmark = pytest.mark.triton

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    repository = tmp_path_factory.mktemp("repository")
    add_lookup(repository)
    write_manifest(repository, ["lookup"])
    with Server(repository, free_ports(), tmp_path_factory.mktemp("run")) as running:
        yield running


def executions(server: Server) -> tuple[int, int]:
    """How many inferences were made, in how many calls of the backend."""
    with urlopen(f"{server.http_url}/v2/models/lookup/stats") as answer:
        (stats,) = json.load(answer)["model_stats"]
    return int(stats["inference_count"]), int(stats["execution_count"])


def ask_all(server: Server, questions: list[list[int]]) -> list[list[float] | HTTPError]:
    """Every question at the same time."""

    def ask(index: list[int]) -> list[float] | HTTPError:
        try:
            return look_up(server.http_url, index)
        except HTTPError as error:
            return error

    with ThreadPoolExecutor(len(questions)) as pool:
        return list(pool.map(ask, questions))


def test_concurrent_requests_share_executions(server: Server) -> None:
    made, calls = executions(server)
    answers = ask_all(server, [[i % 10, 9] for i in range(16)])
    assert answers == [[10.0 * (i % 10), 90.0] for i in range(16)]
    made, calls = executions(server)[0] - made, executions(server)[1] - calls
    assert made == 16
    assert calls <= 8


def test_a_bad_request_in_a_batch_fails_alone(server: Server) -> None:
    _, calls = executions(server)
    answers = ask_all(server, [[1], [2], [10], [3], [4], [5], [6], [7]])
    bad = answers.pop(2)
    assert executions(server)[1] - calls <= 4
    assert answers == [[10.0], [20.0], [30.0], [40.0], [50.0], [60.0], [70.0]]
    assert isinstance(bad, HTTPError)
    assert bad.code == 400
    message = refusal(bad)
    assert "out of data bounds" in message
    assert "/" not in message
    assert "\n" not in message


def test_requests_of_different_lengths_are_all_answered(server: Server) -> None:
    assert ask_all(server, [[1], [1, 2], [3], [4, 5, 6]]) == [[10.0], [10.0, 20.0], [30.0], [40.0, 50.0, 60.0]]


@pytest.mark.parametrize(
    ("config", "reason"),
    [
        (LOOKUP.replace('"value"', '"values"'), "output 'values' .* absent in the graph"),
        (LOOKUP.replace("TYPE_INT64", "TYPE_INT32"), "input 'index' is .*TYPE_INT32.* config.pbtxt and .*TYPE_INT64"),
        (LOOKUP.replace("max_batch_size: 16", "max_batch_size: 0").split("dynamic")[0], r"\[-1\].*\[-1, -1\]"),
    ],
)
def test_a_config_that_does_not_describe_the_graph_is_refused(tmp_path: Path, config: str, reason: str) -> None:
    add_lookup(tmp_path)
    (tmp_path / "lookup" / "config.pbtxt").write_text(config)
    refused(tmp_path, reason)


def test_a_broken_graph_is_refused_without_its_path(tmp_path: Path) -> None:
    add_lookup(tmp_path)
    (tmp_path / "lookup" / "1" / "model.onnx").write_text("no graph")
    refused(tmp_path, "model.onnx cannot be opened: .*[Pp]rotobuf")


def test_a_missing_graph_is_refused_with_the_way_to_get_it(tmp_path: Path) -> None:
    add_lookup(tmp_path)
    (tmp_path / "lookup" / "1" / "model.onnx").unlink()
    refused(tmp_path, "model.onnx of lookup is missing: export")


@pytest.mark.skipif(instruction_set(CODEC_DECODER) is None, reason="not compiled, or made for other processors")
@pytest.mark.parametrize("named", [True, False])
def test_a_twin_computes_the_graph_where_the_configuration_names_one(named: bool, tmp_path: Path) -> None:
    config = (ROOT / "model_repository" / CODEC_DECODER / "config.pbtxt").read_text()
    folder = version(tmp_path, CODEC_DECODER, config if named else config.replace('key: "twin"', 'key: "other"'))
    with torch.random.fork_rng(), torch.no_grad():
        torch.manual_seed(0)
        codec = make_codec(filters=4, latent=16)
    export_codec_decoder(codec, folder)
    frames, kept = np.full((2, 1), 10), np.zeros((2, 1), np.int64)
    call = {
        "codes": random_codes(codec, 2, 16).numpy(),
        "frames": frames,
        "kept": kept,
        "memory": np.zeros((2, *memory_of(codec)), np.float32),
    }
    twin = open_twin(folder / "model.onnx")
    assert twin is not None
    expected = (twin if named else Session(folder / "model.onnx", threads=1)).run(call)
    with Server(write_manifest(tmp_path, [CODEC_DECODER]), free_ports(), tmp_path / "run") as server:
        client = triton_http.InferenceServerClient(server.http_url.removeprefix("http://"))
        found = client.infer(CODEC_DECODER, [given(name, array) for name, array in call.items()])
        assert np.array_equal(found.as_numpy("waveform"), expected["waveform"])
        assert np.array_equal(found.as_numpy("next_memory"), expected["next_memory"])
        call["codes"][0, 0, 0] = 10**6
        with pytest.raises(InferenceServerException) as refusal:
            client.infer(CODEC_DECODER, [given(name, array) for name, array in call.items()])
        assert refusal.value.status() == "400"


def given(name: str, array: np.ndarray) -> triton_http.InferInput:
    tensor = triton_http.InferInput(name, list(array.shape), "INT64" if array.dtype == np.int64 else "FP32")
    tensor.set_data_from_numpy(array)
    return tensor


def refused(repository: Path, reason: str) -> None:
    """Starting a server says within seconds, in one sentence, why the model did not load."""
    write_manifest(repository, ["lookup"])
    started = time.monotonic()
    with pytest.raises(ModelNotLoaded, match=f"lookup did not load: .*{reason}") as refusal:
        Server(repository, free_ports(), repository / "run").start()
    assert time.monotonic() - started < 10
    assert "\n" not in str(refusal.value)
    assert str(repository) not in str(refusal.value)
