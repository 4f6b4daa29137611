"""The device under the clock: what it is, what is free on it, and how fast its memory is."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Callable

import torch

from benchmarks import machine
from songstarter.checkpoint import Device
from songstarter.stages.session import providers

COPIED_BYTES = {"cuda": 4 * 2**30, "cpu": 256 * 2**20}
PASSES = 5
PACKAGES = ("numpy", "onnxruntime-gpu", "torch", "transformers")


def lacking(device: Device) -> str | None:
    """What a device needs and is not there, in words; None when it can be tried."""
    if device == "cpu":
        return None
    if not torch.cuda.is_available():
        return f"torch {torch.__version__} sees no CUDA device: this needs one, and a torch that is built for CUDA"
    if "CUDAExecutionProvider" not in providers():
        return "this onnxruntime has no CUDA: pip uninstall onnxruntime, then pip install onnxruntime-gpu"
    return None


def facts(device: Device) -> dict[str, str | int]:
    """Those of the machine and, where there is one, of the GPU and its driver."""
    if device == "cpu":
        return machine.facts()
    properties = torch.cuda.get_device_properties(0)
    return machine.facts(PACKAGES) | {
        "gpu": properties.name,
        "gpu_memory_gb": round(properties.total_memory / 1e9),
        "compute_capability": f"{properties.major}.{properties.minor}",
        "driver": _driver(),
        "cuda_of_torch": str(torch.version.cuda),
    }


def free_bytes(device: Device) -> int:
    return torch.cuda.mem_get_info()[0] if device == "cuda" else machine.free_bytes()


def bandwidth(device: Device) -> float:
    """Bytes read or written per second by the fastest of several copies within the device's memory."""
    source = torch.ones(COPIED_BYTES[device], dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    seconds = min(_seconds(lambda: target.copy_(source), device) for _ in range(PASSES))
    return 2 * COPIED_BYTES[device] / seconds


def give_back(device: Device) -> None:
    """Hand torch's unused memory back, for the processes beside it."""
    if device == "cuda":
        torch.cuda.empty_cache()


def _seconds(work: Callable[[], object], device: Device) -> float:
    _wait(device)
    start = time.perf_counter()
    work()
    _wait(device)
    return time.perf_counter() - start


def _wait(device: Device) -> None:
    if device == "cuda":
        torch.cuda.synchronize()


def _driver() -> str:
    query = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    try:
        return subprocess.run(query, check=True, capture_output=True, text=True).stdout.splitlines()[0]
    except (OSError, subprocess.CalledProcessError, IndexError) as error:
        return f"unknown ({error})"
