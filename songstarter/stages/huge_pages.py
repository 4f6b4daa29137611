"""Large blocks of memory on pages of two megabytes.

A decode step walks through gigabytes once. On pages of four kilobytes the processor spends a good part of that time
looking their addresses up, the more so in a virtual machine, where every look-up is two.
"""

from __future__ import annotations

import math
import mmap

import numpy as np

from songstarter.array import Array

HUGE = getattr(mmap, "MADV_HUGEPAGE", None)  # Linux has it


def zeros(shape: tuple[int, ...], dtype: type[np.generic]) -> Array:
    """As ``np.zeros``, but that the memory is really there: a machine that has too little of it says so now, and not
    when the first long songs play. Small blocks, and those where there are no huge pages, lie on ordinary ones."""
    size = math.prod(shape) * np.dtype(dtype).itemsize
    memory = mmap.mmap(-1, max(size, 1), flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)  # shared memory has no huge pages
    if HUGE is not None:
        memory.madvise(HUGE)
    block: Array = np.frombuffer(memory, dtype, math.prod(shape)).reshape(shape)
    block.fill(0)
    return block
