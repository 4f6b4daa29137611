"""The engine on a thread of its own: work comes in from any thread, steps follow while there is any."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence

from songstarter import event_log
from songstarter.engine.engine import Engine
from songstarter.engine.take import Take
from songstarter.errors import TakeFailed, Unavailable

SICK = 3  # steps in which all that was tried failed: a device that is gone fails them all, and must not look well


class EngineService:
    """Runs steps while takes play or wait, and sleeps otherwise.

    Outcomes are delivered on the engine's thread: whom a take tells of them must only hand them on.
    """

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._changed = threading.Condition()
        self._stopping = False
        self._pulses: list[Callable[[], None]] = []
        self._failures = 0  # since a step that moved a take
        self._thread = threading.Thread(target=self._run, name="engine", daemon=True)
        self._thread.start()

    def submit(self, takes: Sequence[Take]) -> None:
        """Let the takes of one request wait for slots; from any thread.

        Raises:
            Unavailable: too many wait already, or the service is stopping.
        """
        with self._changed:
            self._refuse_at_the_end()
            self._engine.submit(takes)
            self._changed.notify()

    def pulse(self, answer: Callable[[], None]) -> None:
        """Call ``answer`` on the engine's thread between two steps, so that a step which hangs is noticed.

        Raises:
            Unavailable: the service is stopping.
            TakeFailed: no step works any more; a new process may be better.
        """
        with self._changed:
            self._refuse_at_the_end()
            if self._failures >= SICK:
                raise TakeFailed(f"the last {self._failures} decode steps failed; the decoder's log says why")
            self._pulses.append(answer)
            self._changed.notify()

    def stop(self) -> None:
        """End every take with Unavailable and return when the thread is gone."""
        with self._changed:
            self._stopping = True
            self._changed.notify()
        self._thread.join()

    def _run(self) -> None:
        while self._wait_for_work():
            self._answer_pulses()
            if not self._engine.idle:
                self._step()
        self._answer_pulses()
        self._engine.abandon(Unavailable("the service is stopping: try again later"))

    def _wait_for_work(self) -> bool:
        """Sleep while there is nothing to do; False once the service stops."""
        with self._changed:
            self._changed.wait_for(lambda: self._stopping or self._pulses or not self._engine.idle)
            return not self._stopping

    def _step(self) -> None:
        done = self._engine.statistics
        steps, failed = done.steps, done.takes["failed"]
        try:
            self._engine.step()
        except Exception as error:  # the thread must outlive anything a step can raise
            event_log.write("step_failed", **event_log.facts_of(error))
            self._failures += 1
            self._engine.end_all_in_slots(TakeFailed("a decode step failed; the decoder's log says why"))
            return
        if done.steps > steps:
            self._failures = 0
        elif done.takes["failed"] > failed:  # where steps fail, takes may not even begin
            self._failures += 1

    def _answer_pulses(self) -> None:
        with self._changed:
            pulses, self._pulses = self._pulses, []
        for answer in pulses:
            answer()

    def _refuse_at_the_end(self) -> None:
        if self._stopping:
            raise Unavailable("the service is stopping: try again later")
