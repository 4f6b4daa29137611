"""The engine counts what it did, in the way an operator would."""

from __future__ import annotations

import time
from collections.abc import Mapping

import pytest
from test_engine import GREEDY, PATTERN, WHOLE, CountingDecoder, Ends, beginning, make_take, run

from songstarter.array import Array
from songstarter.engine.engine import Engine
from songstarter.engine.statistics import MOST_KEPT
from songstarter.engine.take import Take
from songstarter.errors import TakeFailed, Unavailable
from songstarter.metrics import (
    FILL_SECONDS,
    FILLED_POSITIONS,
    KEPT_POSITIONS,
    SLOT_SECONDS,
    SLOTS,
    SLOTS_IN_USE,
    STEP_SECONDS,
    STEPS,
    STEPS_PER_OBSERVATION,
    TAKES,
    TAKES_WAITING,
    TOKENS,
    Series,
)
from songstarter.stages.filling import Filling
from songstarter.stages.sampler import Columns, Draw

COLUMNS = 11  # of ten frames, with the last codebook one late
CODEBOOKS = 4


def totals(engine: Engine) -> dict[str, float]:
    """Counters by name, and takes by outcome."""
    return {
        series.values[0] if series.family is TAKES else series.family.name: value
        for series, value in engine.statistics.totals().items()
    }


def test_steps_and_tokens_count_what_moved() -> None:
    engine = Engine(CountingDecoder(2), PATTERN, max_waiting=8)
    engine.submit([make_take(song, Ends()) for song in (1, 2)])
    run(engine)
    counted = totals(engine)
    assert counted[STEPS.name] == COLUMNS
    assert counted[TOKENS.name] == 2 * CODEBOOKS * COLUMNS
    assert counted["finished"] == 2


def test_slot_seconds_are_those_of_all_slots_together() -> None:
    engine = Engine(CountingDecoder(3), PATTERN, max_waiting=8)
    engine.submit([make_take(song, Ends()) for song in (1, 2, 3, 4)])  # the fourth waits, and holds nothing
    began = time.perf_counter()
    engine.step()
    passed = time.perf_counter() - began
    assert passed < totals(engine)[SLOT_SECONDS.name] <= 3 * passed


class SlowDecoder(CountingDecoder):
    """Takes a twentieth of a second for whatever it does."""

    def fill(self, filling: Filling, most: int) -> None:
        time.sleep(0.05)
        super().fill(filling, most)

    def next_columns(self, columns: Array, lengths: Array, draws: Mapping[int, Draw]) -> Columns:
        time.sleep(0.05)
        return super().next_columns(columns, lengths, draws)


def test_a_slot_is_held_while_it_is_filled_and_in_the_step_that_gives_it_back() -> None:
    engine = Engine(SlowDecoder(2), PATTERN, max_waiting=8)
    engine.submit([make_take(song, Ends(), frames=1) for song in (1, 2)])
    began = time.perf_counter()
    run(engine)
    passed = time.perf_counter() - began
    assert engine.statistics.steps == 2
    assert 2 * 0.05 * (2 + 2) < engine.statistics.slot_seconds <= 2 * passed


def test_variations_fill_once_and_copy_the_rest() -> None:
    engine = Engine(CountingDecoder(3), PATTERN, max_waiting=8)
    shared = beginning(1, positions=20)
    engine.submit([Take(shared, GREEDY, 1, variation, 3, WHOLE, Ends()) for variation in range(3)])
    run(engine)
    counted = totals(engine)
    assert counted[FILLED_POSITIONS.name] == 20  # this decoder fills one row a slot
    assert counted[KEPT_POSITIONS.name] == 20 + 2 * 40  # and never the other; both are copied
    assert len(engine.statistics.fill_seconds) == 3


def test_a_take_that_waits_for_a_slot_is_seen_waiting() -> None:
    engine = Engine(CountingDecoder(2), PATTERN, max_waiting=8)
    takes = [make_take(song, Ends()) for song in (1, 2, 3)]
    engine.submit(takes)
    engine.step()
    assert engine.levels == {Series(SLOTS): 2, Series(SLOTS_IN_USE): 2, Series(TAKES_WAITING): 1}
    assert takes[2].seconds_waited is None
    run(engine)
    assert engine.levels == {Series(SLOTS): 2, Series(SLOTS_IN_USE): 0, Series(TAKES_WAITING): 0}
    first, last = takes[0].seconds_waited, takes[2].seconds_waited
    assert first is not None
    assert last is not None
    assert 0 <= first < last


def test_every_end_is_counted_once_by_its_kind() -> None:
    decoder = CountingDecoder(2)
    decoder.poisoned = {2.0}
    engine = Engine(decoder, PATTERN, max_waiting=3)
    takes = [make_take(song, Ends()) for song in (1, 2, -3, 4, 5)]
    engine.submit(takes)
    with pytest.raises(Unavailable):
        engine.submit([make_take(6, Ends()), make_take(7, Ends())])
    takes[3].cancel()
    engine.step()
    takes[0].cancel()
    run(engine)
    counted = totals(engine)
    ends = {outcome: counted[outcome] for outcome in TAKES.outcomes}
    assert ends == {"finished": 1, "failed": 2, "cancelled": 2, "unavailable": 2, "invalid": 0}


def test_takes_that_are_abandoned_have_failed() -> None:
    engine = Engine(CountingDecoder(1), PATTERN, max_waiting=8)
    engine.submit([make_take(song, Ends()) for song in (1, 2)])
    engine.step()
    engine.abandon(TakeFailed("the decode step failed"))
    assert totals(engine)["failed"] == 2


def test_takes_that_a_stop_ends_have_not_failed() -> None:
    engine = Engine(CountingDecoder(1), PATTERN, max_waiting=8)
    engine.submit([make_take(song, Ends()) for song in (1, 2)])
    engine.step()
    engine.abandon(Unavailable("the server is stopping"))
    assert totals(engine)["failed"] == 0
    assert totals(engine)["unavailable"] == 2


def test_a_sample_of_the_steps_is_observed_and_told_once() -> None:
    engine = Engine(CountingDecoder(1), PATTERN, max_waiting=8)
    engine.submit([make_take(1, Ends(), frames=5 * STEPS_PER_OBSERVATION)])
    run(engine)
    observed = engine.statistics.fetch_observations()
    assert len(observed[STEP_SECONDS]) == 6  # of 51 steps
    assert len(observed[FILL_SECONDS]) == 1
    assert all(0 < seconds < 10 for seconds in observed[STEP_SECONDS])
    assert engine.statistics.fetch_observations() == {STEP_SECONDS: [], FILL_SECONDS: []}


def test_observations_that_nobody_fetches_do_not_pile_up() -> None:
    engine = Engine(CountingDecoder(1), PATTERN, max_waiting=1)
    engine.statistics.fill_seconds.extend([0.0] * (2 * MOST_KEPT))
    assert len(engine.statistics.fill_seconds) == MOST_KEPT
