"""The doorway to ``native/sampler.c``: the next column of every take in one call, on a CPU.

Its twins are ``stages/sampler.py``, which runs where it was not compiled, and ``songstarter/sampling.py``.
"""

from __future__ import annotations

import ctypes
from collections.abc import Mapping
from functools import lru_cache

import numpy as np

from songstarter.array import Array
from songstarter.request import Sampling
from songstarter.stages.native.compile import SAMPLER, InstructionSet
from songstarter.stages.native.processor import instruction_set
from songstarter.stages.sampler import Columns, Draw, Sampler, sample_slots

LANES = 16  # of a vector, as in vectors.h


class Wish(ctypes.Structure):
    """``Draw`` of ``sampler.c``."""

    _fields_ = (
        ("seed", ctypes.c_int64),
        ("mass", ctypes.c_double),
        *((name, ctypes.c_int32) for name in ("slot", "variation", "step", "count")),
        *((name, ctypes.c_float) for name in ("guidance", "temperature")),
    )


def open_sampler(vocabulary: int) -> Sampler:
    """The fastest sampler for rows of so many tokens."""
    instructions = instruction_set(SAMPLER) if vocabulary % LANES == 0 else None
    return NativeSampler(instructions) if instructions else sample_slots


class NativeSampler:
    """Stands where ``sample_slots`` would; one call at a time."""

    def __init__(self, instructions: InstructionSet) -> None:
        self._run = ctypes.CDLL(str(instructions.library(SAMPLER))).sampler_run

    def __call__(self, logits: Array, draws: Mapping[int, Draw]) -> Columns:
        """As ``sample_slots``."""
        _, _, codebooks, vocabulary = logits.shape
        wishes = (Wish * len(draws))(*[Wish(*_wish(slot, draw)) for slot, draw in draws.items()])
        tokens = np.empty((len(draws), codebooks), np.int64)
        scratch = np.empty(vocabulary, np.float32)
        logits = np.ascontiguousarray(logits, np.float32)
        given, used, written = (ctypes.c_void_p(array.ctypes.data) for array in (logits, scratch, tokens))
        self._run(given, codebooks, vocabulary, wishes, len(draws), used, written)
        return {slot: column if column[0] >= 0 else None for slot, column in zip(draws, tokens, strict=True)}


def _wish(slot: int, draw: Draw) -> tuple[float, ...]:
    mass, count, guidance, temperature = _settings(draw.sampling)
    return draw.seed, mass, slot, draw.variation, draw.step, count, guidance, temperature


@lru_cache(maxsize=1024)
def _settings(sampling: Sampling) -> tuple[float, int, float, float]:
    """By mass where there is one, else by count."""
    return sampling.top_p, 0 if sampling.top_p > 0 else sampling.top_k, sampling.guidance, sampling.temperature
