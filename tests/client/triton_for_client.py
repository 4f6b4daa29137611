"""A real Triton with the stand-in model, started and stopped for the client's tests."""

from __future__ import annotations

import io
import json
import shutil
import socket
import wave
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from tiny_checkpoint import CHECKPOINT

from songstarter import contract
from songstarter.checkpoint import Checkpoint
from songstarter.server.launch import Ports
from songstarter.server.server import Server

STAND_IN = Path(__file__).parent / "stand_in"


@dataclass(frozen=True)
class Addresses:
    """Where the running server listens, as the client takes it."""

    grpc: str
    http: str


@contextmanager
def running_triton(folder: Path) -> Iterator[Addresses]:
    """Start Triton with the stand-in model and its files in folder; yield when ready, stop after."""
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
    model = folder / contract.PUBLIC_MODEL
    shutil.copytree(STAND_IN, model, ignore=shutil.ignore_patterns("__pycache__"))
    (model / "config.pbtxt").write_text(_config())
    _checkpoint().write(folder)
    return folder


def _config() -> str:
    inputs = ",\n".join(_tensor(field.tensor) for field in contract.FIELDS)
    outputs = ",\n".join(_tensor(tensor) for tensor in contract.OUTPUTS)
    return (
        f'backend: "python"\nmax_batch_size: 0\ninput [\n{inputs}\n]\noutput [\n{outputs}\n]\n'
        "instance_group [ { kind: KIND_CPU count: 1 } ]\n"
    )


def _tensor(tensor: contract.Tensor) -> str:
    optional = " optional: true" if tensor.optional else ""
    dims = ", ".join(map(str, tensor.dims))
    return f'{{ name: "{tensor.name}" data_type: TYPE_{tensor.datatype} dims: [ {dims} ]{optional} }}'


def _checkpoint() -> Checkpoint:
    """The manifest that a server asks for; of its facts only the model's name matters here."""
    return replace(CHECKPOINT, models=(contract.PUBLIC_MODEL,))
