"""The memory of all slots is taken at the start, not when the first long songs play."""

from __future__ import annotations

import resource
from pathlib import Path

import numpy as np

from songstarter.stages.kv_memory import HostMemory


def resident_bytes() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()


def test_every_byte_is_resident_before_it_is_used() -> None:
    before = resident_bytes()
    memory = HostMemory(["key_0", "value_0"], shape=(8, 4, 2_000, 64), dtype=np.float32)
    assert memory.bytes == 2 * 8 * 4 * 2_000 * 64 * 4
    assert resident_bytes() - before > 0.9 * memory.bytes
