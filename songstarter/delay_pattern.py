"""Frames to columns and back: codebook q runs ``delays[q]`` steps behind (spec 2.2).

Stereo, four frames; rows are codebooks, columns are steps, a dot is the special token:

    step    0 1 2 3 4 5 6 7
    L0,R0   . 0 1 2 3 . . .
    L1,R1   . . 0 1 2 3 . .
    L2,R2   . . . 0 1 2 3 .
    L3,R3   . . . . 0 1 2 3

A frame is the K codes of one tick; a column is the K tokens of one step. Stereo is nothing but
``delays = (0, 0, 1, 1, 2, 2, 3, 3)``.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from songstarter.array import Array

UNKNOWN = -1


@dataclass(frozen=True)
class DelayPattern:
    """The delays of a checkpoint's codebooks and the token that stands where no frame reaches."""

    delays: tuple[int, ...]
    special: int

    def columns_of(self, frames: int) -> int:
        """How many columns a take of ``frames`` frames has."""
        return frames + max(self.delays) + 1

    def to_columns(self, frames: Array) -> Array:
        """[codebook, frame] -> [codebook, column]."""
        count = frames.shape[1]
        columns = np.full((len(self.delays), self.columns_of(count)), self.special, frames.dtype)
        for codebook, delay in enumerate(self.delays):
            columns[codebook, 1 + delay : 1 + delay + count] = frames[codebook]
        return columns

    def to_frames(self, columns: Array) -> Array:
        """[codebook, column] -> [codebook, frame]; the inverse of ``to_columns``."""
        count = columns.shape[1] - max(self.delays) - 1
        return np.stack([row[1 + delay :][:count] for row, delay in zip(columns, self.delays, strict=True)])


class Grid:
    """The columns of one take while they fill up, first to last.

    An opening's frames are known from the start; so are the special tokens. ``push`` fills what is unknown
    of the next column and keeps what is known.
    """

    def __init__(self, pattern: DelayPattern, frames: int, opening: Array | None = None) -> None:
        """Begin with ``opening`` [codebook, frame], which is shorter than ``frames``."""
        known = np.full((len(pattern.delays), frames), UNKNOWN, np.int32)
        start = 0 if opening is None else opening.shape[1]
        if opening is not None:
            known[:, :start] = opening
        self._pattern = pattern
        self._columns = pattern.to_columns(known)
        self._wanting: list[bool] = (self._columns == UNKNOWN).all(axis=0).tolist()  # nothing is known of the column
        self._latest = max(pattern.delays)
        self._opening = start
        self._next = start + 1

    @property
    def done(self) -> bool:
        return self._next == self._columns.shape[1]

    @property
    def next(self) -> int:
        """The index of the column to be pushed next."""
        return self._next

    @property
    def last(self) -> Array:
        """The last column that stands, [codebook]."""
        return self._columns[:, self._next - 1]

    @property
    def so_far(self) -> Array:
        """The columns that stand, [codebook, column]."""
        return self._columns[:, : self._next]

    def push(self, column: Array) -> None:
        """Take ``column`` [codebook] as the next one."""
        if not self._wanting[self._next]:
            target = self._columns[:, self._next]
            column = np.where(target == UNKNOWN, column, target)
        self._columns[:, self._next] = column
        self._next += 1

    @property
    def complete(self) -> int:
        """How many frames have all their codes, from the first on."""
        return max(self._opening, self._next - 1 - self._latest)

    def frames(self, start: int, stop: int) -> Array:
        """Frames ``start`` to ``stop``, [codebook, frame], which must be complete."""
        return self._pattern.to_frames(self._columns[:, start : stop + max(self._pattern.delays) + 1])
