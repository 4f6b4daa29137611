"""A server's processes: how its child is prepared, and what /proc says of the Python processes below it."""

from __future__ import annotations

import ctypes
import resource
import signal
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

PROC = Path("/proc")
STUB = "triton_python_backend_stub"
PR_SET_PDEATHSIG = 1
# Triton copies the body of an HTTP request to its thread's stack, twice, where a client calls it a form, as
# `curl -d` and urllib do unasked: four megabytes of melody end a server whose threads have the usual eight. Only
# the pages in use cost memory.
STACK_BYTES = 256 * 2**20

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
            state, found = (folder / "stat").read_text(errors="replace").rpartition(") ")[2].split()[:2]
            if int(found) == parent:
                arguments = (folder / "cmdline").read_bytes().decode(errors="replace").split("\0")
                yield Child(int(folder.name), state == "Z", tuple(arguments))
        except OSError:  # it ended meanwhile, or is somebody else's and hidden from us
            continue


def prepare() -> None:
    """In a child about to become tritonserver: deep stacks, and a clean stop from the kernel when its parent dies."""
    _prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
    _, hard = resource.getrlimit(resource.RLIMIT_STACK)
    stack = STACK_BYTES if hard == resource.RLIM_INFINITY else min(STACK_BYTES, hard)
    resource.setrlimit(resource.RLIMIT_STACK, (stack, hard))
