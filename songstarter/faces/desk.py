"""The public model's border: requests in from Triton, answers out, each from a thread of its own."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from songstarter.faces.admission import Admission
from songstarter.faces.face import Face
from songstarter.faces.stages import Tensors
from songstarter.faces.visits import Visit, VisitBook
from songstarter.metrics import Readings

Read = Callable[[], Mapping[str, Any]]
Reply = Callable[[Tensors | Exception], None]


class RequestDesk:
    """Answers late, so that one instance holds many requests at once."""

    def __init__(self, face: Face, *, limit: int) -> None:
        self._face = face
        self._admission = Admission(limit)
        self._threads = ThreadPoolExecutor(limit, thread_name_prefix="request")
        self._book = VisitBook()

    def accept(self, read: Read, reply: Reply, *, request_id: str = "", trace_context: str | None = None) -> None:
        """Answer a request, or refuse it at once.

        ``read`` gives its values by the names of ``contract.FIELDS`` and is called before this returns; ``reply``
        gets the outputs, or what prevented them, and is called once, unless it fails with outputs.
        """
        visit = self._book.open(request_id, trace_context)
        try:
            values = read()
            self._admission.enter()
        except Exception as error:
            self._close(visit, reply, error)
        else:
            self._threads.submit(self._answer, visit, values, reply)

    def close(self) -> None:
        self._threads.shutdown(cancel_futures=True)

    def readings(self) -> Readings:
        return self._book.readings()

    def _answer(self, visit: Visit, values: Mapping[str, Any], reply: Reply) -> None:
        with self._admission.leaving(), visit.under_way():
            try:
                reply(self._face.answer(values, visit))
            except Exception as error:  # whatever happens, the caller hears of it
                self._close(visit, reply, error)
            else:
                self._book.close(visit, None)

    def _close(self, visit: Visit, reply: Reply, error: Exception) -> None:
        try:
            reply(error)
        finally:
            self._book.close(visit, error)
