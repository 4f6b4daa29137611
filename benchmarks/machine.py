"""What the figures were measured on."""

from __future__ import annotations

import os
import platform
import subprocess
import time
from collections.abc import Callable, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

ROOT = Path(__file__).parents[1]
BUFFER_BYTES = 512 * 2**20  # far more than any cache holds
PASSES = 5
PACKAGES = ("numpy", "onnxruntime", "torch", "transformers")


def facts(packages: Sequence[str] = PACKAGES) -> dict[str, str | int]:
    """Processor, cores, memory, versions and revision."""
    return {
        "cpu": _cpu(),
        "cores": cores(),
        "memory_gb": round(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 1e9),
        "python": platform.python_version(),
        **{package: _version(package) for package in packages},
        "revision": _revision(),
    }


def cores() -> int:
    """The cores this process may use."""
    return len(os.sched_getaffinity(0))


def free_bytes() -> int:
    """The memory that a process can still take without swapping."""
    lines = dict(line.split(":") for line in Path("/proc/meminfo").read_text().splitlines())
    return int(lines["MemAvailable"].split()[0]) * 1024


class Memory:
    """A buffer to pass over, to see how fast memory is just now."""

    def __init__(self, threads: int) -> None:
        import torch  # where load is made, it is not installed

        self._torch = torch
        self._buffer = torch.ones(BUFFER_BYTES // 4)
        self._threads = threads

    def bandwidth(self) -> float:
        """Bytes read per second: the best of two ways to pass over the buffer, several times each."""
        torch = self._torch
        torch.set_num_threads(self._threads)
        ways: tuple[Callable[[], object], ...] = (self._buffer.sum, lambda: torch.dot(self._buffer, self._buffer))
        return BUFFER_BYTES / min(map(_fastest, ways))


def _fastest(way: Callable[[], object]) -> float:
    seconds = []
    for _ in range(PASSES):
        start = time.perf_counter()
        way()
        seconds.append(time.perf_counter() - start)
    return min(seconds)


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"


def _cpu() -> str:
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    named = (line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    features = next((line.split(":", 1)[1].split() for line in lines if line.startswith("flags")), [])
    telling = [feature for feature in ("avx2", "avx512f", "avx512_vnni", "amx_int8") if feature in features]
    return f"{next(named, platform.machine())} ({', '.join(telling)})"


def _revision() -> str:
    """The commit, with ``+`` when the tree differs from it; of a copied tree, what ``REVISION`` says."""
    try:
        return _git("rev-parse", "--short=12", "HEAD") + ("+" if _git("status", "--porcelain", "-uno") else "")
    except (OSError, subprocess.CalledProcessError):
        return os.environ.get("REVISION", "unknown")


def _git(*arguments: str) -> str:
    return subprocess.run(["git", *arguments], cwd=ROOT, check=True, capture_output=True, text=True).stdout.strip()
