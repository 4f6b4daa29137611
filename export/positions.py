"""How long a context a slot has memory for; without torch, for those who plan with it too."""

from __future__ import annotations

MAX_TOKENS = 256  # of a prompt; the original knows no bound
WINDOW_SECONDS = 30
POSITION_STEP = 16  # decoder.c's bytes lie in blocks of so many


def positions_of(*, melody_frames: int | None, frames_per_second: int, latest_column: int) -> int:
    """The longest prefix, a window's frames, and the columns more that the delays need.

    Without a melody the text is no prefix, but attended to in every layer.
    """
    prefix = 0 if melody_frames is None else melody_frames + MAX_TOKENS
    needed = prefix + WINDOW_SECONDS * frames_per_second + latest_column + 1
    return -(-needed // POSITION_STEP) * POSITION_STEP
