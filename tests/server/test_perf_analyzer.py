"""The load generator's figures beside those of Triton's own perf_analyzer, on the same server, at the same time.

Both hold the same number of requests in flight at once: one after the other they would meet different neighbours on a
busy machine, whose figures differ by half from one minute to the next.

perf_analyzer comes out of the one wheel that carries it; two of its libraries lie under other names in pytriton's.
"""

from __future__ import annotations

import asyncio
import json
import os
import re
import subprocess
import sys
import zipfile
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from statistics import median

import pytest

from benchmarks.serving.asking import Unary
from benchmarks.serving.figures import level
from benchmarks.serving.load import Bounds, Sender, closed_loop
from benchmarks.serving.scenario import Scenario
from songstarter.contract import PUBLIC_MODEL
from songstarter.server.server import Server
from songstarter_client import AsyncClient

pytestmark = [pytest.mark.triton, pytest.mark.slow]

CACHE = Path(__file__).parents[2] / "build" / "perf_analyzer"
WHEEL = "tritonclient==2.50.0"
LIBRARIES = {"libb64.so.0d": "libb64-*.so.0d", "libcudart.so.12": "libcudart-*.so.12*"}
ROUNDS = 3
WINDOWS, WINDOW_MS = 3, 4000  # perf_analyzer wants three windows to call them stable
AGREEMENT = 0.10


@dataclass(frozen=True)
class Found:
    """What one of the two says."""

    requests_per_second: float
    p50: float  # seconds

    def __str__(self) -> str:
        return f"{self.requests_per_second:.3f}/s, p50 {self.p50:.4f} s"


@pytest.fixture(scope="session")
def perf_analyzer() -> list[str]:
    """How to call it: the binary, with its libraries in its environment."""
    binary = CACHE / "perf_analyzer"
    if not binary.exists():
        CACHE.mkdir(parents=True, exist_ok=True)
        _unpack(binary)
    return ["env", f"LD_LIBRARY_PATH={CACHE / 'lib'}", str(binary)]


def _unpack(binary: Path) -> None:
    download = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", str(CACHE), WHEEL]
    got = subprocess.run(download, capture_output=True, text=True, check=False)
    if got.returncode:
        pytest.skip(f"{WHEEL} cannot be downloaded here: {got.stderr.splitlines()[-1]}")
    with zipfile.ZipFile(next(CACHE.glob("tritonclient-2.50.0-*manylinux*.whl"))) as wheel:
        name = next(name for name in wheel.namelist() if name.endswith("bin/perf_analyzer"))
        binary.write_bytes(wheel.read(name))
    binary.chmod(0o755)
    pytriton = find_spec("pytriton")
    assert pytriton is not None
    assert pytriton.origin is not None
    folder = Path(pytriton.origin).parents[1] / "nvidia_pytriton.libs"
    (CACHE / "lib").mkdir(exist_ok=True)
    for plain, hashed in LIBRARIES.items():
        link = CACHE / "lib" / plain
        link.unlink(missing_ok=True)
        link.symlink_to(next(folder.glob(hashed)))


def theirs(perf_analyzer: list[str], url: str, concurrency: int, data: Path) -> Found:
    given = {"-m": PUBLIC_MODEL, "-u": url, "-i": "grpc", "--input-data": data, "-p": WINDOW_MS, "-s": 999}
    given |= {"--concurrency-range": concurrency}
    command = [*perf_analyzer, *(str(word) for pair in given.items() for word in pair)]
    ran = subprocess.run(command, capture_output=True, text=True, check=True, timeout=120, env=dict(os.environ))
    found = [re.search(rf"{name}: ([\d.]+)", ran.stdout) for name in ("Throughput", "p50 latency")]
    throughput, p50 = (float(match[1]) for match in found if match)
    return Found(throughput, p50 / 1e6)


def ours(url: str, concurrency: int) -> Found:
    async def load() -> Found:
        async with AsyncClient(url) as client:
            bounds = Bounds(seconds=WINDOWS * WINDOW_MS / 1000)
            run = await closed_loop(Sender(Unary(client), Scenario.read("short").requests()), concurrency, bounds)
        figures = level("closed", concurrency, [run])
        assert not figures.errors
        assert figures.latency is not None
        return Found(figures.requests_per_second, figures.latency.p50)

    return asyncio.run(load())


@pytest.mark.parametrize("concurrency", [1, 4])
def test_throughput_and_latency_agree_with_perf_analyzer(
    songs: Server, perf_analyzer: list[str], concurrency: int, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    card = Scenario.read("short").first()[0]
    values = {"prompt": card.prompt, **card.fields, "output_encoding": "raw"}
    data = tmp_path / "input.json"
    tensors = {name: {"content": [value], "shape": [1]} for name, value in values.items()}
    data.write_text(json.dumps({"data": [tensors]}))
    pairs = []
    for _ in range(ROUNDS):
        with ThreadPoolExecutor() as threads:
            others = threads.submit(theirs, perf_analyzer, songs.grpc_url, concurrency, data)
            pairs.append((ours(songs.grpc_url, concurrency), others.result()))
    with capsys.disabled():
        sys.stdout.write(
            "".join(f"\n{concurrency} in flight: ours {one}, perf_analyzer {other}" for one, other in pairs)
        )
    throughput = median(one.requests_per_second / other.requests_per_second for one, other in pairs)
    latency = median(one.p50 / other.p50 for one, other in pairs)
    assert throughput == pytest.approx(1, abs=AGREEMENT)
    assert latency == pytest.approx(1, abs=AGREEMENT)
