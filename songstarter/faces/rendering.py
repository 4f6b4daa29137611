"""From a take's frames to a file: codec, normalisation, encoding."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from songstarter.array import Array
from songstarter.audio_file import data_uri, encode
from songstarter.checkpoint import Checkpoint
from songstarter.chunks import SongDecoder
from songstarter.contract import CODEC_DECODER
from songstarter.faces.stages import Stages, Tensors
from songstarter.faces.turns import Turns
from songstarter.faces.visits import Visit
from songstarter.loudness import METERS, levelled, require_finite
from songstarter.request import Request
from songstarter.waveform import Samples, Waveform


class Renderer:
    """Makes audible what the decoder wrote; visits take turns at the codec."""

    def __init__(self, checkpoint: Checkpoint, stages: Stages, *, codec_calls: int) -> None:
        """``codec_calls``: how many may be under way at once; who has more to decode waits for its turn."""
        self._checkpoint = checkpoint
        self._stages = stages
        self._turns = Turns(codec_calls)

    def take(self, frames: int, request: Request, visit: Visit) -> Take:
        """A take that is heard as a whole, and due when it would have been played.

        So the short do not wait for the long, and of takes that came together one is done after the other.
        """
        due = visit.arrived + frames / self._checkpoint.frames_per_second
        return Take(self._song(frames, visit, lambda: due), self.by_channel, request, self._checkpoint.sample_rate)

    def song(self, frames: int, visit: Visit) -> SongDecoder:
        """A song of so many frames, to be decoded as its codes come; what is next is due when the rest is played."""
        song = self._song(frames, visit, lambda: visit.arrived + song.heard / self._checkpoint.frames_per_second)
        return song

    def by_channel(self, frames: Array) -> Array:
        """[codebook, frame] -> [channel, codec codebook, frame]."""
        codes: Array = frames.reshape(-1, self._checkpoint.channels, frames.shape[1]).transpose(1, 0, 2)
        return codes

    def _song(self, frames: int, visit: Visit, due: Callable[[], float]) -> SongDecoder:
        def run(inputs: Tensors) -> Tensors:
            with self._turns.turn(visit, due()):
                return self._stages.run(CODEC_DECODER, inputs)

        return SongDecoder(run, self._checkpoint.codec, channels=self._checkpoint.channels, frames=frames)


class Take:
    """One take as far as its frames have come: codec and meter work while the decoder still does."""

    def __init__(self, song: SongDecoder, by_channel: Callable[[Array], Array], request: Request, rate: int) -> None:
        self._song = song
        self._by_channel = by_channel
        self._request = request
        self._rate = rate
        self._meter = METERS[request.normalization](rate)
        self._pieces: list[Samples] = []

    def push(self, frames: Array) -> None:
        """The next frames [codebook, frame].

        Raises:
            TakeFailed: a sample is infinite or not a number.
        """
        samples = self._song.push(self._by_channel(frames))
        require_finite(samples)
        self._meter.hear(samples)
        self._pieces.append(samples)

    @property
    def complete(self) -> bool:
        return self._song.complete

    def file(self) -> bytes:
        """The whole take as the bytes of a file, or of its data URI, as the request wants it."""
        request = self._request
        samples = levelled(np.concatenate(self._pieces, axis=1), self._meter)
        data = encode(Waveform(samples, self._rate), request.audio_format)
        return data if request.encoding == "raw" else data_uri(data, request.audio_format).encode()
