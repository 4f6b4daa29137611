"""The decoder model's border: what it refuses, whoever asks."""

from __future__ import annotations

import gc
import json
import queue
import time
import weakref
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from test_engine import Ends, make_take

from songstarter.checkpoint import Checkpoint
from songstarter.contract import ORDER
from songstarter.engine.order import OrderDesk, Response, outputs
from songstarter.engine.record import OrderRecord
from songstarter.engine.take import Chunk
from songstarter.errors import Cancelled, InvalidRequest, TakeFailed, Unavailable
from songstarter.metrics import FILLED_POSITIONS, KEPT_POSITIONS

HIDDEN = 256


@pytest.fixture(scope="module")
def desk(embedded_repository: Path) -> Iterator[OrderDesk]:
    desk = OrderDesk(embedded_repository, slots=1, max_waiting=8)
    yield desk
    desk.close()


def order(**changes: Any) -> dict[str, Any]:
    inputs = {
        "prefix": np.zeros((1, 5, HIDDEN), np.float32),
        "null_prefix": np.zeros((5, HIDDEN), np.float32),
        "frames": np.array([10], np.int32),
        "variations": np.array([1], np.int32),
        "seed": np.array([1], np.int64),
        "temperature": np.array([1], np.float32),
        "top_k": np.array([250], np.int32),
        "top_p": np.array([0], np.float32),
        "guidance": np.array([3], np.float32),
        "priority": np.array([3], np.int32),
        "first_chunk": np.array([0], np.int32),
        "chunk": np.array([0], np.int32),
        "order": np.array([b"one"], object),
    }
    return {name: value for name, value in (inputs | changes).items() if value is not None}


def test_a_decoder_without_slots_is_refused(embedded_repository: Path) -> None:
    with pytest.raises(ValueError, match="found 0 slots; expected 1 or more"):
        OrderDesk(embedded_repository, slots=0, max_waiting=8)


@pytest.mark.parametrize("name", [tensor.name for tensor in ORDER if not tensor.optional])
def test_a_missing_tensor_is_refused_by_name(desk: OrderDesk, name: str) -> None:
    with pytest.raises(InvalidRequest, match=f"^{name}: found nothing"):
        desk.accept(order(**{name: None}), print)


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"prefix": np.full((1, 5, HIDDEN), np.nan, np.float32)}, "prefix"),
        ({"null_prefix": np.full((5, HIDDEN), np.inf, np.float32)}, "prefix"),
        ({"prefix": np.zeros((1, 4, HIDDEN), np.float32)}, "prefix"),
        ({"prefix": np.zeros((2, 5, HIDDEN), np.float32)}, "prefix"),
        ({"prefix": np.zeros((1, 5, 7), np.float32), "null_prefix": np.zeros((5, 7), np.float32)}, "prefix"),
        (
            {"prefix": np.zeros((1, 900, HIDDEN), np.float32), "null_prefix": np.zeros((900, HIDDEN), np.float32)},
            "prefix",
        ),
        ({"frames": np.array([0], np.int32)}, "frames"),
        ({"frames": np.array([10**6 + 1], np.int32)}, "frames"),
        ({"chunk": np.array([-1], np.int32)}, "chunk"),
        ({"first_chunk": np.array([-1], np.int32)}, "first_chunk"),
        ({"variations": np.array([9], np.int32)}, "variations"),
        ({"seed": np.array([-1], np.int64)}, "seed"),
        ({"priority": np.array([0], np.int32)}, "priority"),
        ({"temperature": np.array([np.nan], np.float32)}, "temperature"),
        ({"opening": np.zeros((8, 10), np.int32)}, "opening"),
        ({"opening": np.zeros((7, 3), np.int32)}, "opening"),
        ({"opening": np.full((8, 3), 512, np.int32)}, "opening"),
        ({"opening": np.full((8, 3), -1, np.int32)}, "opening"),
        ({"opening": np.zeros((8, 0), np.int32)}, "opening"),
    ],
)
def test_an_order_that_cannot_be_is_refused(desk: OrderDesk, changes: dict[str, Any], field: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        desk.accept(order(**changes), print)
    assert caught.value.field == field


class Responses:
    """What an order is told, until its last response."""

    def __init__(self, desk: OrderDesk, **changes: Any) -> None:
        self._queue: queue.SimpleQueue[Response] = queue.SimpleQueue()
        desk.accept(order(**changes), self._queue.put)

    def rest(self) -> list[Response]:
        responses = [self._queue.get(timeout=20)]
        while not responses[-1].last:
            responses.append(self._queue.get(timeout=20))
        return responses


def of(value: int) -> Any:
    return np.array([value], np.int32)


def named(name: bytes) -> Any:
    return np.array([name], object)


def test_an_order_comes_in_the_chunks_it_asks_for_and_has_one_last_response(desk: OrderDesk) -> None:
    responses = Responses(desk, frames=of(50), variations=of(2), first_chunk=of(10), chunk=of(20)).rest()
    for variation in range(2):
        chunks = [outputs(r.variation, r.outcome) for r in responses if r.variation == variation]  # type: ignore[arg-type]
        assert [(int(c["first"][0]), c["codes"].shape) for c in chunks] == [(0, (8, 10)), (10, (8, 20)), (30, (8, 20))]
    assert [response.last for response in responses] == [False] * 5 + [True]


def test_chunks_of_no_size_are_whole_takes(desk: OrderDesk) -> None:
    (response,) = Responses(desk, frames=of(50)).rest()
    assert outputs(response.variation, response.outcome)["codes"].shape == (8, 50)  # type: ignore[arg-type]


def test_a_cancelled_order_ends_with_one_error_for_all_its_takes(desk: OrderDesk) -> None:
    responses = Responses(desk, frames=of(100_000), variations=of(3))
    desk.cancel(named(b"another"))
    desk.cancel(named(b"one"))
    (response,) = responses.rest()
    assert isinstance(response.outcome, Cancelled)


def test_one_take_that_ends_with_an_error_takes_its_order_along_at_once(desk: OrderDesk) -> None:
    told: queue.SimpleQueue[Response] = queue.SimpleQueue()
    takes = desk.accept(order(frames=of(100_000), variations=of(3)), told.put)
    takes[1].cancel()
    response = told.get(timeout=10)  # the others would have half an hour's frames to make
    assert isinstance(response.outcome, Cancelled)
    assert response.last


def test_an_error_of_one_take_ends_its_order_and_leaves_others_alone(desk: OrderDesk) -> None:
    neighbour = Responses(desk, frames=of(60), order=named(b"neighbour"))
    ill = Responses(desk, frames=of(100_000), variations=of(3), first_chunk=of(1), chunk=of(10**6))
    desk.lost(ill._queue.get(timeout=20), TakeFailed("no room in shared memory"))
    (response,) = [response for response in ill.rest() if response.last]
    assert str(response.outcome) == "no room in shared memory"
    assert isinstance(neighbour.rest()[-1].outcome, Chunk)


def test_a_name_serves_one_order_at_a_time(desk: OrderDesk) -> None:
    responses = Responses(desk, frames=of(100_000))
    with pytest.raises(InvalidRequest, match="order: found 'one', allowed is a name that no order under way has"):
        desk.accept(order(), print)
    desk.cancel(named(b"one"))
    responses.rest()
    assert Responses(desk).rest()[-1].last


def test_an_order_that_found_no_room_may_come_again_under_its_name(desk: OrderDesk) -> None:
    held = Responses(desk, frames=of(100_000), variations=of(8), order=named(b"held"))
    with pytest.raises(Unavailable):
        desk.accept(order(variations=of(8)), print)
    desk.cancel(named(b"held"))
    held.rest()
    assert Responses(desk).rest()[-1].last


def test_a_song_of_several_windows_has_a_prefix_for_each_or_one_for_all(desk: OrderDesk) -> None:
    frames = of(2000)  # two windows
    for windows in (1, 2):
        responses = Responses(desk, frames=frames, prefix=np.zeros((windows, 5, HIDDEN), np.float32))
        desk.cancel(named(b"one"))
        responses.rest()
    with pytest.raises(InvalidRequest, match="prefix: found 3 windows, allowed is 1 or 2"):
        desk.accept(order(frames=frames, prefix=np.zeros((3, 5, HIDDEN), np.float32)), print)
    with pytest.raises(InvalidRequest, match="prefix: found 2 windows, allowed is 1 or 3"):
        desk.accept(order(frames=of(3000), prefix=np.zeros((2, 5, HIDDEN), np.float32)), print)


def test_a_prefix_may_be_as_long_as_a_slot_has_room_for(desk: OrderDesk, embedded_repository: Path) -> None:
    checkpoint = Checkpoint.read(embedded_repository)
    room = checkpoint.decoder.positions - (checkpoint.window_frames + max(checkpoint.delays) + 1)

    def prefixes(length: int) -> dict[str, Any]:
        null = np.zeros((length, HIDDEN), np.float32)
        return {"prefix": null[None], "null_prefix": null}

    assert Responses(desk, **prefixes(room)).rest()[-1].last
    with pytest.raises(InvalidRequest, match=f"prefix: found {room + 1} positions, allowed is at most {room}"):
        desk.accept(order(**prefixes(room + 1)), print)


def counted(desk: OrderDesk) -> float:
    families = (FILLED_POSITIONS, KEPT_POSITIONS)
    return sum(value for series, value in desk.readings().values.items() if series.family in families)


def test_a_take_without_guidance_has_no_null_row_to_fill(desk: OrderDesk) -> None:
    def positions(guidance: float) -> float:
        before = counted(desk)
        Responses(desk, frames=of(5), guidance=np.array([guidance], np.float32)).rest()
        return counted(desk) - before

    assert positions(3.0) == 2 * positions(1.0) > 0


def test_an_opening_must_leave_room_in_its_window(desk: OrderDesk) -> None:
    with pytest.raises(InvalidRequest, match="fewer than 1500 frames"):
        desk.accept(order(frames=of(2000), opening=np.zeros((8, 1500), np.int32)), print)


@pytest.mark.parametrize("end", ["finished", "cancelled", "refused"])
def test_what_an_order_brought_goes_with_its_end(desk: OrderDesk, end: str) -> None:
    """At once, without Python's search for cycles: that comes seldom, and a prefix has hundreds of kilobytes."""
    gc.collect()
    gc.disable()
    try:
        gone = weakref.ref(_an_order_that_ends(desk, end))
        deadline = time.monotonic() + 5  # the engine's thread may still be in the step that ended it
        while gone() is not None and time.monotonic() < deadline:
            time.sleep(0.01)
        assert gone() is None
    finally:
        gc.enable()


def _an_order_that_ends(desk: OrderDesk, end: str) -> Any:
    """Its prefix, which nobody else holds."""
    prefix = np.zeros((1, 5, HIDDEN), np.float32)
    if end == "refused":
        with pytest.raises(InvalidRequest):
            desk.accept(order(prefix=prefix, frames=of(0)), print)
        return prefix
    told: queue.SimpleQueue[Response] = queue.SimpleQueue()
    takes = desk.accept(order(prefix=prefix, frames=of(50)), told.put)
    if end == "cancelled":
        takes[0].cancel()
    del takes
    desk.delivered(told.get(timeout=20))
    return prefix


def lines(capfd: pytest.CaptureFixture[str]) -> list[dict[str, Any]]:
    return [line for text in capfd.readouterr().out.splitlines() if (line := json.loads(text))["event"] == "order"]


def test_every_order_leaves_one_line_with_what_became_of_it(desk: OrderDesk, capfd: pytest.CaptureFixture[str]) -> None:
    capfd.readouterr()
    told: queue.SimpleQueue[Response] = queue.SimpleQueue()
    desk.accept(order(frames=of(20), variations=of(2), chunk=of(10), first_chunk=of(10)), told.put, "well")
    responses = []
    while not responses or not responses[-1].last:
        responses.append(told.get(timeout=20))
        desk.delivered(responses[-1])
    with pytest.raises(InvalidRequest):
        desk.accept(order(frames=of(0)), print, "ill")
    takes = desk.accept(order(frames=of(100_000), variations=of(2)), told.put, "gone")
    takes[0].cancel()
    del takes
    desk.delivered(told.get(timeout=20))
    well, ill, gone = lines(capfd)
    assert (well["request"], well["outcome"], well["variations"], well["frames"]) == ("well", "finished", 2, 20)
    assert 0 <= well["waited_seconds"] <= well["seconds"]
    assert (ill["request"], ill["outcome"], ill["field"]) == ("ill", "invalid", "frames")
    assert "variations" not in ill
    assert (gone["request"], gone["outcome"], gone["error"]) == ("gone", "cancelled", "Cancelled")


def test_the_line_tells_of_the_first_error_and_of_the_variation_that_waited_longest(
    capfd: pytest.CaptureFixture[str],
) -> None:
    record = OrderRecord("slow")
    record.takes = takes = [make_take(1, Ends()) for _ in range(3)]
    for take, waited in zip(takes, (1.0, 3.0), strict=False):  # the third never had a slot
        take.admitted = take.submitted + waited
    record.note(Cancelled("the caller is gone"))
    record.note(Unavailable("too late"))
    record.write()
    (line,) = lines(capfd)
    assert (line["waited_seconds"], line["outcome"], line["reason"]) == (3.0, "cancelled", "the caller is gone")
    assert not record.takes
    assert record.error is None
