"""The engine: every take in a slot moves one column with each step, whoever it belongs to.

Responsibilities: the order of a step, and that one take's trouble stays its own.
Does not know: text, audio, Triton, threads.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from songstarter.array import Array
from songstarter.delay_pattern import DelayPattern, Grid
from songstarter.engine.scheduler import Scheduler
from songstarter.engine.take import Beginning, Outcome, Take
from songstarter.errors import Cancelled, SongstarterError, TakeFailed
from songstarter.stages.decoder import Prefix
from songstarter.stages.sampler import Draw, sample


class Decoder(Protocol):
    """What the engine asks of the decoder stage."""

    slots: int

    def begin(self, slot: int, prefix: Prefix, columns: Array) -> tuple[Array, int]: ...

    def copy(self, source: int, target: int, length: int) -> None: ...

    def step(self, columns: Array, lengths: Array) -> Array: ...


@dataclass(frozen=True)
class Begun:
    """A beginning's first logits [2, codebook, token] and the positions it takes in a slot."""

    logits: Array
    length: int


@dataclass(eq=False)
class Playing:
    """A take in a slot: ``length`` positions of the slot are filled."""

    take: Take
    grid: Grid
    begun: Begun
    length: int


class Engine:
    """Takes in, frames out, a step at a time."""

    def __init__(self, decoder: Decoder, pattern: DelayPattern, *, max_waiting: int) -> None:
        self._decoder = decoder
        self._pattern = pattern
        self._scheduler = Scheduler(decoder.slots, max_waiting=max_waiting)
        self._playing: dict[int, Playing] = {}

    @property
    def idle(self) -> bool:
        return not self._playing and not self._scheduler.waiting

    def submit(self, takes: Sequence[Take]) -> None:
        """Let the takes of one request wait for slots.

        Raises:
            Unavailable: too many wait already.
        """
        self._scheduler.enqueue(takes)

    def step(self) -> None:
        """Move every take in a slot by one column."""
        fresh = self._admit()
        logits = self._forward(fresh)
        self._push(self._sample(logits))
        self._retire()

    def abandon(self, error: SongstarterError) -> None:
        """End every take, playing or waiting, with an error."""
        for slot in list(self._playing):
            self._end(slot, error)
        while admitted := self._scheduler.admit():
            slot, take = admitted
            self._scheduler.release(slot)
            take.on_end(take, error)

    def _admit(self) -> dict[int, Array]:
        """Give free slots to waiting takes; the logits of their first columns by slot.

        At most one beginning is computed per step, so that newcomers don't hold up those who play; copies of a
        beginning that already stands in a slot are free.
        """
        for take in self._scheduler.drop_cancelled():
            take.on_end(take, Cancelled("the take was cancelled before it began"))
        fresh: dict[int, Array] = {}
        computed = False
        while not computed and (admitted := self._scheduler.admit()):
            slot, take = admitted
            try:
                playing, computed = self._begin(slot, take)
            except Exception as error:  # whatever the stage raises ends this take, not its neighbours
                self._scheduler.release(slot)
                take.on_end(take, TakeFailed(f"the take could not begin: {error}"))
                continue
            self._playing[slot] = playing
            fresh[slot] = playing.begun.logits
        return fresh

    def _begin(self, slot: int, take: Take) -> tuple[Playing, bool]:
        """Put a take into a slot; whether its beginning had to be computed."""
        grid = take.beginning.grid(self._pattern)
        twin = self._slot_with(take.beginning)
        if twin is None:
            begun = Begun(*self._decoder.begin(slot, take.beginning.prefix, grid.so_far))
        else:
            begun = self._playing[twin].begun
            self._decoder.copy(twin, slot, begun.length)
        return Playing(take, grid, begun, begun.length), twin is None

    def _slot_with(self, beginning: Beginning) -> int | None:
        return next((slot for slot, playing in self._playing.items() if playing.take.beginning is beginning), None)

    def _forward(self, fresh: dict[int, Array]) -> dict[int, Array]:
        """Logits [2, codebook, token] by slot: the fresh ones and, from one decoder call, all the others."""
        others = [slot for slot in self._playing if slot not in fresh]
        if not others:
            return fresh
        slots = max(self._playing) + 1
        columns = np.full((slots, len(self._pattern.delays)), self._pattern.special)
        lengths = np.zeros(slots, np.int64)
        for slot, playing in self._playing.items():
            # A fresh slot gets its true length too: what the call writes there, the next step overwrites.
            lengths[slot] = playing.length
            columns[slot] = playing.grid.so_far[:, -1]
        logits = self._decoder.step(columns, lengths)
        for slot in others:
            self._playing[slot].length += 1
        return fresh | {slot: logits[slot] for slot in others}

    def _sample(self, logits: dict[int, Array]) -> dict[int, Array]:
        """The next column [codebook] of every slot whose logits are numbers."""
        sound = {slot: block for slot, block in logits.items() if np.isfinite(block).all()}
        for slot in logits.keys() - sound.keys():
            self._end(slot, TakeFailed("the decoder gave logits that are no numbers"))
        if not sound:
            return {}
        draws = [self._draw(self._playing[slot]) for slot in sound]
        return dict(zip(sound, sample(np.stack(list(sound.values())), draws), strict=True))

    def _draw(self, playing: Playing) -> Draw:
        take = playing.take
        return Draw(take.sampling, take.seed, take.variation, playing.grid.next)

    def _push(self, columns: dict[int, Array]) -> None:
        for slot, column in columns.items():
            self._playing[slot].grid.push(column)

    def _retire(self) -> None:
        for slot, playing in list(self._playing.items()):
            if playing.take.cancelled:
                self._end(slot, Cancelled("the take was cancelled"))
            elif playing.grid.done:
                self._end(slot, playing.grid.frames())

    def _end(self, slot: int, outcome: Outcome) -> None:
        playing = self._playing.pop(slot)
        self._scheduler.release(slot)
        playing.take.on_end(playing.take, outcome)
