"""What became of every request: counted for the metrics, and one line of the log each."""

from __future__ import annotations

import json
import secrets
import threading
import time
from collections import Counter, deque
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any

from songstarter import event_log
from songstarter.contract import CANARY_ID, CANARY_INPUTS
from songstarter.errors import DeadlineExceeded, InvalidRequest, SongstarterError, Unavailable
from songstarter.metrics import (
    AUDIO_SECONDS,
    CANARY,
    FIRST_AUDIO_SECONDS,
    REQUEST_SECONDS,
    REQUESTS,
    REQUESTS_IN_FLIGHT,
    Readings,
    Series,
    by_outcome,
)
from songstarter.outcomes import undone_by
from songstarter.request import USUAL_PRIORITY, Request

UNTOLD = 65_536  # observations that are kept while nobody collects them


@dataclass(eq=False)
class Visit:
    """One request from its arrival to its answer; ``trace_context`` is Triton's, where the request is traced."""

    request_id: str
    trace_context: str | None = None  # {"traceparent": "00-<trace id>-<span id>-01"}
    arrived: float = field(default_factory=time.monotonic)
    request: Request | None = None
    first_audio: float | None = None  # seconds after its arrival
    audio_seconds: float = 0.0  # of every variation
    order: str | None = None  # the name of its order, once the decoder may have it
    stopped: SongstarterError | None = None  # why its work shall end before it is done
    awaited: set[threading.Event] = field(default_factory=set, repr=False)  # what its threads wait for
    asks_as_canary: bool | None = None  # None: it was not read

    @property
    def trace_id(self) -> str | None:
        """By which the request's spans and its line in the log find each other."""
        return str(json.loads(self.trace_context)["traceparent"]).split("-")[1] if self.trace_context else None

    @property
    def age(self) -> float:
        return time.monotonic() - self.arrived

    @property
    def priority(self) -> int:
        return self.request.priority if self.request else USUAL_PRIORITY

    def came_with(self, values: Mapping[str, Any]) -> None:
        self.asks_as_canary = values == CANARY_INPUTS

    def understood(self, request: Request) -> None:
        self.request = request

    def stop(self, reason: SongstarterError) -> None:
        """Let its work end at the next stage; the first reason counts. From any thread."""
        self.stopped = self.stopped or reason
        for event in list(self.awaited):
            event.set()

    def mind_the_time(self) -> None:
        """Stop if the caller's deadline has passed."""
        deadline = self.request.deadline if self.request else None
        if deadline is not None and self.age > deadline:
            self.stop(DeadlineExceeded(f"the deadline of {deadline:g} s has passed"))

    def go_on(self) -> None:
        """Between two stages: raise the reason why the work shall end, if there is one."""
        self.mind_the_time()
        if self.stopped:
            raise self.stopped

    def wait_for(self, event: threading.Event) -> None:
        """Until the event is set; raise the reason why the work shall end, if there is one before or after."""
        self.awaited.add(event)
        try:
            self.go_on()  # after it was added: who stops the visit from now on sets it
            event.wait()
            self.go_on()
        finally:
            self.awaited.discard(event)

    def rendered(self, audio_seconds: float) -> None:
        """Note that so many seconds of audio are ready."""
        if self.first_audio is None:
            self.first_audio = self.age
        self.audio_seconds += audio_seconds

    @contextmanager
    def under_way(self) -> Iterator[None]:
        """Within the block, this thread works for this visit; see ``current``."""
        token = _CURRENT.set(self)
        try:
            yield
        finally:
            _CURRENT.reset(token)


_CURRENT: ContextVar[Visit] = ContextVar("visit")


def current() -> Visit:
    """The visit that this thread works for: calls of other models carry its id."""
    return _CURRENT.get()


class VisitBook:
    """Counts visits, from any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._in_flight = 0
        self._audio_seconds = 0.0
        self._outcomes: Counter[str] = Counter()
        self._seconds: deque[float] = deque(maxlen=UNTOLD)
        self._first_audio: deque[float] = deque(maxlen=UNTOLD)

    def open(self, request_id: str, trace_context: str | None = None) -> Visit:
        """Begin a visit; who comes without an id gets one."""
        with self._lock:
            self._in_flight += 1
        return Visit(request_id or secrets.token_hex(8), trace_context)

    def close(self, visit: Visit, error: Exception | None) -> None:
        """End a visit with an answer, or with the error that it got instead; canaries leave no line in the log."""
        seconds = visit.age
        outcome = _outcome(visit, error)
        with self._lock:
            self._in_flight -= 1
            self._outcomes[outcome] += 1
            if visit.first_audio is not None:
                self._first_audio.append(visit.first_audio)
            if error is None:
                self._audio_seconds += visit.audio_seconds
                self._seconds.append(seconds)
        if outcome != CANARY:
            _write(visit, outcome, seconds, error)
        # The reason knows the frames that it came through, and they know the visit: a circle, which would keep prefixes
        # and waveforms until Python next looks for circles.
        visit.stopped = None

    def readings(self) -> Readings:
        """The metrics of ``metrics.REQUEST_FAMILIES``; observations are told once."""
        with self._lock:
            values = {Series(REQUESTS_IN_FLIGHT): self._in_flight, Series(AUDIO_SECONDS): self._audio_seconds}
            observed = {REQUEST_SECONDS: list(self._seconds), FIRST_AUDIO_SECONDS: list(self._first_audio)}
            self._seconds.clear()
            self._first_audio.clear()
            return Readings(values | by_outcome(REQUESTS, self._outcomes), observed)


def _outcome(visit: Visit, error: Exception | None) -> str:
    if _is_canary(visit, error):
        return CANARY
    return "answered" if error is None else undone_by(error)


def _is_canary(visit: Visit, error: Exception | None) -> bool:
    """Whether it came and ended as those of ``server/canary.py`` do; all else is a caller's, whatever its id."""
    if visit.request_id != CANARY_ID:
        return False
    if visit.asks_as_canary is None:
        return isinstance(error, Unavailable)
    return visit.asks_as_canary and isinstance(error, InvalidRequest | Unavailable)


def _write(visit: Visit, outcome: str, seconds: float, error: Exception | None) -> None:
    request = visit.request
    event_log.write(
        "request",
        request=visit.request_id,
        trace_id=visit.trace_id,
        outcome=outcome,
        seconds=seconds,
        first_audio_seconds=visit.first_audio,
        variations=request.variations if request else None,
        duration=float(request.duration) if request else None,
        **(event_log.facts_of(error) if error else {}),
    )
