"""One tritonserver as a child process: start, ready, stubs, stop.

Knows nothing of canaries or restarts; `supervise` does.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import signal
import subprocess
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from types import TracebackType

from songstarter import draining
from songstarter.checkpoint import Checkpoint
from songstarter.errors import ModelNotLoaded, ServerDied, ServerError
from songstarter.server import backends, hidden, processes
from songstarter.server.exposure import LOOPBACK_ALONE, Exposure
from songstarter.server.launch import Launch, Ports, Tracing
from songstarter.server.plain_paths import PlainPaths
from songstarter.server.server_log import Echo, ServerLog
from songstarter.server.wire import HttpDoor
from songstarter.settings import Settings

SHARED_MEMORY = Path("/dev/shm")
TICK = 0.1  # seconds between two looks at a starting or stopping server
PROGRESS = 2.0  # seconds between two lines about a start that takes long
STILLBORN = 3.0  # seconds after which a dead stub of a loading model is taken for the end of that load
LAST_WORDS = 3.0  # seconds in which Triton may still say itself why a stub ended
GRACE = 10.0  # seconds beyond the exit timeout until a stopping server is killed

Tell = Callable[[str], None]


def silent(line: str) -> None:
    """Says nothing: for servers that nobody watches."""


class Server:
    """A running Triton with the models of one repository's manifest, on loopback if nothing else is said.

    ``with Server(repository, Ports(8100, 8101, 8102), run_directory) as server`` starts it, returns when every
    model is ready, and stops it at the end. One start and one stop each.
    """

    def __init__(
        self,
        repository: Path,
        ports: Ports,
        run_directory: Path,
        *,
        exit_timeout: int = 30,
        start_timeout: float = 600.0,
        tracing: Tracing | None = None,
        exposure: Exposure = LOOPBACK_ALONE,
        settings: Settings | None = None,
        verbose: bool = False,
        tell: Tell = silent,
    ) -> None:
        self.repository = repository
        self.checkpoint = Checkpoint.read(repository)
        self.ports = ports
        self.run_directory = run_directory
        self.exit_timeout = exit_timeout
        self.start_timeout = start_timeout
        self.tracing = tracing
        self.exposure = exposure
        self.settings = settings or {}
        self.log = ServerLog(run_directory / f"tritonserver-{ports.http}.log")
        self._echo = Echo(self.log) if verbose else None
        self._region_prefix = f"songstarter_{secrets.token_hex(6)}_"
        self._draining = SHARED_MEMORY / f"{self._region_prefix}draining"  # removed with the regions
        self._paths = PlainPaths()
        self._tell = tell
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Server:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.stop()

    @property
    def http_url(self) -> str:
        return f"http://{self.exposure.reached_at}:{self.ports.http}"

    @property
    def grpc_url(self) -> str:
        """Without a scheme, as gRPC clients want it."""
        return f"{self.exposure.reached_at}:{self.ports.grpc}"

    @property
    def metrics_url(self) -> str:
        return f"http://{self.exposure.reached_at}:{self.ports.metrics}/metrics"

    @property
    def door(self) -> HttpDoor:
        return HttpDoor(self.exposure.reached_at, self.ports.http, self.exposure.key)

    @property
    def metrics_door(self) -> HttpDoor:
        return HttpDoor(self.exposure.reached_at, self.ports.metrics)

    @property
    def process(self) -> subprocess.Popen[bytes]:
        if self._process is None:
            raise ServerDied("this server was not started")
        return self._process

    @property
    def pid(self) -> int:
        return self.process.pid

    def stubs(self) -> dict[str, list[int]]:
        """The pids of the living Python processes, by model."""
        found: dict[str, list[int]] = defaultdict(list)
        for child in processes.children(self.pid):
            if child.model is not None and not child.zombie:
                found[child.model].append(child.pid)
        return dict(found)

    def zombies(self) -> set[int]:
        """The pids of processes that ended and were not collected."""
        return {child.pid for child in processes.children(self.pid) if child.zombie}

    def shared_bytes(self) -> int:
        """What this server's processes hold in shared memory, in bytes."""
        return sum(region.stat().st_blocks * 512 for region in self._regions())

    # -- start ------------------------------------------------------------------------------------------

    def start(self, stop: threading.Event | None = None) -> bool:
        """Start and wait until every model is ready; False, and no server, when ``stop`` is set meanwhile.

        Raises:
            PortInUse, MissingLibrary, ServerError: nothing was started.
            ModelNotLoaded, ServerDied: the server was started and is gone again.
        """
        self.ports.check_free(self.exposure.host)
        try:
            self._launch()
        except OSError as error:
            self.kill()
            place = error.filename2 or error.filename or self.run_directory  # of a copy its target
            raise ServerError(f"the server cannot be launched: {place}: {error.strerror}") from error
        try:
            ready = self._wait_until_ready(stop or threading.Event())
        except BaseException:
            self.kill()
            raise
        if not ready:
            self.kill()
        return ready

    def _launch(self) -> None:
        installation = backends.install(self.run_directory)
        launch = Launch(
            replace(installation, backends=self._paths.of(installation.backends)),
            self._paths.of(self.repository),
            self.checkpoint,
            self.ports,
            self.exit_timeout,
            self._region_prefix,
            self.tracing,
            self.exposure,
            self.settings,
        )
        with self.log.fresh() as log:
            self._process = hidden.start(
                launch.command,
                self.exposure.restrictions,
                env=launch.environment | {draining.VARIABLE: str(self._draining)},
                prepare=processes.prepare,
                cwd=self.run_directory,  # a stub imports from it before all else
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,  # a terminal's Ctrl-C reaches the supervisor alone
            )
        if self._echo:
            self._echo.start()

    def _wait_until_ready(self, stop: threading.Event) -> bool:
        started = time.monotonic()
        next_line = started + PROGRESS
        while not stop.wait(TICK):
            self._check_start(time.monotonic() - started)
            if self._ready():
                return True
            if time.monotonic() > next_line:
                next_line += PROGRESS
                self._tell(f"loading {', '.join(self._loading())} ({time.monotonic() - started:.0f} s)")
        return False

    def _check_start(self, elapsed: float) -> None:
        """Raise as soon as it is clear that this server will not become ready."""
        if failure := self.log.failure():
            raise failure
        if self.process.poll() is not None:
            raise ServerDied(f"tritonserver ended while it was starting: {self.log.last_words()}")
        if elapsed > STILLBORN and (dead := self.zombies()):
            time.sleep(LAST_WORDS)
            if failure := self.log.failure():
                raise failure
            if dead & self.zombies():  # Triton collects the helpers that it starts stubs by
                raise ModelNotLoaded(
                    f"{' or '.join(self._loading())} did not load: its Python process ended: {self.log.last_words()}"
                )
        if elapsed > self.start_timeout:
            raise ModelNotLoaded(
                f"{', '.join(self._loading())} did not load within {self.start_timeout:.0f} s; see {self.log.path}"
            )

    def _loading(self) -> list[str]:
        loaded = self.log.loaded()
        return [model for model in self.checkpoint.models if model not in loaded] or ["nothing more"]

    def _ready(self) -> bool:
        try:
            paths = (f"/v2/models/{model}/ready" for model in self.checkpoint.models)
            return all(self.door.ask("GET", path, timeout=5.0)[0] == 200 for path in paths)
        except OSError:
            return False

    # -- stop -------------------------------------------------------------------------------------------

    def stop(self) -> bool:
        """Let requests in flight finish, then end; True when it all ended by itself within the exit timeout."""
        self.interrupt()
        deadline = time.monotonic() + self.exit_timeout + GRACE
        try:
            while self.process.poll() is None and time.monotonic() < deadline:
                time.sleep(TICK)
            return self.process.poll() == 0
        finally:  # of an impatient Ctrl-C too
            self.kill()

    def interrupt(self) -> None:
        """Ask Triton and the public models to take nothing new, finish what is in flight and end."""
        if self.process.poll() is None:
            draining.begin(self._draining)
            self.process.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        """End the server and its stubs at once, and remove what they leave in shared memory."""
        self._paths.close()
        if self._process is None:
            return
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()
        for region in self._regions():
            region.unlink(missing_ok=True)
        if self._echo and self._echo.is_alive():
            self._echo.stop()

    def _regions(self) -> Iterator[Path]:
        return SHARED_MEMORY.glob(f"{self._region_prefix}*")
