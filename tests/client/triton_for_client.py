"""A real Triton with the stand-in model, started and stopped for the client's tests."""

from __future__ import annotations

import io
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import sysconfig
import time
import urllib.error
import urllib.request
import wave
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from songstarter import contract

STAND_IN = Path(__file__).parent / "stand_in"
PLATLIB = Path(sysconfig.get_paths()["platlib"])
TRITON = PLATLIB / "pytriton" / "tritonserver"


@dataclass(frozen=True)
class Addresses:
    """Where the running server listens, as the client takes it."""

    grpc: str
    http: str


@contextmanager
def running_triton(folder: Path) -> Iterator[Addresses]:
    """Start Triton on free ports with its files in folder; yield when ready, stop after. To be swapped."""
    http, grpc = free_port(), free_port()
    log = (folder / "triton.log").open("wb")
    server = subprocess.Popen(_command(folder, http, grpc), env=_environment(), stdout=log, stderr=subprocess.STDOUT)
    try:
        _wait_until_ready(server, http, folder / "triton.log")
        yield Addresses(f"grpc://127.0.0.1:{grpc}", f"http://127.0.0.1:{http}")
    finally:
        server.send_signal(signal.SIGINT)
        try:
            server.wait(15)
        except subprocess.TimeoutExpired:
            server.kill()
            server.wait()


def received(file: bytes) -> dict[str, Any]:
    """What the stand-in model says it received: the samples of its WAV file are that text."""
    with wave.open(io.BytesIO(file)) as reader:
        echo: dict[str, Any] = json.loads(reader.readframes(reader.getnframes()))
    return echo


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _command(folder: Path, http: int, grpc: int) -> list[str]:
    return [
        str(TRITON / "bin" / "tritonserver"),
        f"--model-repository={_repository(folder)}",
        f"--backend-directory={_backends(folder)}",
        "--disable-auto-complete-config",
        "--http-address=127.0.0.1",
        f"--http-port={http}",
        "--grpc-address=127.0.0.1",
        f"--grpc-port={grpc}",
        "--allow-metrics=false",
        "--allow-gpu-metrics=false",
        "--pinned-memory-pool-byte-size=0",
        "--exit-timeout-secs=2",
    ]


def _repository(folder: Path) -> Path:
    model = folder / "models" / contract.PUBLIC_MODEL
    shutil.copytree(STAND_IN, model)
    (model / "config.pbtxt").write_text(_config())
    return model.parent


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


def _backends(folder: Path) -> Path:
    """The python backend laid out as Triton wants it: the library a real file, stub and utils linked."""
    backend = folder / "backends" / "python"
    backend.mkdir(parents=True)
    stub = TRITON / "python_backend_stubs" / f"{sys.version_info[0]}.{sys.version_info[1]}"
    shutil.copy(TRITON / "backends" / "python" / "libtriton_python.so", backend)
    for source in (
        TRITON / "backends" / "python" / "triton_python_backend_utils.py",
        stub / "triton_python_backend_stub",
    ):
        (backend / source.name).symlink_to(source)
    return backend.parent


def _environment() -> dict[str, str]:
    """The stub must find this interpreter's python3 and its libpython."""
    libraries = os.pathsep.join(filter(None, (sysconfig.get_config_var("LIBDIR"), os.environ.get("LD_LIBRARY_PATH"))))
    path = os.pathsep.join((str(Path(sys.executable).parent), os.environ["PATH"]))
    return os.environ | {"PATH": path, "LD_LIBRARY_PATH": libraries}


def _wait_until_ready(server: subprocess.Popen[bytes], http: int, log: Path) -> None:
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline and server.poll() is None:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{http}/v2/health/ready", timeout=1):
                return
        except (urllib.error.URLError, OSError):
            time.sleep(0.05)
    raise RuntimeError(f"Triton did not become ready:\n{log.read_text()[-4000:]}")
