"""The streaming public model's work on one request: parse, condition, and render while the decoder still decodes."""

from __future__ import annotations

import base64
from collections.abc import Generator, Iterator, MutableMapping
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from songstarter import event_log
from songstarter.array import Array
from songstarter.audio_stream import ENCODERS
from songstarter.checkpoint import Checkpoint
from songstarter.chunks import REACH, WIDTH
from songstarter.contract import STREAM_FIELDS
from songstarter.errors import Cancelled, SongstarterError, TakeFailed
from songstarter.faces.face import Face
from songstarter.faces.heartbeat import with_beats
from songstarter.faces.rendering import Renderer
from songstarter.faces.stages import Stages, Tensors
from songstarter.faces.visits import Visit
from songstarter.levelling import leveller
from songstarter.request import Request

BEAT = 0.4  # seconds without a message after which an empty one is sent, so that a caller who left is noticed

# Frames: what the decoder sends at a time, and what is rendered first, in one run of the codec without padding.
STEP = WIDTH
FIRST = STEP + REACH


MOST_FLOAT = float(np.finfo(np.float32).max)  # a nearly silent take's gain may be more


class StreamFace:
    """Answers requests with messages; it holds no state of any of them, so many may be under way at once."""

    def __init__(self, repository: Path, stages: Stages, *, codec_calls: float = 8, **bounds: float) -> None:
        """Read the exported repository; ``bounds`` are those of ``Face``.

        Raises:
            CheckpointError: it is not complete.
        """
        self._checkpoint = Checkpoint.read(repository)
        self._stages = stages
        self._face = Face(repository, stages, fields=STREAM_FIELDS, **bounds)
        self._renderer = Renderer(self._checkpoint, stages, codec_calls=int(codec_calls))

    def answer(self, values: MutableMapping[str, Any], visit: Visit) -> Generator[Tensors, None, None]:
        """Messages (``contract.STREAM_OUTPUTS``) for plain values by the names of ``contract.STREAM_FIELDS``,
        which are emptied as by ``Face``.

        No message comes before the request is understood and its audio read: over HTTP the first one decides the
        status.

        Raises:
            SongstarterError: one of its leaves; InvalidRequest where the caller can mend it.
        """
        request, order = self._face.prepare(values, visit)
        frames = self._checkpoint.frames_in(request.duration)
        takes = [
            TakeStream(self._checkpoint, self._renderer, request, frames, visit) for _ in range(request.variations)
        ]
        order |= {"first_chunk": np.array([FIRST], np.int32), "chunk": np.array([STEP], np.int32)}
        yield from self._messages(order, takes, request, visit)
        if not all(take.complete for take in takes):
            raise TakeFailed(f"the decoder ended before all of {len(takes)} takes were complete")

    def _messages(
        self, order: Tensors, takes: list[TakeStream], request: Request, visit: Visit
    ) -> Generator[Tensors, None, None]:
        with closing(with_beats(self._stages.decode(order), BEAT)) as pieces, _stopping(visit):
            for piece in pieces:
                if piece is None:
                    variation = next((number for number, take in enumerate(takes) if not take.complete), 0)
                    yield self._message(variation, takes[variation].unchanged(), request)
                    continue
                variation = int(piece["variation"].item())
                for chunk in takes[variation].push(piece["codes"]):
                    if chunk.new_seconds:
                        visit.rendered(chunk.new_seconds)
                    yield self._message(variation, chunk, request)

    def _message(self, variation: int, chunk: Chunk, request: Request) -> Tensors:
        audio = chunk.audio if request.encoding == "raw" else base64.b64encode(chunk.audio)
        checkpoint = self._checkpoint
        total = checkpoint.frames_in(request.duration) / checkpoint.frames_per_second
        return {
            "audio": np.array([audio], dtype=object),
            "variation": np.array([variation], np.int32),
            "seconds": np.array([chunk.seconds], np.float32),
            "total_seconds": np.array([total], np.float32),
            "gain": np.array([min(chunk.gain, MOST_FLOAT)], np.float32),
            "last": np.array([chunk.last]),
            "seed": np.array([request.seed], np.int64),
            "sample_rate": np.array([checkpoint.sample_rate], np.int32),
            "channels": np.array([checkpoint.channels], np.int32),
        }


@contextmanager
def _stopping(visit: Visit) -> Iterator[None]:
    """Whatever ends the block too soon stops the visit, and so its order, for whose end somebody may wait."""
    try:
        yield
    except SongstarterError as error:
        visit.stop(error)
        raise
    except GeneratorExit:
        visit.stop(Cancelled("the caller cannot be reached"))
        raise
    except Exception as error:
        event_log.write("stream_failed", request=visit.request_id, **event_log.facts_of(error))
        visit.stop(TakeFailed("the server failed to make this stream; its log says more"))
        raise


@dataclass(frozen=True)
class Chunk:
    """What is new of a take: bytes of its file, and how it stands after them."""

    audio: bytes
    new_seconds: float
    seconds: float
    gain: float
    last: bool


class TakeStream:
    """One take on its way to the caller: frames in, chunks of its file out."""

    def __init__(self, checkpoint: Checkpoint, renderer: Renderer, request: Request, frames: int, visit: Visit) -> None:
        rate, channels = checkpoint.sample_rate, checkpoint.channels
        length = frames * checkpoint.samples_per_frame
        self._rate = rate
        self._renderer = renderer
        self._song = renderer.song(frames, visit)
        self._level = leveller(request.normalization, rate, channels)
        self._file = ENCODERS[request.audio_format](rate, channels, length)
        self._lengths = chunk_lengths(max(checkpoint.frames_in(request.chunk_seconds), 1))
        self._wanted = next(self._lengths)
        self._waiting: Array = np.zeros((checkpoint.codebooks, 0), np.int32)
        self._missing = frames
        self._sent = 0

    @property
    def complete(self) -> bool:
        return self._missing == 0 and self._waiting.shape[1] == 0

    def push(self, codes: Array) -> Iterator[Chunk]:
        """The take's next frames [codebook, frame] -> a chunk whenever there are enough for one."""
        self._waiting = np.concatenate([self._waiting, codes], axis=1)
        self._missing -= codes.shape[1]
        while self._waiting.shape[1] >= self._wanted or (self._missing == 0 and self._waiting.shape[1]):
            chunk, self._waiting = np.split(self._waiting, [self._wanted], axis=1)
            self._wanted = next(self._lengths)
            yield self._rendered(chunk)

    def unchanged(self) -> Chunk:
        """Nothing new."""
        return Chunk(b"", 0.0, self._sent / self._rate, self._level.gain, False)

    def _rendered(self, codes: Array) -> Chunk:
        samples = self._level.push(self._song.push(self._renderer.by_channel(codes)))
        if self.complete:
            samples = np.concatenate([samples, self._level.finish()], axis=1)
        audio = self._file.push(samples) + (self._file.finish() if self.complete else b"")
        new = samples.shape[1]
        self._sent += new
        return Chunk(audio, new / self._rate, self._sent / self._rate, self._level.gain, self.complete)


def chunk_lengths(longest: int) -> Iterator[int]:
    """Frames of a take's chunks: few at first, so that music begins soon, then half as many as have gone before.

    Played from the first chunk on, a take that is made half again as fast as it plays never runs dry.
    """
    sent = length = min(FIRST, longest)
    yield length
    while length < longest:
        length = min(max(sent // 2 // STEP, 1) * STEP, longest)
        sent += length
        yield length
    while True:
        yield longest
