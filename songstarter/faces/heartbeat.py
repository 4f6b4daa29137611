"""Time that passes, made visible between things that come when they come."""

from __future__ import annotations

import queue
import threading
from collections.abc import Generator
from contextlib import closing
from contextvars import copy_context
from typing import TypeVar

T = TypeVar("T")


def with_beats(pieces: Generator[T, None, None], seconds: float) -> Generator[T | None, None, None]:
    """Each piece as it comes, and None whenever ``seconds`` went by without one.

    The pieces are read on a thread of their own, in this one's context. Closed early, it closes them at the next
    piece and returns when that is done: who made them must see to it that one comes, or the end.
    """
    arrived: queue.SimpleQueue[tuple[T] | BaseException | None] = queue.SimpleQueue()
    unwanted = threading.Event()

    def read() -> None:
        try:
            with closing(pieces):
                for piece in pieces:
                    if unwanted.is_set():
                        break
                    arrived.put((piece,))
            arrived.put(None)
        except BaseException as error:  # goes on in the other thread
            arrived.put(error)

    reader = threading.Thread(target=copy_context().run, args=(read,), name="pieces", daemon=True)
    reader.start()
    try:
        yield from _beating(arrived, seconds)
    finally:
        unwanted.set()
        reader.join()


def _beating(
    arrived: queue.SimpleQueue[tuple[T] | BaseException | None], seconds: float
) -> Generator[T | None, None, None]:
    while True:
        try:
            item = arrived.get(timeout=seconds)
        except queue.Empty:
            yield None
            continue
        if item is None:
            return
        if isinstance(item, BaseException):
            raise item
        yield item[0]
