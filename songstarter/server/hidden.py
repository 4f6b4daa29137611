"""Starts a process with arguments that nobody else can read.

Triton takes the keys of its restricted APIs from its command line, which every user of a machine may read in
/proc/<pid>/cmdline, and `ps` shows. The environment only the same user may read. So such an argument travels in the
environment, and the process is held before its first instruction, while its pointer is bent:

::

    argv   --http-port=8000   SONGSTARTER_ARGUMENT_0   ...        what /proc shows
               ^                  x
    argv[]     |          argv[] -|---------------------.
                                                         v
    environment   ...   SONGSTARTER_ARGUMENT_0=--http-restricted-api=inference:authorization=Bearer ...
"""

from __future__ import annotations

import ctypes
import os
import signal
import struct
import subprocess
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO

from songstarter.errors import ServerDied

VARIABLE = "SONGSTARTER_ARGUMENT_"
PTRACE_TRACEME = 0
PTRACE_DETACH = 17
POINTER = struct.Struct("=Q")

_ptrace = ctypes.CDLL(None, use_errno=True).ptrace
_ptrace.argtypes = [ctypes.c_long, ctypes.c_long, ctypes.c_void_p, ctypes.c_void_p]
_ptrace.restype = ctypes.c_long


def start(
    command: Sequence[str],
    hidden: Sequence[str],
    *,
    env: Mapping[str, str],
    prepare: Callable[[], None],
    **settings: Any,
) -> subprocess.Popen[bytes]:
    """A process with the arguments of ``command`` and then the ``hidden`` ones, which no other user sees.

    ``prepare`` runs in the child before it becomes the program; ``settings`` are Popen's.

    Raises:
        ServerDied: the kernel does not let this process prepare its child so; nothing runs.
    """
    names = [f"{VARIABLE}{number}" for number in range(len(hidden))]

    def prepare_and_wait() -> None:
        prepare()
        _ptrace(PTRACE_TRACEME, 0, None, None)  # the kernel stops it as soon as the program is loaded

    process = subprocess.Popen(
        [*command, *names],
        env={**env, **dict(zip(names, hidden, strict=True))},
        preexec_fn=prepare_and_wait,
        **settings,
    )
    try:
        _await_stop(process.pid)
        _bend(process.pid, [name.encode() for name in names])
    except OSError as error:
        process.kill()
        process.wait()
        raise ServerDied(f"Triton's arguments cannot be hidden here ({error}): may this process use ptrace?") from error
    _ptrace(PTRACE_DETACH, process.pid, None, None)
    return process


def _await_stop(pid: int) -> None:
    _, status = os.waitpid(pid, 0)
    if not (os.WIFSTOPPED(status) and os.WSTOPSIG(status) == signal.SIGTRAP):
        raise OSError("the process did not stop")


def _bend(pid: int, names: Sequence[bytes]) -> None:
    """Let the argument of each name point to the environment variable's value."""
    stack, arguments, environment = _layout(pid)
    with Path(f"/proc/{pid}/mem").open("r+b", buffering=0) as memory:
        argv = _read(memory, *arguments).split(b"\0")
        variables = b"\0" + _read(memory, *environment)
        for name in names:
            value = environment[0] + variables.index(b"\0" + name + b"=") + len(name) + 1
            memory.seek(stack + POINTER.size * (1 + argv.index(name)))  # argc stands in front of argv
            memory.write(POINTER.pack(value))


def _layout(pid: int) -> tuple[int, tuple[int, int], tuple[int, int]]:
    """Addresses in a process that has just begun: its stack, its arguments and its environment (proc(5))."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2].split()
    stack, first, last, first_variable, last_variable = (int(fields[number - 3]) for number in (28, 48, 49, 50, 51))
    return stack, (first, last), (first_variable, last_variable)


def _read(memory: BinaryIO, first: int, last: int) -> bytes:
    memory.seek(first)
    return memory.read(last - first)
