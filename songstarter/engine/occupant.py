"""A take in a slot: the window it is in, the columns it has, and the frames that are yet to be sent."""

from __future__ import annotations

import numpy as np

from songstarter.array import Array
from songstarter.delay_pattern import DelayPattern, Grid
from songstarter.engine.take import Chunk, Take
from songstarter.stages.filling import Filling
from songstarter.stages.kv_memory import ROWS_PER_SLOT
from songstarter.stages.sampler import Draw


class Occupant:
    """Keeps no more of a take than the window it is in, and what was not sent.

    ``filling`` is the slot's own, or that of another slot with the same beginning, which is copied when it is done;
    ``lengths`` [2] are the positions that each row of the slot holds.
    """

    def __init__(self, take: Take, pattern: DelayPattern) -> None:
        self.take = take
        self.playing = False
        self.filling: Filling
        self.lengths: Array
        self._pattern = pattern
        self._sent = 0  # frames
        self._awaited = self._next_due()  # frames that must be complete before anything is sent again
        self._unsent = np.zeros((len(pattern.delays), 0), np.int32)  # frames of earlier windows
        self._enter(0)
        self.grid = Grid(pattern, self.window.frames, take.beginning.opening)

    def _enter(self, number: int) -> None:
        """Note what holds throughout a window, for every step asks."""
        self._number = number
        self.window = self.take.beginning.windows[number]
        self.prefix = self.take.beginning.prefix(number)
        # By how many positions a step makes each row of the slot longer [2]: where nothing is guided, one row is idle.
        self.grown = np.arange(ROWS_PER_SLOT) < len(self.prefix.rows)

    @property
    def known(self) -> Array:
        """What a slot is filled with before the take plays: all columns that stand but the last, fed by a step."""
        return self.grid.so_far[:, :-1]

    @property
    def draw(self) -> Draw:
        """The next column's draw. Steps count on through all windows, so each cell has random numbers of its own."""
        take = self.take
        return Draw(take.sampling, take.seed, take.variation, self.window.start + self.grid.next)

    @property
    def begins(self) -> bool:
        """Whether it is in its first window, which the variations of a request begin alike."""
        return self._number == 0

    @property
    def between_windows(self) -> bool:
        return self.grid.done and self.window.end < self.take.beginning.frames

    def fill(self, filling: Filling) -> None:
        """Be filled with its window's beginning from now on."""
        self.filling = filling
        self.lengths = filling.lengths.copy()
        self.playing = False

    def enter_next_window(self) -> None:
        """Go on in the next window, with the end of this one as its opening."""
        window = self.window
        self._unsent = self._frames_until(window.end)
        self._enter(self._number + 1)
        opening = self.grid.frames(self.window.start - window.start, window.frames)
        self.grid = Grid(self._pattern, self.window.frames, opening)

    def due(self) -> Chunk | None:
        """The next chunk, once all its frames are complete; its frames count as sent."""
        complete = self.window.start + self.grid.complete
        if complete < self._awaited:
            return None
        chunk = Chunk(self._sent, self._frames_until(complete), last=complete == self.take.beginning.frames)
        self._sent, self._unsent = complete, self._unsent[:, :0]
        self._awaited = self._next_due()
        return chunk

    def _next_due(self) -> int:
        return min(self.take.chunks.due(self._sent), self.take.beginning.frames)

    def _frames_until(self, stop: int) -> Array:
        """All that was not sent, up to frame ``stop`` of the take, [codebook, frame]."""
        start = self.window.start
        fresh = self.grid.frames(self._sent + self._unsent.shape[1] - start, stop - start)
        return np.concatenate([self._unsent, fresh], axis=1)
