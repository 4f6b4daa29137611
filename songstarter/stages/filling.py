"""What a slot begins with, and how far it is filled with it."""

from __future__ import annotations

from dataclasses import dataclass

from songstarter.array import Array

# A call of one position takes other kernels, whose last bits differ. Two and more agree to the last bit however
# a row is cut into pieces, so that a song does not depend on what was kept or on who else was playing.
FEWEST = 2


@dataclass(frozen=True, eq=False)
class Prefix:
    """What a take is conditioned on: guided and null embeddings, each [position, hidden].

    A take that is not guided (guidance 1) has no null twin, and its slot's second row stays idle.
    """

    guided: Array
    null: Array | None

    @property
    def rows(self) -> tuple[Array, ...]:
        """One sequence of embeddings for each row of a slot that is used."""
        return (self.guided,) if self.null is None else (self.guided, self.null)


@dataclass(eq=False)
class RowFilling:
    """A row on its way: ``embeddings`` [position, hidden] and then ``columns`` [codebook, column] go in."""

    row: int
    embeddings: Array
    columns: Array
    filled: int

    @property
    def length(self) -> int:
        return len(self.embeddings) + self.columns.shape[1]

    @property
    def left(self) -> int:
        return self.length - self.filled

    def piece(self, most: int) -> tuple[Array, Array, int, int]:
        """The next embeddings and columns, at most ``most`` together, and where they begin and end."""
        start = min(self.filled, max(self.length - FEWEST, 0))
        stop = min(self.length, start + max(most, FEWEST))
        if self.length - stop < FEWEST:
            stop = self.length
        split = len(self.embeddings)
        columns = self.columns[:, max(start - split, 0) : max(stop - split, 0)]
        return self.embeddings[start:stop], columns, start, stop


@dataclass(eq=False)
class Filling:
    """A slot on its way: its rows that still lack something."""

    slot: int
    rows: list[RowFilling]
    lengths: Array  # [2]: what each row of the slot holds in the end

    @property
    def left(self) -> int:
        """Positions still to be computed, over all rows."""
        return sum(row.left for row in self.rows)

    @property
    def done(self) -> bool:
        return not self.rows
