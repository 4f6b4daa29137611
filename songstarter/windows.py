"""The chain of windows of a take: what does not fit one KV context is made in several (spec 2.8).

Each window spans up to 30 s, positions restart in it, and it begins with what the one before it made after its first
18 s:

    frames    0         900       1500      2400      3000
    window 0  |--------- new ------|
    window 1            |- opening |-- new --|
    window 2                      |- opening |-- new ...
"""

from __future__ import annotations

from dataclasses import dataclass

from songstarter.checkpoint import exact_division

STRIDE = 3, 5  # of a window: 18 s of 30


@dataclass(frozen=True)
class Window:
    """``frames`` frames of a take from frame ``start`` on, of which the first ``opening`` are known when it begins."""

    start: int
    frames: int
    opening: int

    @property
    def end(self) -> int:
        return self.start + self.frames


def stride_of(window_frames: int) -> int:
    """By how many frames windows of ``window_frames`` follow each other."""
    return exact_division(STRIDE[0] * window_frames, STRIDE[1])


def windows_of(frames: int, opening: int = 0, *, window_frames: int) -> tuple[Window, ...]:
    """The windows of a take of ``frames`` frames; its ``opening`` is shorter than that, and than a window."""
    stride = stride_of(window_frames)
    chain = [Window(0, min(frames, window_frames), opening)]
    while chain[-1].end < frames:
        last = chain[-1]
        start = last.start + stride
        chain.append(Window(start, min(frames - start, window_frames), last.end - start))
    return tuple(chain)
