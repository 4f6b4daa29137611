"""The engine: every take in a slot moves one column with each step, whoever it belongs to.

Responsibilities: the order of a step, and that one take's trouble stays its own.
Does not know: text, audio, Triton, threads.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from songstarter.array import Array
from songstarter.delay_pattern import DelayPattern, Grid
from songstarter.engine.scheduler import Scheduler
from songstarter.engine.statistics import Statistics
from songstarter.engine.take import Beginning, Outcome, Take
from songstarter.errors import Cancelled, SongstarterError, TakeFailed, Unavailable
from songstarter.metrics import SLOTS, SLOTS_IN_USE, TAKES_WAITING, Series
from songstarter.stages.decoder import Filling, Prefix
from songstarter.stages.kv_memory import ROWS_PER_SLOT
from songstarter.stages.sampler import Columns, Draw

# While songs play, a newcomer's slot is filled by so many positions a step: about what two steps cost.
LEAST_FILLED = 16
FILLED_PER_SLOT = 4


class Decoder(Protocol):
    """What the engine asks of the decoder stage, whose sampler draws the columns wherever the logits are."""

    slots: int

    def begin(self, slot: int, prefix: Prefix, columns: Array) -> Filling: ...

    def fill(self, filling: Filling, most: int) -> None: ...

    def copy(self, source: int, target: int, lengths: Array) -> None: ...

    def next_columns(self, columns: Array, lengths: Array, draws: Mapping[int, Draw]) -> Columns: ...


@dataclass(eq=False)
class Occupant:
    """A take in a slot: the columns it has, the positions the slot holds, and what it was filled with.

    ``filling`` is the slot's own, or that of another slot with the same beginning, which is copied when it is done.
    """

    take: Take
    grid: Grid
    filling: Filling
    lengths: Array
    playing: bool = False

    @property
    def rows(self) -> int:
        """How many rows of the slot are in use: one where nothing is guided."""
        return len(self.take.beginning.prefix.rows)


class Engine:
    """Takes in, frames out, a step at a time."""

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
        except Unavailable:
            self.statistics.takes["refused"] += len(takes)
            raise

    def step(self) -> None:
        """Move every playing take by one column, and the newcomers a little nearer to playing."""
        self._admit()
        self._fill()
        began = time.perf_counter()
        columns = self._sound(self._forward())
        self._push(columns)
        self.statistics.stepped(columns, time.perf_counter() - began)
        self._retire()

    def abandon(self, error: SongstarterError) -> None:
        """End every take, in a slot or waiting, with an error."""
        for slot in list(self._occupants):
            self._end(slot, error)
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
                self._occupants[slot] = self._occupant(slot, take)
            except Exception as error:  # whatever the stage raises ends this take, not its neighbours
                self._scheduler.release(slot)
                self._tell(take, TakeFailed(f"the take could not begin: {error}"))

    def _occupant(self, slot: int, take: Take) -> Occupant:
        grid = take.beginning.grid(self._pattern)
        filling = self._filling_of(take.beginning)
        if filling is None:
            # The last column that is known is fed by the first step.
            filling = self._decoder.begin(slot, take.beginning.prefix, grid.so_far[:, :-1])
            self.statistics.kept_positions += int(filling.lengths.sum()) - filling.left
        return Occupant(take, grid, filling, filling.lengths.copy())

    def _filling_of(self, beginning: Beginning) -> Filling | None:
        """The filling of a slot that holds, or will hold, the same beginning."""
        occupants = (occupant for slot, occupant in self._occupants.items() if occupant.filling.slot == slot)
        return next((occupant.filling for occupant in occupants if occupant.take.beginning is beginning), None)

    def _fill(self) -> None:
        """Fill the slots in the order they were given, as far as those who play can wait."""
        for slot, occupant in list(self._occupants.items()):
            if occupant.playing or slot not in self._occupants:
                continue
            try:
                if not self._filled(slot, occupant):
                    return
            except Exception as error:  # a beginning that cannot be is its takes' trouble alone
                self._fail_all_of(occupant.filling, TakeFailed(f"the take could not begin: {error}"))

    def _filled(self, slot: int, occupant: Occupant) -> bool:
        """Fill a slot by one step's worth; True when its take plays."""
        self._fill_own(occupant.filling)
        if not occupant.filling.done:
            return False
        if occupant.filling.slot != slot:
            self._decoder.copy(occupant.filling.slot, slot, occupant.filling.lengths)
            occupant.filling = Filling(slot, [], occupant.filling.lengths)
            self.statistics.kept_positions += int(occupant.filling.lengths.sum())
        occupant.playing = True
        self.statistics.fill_seconds.append(occupant.take.seconds_since_admission)
        return True

    def _fill_own(self, filling: Filling) -> None:
        playing = sum(occupant.playing for occupant in self._occupants.values())
        if playing:
            if not filling.done:
                self._fill_piece(filling, max(LEAST_FILLED, FILLED_PER_SLOT * playing))
            return
        while not filling.done:
            self._fill_piece(filling, int(filling.lengths.max()))

    def _fill_piece(self, filling: Filling, most: int) -> None:
        left = filling.left
        self._decoder.fill(filling, most)
        self.statistics.filled_positions += left - filling.left

    def _forward(self) -> Columns:
        """The next column of all who play, by slot, from one decoder call."""
        draws = {slot: self._draw(occupant) for slot, occupant in self._occupants.items() if occupant.playing}
        if not draws:
            return {}
        columns = np.full((self._decoder.slots, len(self._pattern.delays)), self._pattern.special)
        lengths = np.zeros((self._decoder.slots, ROWS_PER_SLOT), np.int64)
        for slot, occupant in self._occupants.items():
            # Rows that are not full yet get their full length: what is written there, the first step overwrites.
            lengths[slot] = occupant.lengths
            columns[slot] = occupant.grid.so_far[:, -1]
        found = self._decoder.next_columns(columns, lengths, draws)
        for slot in draws:
            occupant = self._occupants[slot]
            occupant.lengths[: occupant.rows] += 1
        return found

    def _sound(self, found: Columns) -> dict[int, Array]:
        """The columns that came; a take whose logits are no numbers ends alone."""
        for slot in [slot for slot, column in found.items() if column is None]:
            self._end(slot, TakeFailed("the decoder gave logits that are no numbers"))
        return {slot: column for slot, column in found.items() if column is not None}

    def _draw(self, occupant: Occupant) -> Draw:
        return Draw(occupant.take.sampling, occupant.take.seed, occupant.take.variation, occupant.grid.next)

    def _push(self, columns: dict[int, Array]) -> None:
        for slot, column in columns.items():
            self._occupants[slot].grid.push(column)

    def _retire(self) -> None:
        # Last occupants first: those who wait for another's filling end before the one that fills it.
        for slot, occupant in reversed(list(self._occupants.items())):
            if occupant.take.cancelled and not self._others_wait_for(slot):
                self._end(slot, Cancelled("the take was cancelled"))
            elif occupant.grid.done:
                self._end(slot, occupant.grid.frames())

    def _others_wait_for(self, slot: int) -> bool:
        return any(occupant.filling.slot == slot and other != slot for other, occupant in self._occupants.items())

    def _fail_all_of(self, filling: Filling, error: SongstarterError) -> None:
        for slot in [slot for slot, occupant in self._occupants.items() if occupant.filling is filling]:
            self._end(slot, error)

    def _end(self, slot: int, outcome: Outcome) -> None:
        occupant = self._occupants.pop(slot)
        self._scheduler.release(slot)
        self._tell(occupant.take, outcome)

    def _tell(self, take: Take, outcome: Outcome) -> None:
        self.statistics.ended(outcome)
        take.on_end(take, outcome)
