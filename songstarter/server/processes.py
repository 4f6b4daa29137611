"""What /proc says of a server's Python processes."""

from __future__ import annotations

import ctypes
import signal
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

PROC = Path("/proc")
STUB = "triton_python_backend_stub"
PR_SET_PDEATHSIG = 1

_prctl = ctypes.CDLL(None, use_errno=True).prctl


@dataclass(frozen=True)
class Child:
    """A child process: an ended one that its parent has not collected is a zombie."""

    pid: int
    zombie: bool
    arguments: tuple[str, ...]

    @property
    def model(self) -> str | None:
        """The model that a stub runs, from its arguments: stub, <repository>/<model>/<version>/<file>, ..."""
        if len(self.arguments) < 2 or Path(self.arguments[0]).name != STUB:
            return None
        return Path(self.arguments[1]).parent.parent.name


def children(parent: int) -> Iterator[Child]:
    """The processes whose parent is this one, zombies included."""
    for folder in PROC.glob("[0-9]*"):
        try:
            # "pid (name) state parent ...", where name may hold anything
            state, found = (folder / "stat").read_text().rpartition(") ")[2].split()[:2]
            if int(found) == parent:
                arguments = (folder / "cmdline").read_bytes().decode(errors="replace").split("\0")
                yield Child(int(folder.name), state == "Z", tuple(arguments))
        except (FileNotFoundError, ProcessLookupError):  # it ended meanwhile
            continue


def end_with_parent() -> None:
    """In a child about to start another program: ask the kernel to stop it cleanly when its parent dies."""
    _prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
