"""Keeps a server alive and stops it clean: signals, dead processes, models that no longer answer.

Triton never restarts a Python process that died, and stays "ready"; requests in flight on it may hang for
ever. So a failure ends the whole server at once, which gives every caller an error, and starts it anew.
"""

from __future__ import annotations

import contextlib
import itertools
import signal
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from types import FrameType

from songstarter.errors import ServerDied
from songstarter.server.canary import Canary
from songstarter.server.server import GRACE, TICK, Server, Tell
from songstarter.server.wire import HttpDoor

LOOK = 0.5  # seconds between two looks at the processes
UNCOLLECTED = 3.0  # seconds after which a process that ended is no part of a clean stop: Triton collects those at once


@dataclass(frozen=True)
class Patience:
    """How long the supervisor waits for what, in seconds, and how often it tries again."""

    canary_period: float = 5.0  # between two test requests; each goes to the next model in turn
    canary_timeout: float = 60.0  # a busy model answers late, and a dead one is noticed without
    restarts: int = 3
    restarts_within: float = 300.0


class Stopped(Exception):
    """There is nothing to serve any more, before it began."""


@dataclass(frozen=True)
class StopRequests:
    """SIGINT and SIGTERM: the first asks for a clean stop, the second for one at once."""

    asked: threading.Event = field(default_factory=threading.Event)
    insisted: threading.Event = field(default_factory=threading.Event)

    def note(self, number: int, frame: FrameType | None) -> None:
        (self.insisted if self.asked.is_set() else self.asked).set()

    def go_on(self) -> None:
        """Raise Stopped once a stop was asked for."""
        if self.asked.is_set():
            raise Stopped

    @contextmanager
    def listening(self) -> Iterator[None]:
        before = {number: signal.signal(number, self.note) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)


class CanaryWatch(threading.Thread):
    """Asks one canary after the other until one of them fails."""

    def __init__(self, canaries: Sequence[Canary], door: HttpDoor, patience: Patience) -> None:
        super().__init__(name="canaries", daemon=True)
        self._canaries = canaries
        self._door = door
        self._patience = patience
        self._ended = threading.Event()
        self.failure: str | None = None

    def run(self) -> None:
        for canary in itertools.cycle(self._canaries):
            if self._ended.wait(self._patience.canary_period):
                return
            self.failure = canary.ask(self._door, self._patience.canary_timeout)
            if self.failure:
                return

    def stop(self) -> None:
        self._ended.set()


class Supervisor:
    """Runs servers, one after the other, until it is asked to stop or a server fails too often."""

    def __init__(
        self,
        new_server: Callable[[Callable[[], None]], Server],
        canaries: Sequence[Canary],
        tell: Tell,
        *,
        ready: Callable[[Server], None],
        patience: Patience | None = None,
    ) -> None:
        """``new_server`` makes one that is not started yet, and calls what it gets now and then if that takes long."""
        self._new_server = new_server
        self._canaries = canaries
        self._tell = tell
        self._ready = ready
        self._patience = patience or Patience()
        self._failures: deque[float] = deque()
        self._stop = StopRequests()

    def run(self) -> bool:
        """Serve until SIGINT or SIGTERM; True when every request in flight was answered before the end.

        Raises:
            ServerError: the server did not start, or failed too often.
        """
        with self._stop.listening(), contextlib.suppress(Stopped):
            while True:
                server = self._new_server(self._stop.go_on)
                if not server.start(self._stop.asked):
                    return True
                try:
                    self._ready(server)
                    failure = self._watch(server)
                    if failure is None:
                        return self._drain(server)
                finally:
                    server.kill()
                self._forgive(failure)
        return True

    def _watch(self, server: Server) -> str | None:
        """Look at the server until it fails (the reason) or a signal asks to stop (None)."""
        stubs = server.stubs()
        canaries = CanaryWatch(self._canaries, server.door, self._patience)
        canaries.start()
        try:
            while not self._stop.asked.wait(LOOK):
                if failure := dead_process(server, stubs) or canaries.failure:
                    return failure
                server.log.keep_small()
            return None
        finally:
            canaries.stop()

    def _drain(self, server: Server) -> bool:
        """Let requests in flight finish within the exit timeout, until a second signal, or until nobody can answer."""
        server.interrupt()
        started = time.monotonic()
        told = False
        dead: dict[int, float] = {}  # when a process was first seen to have ended
        while server.process.poll() is None:
            now = time.monotonic()
            elapsed = now - started
            dead = {pid: dead.get(pid, now) for pid in server.zombies()}
            if any(now - since > UNCOLLECTED for since in dead.values()):
                self._tell("stopping: a model's process ended by itself, so requests in flight hear nothing more")
                return False
            if elapsed > 2.0 and not told:
                self._tell(f"stopping: requests in flight have {server.exit_timeout} s; once more ends them now")
                told = True
            if self._stop.insisted.wait(TICK) or elapsed > server.exit_timeout + GRACE:
                return False
        return server.process.returncode == 0

    def _forgive(self, failure: str) -> None:
        """Count a failure; raise when there were too many lately."""
        now = time.monotonic()
        self._failures.append(now)
        while now - self._failures[0] > self._patience.restarts_within:
            self._failures.popleft()
        if len(self._failures) > self._patience.restarts:
            raise ServerDied(
                f"{failure}; the server was restarted {self._patience.restarts} times within"
                f" {self._patience.restarts_within:.0f} s, so something is wrong for good"
            )
        self._tell(f"{failure}; every request in flight is ended, the server starts anew")


def dead_process(server: Server, stubs: dict[str, list[int]]) -> str | None:
    """One sentence about a process of the server that ended by itself."""
    code = server.process.poll()
    if code is not None:
        return f"tritonserver ended by itself ({ending(code)})"
    alive = server.stubs()
    for model, pids in stubs.items():
        if gone := set(pids) - set(alive.get(model, [])):
            return f"the Python process of {model} (pid {min(gone)}) ended by itself"
    return None


def ending(code: int) -> str:
    return f"exit code {code}" if code >= 0 else signal.Signals(-code).name
