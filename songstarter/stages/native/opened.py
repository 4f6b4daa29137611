"""One of the programs in C, opened on a layout's weights: what its doorways have in common."""

from __future__ import annotations

import ctypes
from collections.abc import Iterator
from typing import Protocol

import numpy as np

from songstarter.array import Array
from songstarter.stages.native.compile import InstructionSet
from songstarter.stages.native.layout import addresses


class PartedLayout(Protocol):
    def shape(self) -> ctypes.Structure: ...

    def parts(self) -> Iterator[Array]: ...


class Opened:
    """The program's handle, and the arrays that must outlive it."""

    def __init__(self, program: str, layout: PartedLayout, instructions: InstructionSet) -> None:
        """Raises MemoryError where the weights find no room."""
        self._address: ctypes.c_void_p | None = None
        library = ctypes.CDLL(str(instructions.library(program)))
        self._run, self._close = (getattr(library, f"{program}_{verb}") for verb in ("run", "close"))
        opening = getattr(library, f"{program}_open")
        opening.restype = ctypes.c_void_p
        self._parts = [np.ascontiguousarray(part, np.float32) for part in layout.parts()]
        places = addresses([part.ctypes.data for part in self._parts])
        address = opening(ctypes.byref(layout.shape()), places)
        if not address:
            raise MemoryError(f"there is no memory for the weights of {program}.c")
        self._address = ctypes.c_void_p(address)

    def run(self, call: ctypes.Structure) -> None:
        """Raises MemoryError where a call finds no room."""
        if not self._run(self._address, ctypes.byref(call)):
            raise MemoryError("there is no memory for a call of this width")

    def __del__(self) -> None:
        if self._address is not None:
            self._close(self._address)


def require(holds: bool, otherwise: str) -> None:
    """Raises ValueError with the sentence."""
    if not holds:
        raise ValueError(otherwise)


def within(array: Array, lowest: int, highest: int) -> bool:
    return bool(lowest <= array.min(initial=lowest) and array.max(initial=highest) <= highest)
