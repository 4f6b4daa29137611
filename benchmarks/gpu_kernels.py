"""Which kernels a step on the device consists of, and how long each takes: where the next gain lies.

torch's profiler sees every kernel of its process, those of onnxruntime and of replayed graphs included.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from typing import Any

import torch
from torch.autograd import DeviceType
from torch.profiler import ProfilerActivity, profile

LARGEST = 16  # kernels that are told by name
NAME_LENGTH = 160  # template arguments fill pages


@dataclass
class Kernels:
    """What ran on the device within some steps."""

    steps: int
    microseconds: dict[str, float] = field(default_factory=lambda: defaultdict(float))
    launches: Counter[str] = field(default_factory=Counter)

    @contextmanager
    def watched(self) -> Iterator[None]:
        activities = [ProfilerActivity.CUDA] if torch.cuda.is_available() else [ProfilerActivity.CPU]
        with profile(activities=activities) as profiler:
            yield
        for event in profiler.events() or []:
            if event.device_type == DeviceType.CUDA:
                self.microseconds[event.name] += event.time_range.elapsed_us()
                self.launches[event.name] += 1

    def summary(self) -> dict[str, Any]:
        """Milliseconds and launches of a step, in all and of the kernels that took most."""
        order = sorted(self.microseconds, key=lambda name: -self.microseconds[name])
        largest = [self._kernel(name) for name in order[:LARGEST]]
        return {
            "ms_per_step": sum(self.microseconds.values()) / self.steps / 1e3,
            "launches_per_step": sum(self.launches.values()) / self.steps,
            "largest": [asdict(kernel) for kernel in largest],
        }

    def _kernel(self, name: str) -> Kernel:
        return Kernel(name[:NAME_LENGTH], self.microseconds[name] / self.steps / 1e3, self.launches[name] / self.steps)


@dataclass(frozen=True)
class Kernel:
    """One kernel's share of a step."""

    name: str
    ms_per_step: float
    launches_per_step: float


def in_words(summary: dict[str, Any]) -> str:
    """A line in all, and one for each kernel."""
    lines = [f"{summary['launches_per_step']:.0f} launches, {summary['ms_per_step']:.3f} ms a step:"]
    for kernel in summary["largest"]:
        lines.append(f"  {kernel['ms_per_step']:7.3f} ms {kernel['launches_per_step']:6.1f} x  {kernel['name']}")
    return "\n".join(lines)
