"""A real Triton with the stand-in models, started and stopped for the client's tests."""

from __future__ import annotations

import io
import json
import shutil
import socket
import wave
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from tiny_checkpoint import CHECKPOINT

from songstarter import contract
from songstarter.checkpoint import Checkpoint
from songstarter.server.launch import Ports
from songstarter.server.server import Server

HERE = Path(__file__).parent


@dataclass(frozen=True)
class Addresses:
    """Where the running server listens, as the client takes it."""

    grpc: str
    http: str


@contextmanager
def running_triton(folder: Path) -> Iterator[Addresses]:
    """Start Triton with the stand-in models and its files in folder; yield when ready, stop after."""
    repository = _repository(folder / "models")
    with Server(repository, Ports.free(), folder / "run", exit_timeout=1) as server:
        yield Addresses(f"grpc://{server.grpc_url}", server.http_url)


def received(file: bytes) -> dict[str, Any]:
    """What the stand-in model says it received: the samples of its WAV file are that text."""
    with wave.open(io.BytesIO(file)) as reader:
        echo: dict[str, Any] = json.loads(reader.readframes(reader.getnframes()))
    return echo


def free_port() -> int:
    """A port that nobody listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _repository(folder: Path) -> Path:
    for model, (code, config) in MODELS.items():
        shutil.copytree(HERE / code, folder / model, ignore=shutil.ignore_patterns("__pycache__"))
        (folder / model / "config.pbtxt").write_text(config)
    _checkpoint().write(folder)
    return folder


def _config(fields: Sequence[contract.Field], outputs: Sequence[contract.Tensor], more: str = "") -> str:
    sides = [",\n".join(map(_tensor, side)) for side in ([field.tensor for field in fields], outputs)]
    return (
        f'backend: "python"\nmax_batch_size: 0\ninput [\n{sides[0]}\n]\noutput [\n{sides[1]}\n]\n'
        "instance_group [ { kind: KIND_CPU count: 1 } ]\n"
        f'parameters {{ key: "max_requests" value {{ string_value: "64" }} }}\n{more}'
    )


def _tensor(tensor: contract.Tensor) -> str:
    optional = " optional: true" if tensor.optional else ""
    dims = ", ".join(map(str, tensor.dims))
    return f'{{ name: "{tensor.name}" data_type: TYPE_{tensor.datatype} dims: [ {dims} ]{optional} }}'


def _checkpoint() -> Checkpoint:
    """The manifest that a server asks for; of its facts only the models' names matter here."""
    return replace(CHECKPOINT, models=tuple(MODELS))


MODELS: dict[str, tuple[str, str]] = {
    contract.PUBLIC_MODEL: ("stand_in", _config(contract.FIELDS, contract.OUTPUTS)),
    contract.STREAM_MODEL: (
        "stand_in_stream",
        _config(contract.STREAM_FIELDS, contract.STREAM_OUTPUTS, "model_transaction_policy { decoupled: true }\n"),
    ),
}
