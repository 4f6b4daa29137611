"""``python -m benchmarks.fuzz --requests 10000``: starts a server on loopback and sends it what no honest client does.

Bounded in count and time. Each request follows from --seed and its number alone. After every hundred, one good request
must be answered with the right bytes by the same processes. The last line is one JSON document; exit code 0 where
nothing crashed, nothing hung and every good answer was right.
"""

from __future__ import annotations

import argparse
import hashlib
import http.client
import json
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Any

import grpc

from benchmarks import machine
from benchmarks.fuzz import over_grpc, over_http
from benchmarks.fuzz.target import PATIENCE, Outcome, Target
from songstarter.contract import PUBLIC_MODEL
from songstarter.errors import SongstarterError
from songstarter.server.launch import Ports
from songstarter.server.server import Server

PACKAGES = ("numpy", "tritonclient", "nvidia-pytriton", "onnxruntime")
CASES: tuple[Callable[[Random, Target], Outcome], ...] = (
    over_http.raw_bytes,
    over_http.broken_json,
    over_http.odd_request,
    over_http.odd_infer,
    over_http.broken_binary,
    over_http.odd_path,
    over_grpc.raw_frames,
    over_grpc.broken_protobuf,
    over_grpc.broken_protobuf_in_a_stream,
    over_grpc.odd_tensors,
)
GOOD = json.dumps({"prompt": "lofi, guitar", "duration": 0.4, "num_outputs": 1, "seed": 11}).encode()
BETWEEN_GOOD = 100  # requests
RECENT = 20  # requests named in the document when something broke


@dataclass
class Findings:
    """What became of everything that was sent."""

    outcomes: dict[str, Counter[str]] = field(default_factory=dict)
    hung: list[int] = field(default_factory=list)
    good: int = 0
    bad_good: list[str] = field(default_factory=list)
    crash: str | None = None
    recent: list[int] = field(default_factory=list)

    @property
    def sent(self) -> int:
        return sum(sum(counter.values()) for counter in self.outcomes.values())

    @property
    def well(self) -> bool:
        return not (self.hung or self.bad_good or self.crash)


class Fuzz:
    """Many threads that send, and one look at the server's processes after every hundred requests."""

    def __init__(self, server: Server, seed: int, until: float) -> None:
        self.findings = Findings()
        self._server = server
        self._seed = seed
        self._until = until
        self._processes = server.stubs()
        self._lock = threading.Lock()
        self._local = threading.local()
        self._expected = self._song()

    def run(self, requests: int, workers: int) -> None:
        with ThreadPoolExecutor(workers) as threads:
            list(threads.map(self._send, range(requests)))
        self._look()

    def _send(self, number: int) -> None:
        if self.findings.crash or time.monotonic() > self._until:
            return
        random = Random(f"{self._seed} {number}")
        case = CASES[number % len(CASES)]
        outcome = case(random, self._target())
        with self._lock:
            self.findings.outcomes.setdefault(case.__name__, Counter())[outcome] += 1
            self.findings.recent = [*self.findings.recent[1 - RECENT :], number]
            if outcome == "hung":
                self.findings.hung.append(number)
        if number % BETWEEN_GOOD == BETWEEN_GOOD - 1:
            self._look()
            progress(f"{number + 1} sent")

    def _look(self) -> None:
        """The same processes, and a good request answered with the right bytes."""
        if self._server.process.poll() is not None or self._server.stubs() != self._processes:
            self.findings.crash = f"tritonserver {self._server.process.poll()}, processes {self._server.stubs()}"
            return
        found = self._song()
        with self._lock:
            self.findings.good += 1
            if found != self._expected:
                self.findings.bad_good.append(found)

    def _song(self) -> str:
        """The digest of a good request's song, or what came instead."""
        connection = http.client.HTTPConnection(self._server.door.host, self._server.ports.http, timeout=2 * PATIENCE)
        try:
            connection.request(
                "POST", f"/v2/models/{PUBLIC_MODEL}/generate", GOOD, {"Content-Type": "application/json"}
            )
            answer = connection.getresponse()
            body = answer.read()
            return hashlib.sha256(body).hexdigest() if answer.status == http.client.OK else body.decode()[:200]
        except (OSError, http.client.HTTPException) as error:
            return f"{type(error).__name__}: {error}"
        finally:
            connection.close()

    def _target(self) -> Target:
        if not hasattr(self._local, "target"):
            channel = grpc.insecure_channel(self._server.grpc_url, [("grpc.use_local_subchannel_pool", 1)])
            self._local.target = Target(
                self._server.door.host, self._server.ports.http, self._server.ports.grpc, channel
            )
        target: Target = self._local.target
        return target


def main() -> int:
    args = _arguments()
    started = time.monotonic()
    with (
        tempfile.TemporaryDirectory(prefix="songstarter-fuzz-") as run_directory,
        Server(args.repository, Ports.free(), Path(run_directory), tell=progress, exit_timeout=5) as server,
    ):
        fuzz = Fuzz(server, args.seed, started + 60 * args.minutes)
        fuzz.run(args.requests, args.workers)
    text = json.dumps(document(fuzz.findings, args, time.monotonic() - started))
    if args.json:
        args.json.parent.mkdir(parents=True, exist_ok=True)
        args.json.write_text(text + "\n")
    print(text)
    return 0 if fuzz.findings.well else 1


def document(findings: Findings, args: argparse.Namespace, seconds: float) -> dict[str, Any]:
    return {
        "benchmark": "fuzz",
        "requests": findings.sent,
        "asked_for": args.requests,
        "seed": args.seed,
        "seconds": round(seconds, 1),
        "crashes": 0 if findings.crash is None else 1,
        "hangs": len(findings.hung),
        "hung_requests": findings.hung,
        "good_requests": findings.good,
        "good_requests_failed": findings.bad_good,
        "crash": findings.crash,
        "before_the_crash": findings.recent if findings.crash else [],
        "outcomes": findings.outcomes,
        "machine": machine.facts(PACKAGES),
    }


def progress(line: str) -> None:
    print(f"fuzz: {line}", file=sys.stderr, flush=True)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.fuzz", description=(__doc__ or "").split("\n")[2])
    parser.add_argument("--requests", type=int, default=10_000, metavar="N")
    parser.add_argument("--minutes", type=float, default=30.0, metavar="N", help="at most (default: %(default)g)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--workers", type=int, default=8, metavar="N", help="requests at once (default: %(default)s)")
    parser.add_argument("--repository", type=Path, default=Path("model_repository"))
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the document to this file too")
    return parser.parse_args()


if __name__ == "__main__":
    try:
        sys.exit(main())
    except SongstarterError as error:
        sys.exit(f"fuzz: {error}")
