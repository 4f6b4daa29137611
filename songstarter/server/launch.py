"""The command line, environment and addresses of one tritonserver."""

from __future__ import annotations

import contextlib
import os
import socket
import sys
from dataclasses import dataclass, field
from pathlib import Path

from songstarter import settings
from songstarter.checkpoint import Checkpoint
from songstarter.contract import PUBLIC_MODEL, STREAM_MODEL
from songstarter.errors import PortInUse, ServerError
from songstarter.server.backends import Installation
from songstarter.server.exposure import LOOPBACK, LOOPBACK_ALONE, Exposure
from songstarter.server.libraries import library_path
from songstarter.settings import Settings

MIB = 2**20
# Each Python process gets a region of /dev/shm that grows and never shrinks; Docker's default is 64 MiB for all.
REGION_BYTES = 4 * MIB
REGION_GROWTH_BYTES = 8 * MIB
# Triton gives each Python process so many threads for its answers and its calls of other models. A call holds one until
# its first response, which a waiting song's is long in coming; without a free one not even a refusal goes out.
LEAST_THREADS = 32  # Triton's own number
SPARE_THREADS = 16
# Of glibc, for tritonserver and the models. Left to itself it keeps sixteen heaps on two cores, and puts even a song of
# five megabytes into one, among small things that stay: memory is then freed and cannot be given back.
ALLOCATION = {"MALLOC_ARENA_MAX": 2, "MALLOC_MMAP_THRESHOLD_": MIB, "MALLOC_TRIM_THRESHOLD_": 16 * MIB}
STUB_TIMEOUT = 600  # seconds that Triton lets a Python model's initialize take; its own 30 are short for a decoder


@dataclass(frozen=True)
class Ports:
    """The three ports of a server; on the command line --http-port, --grpc-port and --metrics-port."""

    http: int = 8000
    grpc: int = 8001
    metrics: int = 8002

    @classmethod
    def free(cls) -> Ports:
        """Three ports that nobody listens on at the moment, for demos and tests."""
        with contextlib.ExitStack() as held:
            probes = [held.enter_context(socket.socket()) for _ in range(3)]
            for probe in probes:
                probe.bind((LOOPBACK, 0))
            return cls(*(probe.getsockname()[1] for probe in probes))

    def check_free(self, host: str = LOOPBACK) -> None:
        """Raise PortInUse where another process listens, or where two of the three are one."""
        taken: dict[int, str] = {}
        for flag, port in vars(self).items():
            if port in taken:
                raise PortInUse(f"port {port} is given to both --{taken[port]}-port and --{flag}-port: choose two")
            taken[port] = flag
            if not is_free(host, port):
                raise PortInUse(f"port {port} of {host} is in use: choose another with --{flag}-port")


def is_free(host: str, port: int) -> bool:
    with socket.socket() as probe:
        # connections that linger after a server's end do not count, a listener does
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError:
            return False
    return True


@dataclass(frozen=True)
class Tracing:
    """Where Triton sends the spans of requests, and of how many: OpenTelemetry, OTLP over HTTP."""

    url: str  # http://collector:4318/v1/traces
    every: int = 1  # one request in so many

    @property
    def flags(self) -> list[str]:
        settings = (
            "mode=opentelemetry",
            f"opentelemetry,url={self.url}",
            "opentelemetry,resource=service.name=songstarter",
            "level=TIMESTAMPS",
            f"rate={self.every}",
        )
        return [f"--trace-config={setting}" for setting in settings]


@dataclass(frozen=True)
class Launch:
    """One start of one server."""

    installation: Installation
    repository: Path
    checkpoint: Checkpoint
    ports: Ports
    exit_timeout: int  # seconds that requests in flight get once the server is asked to stop
    region_prefix: str  # of the names in /dev/shm, this server's alone
    tracing: Tracing | None = None
    exposure: Exposure = LOOPBACK_ALONE
    settings: Settings = field(default_factory=dict)

    @property
    def command(self) -> list[str]:
        return [
            str(self.installation.executable),
            f"--model-repository={self.repository.absolute()}",
            f"--backend-directory={str(self.installation.backends.absolute()).rstrip('/')}",
            "--model-control-mode=explicit",
            *(f"--load-model={model}" for model in self.checkpoint.models),
            "--disable-auto-complete-config",
            f"--exit-timeout-secs={self.exit_timeout}",
            *self.addresses,
            *self.python_processes,
            *self.without_gpu,
            *(self.tracing.flags if self.tracing else []),
        ]

    @property
    def addresses(self) -> list[str]:
        return [
            flag
            for name, port in vars(self.ports).items()
            for flag in (f"--{name}-address={self.exposure.host}", f"--{name}-port={port}")
        ]

    @property
    def python_processes(self) -> list[str]:
        settings = {
            "shm-region-prefix-name": self.region_prefix,
            "shm-default-byte-size": REGION_BYTES,
            "shm-growth-byte-size": REGION_GROWTH_BYTES,
            "stub-timeout-seconds": STUB_TIMEOUT,
            "thread-pool-size": self.threads,
        }
        return [f"--backend-config=python,{key}={value}" for key, value in settings.items()]

    @property
    def threads(self) -> int:
        """Enough for every request that a public model may hold: one for an order or an answer, or one for each of two
        channels in the codec."""
        models = (model for model in (PUBLIC_MODEL, STREAM_MODEL) if (self.repository / model).is_dir())
        return max([LEAST_THREADS, *(2 * self._max_requests(model) + SPARE_THREADS for model in models)])

    def _max_requests(self, model: str) -> int:
        found = settings.parameters(self.repository, model, self.settings).get("max_requests", "")
        if not found.isdecimal():
            expected = 'parameters { key: "max_requests" value { string_value: "64" } }'
            raise ServerError(
                f"{model} does not say how many requests it holds: found {found!r}, expected {expected} in its"
                f" config.pbtxt or --set {model}.max_requests=64"
            )
        return int(found)

    @property
    def without_gpu(self) -> list[str]:
        return [] if self.on_gpu else ["--allow-gpu-metrics=false", "--pinned-memory-pool-byte-size=0"]

    @property
    def environment(self) -> dict[str, str]:
        """This process's environment, but where Triton would take another Python, an unwanted GPU or much memory."""
        path = f"{Path(sys.executable).parent}:{os.environ.get('PATH', os.defpath)}"
        changed = {"PATH": path}  # a stub is the first python3 in PATH, and ignores PYTHONPATH
        if self.installation.library_directory is not None:
            changed["LD_LIBRARY_PATH"] = library_path(self.installation.library_directory)
        if not self.on_gpu:
            changed["CUDA_VISIBLE_DEVICES"] = ""  # so that KIND_AUTO is the CPU for graphs exported for it
        allocation = {name: os.environ.get(name, str(value)) for name, value in ALLOCATION.items()}
        return os.environ | changed | allocation | settings.environment(self.settings)

    @property
    def on_gpu(self) -> bool:
        return self.checkpoint.decoder.device == "cuda"
