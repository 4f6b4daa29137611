"""Turns at a stage: who goes first, who goes without, and that no place is ever lost."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack

import pytest

from songstarter.errors import Cancelled, DeadlineExceeded, SongstarterError
from songstarter.faces.turns import Turns
from songstarter.faces.visits import Visit
from songstarter.request import Request


def visit(name: str, **parameters: float) -> Visit:
    made = Visit(name)
    made.understood(Request.parse(parameters, shortest=0.02, longest=30))
    return made


class Hall:
    """Lets visits wait for their turns, each on a thread of its own, and tells who had one, in order."""

    def __init__(self, turns: Turns) -> None:
        self._turns = turns
        self._threads = ThreadPoolExecutor(64)
        self.had: queue.SimpleQueue[str] = queue.SimpleQueue()

    def wait(self, visit: Visit, due: float = 0) -> Future[None]:
        """Returns once the visit waits, so that they come in a known order."""
        before = len(visit.awaited)
        told = self._threads.submit(self._take_turn, visit, due)
        while len(visit.awaited) == before and not told.done():
            time.sleep(0.001)
        return told

    def _take_turn(self, visit: Visit, due: float) -> None:
        with self._turns.turn(visit, due):
            self.had.put(visit.request_id)

    def order(self, number: int) -> list[str]:
        return [self.had.get(timeout=10) for _ in range(number)]

    def close(self) -> None:
        self._threads.shutdown()


@pytest.fixture
def turns() -> Turns:
    return Turns(1)


@pytest.fixture
def hall(turns: Turns) -> Iterator[Hall]:
    hall = Hall(turns)
    yield hall
    hall.close()


def test_the_urgent_go_first_and_of_equal_priority_who_came_first(turns: Turns, hall: Hall) -> None:
    with turns.turn(visit("busy"), 0):
        for name, priority in (("a", 3), ("b", 5), ("c", 3), ("d", 1), ("e", 1)):
            hall.wait(visit(name, priority=priority))
        assert hall.had.empty()
    assert hall.order(5) == ["d", "e", "a", "c", "b"]


def test_of_equal_priority_goes_first_what_is_due_first(turns: Turns, hall: Hall) -> None:
    with turns.turn(visit("busy"), 0):
        for name, due, priority in (("a", 7.5, 3), ("b", 2.0, 3), ("c", 9.0, 1), ("d", 2.0, 3), ("e", -1.0, 4)):
            hall.wait(visit(name, priority=priority), due)
    assert hall.order(5) == ["c", "b", "d", "a", "e"]


def test_who_has_no_priority_has_the_usual_one(turns: Turns, hall: Hall) -> None:
    with turns.turn(visit("busy"), 0):
        for one in (visit("late", priority=4), Visit("unread"), visit("early", priority=2)):
            hall.wait(one)
    assert hall.order(3) == ["early", "unread", "late"]


def test_as_many_as_there_are_places_go_at_once() -> None:
    turns = Turns(2)
    hall = Hall(turns)
    with ExitStack() as held:
        for name in ("one", "two"):
            held.enter_context(turns.turn(visit(name), 0))
        waiting = hall.wait(visit("three"))
        assert not waiting.done()
    waiting.result(timeout=10)
    hall.close()


@pytest.mark.parametrize("error", [Cancelled("the caller is gone"), ZeroDivisionError()], ids=["stopped", "a bug"])
def test_who_fails_in_their_turn_gives_the_place_back(turns: Turns, hall: Hall, error: Exception) -> None:
    with pytest.raises(type(error)), turns.turn(visit("ill"), 0):
        raise error
    hall.wait(visit("next")).result(timeout=10)


def test_who_is_stopped_while_waiting_leaves_at_once_and_holds_up_nobody(turns: Turns, hall: Hall) -> None:
    with turns.turn(visit("busy"), 0):
        gone, patient = visit("gone"), visit("patient")
        left, waiting = hall.wait(gone), hall.wait(patient)
        gone.stop(Cancelled("the caller is gone"))
        with pytest.raises(Cancelled):
            left.result(timeout=10)
        assert not waiting.done()
        assert not gone.awaited
    waiting.result(timeout=10)
    assert hall.order(1) == ["patient"]


def test_who_is_stopped_while_waiting_gives_no_place_away_that_another_holds(turns: Turns, hall: Hall) -> None:
    """The other way round than above: who stays stands in front of who leaves."""
    with turns.turn(visit("busy"), 0):
        patient, gone = visit("patient"), visit("gone")
        waiting, left = hall.wait(patient), hall.wait(gone)
        gone.stop(Cancelled("the caller is gone"))
        with pytest.raises(Cancelled):
            left.result(timeout=10)
        assert not waiting.done()
        assert hall.had.empty()
    waiting.result(timeout=10)


def test_of_several_reasons_to_stop_the_first_counts() -> None:
    late = visit("late")
    first = DeadlineExceeded("the deadline of 1 s has passed")
    late.stop(first)
    late.stop(Cancelled("the caller is gone"))
    with pytest.raises(DeadlineExceeded):
        late.go_on()
    assert late.stopped is first


def test_whose_time_is_up_never_begins(turns: Turns) -> None:
    with pytest.raises(DeadlineExceeded), turns.turn(visit("late", deadline=1e-9), 0):
        pytest.fail("began")
    with turns.turn(visit("next"), 0):
        pass


def test_no_place_is_lost_when_visits_are_stopped_at_the_moment_of_their_turn() -> None:
    turns = Turns(2)
    most, inside, lock = 0, 0, threading.Lock()

    def work(one: Visit) -> None:
        nonlocal most, inside
        with turns.turn(one, 0):
            with lock:
                inside += 1
                most = max(most, inside)
            with lock:
                inside -= 1

    with ThreadPoolExecutor(16) as workers, ThreadPoolExecutor(4) as stoppers:
        for number in range(2000):
            one = visit(str(number), priority=number % 5 + 1)
            future = workers.submit(work, one)
            stoppers.submit(one.stop, Cancelled("the caller is gone"))
            future.add_done_callback(lambda done: done.exception())
    assert inside == 0
    assert most <= 2
    with ExitStack() as held:  # both places are there
        for _ in range(2):
            held.enter_context(turns.turn(visit("after"), 0))


def test_both_calls_of_a_visit_that_is_stopped_end(turns: Turns, hall: Hall) -> None:
    with turns.turn(visit("busy"), 0):
        stereo = visit("stereo")
        calls = [hall.wait(stereo), hall.wait(stereo)]
        stereo.stop(Cancelled("the caller is gone"))
        for call in calls:
            with pytest.raises(SongstarterError):
                call.result(timeout=10)


def test_no_place_at_all_is_refused() -> None:
    with pytest.raises(ValueError, match="found 0 places"):
        Turns(0)
