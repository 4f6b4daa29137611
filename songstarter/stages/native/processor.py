"""Which of the compiled libraries this processor and its kernel can run."""

from __future__ import annotations

import ctypes
from pathlib import Path

from songstarter.stages.native.compile import INSTRUCTION_SETS, InstructionSet

CPU_FACTS = Path("/proc/cpuinfo")


def instruction_set(program: str) -> InstructionSet | None:
    """The fastest that this processor has, its kernel allows and ``program`` was compiled for."""
    return next((one for one in usable_instruction_sets(program) if _allowed(program, one)), None)


def usable_instruction_sets(program: str) -> list[InstructionSet]:
    """All that this processor has and ``program`` was compiled for, the fastest first."""
    lines = CPU_FACTS.read_text().splitlines() if CPU_FACTS.is_file() else []
    flags = set(next((line.split(":", 1)[1].split() for line in lines if line.startswith("flags")), []))
    return [one for one in INSTRUCTION_SETS if one.needs <= flags and one.library(program).is_file()]


def _allowed(program: str, instructions: InstructionSet) -> bool:
    library = ctypes.CDLL(str(instructions.library(program)))
    return bool(getattr(library, f"{program}_allowed")())
