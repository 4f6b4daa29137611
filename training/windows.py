"""Batches for the decoder: windows of songs, with the conditions that each row is given.

The kinds take turns. Most have no melody, and the chroma of silence is one row for all of them; some follow a
melody, with a prompt or with an empty one; some are beginnings alone, where the prompt decides what happens, for
later the song itself tells; some are long, so that the later positions are known too. A window that
begins later in a song keeps its place, and lacks only what came before.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from songstarter.delay_pattern import DelayPattern
from training.pieces import CHROMA_FRAMES, Piece

PATTERN = DelayPattern((0, 0, 1, 1, 2, 2, 3, 3), special=512)
WITHOUT_TEXT = 0.15  # of the rows
FROM_THE_START = 0.7  # of the rows
REPLACED = (-0.5, 0.4)  # of a row, evenly between; below zero is none


@dataclass(frozen=True)
class Kind:
    rows: int
    columns: int
    melody: bool
    without_text: float = WITHOUT_TEXT
    from_the_start: float = FROM_THE_START


USUAL = Kind(rows=8, columns=300, melody=False)
FOLLOWING = Kind(rows=6, columns=300, melody=True)
UNPROMPTED = Kind(rows=6, columns=300, melody=True, without_text=1.0)
BEGINNING = Kind(rows=20, columns=120, melody=False, from_the_start=1.0)
LONG = Kind(rows=2, columns=900, melody=False)
TURNS = (USUAL, FOLLOWING, BEGINNING, UNPROMPTED, USUAL, FOLLOWING, BEGINNING, LONG)


@dataclass(frozen=True)
class Batch:
    """``chroma`` [1 or row, chroma frame], ``tokens`` [row, token], ``kept`` [row], ``places`` [row]: the number of
    each row's first column. ``columns`` [row, codebook, column] are fed, and ``wanted`` are those that follow."""

    chroma: torch.Tensor
    tokens: torch.Tensor
    kept: torch.Tensor
    columns: torch.Tensor
    wanted: torch.Tensor
    places: torch.Tensor


def corrupted(columns: torch.Tensor, random: np.random.Generator) -> torch.Tensor:
    """The columns [row, codebook, column] as the decoder sees them: in many rows a part is other than it was.

    Whole columns and single tokens are replaced by others of the same codebook. So the decoder has seen that not all it
    reads is right, as what it made itself will not be; and the nearest columns do not tell all.
    """
    rows, _, count = columns.shape
    others = columns[torch.from_numpy(random.permutation(rows))][..., torch.from_numpy(random.permutation(count))]
    share = torch.from_numpy(random.uniform(*REPLACED, (2, rows))).clamp(min=0)
    whole = torch.from_numpy(random.random((rows, 1, count))) < share[0][:, None, None]
    single = torch.from_numpy(random.random(tuple(columns.shape))) < 0.5 * share[1][:, None, None]
    replaced = (whole | single) & (columns != PATTERN.special) & (others != PATTERN.special)
    return torch.where(replaced, others, columns)


class Windows:
    """Cuts windows; which ones, a step's number and a process's rank decide."""

    def __init__(self, pieces: list[Piece]) -> None:
        self._pieces = pieces
        self._alike: dict[int, list[Piece]] = {}  # prompts of a batch are equally long
        for piece in pieces:
            self._alike.setdefault(len(piece.tokens), []).append(piece)

    def batch(self, step: int, rank: int = 0, corrupt: bool = True) -> Batch:
        kind = TURNS[step % len(TURNS)]
        random = np.random.default_rng((step, rank))
        alike = self._alike[len(self._pieces[random.integers(len(self._pieces))].tokens)]
        pieces = [alike[i] for i in random.integers(len(alike), size=kind.rows)]
        whole = [piece.columns(PATTERN) for piece in pieces]
        last = whole[0].shape[1] - kind.columns - 1
        late = random.random(kind.rows) >= kind.from_the_start
        places = np.where(late, random.integers(last + 1, size=kind.rows), 0)
        cut = [columns[:, place : place + kind.columns + 1] for columns, place in zip(whole, places, strict=True)]
        columns = torch.from_numpy(np.stack(cut).astype(np.int64))
        return Batch(
            chroma=torch.from_numpy(_chroma(random, pieces, kind.melody)),
            tokens=torch.tensor([piece.tokens[-1:] if kind is UNPROMPTED else piece.tokens for piece in pieces]),
            kept=torch.from_numpy((random.random(kind.rows) >= kind.without_text).astype(np.float32)),
            columns=corrupted(columns[..., :-1], random) if corrupt else columns[..., :-1],
            wanted=columns[..., 1:],
            places=torch.from_numpy(places),
        )


def _chroma(random: np.random.Generator, pieces: list[Piece], melody: bool) -> np.ndarray:
    """Each piece's own, of the mix or of the lead; without a melody that of silence, which is all C."""
    if not melody:
        return np.zeros((1, CHROMA_FRAMES), np.int64)
    return np.stack([piece.chroma[random.integers(len(piece.chroma))] for piece in pieces]).astype(np.int64)
