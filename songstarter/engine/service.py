"""The engine on a thread of its own: work comes in from any thread, steps follow while there is any."""

from __future__ import annotations

import threading
from collections.abc import Sequence

from songstarter.engine.engine import Engine
from songstarter.engine.take import Take
from songstarter.errors import TakeFailed, Unavailable


class EngineService:
    """Runs steps while takes play or wait, and sleeps otherwise.

    Outcomes are delivered on the engine's thread: a take's ``on_end`` must only hand them on.
    """

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._changed = threading.Condition()
        self._stopping = False
        self._thread = threading.Thread(target=self._run, name="engine", daemon=True)
        self._thread.start()

    def submit(self, takes: Sequence[Take]) -> None:
        """Let the takes of one request wait for slots; from any thread.

        Raises:
            Unavailable: too many wait already, or the service is stopping.
        """
        with self._changed:
            if self._stopping:
                raise Unavailable("the service is stopping: try again later")
            self._engine.submit(takes)
            self._changed.notify()

    def stop(self) -> None:
        """End every take with Unavailable and return when the thread is gone."""
        with self._changed:
            self._stopping = True
            self._changed.notify()
        self._thread.join()

    def _run(self) -> None:
        while self._wait_for_work():
            try:
                self._engine.step()
            except Exception as error:  # the thread must outlive anything a step can raise
                self._engine.abandon(TakeFailed(f"the decode step failed: {error}"))
        self._engine.abandon(Unavailable("the service is stopping: try again later"))

    def _wait_for_work(self) -> bool:
        """Sleep while there is nothing to do; False once the service stops."""
        with self._changed:
            self._changed.wait_for(lambda: self._stopping or not self._engine.idle)
            return not self._stopping
