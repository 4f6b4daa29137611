"""The engine on a decoder whose logits are known: who joins, who leaves, and whose trouble is whose."""

from __future__ import annotations

import json
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Mapping
from functools import partial

import numpy as np
import pytest

from songstarter.array import Array
from songstarter.delay_pattern import DelayPattern
from songstarter.engine.engine import Engine
from songstarter.engine.scheduler import Scheduler
from songstarter.engine.service import SICK, EngineService
from songstarter.engine.take import Beginning, Chunk, ChunkSizes, Outcome, Take
from songstarter.errors import Cancelled, SongstarterError, TakeFailed, Unavailable
from songstarter.request import Sampling
from songstarter.stages.filling import Filling, Prefix, RowFilling
from songstarter.stages.sampler import Columns, Draw, sample_slots
from songstarter.windows import Window, windows_of

VOCABULARY = 64
PATTERN = DelayPattern((0, 0, 1, 1), special=VOCABULARY)
GREEDY = Sampling(temperature=0)
WINDOW = 100_000  # frames; no song here is longer, but for those that are about windows
WHOLE = ChunkSizes(10**6, 10**6)


class CountingDecoder:
    """A small real decoder: its memory is one number a slot, its logits a function of it and the last column.

    So any mix-up of slots, lengths or columns changes the tokens that come out.
    """

    def __init__(self, slots: int) -> None:
        self.slots = slots
        self.memory = np.zeros(slots)
        self.begun = 0
        self.steps = 0
        self.pieces: list[int] = []  # positions of every filling
        self.poisoned: set[float] = set()

    def begin(self, slot: int, prefix: Prefix, columns: Array) -> Filling:
        if prefix.guided[0, 0] < 0:
            raise ValueError("a prefix that cannot be")
        self.begun += 1
        self.memory[slot] = 0  # from now on, what was there is lost
        rows = [RowFilling(slot, prefix.guided, columns, 0)]
        return Filling(slot, rows, np.full(2, rows[0].length))

    def fill(self, filling: Filling, most: int) -> None:
        row = filling.rows[0]
        if row.embeddings[0, 0] > 1000:
            raise ValueError("a prefix that breaks the graph")
        self.pieces.append(min(most, row.left))
        row.filled += self.pieces[-1]
        if not row.left:
            self.memory[filling.slot] = row.embeddings[0, 0]
            filling.rows.pop()

    def copy(self, source: int, target: int, lengths: Array) -> None:
        self.memory[target] = self.memory[source]

    def next_columns(self, columns: Array, lengths: Array, draws: Mapping[int, Draw]) -> Columns:
        self.steps += 1
        logits = np.stack([self._logits(*pair) for pair in zip(self.memory, columns, strict=True)])
        return sample_slots(logits, draws)

    def _logits(self, memory: float, column: Array) -> Array:
        peaks = (int(memory) * 7 + column + np.arange(len(column))) % VOCABULARY
        logits = np.tile(np.eye(VOCABULARY, dtype=np.float32)[peaks], (2, 1, 1))
        return np.full_like(logits, np.nan) if memory in self.poisoned else logits


class Ends:
    """Collects what takes deliver, and insists that chunks follow each other and that the end comes once."""

    def __init__(self) -> None:
        self.outcomes: dict[Take, SongstarterError | None] = {}
        self.chunks: defaultdict[Take, list[Chunk]] = defaultdict(list)

    def __call__(self, take: Take, outcome: Outcome) -> None:
        assert take not in self.outcomes, "a take ends once"
        if isinstance(outcome, SongstarterError):
            self.outcomes[take] = outcome
            return
        assert outcome.first == sum(chunk.codes.shape[1] for chunk in self.chunks[take])
        self.chunks[take].append(outcome)
        if outcome.last:
            self.outcomes[take] = None

    def error(self, take: Take) -> SongstarterError:
        error = self.outcomes[take]
        assert error
        return error

    def frames(self, take: Take) -> list[list[int]]:
        assert self.outcomes[take] is None
        frames: list[list[int]] = np.concatenate([chunk.codes for chunk in self.chunks[take]], axis=1).tolist()
        return frames


def beginning(song: float, frames: int = 10, positions: int = 3) -> Beginning:
    prefix = np.full((positions, 2), song, np.float32)
    windows = windows_of(frames, window_frames=WINDOW)
    return Beginning([Prefix(prefix, np.zeros_like(prefix))], None, windows)


def make_take(
    song: float,
    ends: Ends,
    *,
    frames: int = 10,
    sampling: Sampling = GREEDY,
    seed: int = 0,
    priority: int = 3,
    chunks: ChunkSizes = WHOLE,
) -> Take:
    return Take(beginning(song, frames), sampling, seed, 0, priority, chunks, ends)


def run(engine: Engine, bound: int = 1000) -> None:
    for _ in range(bound):
        if engine.idle:
            return
        engine.step()
    pytest.fail(f"the engine was not idle after {bound} steps")


def solo(song: float, **settings: object) -> list[list[int]]:
    ends = Ends()
    engine = Engine(CountingDecoder(1), PATTERN, max_waiting=8)
    take = make_take(song, ends, **settings)  # type: ignore[arg-type]
    engine.submit([take])
    run(engine)
    return ends.frames(take)


def test_takes_that_join_and_leave_at_different_steps_get_what_they_would_get_alone() -> None:
    ends = Ends()
    engine = Engine(CountingDecoder(3), PATTERN, max_waiting=100)
    lengths = [7, 30, 12, 5, 18, 9, 3, 25]
    sampling = Sampling(top_k=0, temperature=2.0)
    takes = [make_take(song, ends, frames=n, sampling=sampling, seed=song) for song, n in enumerate(lengths, 1)]
    for take in takes:
        engine.submit([take])
        engine.step()
        engine.step()
    run(engine)
    for song, (take, n) in enumerate(zip(takes, lengths, strict=True), 1):
        assert ends.frames(take) == solo(song, frames=n, sampling=sampling, seed=song)


def test_variations_share_one_beginning() -> None:
    ends = Ends()
    decoder = CountingDecoder(4)
    engine = Engine(decoder, PATTERN, max_waiting=8)
    shared = beginning(5)
    sampling = Sampling(top_k=0)
    takes = [Take(shared, sampling, 1, variation, 3, WHOLE, ends) for variation in range(4)]
    engine.submit(takes)
    run(engine)
    assert decoder.begun == 1
    assert decoder.memory.tolist() == [5, 5, 5, 5]
    assert len({str(ends.frames(take)) for take in takes}) == 4


def test_a_beginning_is_computed_again_when_no_slot_holds_it_any_more() -> None:
    ends = Ends()
    decoder = CountingDecoder(1)
    engine = Engine(decoder, PATTERN, max_waiting=8)
    shared = beginning(5)
    takes = [Take(shared, GREEDY, 1, variation, 3, WHOLE, ends) for variation in range(2)]
    engine.submit(takes)
    run(engine)
    assert decoder.begun == 2
    assert ends.frames(takes[0]) == ends.frames(takes[1]) == solo(5)


def test_a_newcomer_is_filled_little_by_little_while_others_play() -> None:
    ends = Ends()
    decoder = CountingDecoder(4)
    engine = Engine(decoder, PATTERN, max_waiting=8)
    first = make_take(1, ends, frames=300)
    engine.submit([first])
    engine.step()
    late = [Take(beginning(2, positions=100), GREEDY, 0, variation, 3, WHOLE, ends) for variation in range(1)]
    engine.submit(late)
    for _ in range(6):
        engine.step()
        assert decoder.memory.tolist() == [1, 0, 0, 0]
    engine.step()
    assert decoder.memory.tolist() == [1, 2, 0, 0]
    assert decoder.pieces[1:] == [16, 16, 16, 16, 16, 16, 4]
    run(engine)
    assert ends.frames(late[0]) == solo(2)
    assert ends.frames(first) == solo(1, frames=300)


@pytest.mark.parametrize(("playing", "most"), [(1, 16), (4, 16), (5, 20), (9, 36)])
def test_the_more_play_the_more_is_filled_with_each_step(playing: int, most: int) -> None:
    decoder = CountingDecoder(playing + 1)
    engine = Engine(decoder, PATTERN, max_waiting=20)
    engine.submit([make_take(song, Ends(), frames=50) for song in range(1, playing + 1)])
    for _ in range(playing):  # one begins with each
        engine.step()
    decoder.pieces.clear()
    engine.submit([Take(beginning(20, positions=200), GREEDY, 0, 0, 3, WHOLE, Ends())])
    engine.step()
    assert decoder.pieces == [most]


def test_a_burst_of_newcomers_holds_up_a_playing_song_no_more_than_one_does() -> None:
    ends = Ends()
    decoder = CountingDecoder(16)
    engine = Engine(decoder, PATTERN, max_waiting=16)
    first = make_take(1, ends, frames=300)
    engine.submit([first])
    engine.step()
    late = [Take(beginning(song, positions=12), GREEDY, 0, 0, 3, WHOLE, ends) for song in range(2, 17)]
    engine.submit(late)
    for newcomers in range(1, 16):
        pieces = len(decoder.pieces)
        engine.step()
        assert decoder.pieces[pieces:] == [12]
        assert int((decoder.memory > 0).sum()) == 1 + newcomers
    run(engine)
    assert ends.frames(first) == solo(1, frames=300)
    assert [ends.frames(take) for take in late] == [solo(song) for song in range(2, 17)]


def test_variations_wait_for_a_beginning_that_is_being_filled() -> None:
    ends = Ends()
    decoder = CountingDecoder(4)
    engine = Engine(decoder, PATTERN, max_waiting=8)
    engine.submit([make_take(1, ends, frames=300)])
    engine.step()
    shared = beginning(2, positions=60)
    variations = [Take(shared, GREEDY, 0, variation, 3, WHOLE, ends) for variation in range(3)]
    engine.submit(variations)
    engine.step()
    variations[0].cancel()
    run(engine)
    assert isinstance(ends.error(variations[0]), Cancelled)
    assert decoder.begun == 2
    assert ends.frames(variations[1]) == ends.frames(variations[2]) == solo(2)


def test_a_cancelled_take_keeps_its_slot_while_others_wait_for_what_fills_it() -> None:
    """A newcomer in it would be given their beginning, or they the newcomer's."""
    ends = Ends()
    engine = Engine(CountingDecoder(3), PATTERN, max_waiting=8)
    well = make_take(1, ends, frames=300)
    engine.submit([well])
    engine.step()
    shared = beginning(2, positions=100)
    first, second = (Take(shared, GREEDY, 0, variation, 3, WHOLE, ends) for variation in range(2))
    engine.submit([first, second])
    engine.step()
    first.cancel()
    newcomer = make_take(5, ends, frames=40)
    engine.submit([newcomer])
    for _ in range(3):
        engine.step()
        assert first not in ends.outcomes
    run(engine)
    assert isinstance(ends.error(first), Cancelled)
    assert ends.frames(second) == solo(2)
    assert ends.frames(newcomer) == solo(5, frames=40)
    assert ends.frames(well) == solo(1, frames=300)


def test_a_whole_request_cancelled_while_it_is_filled_ends_at_the_next_step() -> None:
    ends = Ends()
    engine = Engine(CountingDecoder(4), PATTERN, max_waiting=8)
    engine.submit([make_take(1, ends, frames=300)])
    engine.step()
    shared = beginning(2, positions=600)
    variations = [Take(shared, GREEDY, 0, variation, 3, WHOLE, ends) for variation in range(3)]
    engine.submit(variations)
    engine.step()
    for take in variations:
        take.cancel()
    engine.step()
    assert all(isinstance(ends.error(take), Cancelled) for take in variations)


def test_a_beginning_that_breaks_the_graph_fails_its_takes_alone() -> None:
    ends = Ends()
    engine = Engine(CountingDecoder(4), PATTERN, max_waiting=8)
    well = make_take(1, ends, frames=30)
    shared = beginning(2000)
    ill = [Take(shared, GREEDY, 0, variation, 3, WHOLE, ends) for variation in range(2)]
    engine.submit([well])
    engine.submit(ill)
    run(engine)
    assert all("the take could not begin" in str(ends.error(take)) for take in ill)
    assert ends.frames(well) == solo(1, frames=30)


def test_a_cancelled_take_frees_its_slot_at_the_next_step() -> None:
    ends = Ends()
    engine = Engine(CountingDecoder(1), PATTERN, max_waiting=8)
    playing, waiting = make_take(1, ends, frames=500), make_take(2, ends)
    engine.submit([playing])
    engine.submit([waiting])
    engine.step()
    playing.cancel()
    engine.step()
    assert isinstance(ends.error(playing), Cancelled)
    run(engine)
    assert ends.frames(waiting) == solo(2)


def test_of_those_who_wait_the_more_urgent_begin_first_and_equals_in_order() -> None:
    order: list[Take] = []
    engine = Engine(CountingDecoder(1), PATTERN, max_waiting=20)
    waiting = [
        Take(beginning(song), GREEDY, 0, 0, priority, WHOLE, lambda take, outcome: order.append(take))
        for song, priority in enumerate([3, 5, 1, 3, 1, 2], 1)
    ]
    for take in waiting:
        engine.submit([take])
    run(engine)
    assert [take.beginning.prefix(0).guided[0, 0] for take in order] == [3, 5, 6, 1, 4, 2]


def test_a_take_cancelled_while_it_waits_never_begins() -> None:
    ends = Ends()
    decoder = CountingDecoder(1)
    engine = Engine(decoder, PATTERN, max_waiting=8)
    first, second = make_take(1, ends), make_take(2, ends)
    engine.submit([first])
    engine.submit([second])
    engine.step()
    second.cancel()
    run(engine)
    assert isinstance(ends.error(second), Cancelled)
    assert decoder.begun == 1


def test_logits_that_are_no_numbers_end_their_take_alone() -> None:
    ends = Ends()
    decoder = CountingDecoder(4)
    engine = Engine(decoder, PATTERN, max_waiting=8)
    well, ill = make_take(1, ends), make_take(2, ends)
    engine.submit([well])
    engine.submit([ill])
    engine.step()
    engine.step()
    decoder.poisoned.add(2.0)
    run(engine)
    assert isinstance(ends.error(ill), TakeFailed)
    assert ends.frames(well) == solo(1)


def test_a_take_whose_logits_are_no_numbers_leaves_its_slot_to_others() -> None:
    ends = Ends()
    decoder = CountingDecoder(1)
    decoder.poisoned.add(2.0)
    engine = Engine(decoder, PATTERN, max_waiting=8)
    ill, well = make_take(2, ends), make_take(1, ends)
    engine.submit([ill, well])
    run(engine)
    assert isinstance(ends.error(ill), TakeFailed)
    assert ends.frames(well) == solo(1)


def test_a_take_that_cannot_begin_fails_alone() -> None:
    ends = Ends()
    engine = Engine(CountingDecoder(1), PATTERN, max_waiting=8)
    ill, well = make_take(-1, ends), make_take(1, ends)
    engine.submit([ill])
    engine.submit([well])
    run(engine)
    assert "the take could not begin" in str(ends.error(ill))
    assert ends.frames(well) == solo(1)


def test_a_take_whose_opening_cannot_be_takes_no_slot_with_it(capfd: pytest.CaptureFixture[str]) -> None:
    ends = Ends()
    engine = Engine(CountingDecoder(1), PATTERN, max_waiting=8)
    prefix = np.ones((3, 2), np.float32)
    misshapen = Beginning([Prefix(prefix, prefix)], np.zeros((7, 3), np.int32), [Window(0, 8, 3)])
    ill, well = Take(misshapen, GREEDY, 0, 0, 3, WHOLE, ends), make_take(1, ends)
    engine.submit([ill])
    engine.submit([well])
    run(engine)
    assert "the take could not begin" in str(ends.error(ill))
    assert ends.frames(well) == solo(1)
    (line,) = [json.loads(line) for line in capfd.readouterr().out.splitlines()]
    assert (line["event"], line["error"]) == ("beginning_failed", "ValueError")


def test_a_request_that_does_not_fit_the_queue_is_refused_whole() -> None:
    ends = Ends()
    engine = Engine(CountingDecoder(1), PATTERN, max_waiting=3)
    engine.submit([make_take(1, ends), make_take(1, ends), make_take(1, ends)])
    engine.step()  # one plays, two wait
    with pytest.raises(Unavailable, match="2 takes wait already, 2 more would exceed the bound of 3"):
        engine.submit([make_take(2, ends), make_take(2, ends)])
    engine.submit([make_take(2, ends)])
    run(engine)
    assert len(ends.outcomes) == 4


def test_the_lowest_free_slot_is_given_away_first() -> None:
    """A step computes every row up to the highest slot in use."""
    scheduler = Scheduler(3, max_waiting=8)
    scheduler.enqueue([make_take(song, Ends()) for song in range(1, 6)])
    assert [admitted[0] for _ in range(3) if (admitted := scheduler.admit())] == [0, 1, 2]
    for slot in (0, 2):
        scheduler.release(slot)
    assert [admitted[0] for _ in range(2) if (admitted := scheduler.admit())] == [0, 2]


def test_a_slot_that_is_just_being_given_away_is_still_counted() -> None:
    """Between taking a slot and taking whom it is for, an order from another thread must not find neither free."""
    scheduler = Scheduler(2, max_waiting=0)
    scheduler.enqueue([make_take(1, Ends())])
    other = threading.Thread(target=scheduler.enqueue, args=([make_take(2, Ends())],))

    class Interrupted(list[int]):
        def remove(self, slot: int) -> None:
            super().remove(slot)
            other.start()
            other.join(0.1)

    scheduler._free = Interrupted(scheduler._free)
    assert scheduler.admit()
    other.join()
    assert scheduler.waiting == 1


def test_who_finds_a_free_slot_needs_no_place_to_wait_in() -> None:
    ends = Ends()
    engine = Engine(CountingDecoder(4), PATTERN, max_waiting=1)
    engine.submit([make_take(song, ends) for song in range(1, 6)])
    with pytest.raises(Unavailable, match="5 takes wait already, 1 more would exceed the bound of 1"):
        engine.submit([make_take(6, ends)])
    with pytest.raises(Unavailable, match="6 takes are more than this server has slots and places to wait in"):
        engine.submit([make_take(6, ends) for _ in range(6)])
    run(engine)
    assert len(ends.outcomes) == 5


def test_an_opening_stands_at_the_head_of_the_song() -> None:
    ends = Ends()
    engine = Engine(CountingDecoder(1), PATTERN, max_waiting=8)
    opening = np.arange(12).reshape(4, 3)
    prefix = np.ones((3, 2), np.float32)
    take = Take(Beginning([Prefix(prefix, prefix)], opening, [Window(0, 8, 3)]), GREEDY, 0, 0, 3, WHOLE, ends)
    engine.submit([take])
    run(engine)
    assert [row[:3] for row in ends.frames(take)] == opening.tolist()
    assert all(len(row) == 8 for row in ends.frames(take))


def test_variations_that_get_slots_at_different_times_begin_alike_whoever_is_filled_meanwhile() -> None:
    ends = Ends()
    engine = Engine(CountingDecoder(3), PATTERN, max_waiting=20)
    shared = beginning(5, frames=10)
    variations = [Take(shared, GREEDY, 0, variation, 3, WHOLE, ends) for variation in range(2)]
    engine.submit([make_take(1, ends, frames=5), make_take(2, ends, frames=6), *variations])
    engine.submit([Take(beginning(3, positions=900), GREEDY, 0, 0, 1, WHOLE, ends)])  # goes first, and takes long
    engine.submit([make_take(4, ends)])
    run(engine)
    assert ends.frames(variations[0]) == ends.frames(variations[1]) == solo(5)


def test_a_long_beginning_is_filled_in_pieces_even_when_nobody_plays() -> None:
    ends, decoder = Ends(), CountingDecoder(1)
    engine = Engine(decoder, PATTERN, max_waiting=8)
    take = Take(beginning(2, positions=600), GREEDY, 0, 0, 3, WHOLE, ends)
    engine.submit([take])
    engine.step()
    assert decoder.pieces == [256]
    assert decoder.memory[0] == 0
    take.cancel()
    engine.step()
    assert isinstance(ends.error(take), Cancelled)
    assert decoder.steps == 0


class MeasuringDecoder(CountingDecoder):
    """Insists that every row is said to hold what was filled and fed, no more and no less."""

    def __init__(self, slots: int) -> None:
        super().__init__(slots)
        self.held = np.zeros((slots, 2), np.int64)
        self.being_filled: set[int] = set()

    def begin(self, slot: int, prefix: Prefix, columns: Array) -> Filling:
        filling = super().begin(slot, prefix, columns)
        self.held[slot] = filling.lengths
        self.being_filled.add(slot)
        return filling

    def copy(self, source: int, target: int, lengths: Array) -> None:
        super().copy(source, target, lengths)
        self.held[target] = lengths

    def next_columns(self, columns: Array, lengths: Array, draws: Mapping[int, Draw]) -> Columns:
        found = super().next_columns(columns, lengths, draws)
        for slot, draw in draws.items():
            self.being_filled.discard(slot)
            assert (lengths[slot] == self.held[slot]).all()
            self.held[slot] += np.arange(2) < draw.rows
        for slot in self.being_filled:  # what the step writes there must not hit what was filled
            assert (lengths[slot] == self.held[slot]).all()
        return found


def test_rows_grow_by_a_position_with_each_step_of_their_own_and_by_none_with_others() -> None:
    """Of variations too, whichever begins later: the first has gone on meanwhile."""
    ends = Ends()
    engine = Engine(MeasuringDecoder(3), PATTERN, max_waiting=20)
    shared = beginning(5, frames=12)
    variations = [Take(shared, GREEDY, 0, variation, 3, WHOLE, ends) for variation in range(3)]
    engine.submit([make_take(1, ends, frames=5), *variations])
    engine.submit([Take(beginning(3, positions=90), GREEDY, 0, 0, 3, WHOLE, ends)])
    unguided = Beginning([Prefix(np.full((3, 2), 7, np.float32), None)], None, [Window(0, 10, 0)])
    engine.submit([Take(unguided, Sampling(temperature=0, guidance=1), 0, 0, 3, WHOLE, ends)])  # its second row idles
    run(engine)
    assert all(ends.frames(take) == solo(5, frames=12) for take in variations)


class FlakyDecoder(CountingDecoder):
    """Raises in its third step, once."""

    def next_columns(self, columns: Array, lengths: Array, draws: Mapping[int, Draw]) -> Columns:
        found = super().next_columns(columns, lengths, draws)
        if self.steps == 3:
            raise RuntimeError("the device is gone")
        return found


def wait_until(condition: Callable[[], bool], seconds: float = 10) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.005)


class GoneDecoder(CountingDecoder):
    """Raises in its first step, and from then on in everything."""

    gone = False

    def next_columns(self, columns: Array, lengths: Array, draws: Mapping[int, Draw]) -> Columns:
        self.gone = True
        raise RuntimeError("the device is gone")

    def begin(self, slot: int, prefix: Prefix, columns: Array) -> Filling:
        if self.gone:
            raise RuntimeError("the device is gone")
        return super().begin(slot, prefix, columns)


def test_a_service_whose_steps_all_fail_answers_no_pulse() -> None:
    """A process that lives and plays nothing must not look well, or nobody starts another."""
    ends = Ends()
    service = EngineService(Engine(GoneDecoder(2), PATTERN, max_waiting=8))
    beats: list[int] = []
    for song in range(3):
        service.pulse(partial(beats.append, song))
        take = make_take(song, ends)
        service.submit([take])
        wait_until(lambda take=take: take in ends.outcomes)  # type: ignore[misc]
    wait_until(lambda: beats == [0, 1, 2])
    with pytest.raises(TakeFailed, match="the last 3 decode steps failed; the decoder's log says why"):
        service.pulse(print)
    service.stop()


class StumblingDecoder(CountingDecoder):
    """Raises in every tenth step."""

    def next_columns(self, columns: Array, lengths: Array, draws: Mapping[int, Draw]) -> Columns:
        found = super().next_columns(columns, lengths, draws)
        if self.steps % 10 == 0:
            raise RuntimeError("the device stumbled")
        return found


def test_a_service_whose_steps_fail_now_and_then_is_not_sick() -> None:
    """Only failures that follow each other count, or every process would be replaced in the end."""
    ends = Ends()
    service = EngineService(Engine(StumblingDecoder(1), PATTERN, max_waiting=8))
    for song in range(1, SICK + 3):
        take = make_take(song, ends, frames=15)
        service.submit([take])
        wait_until(lambda take=take: take in ends.outcomes)  # type: ignore[misc]
        assert "a decode step failed" in str(ends.error(take))
    beats: list[int] = []
    service.pulse(lambda: beats.append(1))
    wait_until(lambda: beats == [1])
    service.stop()


def test_steps_that_only_fill_are_no_failures() -> None:
    """A long beginning takes many of them while nothing plays."""
    ends = Ends()
    said: list[object] = []

    class AskingDecoder(CountingDecoder):
        def fill(self, filling: Filling, most: int) -> None:
            super().fill(filling, most)
            if len(self.pieces) == SICK + 2:
                try:
                    service.pulse(lambda: said.append("answered"))
                except TakeFailed as error:
                    said.append(error)

    service = EngineService(Engine(AskingDecoder(1), PATTERN, max_waiting=8))
    take = Take(beginning(1, positions=256 * (SICK + 4)), GREEDY, 0, 0, 3, WHOLE, ends)
    service.submit([take])
    wait_until(lambda: take in ends.outcomes and said != [])
    service.stop()
    assert said == ["answered"]


def test_the_service_outlives_a_step_that_fails(capfd: pytest.CaptureFixture[str]) -> None:
    ends = Ends()
    service = EngineService(Engine(FlakyDecoder(2), PATTERN, max_waiting=8))
    first = make_take(1, ends)
    service.submit([first])
    wait_until(lambda: first in ends.outcomes)
    assert str(ends.error(first)) == "a decode step failed; the decoder's log says why"  # and not what Python said
    (line,) = [json.loads(line) for line in capfd.readouterr().out.splitlines()]
    assert (line["event"], line["error"], line["reason"]) == ("step_failed", "RuntimeError", "the device is gone")
    assert "next_columns" in line["where"]
    second = make_take(2, ends)
    service.submit([second])
    wait_until(lambda: second in ends.outcomes)
    assert ends.frames(second) == solo(2)
    service.stop()


def test_who_waits_while_a_step_fails_plays_in_the_next() -> None:
    ends = Ends()
    service = EngineService(Engine(FlakyDecoder(1), PATTERN, max_waiting=8))
    first, second = make_take(1, ends), make_take(2, ends)
    service.submit([first, second])
    wait_until(lambda: second in ends.outcomes)
    assert "a decode step failed" in str(ends.error(first))
    assert ends.frames(second) == solo(2)
    service.stop()


def test_who_has_heard_the_last_of_a_take_hears_no_more_of_it() -> None:
    """Even where the step that completed it fails after that."""
    ends = Ends()
    engine = Engine(CountingDecoder(2), PATTERN, max_waiting=8)
    complete, unlucky = make_take(1, ends), make_take(2, ends)
    unlucky.deliver = lambda take, outcome: ends(take, TakeFailed(f"{1 // 0}"))
    engine.submit([complete, unlucky])
    with pytest.raises(ZeroDivisionError):
        run(engine)
    assert ends.frames(complete) == solo(1)
    unlucky.deliver = ends
    engine.end_all_in_slots(TakeFailed("a decode step failed"))  # and does not tell it again
    assert engine.idle


def test_who_could_not_be_told_the_last_of_a_take_is_not_told_of_an_error_either() -> None:
    """It may have been told after all: what ``deliver`` raised says nothing of that."""
    ends = Ends()
    engine = Engine(CountingDecoder(1), PATTERN, max_waiting=8)
    unlucky = make_take(2, ends)
    unlucky.deliver = lambda take, outcome: ends(take, TakeFailed(f"{1 // 0}"))
    engine.submit([unlucky])
    with pytest.raises(ZeroDivisionError):
        run(engine)
    unlucky.deliver = ends
    engine.end_all_in_slots(TakeFailed("a decode step failed"))
    assert unlucky not in ends.outcomes
    assert engine.idle


class StickingDecoder(CountingDecoder):
    """Hangs in its first step until it may go on."""

    def __init__(self, slots: int) -> None:
        super().__init__(slots)
        self.stuck = threading.Event()
        self.may_go_on = threading.Event()

    def next_columns(self, columns: Array, lengths: Array, draws: Mapping[int, Draw]) -> Columns:
        self.stuck.set()
        self.may_go_on.wait(10)
        return super().next_columns(columns, lengths, draws)


def test_a_pulse_is_answered_between_two_steps_and_not_while_one_hangs() -> None:
    beats: list[str] = []
    decoder = StickingDecoder(1)
    service = EngineService(Engine(decoder, PATTERN, max_waiting=8))
    service.pulse(lambda: beats.append("idle"))
    wait_until(lambda: beats == ["idle"])
    service.submit([make_take(3, Ends())])
    wait_until(decoder.stuck.is_set)
    service.pulse(lambda: beats.append("playing"))
    time.sleep(0.2)
    assert beats == ["idle"]
    decoder.may_go_on.set()
    wait_until(lambda: beats == ["idle", "playing"])
    service.stop()
    with pytest.raises(Unavailable, match="stopping"):
        service.pulse(print)


def test_a_pulse_is_answered_between_steps_while_songs_play() -> None:
    ends = Ends()
    service = EngineService(Engine(CountingDecoder(1), PATTERN, max_waiting=8))
    long = make_take(1, ends, frames=20_000)
    service.submit([long])
    beats: list[int] = []
    for _ in range(5):
        service.pulse(lambda: beats.append(1))
    wait_until(lambda: len(beats) == 5)
    assert long not in ends.outcomes
    service.stop()


def test_a_pulse_that_was_taken_is_answered_even_if_the_service_stops() -> None:
    beats: list[str] = []
    decoder = StickingDecoder(1)
    service = EngineService(Engine(decoder, PATTERN, max_waiting=8))
    service.submit([make_take(3, Ends())])
    wait_until(decoder.stuck.is_set)
    service.pulse(lambda: beats.append("taken"))
    stopping = threading.Thread(target=service.stop)
    stopping.start()
    wait_until(lambda: service._stopping)
    decoder.may_go_on.set()
    stopping.join(10)
    assert beats == ["taken"]


def test_a_service_that_stops_ends_every_take_and_takes_no_more() -> None:
    ends = Ends()
    service = EngineService(Engine(CountingDecoder(1), PATTERN, max_waiting=8))
    takes = [make_take(song, ends, frames=100_000) for song in (1, 2)]
    service.submit(takes)
    service.stop()
    assert all(isinstance(ends.error(take), Unavailable) for take in takes)
    with pytest.raises(Unavailable):
        service.submit([make_take(3, ends)])
