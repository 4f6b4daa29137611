"""The engine: every take in a slot moves one column with each step, whoever it belongs to.

Responsibilities: the order of a step, and that one take's trouble stays its own.
Does not know: text, audio, Triton, threads.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping, Sequence
from typing import Protocol

import numpy as np

from songstarter import event_log
from songstarter.array import Array
from songstarter.delay_pattern import DelayPattern
from songstarter.engine.occupant import Occupant
from songstarter.engine.scheduler import Scheduler
from songstarter.engine.statistics import Statistics
from songstarter.engine.take import Take
from songstarter.errors import Cancelled, SongstarterError, TakeFailed, Unavailable
from songstarter.metrics import SLOTS, SLOTS_IN_USE, TAKES_WAITING, Series
from songstarter.stages.filling import Filling, Prefix
from songstarter.stages.kv_memory import ROWS_PER_SLOT
from songstarter.stages.sampler import Columns, Draw

# While songs play, one slot is filled by so many positions a step: about what two steps cost.
LEAST_FILLED = 16
FILLED_PER_SLOT = 4
# While none plays, by so many: enough to keep the machine busy, and few enough to hear of a cancellation in between.
FILLED_ALONE = 256


class Decoder(Protocol):
    """What the engine asks of the decoder stage, whose sampler draws the columns wherever the logits are."""

    slots: int

    def begin(self, slot: int, prefix: Prefix, columns: Array) -> Filling: ...

    def fill(self, filling: Filling, most: int) -> None: ...

    def copy(self, source: int, target: int, lengths: Array) -> None: ...

    def next_columns(self, columns: Array, lengths: Array, draws: Mapping[int, Draw]) -> Columns: ...


class Engine:
    """Takes in, chunks of frames out, a step at a time."""

    def __init__(self, decoder: Decoder, pattern: DelayPattern, *, max_waiting: int) -> None:
        self._decoder = decoder
        self._pattern = pattern
        self._scheduler = Scheduler(decoder.slots, max_waiting=max_waiting)
        self._occupants: dict[int, Occupant] = {}  # slot -> occupant, in the order of admission
        self.statistics = Statistics()

    @property
    def idle(self) -> bool:
        return not self._occupants and not self._scheduler.waiting

    @property
    def levels(self) -> dict[Series, float]:
        """The gauges as they stand; any thread may ask."""
        return {
            Series(SLOTS): self._decoder.slots,
            Series(SLOTS_IN_USE): len(self._occupants),
            Series(TAKES_WAITING): self._scheduler.waiting,
        }

    def submit(self, takes: Sequence[Take]) -> None:
        """Let the takes of one request wait for slots.

        Raises:
            Unavailable: too many wait already.
        """
        try:
            self._scheduler.enqueue(takes)
        except Unavailable as error:
            for _ in takes:
                self.statistics.ended(error)
            raise

    def step(self) -> None:
        """Move every playing take by one column, and those whose window begins a little nearer to playing."""
        admitted = time.perf_counter()
        self._admit()
        held = len(self._occupants)
        self._fill()
        began = time.perf_counter()
        columns = self._sound(self._forward())
        self._push(columns)
        self.statistics.stepped(columns, time.perf_counter() - began)
        self.statistics.slot_seconds += held * (time.perf_counter() - admitted)
        self._deliver(columns)
        self._turn()
        self._retire()

    def end_all_in_slots(self, error: SongstarterError) -> None:
        """End every take that has a slot with an error; those who wait may fare better."""
        for slot in list(self._occupants):
            self._end(slot, error)

    def abandon(self, error: SongstarterError) -> None:
        """End every take, in a slot or waiting, with an error."""
        self.end_all_in_slots(error)
        while admitted := self._scheduler.admit():
            slot, take = admitted
            self._scheduler.release(slot)
            self._tell(take, error)

    def _admit(self) -> None:
        """Give free slots to waiting takes."""
        for take in self._scheduler.drop_cancelled():
            self._tell(take, Cancelled("the take was cancelled before it began"))
        while admitted := self._scheduler.admit():
            slot, take = admitted
            take.admitted = time.monotonic()
            try:
                self._occupants[slot] = Occupant(take, self._pattern)
            except Exception as error:
                self._scheduler.release(slot)
                self._tell(take, _cannot_begin(error))
            else:
                self._begin(slot)

    def _begin(self, slot: int) -> None:
        """Let the slot of an occupant be filled with what its window begins from."""
        occupant = self._occupants[slot]
        try:
            occupant.fill(self._filling_alike(occupant) or self._new_filling(slot, occupant))
        except Exception as error:  # whatever the stage raises ends this take, not its neighbours
            self._end(slot, _cannot_begin(error))
            return
        if occupant.filling.done:
            self._play(slot)

    def _new_filling(self, slot: int, occupant: Occupant) -> Filling:
        filling = self._decoder.begin(slot, occupant.prefix, occupant.known)
        self.statistics.kept_positions += int(filling.lengths.sum()) - filling.left
        return filling

    def _filling_alike(self, newcomer: Occupant) -> Filling | None:
        """The filling of a slot that holds, or will hold, the same beginning."""
        if not newcomer.begins:
            return None
        for slot, occupant in self._occupants.items():
            alike = occupant.begins and occupant.take.beginning is newcomer.take.beginning
            if alike and occupant is not newcomer and occupant.filling.slot == slot:
                return occupant.filling
        return None

    def _fill(self) -> None:
        """Fill slots in the order in which their windows began, as far as those who play can wait.

        They wait for one piece, however many newcomers there are: each reads all weights, as a step does.
        """
        while filling := self._next_filling():
            playing = sum(occupant.playing for occupant in self._occupants.values())
            try:
                self._fill_piece(filling, playing)
            except Exception as error:  # a beginning that cannot be is its takes' trouble alone
                reason = _cannot_begin(error)
                for slot in self._slots_of(filling):
                    self._end(slot, reason)
                continue
            if filling.done:
                for slot in self._slots_of(filling):
                    self._play(slot)
            if playing or not filling.done:
                return

    def _next_filling(self) -> Filling | None:
        return next((occupant.filling for occupant in self._occupants.values() if not occupant.filling.done), None)

    def _fill_piece(self, filling: Filling, playing: int) -> None:
        """Fill a slot by as much as ``playing`` songs can wait for."""
        left = filling.left
        self._decoder.fill(filling, max(LEAST_FILLED, FILLED_PER_SLOT * playing) if playing else FILLED_ALONE)
        self.statistics.filled_positions += left - filling.left

    def _slots_of(self, filling: Filling) -> list[int]:
        """Whose slots the filling is for: its own first, from which the others are copied."""
        return [slot for slot, occupant in self._occupants.items() if occupant.filling is filling]

    def _play(self, slot: int) -> None:
        """Let a take play whose beginning is filled, here or in a slot that still holds it."""
        occupant = self._occupants[slot]
        if occupant.filling.slot != slot:
            self._decoder.copy(occupant.filling.slot, slot, occupant.filling.lengths)
            occupant.fill(Filling(slot, [], occupant.filling.lengths))
            self.statistics.kept_positions += int(occupant.filling.lengths.sum())
        occupant.playing = True
        if occupant.begins:
            self.statistics.fill_seconds.append(occupant.take.seconds_since_admission)

    def _forward(self) -> Columns:
        """The next column of all who play, by slot, from one decoder call."""
        draws = {slot: occupant.draw for slot, occupant in self._occupants.items() if occupant.playing}
        if not draws:
            return {}
        columns = np.full((self._decoder.slots, len(self._pattern.delays)), self._pattern.special)
        lengths = np.zeros((self._decoder.slots, ROWS_PER_SLOT), np.int64)
        for slot, occupant in self._occupants.items():
            # Rows that are not full yet get their full length: what is written there, the first step overwrites.
            lengths[slot] = occupant.lengths
            columns[slot] = occupant.grid.last
        found = self._decoder.next_columns(columns, lengths, draws)
        for slot in draws:
            self._occupants[slot].lengths += self._occupants[slot].grown
        return found

    def _sound(self, found: Columns) -> dict[int, Array]:
        """The columns that came; a take whose logits are no numbers ends alone."""
        for slot in [slot for slot, column in found.items() if column is None]:
            self._end(slot, TakeFailed("the decoder gave logits that are no numbers"))
        return {slot: column for slot, column in found.items() if column is not None}

    def _push(self, columns: dict[int, Array]) -> None:
        for slot, column in columns.items():
            self._occupants[slot].grid.push(column)

    def _deliver(self, slots: Iterable[int]) -> None:
        """Hand on what is complete; a take that is has no slot any more."""
        for slot in slots:
            occupant = self._occupants[slot]
            if not (chunk := occupant.due()):
                continue
            if chunk.last:  # first of all: who has heard the last of a take must not hear of its slot's troubles
                self._leave(slot)
                self.statistics.ended(None)
            occupant.take.deliver(occupant.take, chunk)

    def _turn(self) -> None:
        """Let takes whose window is done begin the next in the same slot, behind those who wait to be filled."""
        for slot in [slot for slot, occupant in self._occupants.items() if occupant.between_windows]:
            occupant = self._occupants[slot] = self._occupants.pop(slot)
            occupant.enter_next_window()
            self._begin(slot)

    def _retire(self) -> None:
        # Last occupants first: those who wait for another's filling end before the one that fills it.
        for slot, occupant in reversed(list(self._occupants.items())):
            if occupant.take.cancelled and not self._others_wait_for(slot):
                self._end(slot, Cancelled("the take was cancelled"))

    def _others_wait_for(self, slot: int) -> bool:
        return any(occupant.filling.slot == slot and other != slot for other, occupant in self._occupants.items())

    def _end(self, slot: int, error: SongstarterError) -> None:
        self._tell(self._leave(slot).take, error)

    def _leave(self, slot: int) -> Occupant:
        self._scheduler.release(slot)
        return self._occupants.pop(slot)

    def _tell(self, take: Take, error: SongstarterError) -> None:
        self.statistics.ended(error)
        take.deliver(take, error)


def _cannot_begin(error: Exception) -> SongstarterError:
    """What the caller hears; the log holds what is not ours to tell."""
    if isinstance(error, SongstarterError):
        return error
    event_log.write("beginning_failed", **event_log.facts_of(error))
    return TakeFailed("the take could not begin; the decoder's log says why")
