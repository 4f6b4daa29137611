"""The engine under the clock: real takes in real slots, guidance, sampling and bookkeeping included."""

from __future__ import annotations

import gc
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np

from benchmarks.timing import WARM_STEPS, Step, first_context
from songstarter.array import Array
from songstarter.checkpoint import Checkpoint
from songstarter.delay_pattern import DelayPattern
from songstarter.engine.engine import Engine
from songstarter.engine.take import Beginning, ChunkSizes, Outcome, Take
from songstarter.errors import Cancelled, SongstarterError
from songstarter.request import USUAL_PRIORITY, Sampling
from songstarter.stages.decoder import DecoderStage, Prefix
from songstarter.windows import Window

SAMPLING = Sampling()  # what a request gets that asks for nothing else: guidance 3, top-k 250
SPARE_FRAMES = 16  # a take must not end while it is measured
MOST_STEPS_TO_BEGIN = 1000


class TimedDecoder(DecoderStage):
    """The decoder stage, noting how long a step takes in it and whether slots were filled meanwhile."""

    def __init__(self, repository: Path, checkpoint: Checkpoint, *, slots: int, threads: int) -> None:
        super().__init__(repository, checkpoint, slots=slots, threads=threads)
        self.seconds = 0.0
        self.stepped = 0  # slots in the last step
        self.fillings = 0

    def step(self, *arguments: Any, **settings: Any) -> Array:
        start = time.perf_counter()
        logits = super().step(*arguments, **settings)
        self.seconds = time.perf_counter() - start
        self.stepped = len(logits)
        return logits

    def fill(self, *arguments: Any, **settings: Any) -> Any:
        self.fillings += 1
        return super().fill(*arguments, **settings)

    def copy(self, *arguments: Any, **settings: Any) -> Any:
        self.fillings += 1
        return super().copy(*arguments, **settings)


@dataclass
class Song:
    """A take's chunk, which is all of it, or its error; once it came."""

    outcome: Outcome | None = None

    def hear(self, take: Take, outcome: Outcome) -> None:
        self.outcome = outcome


class OurDecode:
    """An engine with as many slots as there are songs; use it as a context manager, its memory is large."""

    def __init__(self, repository: Path, checkpoint: Checkpoint, *, songs: int, threads: int) -> None:
        self._songs = songs
        self._decoder = TimedDecoder(repository, checkpoint, slots=songs, threads=threads)
        pattern = DelayPattern(checkpoint.delays, checkpoint.special_token)
        self._engine = Engine(self._decoder, pattern, max_waiting=songs)
        random = np.random.default_rng(0)
        shape = (checkpoint.decoder.positions, checkpoint.decoder.hidden)
        self._guided, self._null = random.standard_normal((2, *shape), np.float32)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        del self._decoder, self._engine
        gc.collect()

    def measure(self, context: int, steps: int) -> list[Step]:
        """Time steps of all songs around a context.

        A prefix as long as the context brings them there; the songs share it, so that it is computed once.
        """
        start = first_context(context, steps)
        frames = steps + SPARE_FRAMES
        beginning = Beginning([Prefix(self._guided[:start], self._null[:start])], None, [Window(0, frames, 0)])
        songs = [Song() for _ in range(self._songs)]
        takes = [
            Take(beginning, SAMPLING, 0, variation, USUAL_PRIORITY, ChunkSizes(frames, frames), song.hear)
            for variation, song in enumerate(songs)
        ]
        self._engine.submit(takes)
        self._until_all_play()
        for _ in range(WARM_STEPS - 1):
            self._engine.step()
        timed = [self._timed_step() for _ in range(steps)]
        self._end(takes, songs)
        return timed

    def _until_all_play(self) -> None:
        """Step until one step moved every song and filled nothing."""
        for _ in range(MOST_STEPS_TO_BEGIN):
            self._decoder.stepped = self._decoder.fillings = 0
            self._engine.step()
            if self._decoder.stepped == self._songs and not self._decoder.fillings:
                return
        raise RuntimeError(f"{self._songs} songs did not all play after {MOST_STEPS_TO_BEGIN} steps")

    def _timed_step(self) -> Step:
        self._decoder.stepped = 0
        start = time.perf_counter()
        self._engine.step()
        seconds = time.perf_counter() - start
        if self._decoder.stepped != self._songs:
            raise RuntimeError(f"a step moved {self._decoder.stepped} songs where {self._songs} play")
        return Step(seconds, self._decoder.seconds)

    def _end(self, takes: list[Take], songs: list[Song]) -> None:
        for take in takes:
            take.cancel()
        while not self._engine.idle:
            self._engine.step()
        for song in songs:
            if isinstance(song.outcome, SongstarterError) and not isinstance(song.outcome, Cancelled):
                raise song.outcome
