"""Requests through the desk: each is answered once, counted once and leaves one line."""

from __future__ import annotations

import gc
import json
import queue
import threading
import time
import weakref
from collections.abc import Callable, Generator, Iterator, Mapping
from typing import Any

import numpy as np
import pytest

from songstarter import event_log
from songstarter.contract import CANARY_ID, CANARY_INPUTS
from songstarter.errors import Cancelled, DeadlineExceeded, Description, InvalidRequest, TakeFailed, Unavailable
from songstarter.faces.desk import RequestDesk
from songstarter.faces.visits import Visit, current
from songstarter.faces.watch import PERIOD, Watch
from songstarter.metrics import (
    AUDIO_SECONDS,
    FIRST_AUDIO_SECONDS,
    REQUEST_SECONDS,
    REQUESTS,
    REQUESTS_IN_FLIGHT,
    Series,
)
from songstarter.request import Request

LIMIT = 2  # requests at once
SECRET = "nobody else's business"
TRACE = '{"traceparent":"00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"}'


class SmallFace:
    """Answers with two seconds of audio in two variations, or raises the error it finds in the request."""

    def __init__(self) -> None:
        self.may_answer = threading.Event()
        self.may_answer.set()

    def answer(self, values: Mapping[str, Any], visit: Visit) -> Generator[dict[str, Any], None, None]:
        assert current() is visit
        fields = {"prompt": SECRET, "num_outputs": 2} | {name: values.get(name) for name in ("duration", "deadline")}
        visit.understood(Request.parse(fields, shortest=0.02, longest=30))
        visit.order = values.get("order")
        self.may_answer.wait(10)
        if "error" in values:
            raise values["error"]
        for _ in range(2):
            visit.rendered(1.0)
        visit.go_on()
        yield {"output": np.zeros(2)}


class KeepingReply:
    """Puts what the caller would get into a queue; ``is_gone`` says that there is no caller any more."""

    def __init__(self) -> None:
        self.replies: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self.outputs: Any = None
        self.is_gone = False
        self.ended = False

    def gone(self) -> bool:
        assert not self.ended, "nobody asks after the end"
        return self.is_gone

    def send(self, outputs: Any) -> None:
        self.outputs = outputs

    def end(self, error: Exception | None = None) -> None:
        self.ended = True
        self.replies.put(error or self.outputs)

    def get(self) -> Any:
        return self.replies.get(timeout=10)


@pytest.fixture
def face() -> SmallFace:
    return SmallFace()


@pytest.fixture
def desk(face: SmallFace) -> Iterator[RequestDesk]:
    desk = RequestDesk(face, limit=LIMIT, cancel=print)  # type: ignore[arg-type]
    yield desk
    face.may_answer.set()
    desk.close()


def ask(desk: RequestDesk, **settings: Any) -> Any:
    """The reply to one request."""
    reply = KeepingReply()
    values = settings.pop("values", {})
    desk.accept(lambda: values, reply, **settings)
    return reply.get()


def unreadable() -> dict[str, Any]:
    """In place of a request's values."""
    raise InvalidRequest("prompt", b"", "UTF-8")


def soon(holds: Callable[[], bool]) -> bool:
    deadline = time.monotonic() + 5
    while not holds() and time.monotonic() < deadline:
        time.sleep(0.01)
    return holds()


def lines(desk: RequestDesk, capfd: pytest.CaptureFixture[str]) -> list[dict[str, Any]]:
    desk.close()  # a line follows its reply
    return [json.loads(line) for line in capfd.readouterr().out.splitlines()]


def test_an_answer_is_counted_with_its_audio_and_its_times(
    desk: RequestDesk, capfd: pytest.CaptureFixture[str]
) -> None:
    assert set(ask(desk, request_id="one", trace_context=TRACE)) == {"output"}
    (line,) = lines(desk, capfd)
    readings = desk.readings()
    assert readings.values[Series(REQUESTS, ("answered",))] == 1
    assert readings.values[Series(AUDIO_SECONDS)] == 2.0
    assert readings.values[Series(REQUESTS_IN_FLIGHT)] == 0
    assert len(readings.observed[REQUEST_SECONDS]) == len(readings.observed[FIRST_AUDIO_SECONDS]) == 1
    assert desk.readings().observed[REQUEST_SECONDS] == []
    facts = {name: line[name] for name in ("event", "request", "outcome", "variations", "trace_id")}
    assert facts == {
        "event": "request",
        "request": "one",
        "outcome": "answered",
        "variations": 2,
        "trace_id": "4bf92f3577b34da6a3ce929d0e0e4736",
    }
    assert 0 <= line["first_audio_seconds"] <= line["seconds"]


def test_audio_that_came_to_no_answer_is_not_counted_but_its_first_moment_is(
    desk: RequestDesk, face: SmallFace
) -> None:
    def answer(values: Any, visit: Visit) -> Generator[dict[str, Any], None, None]:
        visit.rendered(1.0)
        yield {"output": np.zeros(1)}
        raise TakeFailed("ill")

    face.answer = answer  # type: ignore[method-assign]
    assert isinstance(ask(desk), TakeFailed)
    desk.close()
    readings = desk.readings()
    assert readings.values[Series(AUDIO_SECONDS)] == 0
    assert len(readings.observed[FIRST_AUDIO_SECONDS]) == 1
    assert desk.readings().observed[FIRST_AUDIO_SECONDS] == []


def test_the_first_audio_is_the_first() -> None:
    visit = Visit("test")
    visit.rendered(1.0)
    first = visit.first_audio
    time.sleep(0.02)
    visit.rendered(1.0)
    assert visit.first_audio == first
    assert visit.audio_seconds == 2.0


def test_a_visit_without_an_id_gets_one(desk: RequestDesk, capfd: pytest.CaptureFixture[str]) -> None:
    ask(desk)
    ask(desk)
    names = [line["request"] for line in lines(desk, capfd)]
    assert [len(name) for name in names] == [16, 16]
    assert names[0] != names[1]


def test_a_visit_takes_its_priority_from_its_request() -> None:
    visit = Visit("test")
    assert visit.priority == 3
    visit.understood(Request.parse({"priority": 1}, shortest=0.02, longest=30))
    assert visit.priority == 1


@pytest.mark.parametrize(
    ("error", "outcome"),
    [
        (InvalidRequest("prompt", SECRET, "another"), "invalid"),
        (Unavailable("full"), "unavailable"),
        (Cancelled("gone"), "cancelled"),
        (TakeFailed("ill"), "failed"),
        (ZeroDivisionError("a bug"), "failed"),
    ],
    ids=lambda value: value if isinstance(value, str) else type(value).__name__,
)
def test_an_error_is_replied_counted_and_told_without_what_the_caller_sent(
    desk: RequestDesk, capfd: pytest.CaptureFixture[str], error: Exception, outcome: str
) -> None:
    assert ask(desk, values={"error": error}) is error
    (line,) = lines(desk, capfd)
    counted = {series.values[0]: value for series, value in desk.readings().values.items() if series.family is REQUESTS}
    assert counted == dict.fromkeys(REQUESTS.outcomes, 0) | {outcome: 1}
    assert (line["outcome"], line["error"]) == (outcome, type(error).__name__)
    assert desk.readings().observed[REQUEST_SECONDS] == []
    assert SECRET not in json.dumps(line)


def test_a_bug_tells_where_it_is(desk: RequestDesk, capfd: pytest.CaptureFixture[str]) -> None:
    ask(desk, values={"error": ZeroDivisionError("a bug")})
    (line,) = lines(desk, capfd)
    assert line["reason"] == "a bug"
    assert line["where"].startswith("answer (test_request_desk.py:")


def test_who_finds_no_place_is_refused_at_once(desk: RequestDesk, face: SmallFace) -> None:
    face.may_answer.clear()
    replies = [KeepingReply(), KeepingReply()]
    for reply in replies:
        desk.accept(dict, reply)
    assert isinstance(ask(desk), Unavailable)
    assert desk.readings().values[Series(REQUESTS_IN_FLIGHT)] == 2
    face.may_answer.set()
    assert all(set(reply.get()) == {"output"} for reply in replies)


def test_values_that_cannot_be_read_are_the_requests_own_trouble(desk: RequestDesk) -> None:
    for _ in range(LIMIT + 1):
        reply = KeepingReply()
        desk.accept(unreadable, reply)
        assert isinstance(reply.get(), InvalidRequest)
    assert set(ask(desk)) == {"output"}  # each left its place


def test_who_is_refused_is_not_even_read(desk: RequestDesk, face: SmallFace) -> None:
    face.may_answer.clear()
    for _ in range(2):
        desk.accept(dict, KeepingReply())
    reply = KeepingReply()
    desk.accept(lambda: pytest.fail("read"), reply)
    assert isinstance(reply.get(), Unavailable)


def test_a_caller_who_is_gone_or_late_is_answered_no_more(desk: RequestDesk, face: SmallFace) -> None:
    replies = {"gone": KeepingReply(), "late": KeepingReply()}
    face.may_answer.clear()
    replies["gone"].is_gone = True
    for name, reply in replies.items():
        desk.accept(lambda name=name: {"deadline": 0.01} if name == "late" else {}, reply)  # type: ignore[misc]
    time.sleep(5 * PERIOD)
    face.may_answer.set()
    assert isinstance(replies["gone"].get(), Cancelled)
    assert isinstance(replies["late"].get(), DeadlineExceeded)
    desk.close()
    assert desk.readings().values[Series(REQUESTS, ("cancelled",))] == 2


def test_why_a_visit_was_stopped_is_what_its_caller_hears(
    desk: RequestDesk, face: SmallFace, capfd: pytest.CaptureFixture[str]
) -> None:
    """And not what that made of the stages: a decoder says of an order that is late that it was cancelled."""

    def answer(values: Any, visit: Visit) -> Generator[dict[str, Any], None, None]:
        visit.stop(DeadlineExceeded("the deadline of 1 s has passed"))
        raise Cancelled("the take was cancelled")
        yield {}

    face.answer = answer  # type: ignore[method-assign]
    assert isinstance(ask(desk), DeadlineExceeded)
    (line,) = lines(desk, capfd)
    assert line["error"] == "DeadlineExceeded"


def test_the_order_of_who_is_gone_is_cancelled_until_it_is_over(face: SmallFace) -> None:
    cancelled: list[str] = []
    desk = RequestDesk(face, limit=2, cancel=cancelled.append)  # type: ignore[arg-type]
    face.may_answer.clear()
    reply = KeepingReply()
    reply.is_gone = True
    desk.accept(lambda: {"order": "mine"}, reply)
    time.sleep(6 * PERIOD)
    face.may_answer.set()
    assert isinstance(reply.get(), Cancelled)
    desk.close()
    assert len(cancelled) >= 2
    assert set(cancelled) == {"mine"}


def test_the_order_of_who_is_late_is_cancelled_while_its_stages_wait(face: SmallFace) -> None:
    cancelled: list[str] = []
    desk = RequestDesk(face, limit=2, cancel=cancelled.append)  # type: ignore[arg-type]
    face.may_answer.clear()
    reply = KeepingReply()
    desk.accept(lambda: {"order": "mine", "deadline": 0.05}, reply)
    assert soon(lambda: len(cancelled) >= 2)
    face.may_answer.set()
    assert isinstance(reply.get(), DeadlineExceeded)
    desk.close()
    assert set(cancelled) == {"mine"}


def test_a_cancellation_that_fails_is_noted_and_tried_again(capfd: pytest.CaptureFixture[str]) -> None:
    """The thread that looks after all visits must outlive it."""
    tries: list[str] = []

    def cancel(order: str) -> None:
        tries.append(order)
        if len(tries) == 1:
            raise RuntimeError("the decoder does not answer")

    watch = Watch(cancel, period=0.01)
    visit = Visit("test", order="mine")
    with watch.watching(visit, lambda: True):
        assert soon(lambda: len(tries) >= 3)
    watch.close()
    line = json.loads(capfd.readouterr().out.splitlines()[0])
    assert (line["event"], line["error"]) == ("watch_failed", "RuntimeError")


def test_nobody_is_asked_whether_they_are_gone_once_their_request_may_be_answered() -> None:
    asked, may_say = threading.Event(), threading.Event()

    def gone() -> bool:
        asked.set()
        may_say.wait(10)
        return False

    watch = Watch(print, period=0.01)
    left = threading.Event()

    def leave() -> None:
        with watch.watching(Visit("test"), gone):
            asked.wait(10)
        left.set()

    leaving = threading.Thread(target=leave)
    leaving.start()
    assert asked.wait(10)
    assert not left.wait(0.2)  # the question is still open
    may_say.set()
    leaving.join(10)
    assert left.is_set()
    watch.close()


def test_a_desk_that_closes_stops_what_is_under_way(desk: RequestDesk, face: SmallFace) -> None:
    face.may_answer.clear()
    reply = KeepingReply()
    desk.accept(dict, reply)
    threading.Timer(0.3, face.may_answer.set).start()
    desk.close()
    assert isinstance(reply.get(), Unavailable)


def test_a_desk_that_closes_cancels_the_orders_under_way(face: SmallFace) -> None:
    cancelled: list[str] = []

    def cancel(order: str) -> None:
        cancelled.append(order)
        face.may_answer.set()

    desk = RequestDesk(face, limit=2, cancel=cancel)  # type: ignore[arg-type]
    face.may_answer.clear()
    desk.accept(lambda: {"order": "mine"}, KeepingReply())
    time.sleep(2 * PERIOD)
    assert not cancelled
    began = time.monotonic()
    desk.close()
    assert cancelled
    assert time.monotonic() - began < 5  # and not the ten seconds that the face would wait


def test_a_desk_keeps_no_thread_of_a_request_that_is_over_and_none_of_its_own(face: SmallFace) -> None:
    before = set(threading.enumerate())
    desk = RequestDesk(face, limit=2, cancel=print)  # type: ignore[arg-type]
    for _ in range(3):
        ask(desk)
    assert soon(lambda: not desk._threads)
    desk.close()
    assert soon(lambda: set(threading.enumerate()) <= before)


def test_an_answer_that_cannot_be_sent_becomes_an_error(desk: RequestDesk) -> None:
    class ReplyWithoutRoom(KeepingReply):
        def end(self, error: Exception | None = None) -> None:
            if not error:
                raise MemoryError("no room in shared memory")
            super().end(error)

    reply = ReplyWithoutRoom()
    desk.accept(dict, reply)
    assert isinstance(reply.get(), MemoryError)
    desk.close()
    assert desk.readings().values[Series(REQUESTS, ("failed",))] == 1


def test_what_answers_is_closed_before_the_caller_hears_of_an_end(desk: RequestDesk, face: SmallFace) -> None:
    """Its takes may play until then."""
    happened: list[str] = []

    def answer(values: Any, visit: Visit) -> Generator[dict[str, Any], None, None]:
        try:
            yield {"output": np.zeros(2)}
        finally:
            happened.append("closed")

    class ReplyWithoutRoom(KeepingReply):
        def send(self, outputs: Any) -> None:
            raise MemoryError("no room in shared memory")

        def end(self, error: Exception | None = None) -> None:
            happened.append("ended")
            super().end(error)

    face.answer = answer  # type: ignore[method-assign]
    reply = ReplyWithoutRoom()
    desk.accept(dict, reply)
    assert isinstance(reply.get(), MemoryError)
    assert happened == ["closed", "ended"]


def test_an_end_that_cannot_be_sent_is_still_the_end(desk: RequestDesk) -> None:
    class ReplyWithoutWay(KeepingReply):
        def end(self, error: Exception | None = None) -> None:
            raise MemoryError("no room in shared memory")

    with pytest.raises(MemoryError):
        desk.accept(unreadable, ReplyWithoutWay())
    values = desk.readings().values
    assert (values[Series(REQUESTS_IN_FLIGHT)], values[Series(REQUESTS, ("invalid",))]) == (0, 1)


def test_a_line_is_one_short_line_whatever_the_id_holds(capfd: pytest.CaptureFixture[str]) -> None:
    event_log.write("request", request='"\n\x00\ud800é' * 1000, seconds=1 / 3, field=None)
    text = capfd.readouterr().out
    assert text.count("\n") == 1
    assert len(text.encode()) < 4096
    line = json.loads(text)
    assert line["seconds"] == 0.3333
    assert "field" not in line


def test_who_is_answered_may_ask_again_at_once(face: SmallFace) -> None:
    desk = RequestDesk(face, limit=1, cancel=print)  # type: ignore[arg-type]
    second = KeepingReply()

    class AskingAgain(KeepingReply):
        def end(self, error: Exception | None = None) -> None:
            super().end(error)
            desk.accept(dict, second)

    desk.accept(dict, AskingAgain())
    assert not isinstance(second.get(), Exception)
    desk.close()


def test_a_canary_is_counted_by_itself_and_leaves_no_line(desk: RequestDesk, capfd: pytest.CaptureFixture[str]) -> None:
    """Or probes would hide how many of the callers' requests fail."""
    assert isinstance(ask(desk, request_id=CANARY_ID, values=dict(CANARY_INPUTS)), InvalidRequest)
    assert not lines(desk, capfd)
    values = desk.readings().values
    assert values[Series(REQUESTS, ("canary",))] == 1
    assert values[Series(REQUESTS, ("invalid",))] == values[Series(REQUESTS_IN_FLIGHT)] == 0


def test_a_canary_that_is_refused_for_want_of_room_is_one_still(
    desk: RequestDesk, face: SmallFace, capfd: pytest.CaptureFixture[str]
) -> None:
    face.may_answer.clear()
    held = [KeepingReply() for _ in range(LIMIT)]
    for reply in held:
        desk.accept(dict, reply)
    assert isinstance(ask(desk, request_id=CANARY_ID, values=dict(CANARY_INPUTS)), Unavailable)
    face.may_answer.set()
    for reply in held:
        reply.get()
    assert [line["outcome"] for line in lines(desk, capfd)] == ["answered"] * LIMIT
    assert desk.readings().values[Series(REQUESTS, ("canary",))] == 1


@pytest.mark.parametrize(
    ("values", "outcome"),
    [
        ({}, "answered"),
        ({"duration": 1.0}, "answered"),
        ({"duration": -2.0}, "invalid"),
        ({"duration": -1.0, "deadline": 60.0}, "invalid"),
        ({"error": Unavailable("the decoder is full")}, "unavailable"),
        ({"error": TakeFailed("ill")}, "failed"),
    ],
)
def test_a_request_under_the_canary_s_id_is_counted_and_noted_as_any_other(
    values: dict[str, Any], outcome: str, desk: RequestDesk, capfd: pytest.CaptureFixture[str]
) -> None:
    ask(desk, request_id=CANARY_ID, values=values)
    (line,) = lines(desk, capfd)
    assert (line["request"], line["outcome"]) == (CANARY_ID, outcome)
    counted = desk.readings().values
    assert counted[Series(REQUESTS, (outcome,))] == 1
    assert counted[Series(REQUESTS, ("canary",))] == 0


def test_a_request_under_the_canary_s_id_that_cannot_be_read_is_invalid(
    desk: RequestDesk, capfd: pytest.CaptureFixture[str]
) -> None:
    def read() -> dict[str, Any]:
        raise InvalidRequest("duration", Description("a tensor of shape [2]"), "one of shape [1]")

    desk.accept(read, reply := KeepingReply(), request_id=CANARY_ID)
    assert isinstance(reply.get(), InvalidRequest)
    assert [line["outcome"] for line in lines(desk, capfd)] == ["invalid"]


def test_a_canary_that_gets_another_error_than_it_should_is_counted_as_that(
    desk: RequestDesk, face: SmallFace, capfd: pytest.CaptureFixture[str]
) -> None:
    def answer(values: Any, visit: Visit) -> Generator[dict[str, Any], None, None]:
        raise RuntimeError("ill")
        yield {}

    face.answer = answer  # type: ignore[method-assign]
    ask(desk, request_id=CANARY_ID, values=dict(CANARY_INPUTS))
    assert [line["outcome"] for line in lines(desk, capfd)] == ["failed"]


def test_without_a_thread_to_be_had_a_request_is_refused_and_its_place_free(
    desk: RequestDesk, monkeypatch: pytest.MonkeyPatch
) -> None:
    def none_left(thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    with monkeypatch.context() as patched:
        patched.setattr(threading.Thread, "start", none_left)
        for _ in range(3):  # more than there are places
            assert "no thread" in str(ask(desk))
    assert set(ask(desk)) == {"output"}
    assert desk.readings().values[Series(REQUESTS, ("unavailable",))] == 3


@pytest.mark.parametrize("end", ["answered", "failed", "stopped"])
def test_a_visit_goes_with_its_end(desk: RequestDesk, face: SmallFace, end: str) -> None:
    """At once, without Python's search for cycles: that comes seldom, and its frames hold prefixes and waveforms."""
    seen: list[weakref.ref[Visit]] = []

    def answer(values: Any, visit: Visit) -> Generator[dict[str, Any], None, None]:
        seen.append(weakref.ref(visit))
        if end == "failed":
            raise TakeFailed("ill")
        if end == "stopped":
            visit.stop(Cancelled("gone"))
            visit.go_on()
        yield {"output": np.zeros(2)}

    face.answer = answer  # type: ignore[method-assign]
    gc.collect()
    gc.disable()
    try:
        ask(desk)
        assert soon(lambda: seen[0]() is None)
    finally:
        gc.enable()
