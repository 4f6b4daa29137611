"""An event loop in a thread of its own: what makes the synchronous client out of the asynchronous one."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Coroutine
from concurrent.futures import CancelledError, Future
from typing import Any, TypeVar

LAST_MOMENT = 1.0  # second, for an orderly end at the interpreter's exit

T = TypeVar("T")
Last = Coroutine[Any, Any, None]


class LoopThread:
    """Runs coroutines for threads that have no event loop, or whose loop is busy already (a notebook's).

    The first one starts the thread. An interrupted caller, by Ctrl-C say, cancels its coroutine.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()  # what is submitted comes before the end, or not at all
        self._thread: _Thread | None = None
        self._ended = False

    @property
    def running(self) -> bool:
        return not self._ended and self._thread is not None and self._thread.is_alive()

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        future = self._submitted(work)
        try:
            return future.result()
        except CancelledError:  # by the end, which another thread asked for
            raise RuntimeError("the client is closed") from None
        except BaseException:
            future.cancel()
            raise

    def stop(self, last: Last) -> None:
        """Cancel what other threads wait for, run last, and end the thread."""
        self._end(last)
        if self._thread:
            self._thread.join()

    def abandon(self, last: Last) -> None:
        """The same without waiting for it: garbage is collected in any thread, in this one too."""
        self._end(last)
        if self._thread and _interpreter_exits():
            self._thread.join(LAST_MOMENT)

    def _submitted(self, work: Coroutine[Any, Any, T]) -> Future[T]:
        with self._lock:
            if self._thread is None and not self._ended:
                self._thread = _Thread()
            if self._thread is None or not self.running:
                work.close()
                raise RuntimeError("the client is closed")
            return asyncio.run_coroutine_threadsafe(work, self._thread.loop)

    def _end(self, last: Last) -> None:
        with self._lock:
            if self._thread and self.running:
                self._thread.end(last)
            else:
                last.close()
            self._ended = True


class _Thread(threading.Thread):
    """Started with its loop, which it closes at its end."""

    def __init__(self) -> None:
        super().__init__(name="songstarter-client", daemon=True)
        self.loop = asyncio.new_event_loop()
        self._last: asyncio.Future[Last] = self.loop.create_future()
        self.start()

    def run(self) -> None:
        try:
            last = self.loop.run_until_complete(self._last)
            self.loop.run_until_complete(_cancel_all_others())
            self.loop.run_until_complete(last)
        finally:
            self.loop.close()

    def end(self, last: Last) -> None:
        self.loop.call_soon_threadsafe(self._last.set_result, last)


def _interpreter_exits() -> bool:
    return not threading.main_thread().is_alive()


async def _cancel_all_others() -> None:
    others = asyncio.all_tasks() - {asyncio.current_task()}
    for task in others:
        task.cancel()
    await asyncio.gather(*others, return_exceptions=True)
