"""Compile what is written in C for every instruction set: ``python -m songstarter.stages.native.compile``.

Installing the package does it too (``hatch_build.py``). It takes a C compiler; without one the ONNX graphs run instead.
"""

from __future__ import annotations

import hashlib
import platform
import shutil
import subprocess
import sys
from dataclasses import dataclass
from functools import cache
from itertools import product
from pathlib import Path

FOLDER = Path(__file__).parent
PROGRAMS = ("decoder", "sampler", "codec_encoder", "codec_decoder")  # each a source file that is called so
DECODER, SAMPLER, CODEC_ENCODER, CODEC_DECODER = PROGRAMS
COMPILERS = ("cc", "gcc", "clang")
MACHINE = "x86_64"
# No traps and no errno: whole vectors may be computed where a single number would do. No contraction: whether a product
# and a sum become one instruction must not depend on what else the compiler sees, or songs would.
EXACT = ("-fno-math-errno", "-fno-trapping-math", "-ffp-contract=off")
FLAGS = ("-std=gnu11", "-O3", "-fPIC", "-shared", "-pthread", *EXACT, "-Wno-psabi")


@dataclass(frozen=True)
class InstructionSet:
    """One way to compile the sources; ``needs`` are the processor's flags as Linux calls them."""

    name: str
    flags: tuple[str, ...]
    needs: frozenset[str]

    def library(self, program: str) -> Path:
        return FOLDER / f"{program}-{self.name}.so"


_AVX2 = frozenset({"avx2", "fma", "bmi1", "bmi2", "f16c", "movbe"})
_AVX512 = frozenset({"avx512f", "avx512bw", "avx512cd", "avx512dq", "avx512vl", "avx512_vnni"})
_AMX = frozenset({"amx_tile", "amx_int8", "amx_bf16", "avx512_bf16"})
_TILES = ("-mamx-tile", "-mamx-int8", "-mamx-bf16", "-mavx512bf16")
_LONG_VECTORS = ("-march=x86-64-v4", "-mavx512vnni", "-mprefer-vector-width=512")
INSTRUCTION_SETS = (  # the fastest first
    InstructionSet("amx", (*_LONG_VECTORS, *_TILES), _AVX2 | _AVX512 | _AMX),
    InstructionSet("avx512vnni", _LONG_VECTORS, _AVX2 | _AVX512),
    InstructionSet("avx2", ("-march=x86-64-v3",), _AVX2),
)


class CannotCompile(Exception):
    """There is no compiler for this machine, or it refuses a source."""


def compile_all() -> list[Path]:
    """Compile the sources beside themselves, once for each instruction set that the compiler knows; the libraries.

    Raises:
        CannotCompile: there is none, with the reason in one sentence.
    """
    if sys.platform != "linux" or platform.machine() != MACHINE:
        raise CannotCompile(f"found {sys.platform} on {platform.machine()}, it is written for linux on {MACHINE}")
    compiler = next(filter(None, map(shutil.which, COMPILERS)), None)
    if compiler is None:
        raise CannotCompile(f"found no C compiler, looked for {', '.join(COMPILERS)}")
    libraries, reasons = [], []
    for program, instructions in product(PROGRAMS, INSTRUCTION_SETS):
        try:
            libraries.append(_compile(compiler, program, instructions))
        except CannotCompile as reason:  # an older compiler knows fewer sets
            reasons.append(str(reason))
            print(reason, file=sys.stderr)
    if not libraries:
        raise CannotCompile("; ".join(reasons))
    return libraries


@cache
def sources_digest() -> str:
    """Of everything that is compiled and of how: a library of other sources expects other calls."""
    together = hashlib.sha256(repr((FLAGS, [one.flags for one in INSTRUCTION_SETS])).encode())
    for source in sorted(FOLDER.glob("*.[ch]")):
        together.update(source.read_bytes())
    return together.hexdigest()


def _compile(compiler: str, program: str, instructions: InstructionSet) -> Path:
    library = instructions.library(program)
    fresh = library.with_suffix(".new")  # a library that is in use must not change
    sources = f'-DSOURCES="{sources_digest()}"'
    command = [compiler, *FLAGS, sources, *instructions.flags, str(FOLDER / f"{program}.c"), "-o", str(fresh), "-lm"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        library.unlink(missing_ok=True)  # of an older source
        raise CannotCompile(f"{compiler} failed for {library.stem}: {done.stderr.strip()}")
    return fresh.replace(library)


if __name__ == "__main__":
    try:
        compile_all()
    except CannotCompile as reason:
        print(f"nothing in C was compiled, the ONNX graphs will run instead: {reason}", file=sys.stderr)
