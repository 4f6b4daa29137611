"""The same piece at another tempo: every sixteenth loses its last frames, or its last frame sounds again.

It costs nothing, where a new piece costs a pass through the codec; and a piece at many tempos cannot be known by heart
without reading its tempo.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from training.composer import BEATS, FRAMES_PER_MINUTE, STEPS, TEMPOS, beat_frames, frame_of
from training.pieces import Piece
from training.tokenizer import make_tokenizer

FEWEST, MOST = -4, 2  # frames by which a beat changes
_VOCABULARY = make_tokenizer().get_vocab()
_TEMPO_OF = {_VOCABULARY[str(tempo)]: tempo for tempo in TEMPOS}
_TEMPOS_OF_BEAT: dict[int, list[int]] = {}
for _tempo in TEMPOS:
    # round tempos are asked for more often
    _TEMPOS_OF_BEAT.setdefault(beat_frames(_tempo), []).extend([_tempo] * (8 if _tempo % 10 == 0 else 1))


def paced(piece: Piece, random: np.random.Generator) -> Piece:
    """The piece, its tempo word and its chroma, a few frames a beat faster or slower."""
    old = piece.codes.shape[1] // BEATS
    new = int(np.clip(old + random.integers(FEWEST, MOST + 1), beat_frames(TEMPOS[-1]), beat_frames(TEMPOS[0])))
    if new == old:
        return piece
    word = next(i for i, token in enumerate(piece.tokens) if token in _TEMPO_OF)
    tempos = _TEMPOS_OF_BEAT[new]
    tempo = tempos[random.integers(len(tempos))]
    tokens = (*piece.tokens[:word], _VOCABULARY[str(tempo)], *piece.tokens[word + 1 :])
    times = np.minimum(np.arange(piece.chroma.shape[1]) * old / new, piece.chroma.shape[1] - 1).astype(int)
    return replace(piece, tokens=tokens, codes=piece.codes[:, _frames(old, new)], chroma=piece.chroma[:, times])


def as_composed(piece: Piece, random: np.random.Generator) -> Piece:
    """The piece as it is."""
    return piece


def _frames(old: int, new: int) -> np.ndarray:
    """Which frames of the old cycle make the new one."""
    starts = [[frame_of(step, FRAMES_PER_MINUTE / beat) for step in range(STEPS + 1)] for beat in (old, new)]
    parts = []
    for step in range(STEPS):
        (old_start, old_end), (new_start, new_end) = (row[step : step + 2] for row in starts)
        parts.append(np.minimum(old_start + np.arange(new_end - new_start), old_end - 1))
    return np.concatenate(parts)
