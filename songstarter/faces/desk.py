"""A public model's border: requests in from Triton, answers out, each from a thread of its own."""

from __future__ import annotations

import threading
from collections.abc import Callable, Generator, MutableMapping
from contextlib import closing
from typing import Any, Protocol

from songstarter.errors import Unavailable
from songstarter.faces.admission import Admission
from songstarter.faces.stages import Tensors
from songstarter.faces.visits import Visit, VisitBook
from songstarter.faces.watch import Watch
from songstarter.freed_memory import FreedMemory
from songstarter.metrics import Readings

Read = Callable[[], MutableMapping[str, Any]]


class Answering(Protocol):
    """A public model's work: one set of outputs, or several one after the other; it empties ``values``."""

    def answer(self, values: MutableMapping[str, Any], visit: Visit) -> Generator[Tensors, None, None]: ...


class Replying(Protocol):
    """The way back to one caller."""

    def gone(self) -> bool:
        """Whether the caller is; not asked after the end."""

    def send(self, outputs: Tensors) -> None: ...

    def end(self, error: Exception | None = None) -> None:
        """Close the way; once, unless it fails without an error."""


class RequestDesk:
    """Answers late, so that one instance holds many requests at once."""

    def __init__(self, face: Answering, *, limit: int, cancel: Callable[[str], None]) -> None:
        """Hold at most ``limit`` requests; ``cancel`` tells the decoder that the order of this name shall end."""
        self._face = face
        self._admission = Admission(limit)
        self._threads: set[threading.Thread] = set()
        self._book = VisitBook()
        self._watch = Watch(cancel)
        self._freed_memory = FreedMemory()
        self._freed_memory.start()

    def accept(self, read: Read, reply: Replying, *, request_id: str = "", trace_context: str | None = None) -> None:
        """Answer a request, or refuse it at once.

        ``read`` gives its values by the names of ``contract.FIELDS`` and is called before this returns.
        """
        visit = self._book.open(request_id, trace_context)
        try:
            self._admission.enter()  # before anything else: who is refused must cost next to nothing
            values = self._read(read)
            visit.came_with(values)
        except Exception as error:
            self._close(visit, reply, error)
        else:
            self._begin(visit, values, reply)

    def close(self) -> None:
        """Stop what is under way."""
        self._watch.close()
        for thread in list(self._threads):
            thread.join()
        self._freed_memory.stop()

    def readings(self) -> Readings:
        return self._book.readings()

    def _begin(self, visit: Visit, values: MutableMapping[str, Any], reply: Replying) -> None:
        """Answer on a thread of the request's own."""
        thread = threading.Thread(target=self._answer, args=(visit, values, reply), name="request", daemon=True)
        self._threads.add(thread)
        try:
            thread.start()
        except RuntimeError:  # the system has no more of them
            self._threads.discard(thread)
            self._admission.leave()
            self._close(visit, reply, Unavailable("the server has no thread for one more request: try again later"))

    def _read(self, read: Read) -> MutableMapping[str, Any]:
        try:
            return read()
        except Exception:
            self._admission.leave()
            raise

    def _answer(self, visit: Visit, values: MutableMapping[str, Any], reply: Replying) -> None:
        with visit.under_way():
            try:
                with self._admission.leaving():  # before the end: who hears it may ask again at once
                    self._work(visit, values, reply)
                reply.end()
            except Exception as error:  # whatever happens, the caller hears of it
                self._close(visit, reply, visit.stopped or error)
            else:
                self._book.close(visit, None)
            finally:
                self._threads.discard(threading.current_thread())

    def _work(self, visit: Visit, values: MutableMapping[str, Any], reply: Replying) -> None:
        with self._watch.watching(visit, reply.gone), closing(self._face.answer(values, visit)) as answers:
            for outputs in answers:
                reply.send(outputs)

    def _close(self, visit: Visit, reply: Replying, error: Exception) -> None:
        try:
            reply.end(error)
        finally:
            self._book.close(visit, error)
