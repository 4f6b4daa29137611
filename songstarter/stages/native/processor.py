"""Which of the compiled libraries this processor and its kernel can run."""

from __future__ import annotations

import ctypes
from functools import cache
from pathlib import Path

from songstarter import event_log
from songstarter.stages.native.compile import INSTRUCTION_SETS, InstructionSet, sources_digest

CPU_FACTS = Path("/proc/cpuinfo")
SOURCES = "songstarter_sources"  # the symbol of sources.h


def instruction_set(program: str) -> InstructionSet | None:
    """The fastest that this processor has, its kernel allows and ``program`` was compiled for."""
    return next((one for one in usable_instruction_sets(program) if _allowed(program, one)), None)


def usable_instruction_sets(program: str) -> list[InstructionSet]:
    """All that this processor has and ``program`` was compiled for as it is now, the fastest first."""
    lines = CPU_FACTS.read_text().splitlines() if CPU_FACTS.is_file() else []
    flags = set(next((line.split(":", 1)[1].split() for line in lines if line.startswith("flags")), []))
    return [one for one in INSTRUCTION_SETS if one.needs <= flags and _of_these_sources(one.library(program))]


def _allowed(program: str, instructions: InstructionSet) -> bool:
    library = ctypes.CDLL(str(instructions.library(program)))
    return bool(getattr(library, f"{program}_allowed")())


@cache
def _of_these_sources(library: Path) -> bool:
    """Whether a library is there and of the sources beside it: one of others would read a call as something else."""
    if not library.is_file():
        return False
    try:
        found = ctypes.string_at(ctypes.addressof(ctypes.c_char.in_dll(ctypes.CDLL(str(library)), SOURCES))).decode()
    except (OSError, ValueError):  # no library, or of the time before they told
        found = "unknown"
    if found != sources_digest():
        advice = "python -m songstarter.stages.native.compile"
        event_log.write("library_stale", library=library.name, compiled_from=found, compile_again_with=advice)
    return found == sources_digest()
