"""The engine under the clock: real takes in real slots, guidance, sampling and bookkeeping included."""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np

from benchmarks.shapes import MELODY_FRAMES, PREFIX
from benchmarks.timing import WARM_STEPS, Step, first_context
from songstarter.array import Array
from songstarter.checkpoint import Checkpoint, Device
from songstarter.delay_pattern import DelayPattern
from songstarter.engine.engine import Engine
from songstarter.engine.take import Beginning, ChunkSizes, Outcome, Take
from songstarter.errors import Cancelled, SongstarterError
from songstarter.request import USUAL_PRIORITY, Sampling
from songstarter.stages.decoder import DecoderStage
from songstarter.stages.device_decoder import DeviceDecoder
from songstarter.stages.filling import Prefix
from songstarter.stages.sampler import Columns, Draw
from songstarter.windows import Window

SAMPLING = Sampling()  # what a request gets that asks for nothing else: guidance 3, top-k 250
SPARE_FRAMES = 16  # a take must not end while it is measured
MOST_STEPS_TO_BEGIN = 1000


class Timed(DecoderStage):
    """A stage that notes how long the model took in a step, and whether slots were filled meanwhile."""

    def __init__(self, *arguments: Any, **settings: Any) -> None:
        super().__init__(*arguments, **settings)
        self.seconds = 0.0
        self.stepped = 0  # slots up to the last that drew
        self.fillings = 0

    def next_columns(self, columns: Array, lengths: Array, draws: Mapping[int, Draw]) -> Columns:
        self.stepped = max(draws) + 1
        return self.timed(lambda: super(Timed, self).next_columns(columns, lengths, draws))

    def fill(self, *arguments: Any, **settings: Any) -> Any:
        self.fillings += 1
        return super().fill(*arguments, **settings)

    def copy(self, *arguments: Any, **settings: Any) -> Any:
        self.fillings += 1
        return super().copy(*arguments, **settings)

    def timed(self, work: Callable[[], Any]) -> Any:
        start = time.perf_counter()
        result = work()
        self.seconds = time.perf_counter() - start
        return result


class TimedOnHost(Timed, DecoderStage):
    """On the CPU the model's time is that of its logits: sampling comes after."""

    def next_columns(self, columns: Array, lengths: Array, draws: Mapping[int, Draw]) -> Columns:
        self.stepped = max(draws) + 1
        return DecoderStage.next_columns(self, columns, lengths, draws)

    def step(self, columns: Array, lengths: Array) -> Array:
        logits: Array = self.timed(lambda: super(TimedOnHost, self).step(columns, lengths))
        return logits


class TimedOnDevice(Timed, DeviceDecoder):
    """On a device sampling is the model's last part."""


TIMED: Mapping[str, type[Timed]] = {"cpu": TimedOnHost, "cuda": TimedOnDevice}


@dataclass
class Song:
    """A take's chunk, which is all of it, or its error; once it came."""

    outcome: Outcome | None = None

    def hear(self, take: Take, outcome: Outcome) -> None:
        self.outcome = outcome


class OurDecode:
    """An engine with slots for so many songs; use it as a context manager, its memory is large."""

    def __init__(
        self, repository: Path, checkpoint: Checkpoint, *, slots: int, threads: int = 0, device: Device | None = None
    ) -> None:
        made_for = checkpoint.decoder.device
        self._decoder = TIMED[made_for](repository, checkpoint, slots=slots, threads=threads, device=device or made_for)
        pattern = DelayPattern(checkpoint.delays, checkpoint.special_token)
        self._engine = Engine(self._decoder, pattern, max_waiting=slots)
        random = np.random.default_rng(0)
        self._guided, self._null = random.standard_normal((2, PREFIX, checkpoint.decoder.hidden), np.float32)
        self._null[:MELODY_FRAMES] = self._guided[:MELODY_FRAMES]  # a prompt without a melody, as most are
        codes = checkpoint.codebooks, checkpoint.decoder.positions
        self._codes = random.integers(0, checkpoint.vocabulary, codes, np.int32)

    @property
    def computed_by(self) -> str:
        return self._decoder.computed_by

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        del self._decoder, self._engine
        gc.collect()

    def measure(
        self, songs: int, context: int, steps: int, watched: AbstractContextManager[object] | None = None
    ) -> list[Step]:
        """Time steps of so many songs around a context, under the eyes of ``watched``.

        An opening brings them there; they are variations of one request, so that it is computed once.
        """
        start = first_context(context, steps)
        known = max(start - PREFIX, 0)
        frames = known + steps + SPARE_FRAMES
        prefix = Prefix(self._guided[:start], self._null[:start])
        beginning = Beginning([prefix], self._codes[:, :known] if known else None, [Window(0, frames, known)])
        heard = [Song() for _ in range(songs)]
        takes = [
            Take(beginning, SAMPLING, 0, variation, USUAL_PRIORITY, ChunkSizes(frames, frames), song.hear)
            for variation, song in enumerate(heard)
        ]
        self._engine.submit(takes)
        self._until_all_play(songs)
        for _ in range(WARM_STEPS - 1):
            self._engine.step()
        with watched or nullcontext():
            timed = [self._timed_step(songs) for _ in range(steps)]
        self._end(takes, heard)
        return timed

    def _until_all_play(self, songs: int) -> None:
        """Step until one step moved every song and filled nothing."""
        for _ in range(MOST_STEPS_TO_BEGIN):
            self._decoder.stepped = self._decoder.fillings = 0
            self._engine.step()
            if self._decoder.stepped == songs and not self._decoder.fillings:
                return
        raise RuntimeError(f"{songs} songs did not all play after {MOST_STEPS_TO_BEGIN} steps")

    def _timed_step(self, songs: int) -> Step:
        self._decoder.stepped = 0
        start = time.perf_counter()
        self._engine.step()
        seconds = time.perf_counter() - start
        if self._decoder.stepped != songs:
            raise RuntimeError(f"a step moved {self._decoder.stepped} songs where {songs} play")
        return Step(seconds, self._decoder.seconds)

    def _end(self, takes: list[Take], heard: list[Song]) -> None:
        for take in takes:
            take.cancel()
        while not self._engine.idle:
            self._engine.step()
        for song in heard:
            if isinstance(song.outcome, SongstarterError) and not isinstance(song.outcome, Cancelled):
                raise song.outcome
