"""From a take's frames to a file: codec, normalisation, encoding."""

from __future__ import annotations

from collections.abc import Callable

from songstarter.array import Array
from songstarter.audio_file import data_uri, encode
from songstarter.checkpoint import Checkpoint
from songstarter.chunks import SongDecoder
from songstarter.contract import CODEC_DECODER
from songstarter.faces.stages import Stages, Tensors
from songstarter.faces.turns import Turns
from songstarter.faces.visits import Visit
from songstarter.loudness import normalize
from songstarter.request import Request
from songstarter.waveform import Waveform


class Renderer:
    """Makes audible what the decoder wrote; visits take turns at the codec."""

    def __init__(self, checkpoint: Checkpoint, stages: Stages, *, codec_calls: int) -> None:
        """``codec_calls``: how many may be under way at once; who has more to decode waits for its turn."""
        self._checkpoint = checkpoint
        self._stages = stages
        self._turns = Turns(codec_calls)

    def file(self, frames: Array, request: Request, visit: Visit) -> bytes:
        """``frames`` [codebook, frame] as the bytes of a file, or of its data URI, as the request wants it."""
        waveform = normalize(self._waveform(frames, visit), request.normalization)
        data = encode(waveform, request.audio_format)
        return data if request.encoding == "raw" else data_uri(data, request.audio_format).encode()

    def song(self, frames: int, visit: Visit) -> SongDecoder:
        """A song of so many frames, to be decoded as its codes come; what is next is due when the rest is played."""
        song = self._song(frames, visit, lambda: visit.arrived + song.heard / self._checkpoint.frames_per_second)
        return song

    def by_channel(self, frames: Array) -> Array:
        """[codebook, frame] -> [channel, codec codebook, frame]."""
        codes: Array = frames.reshape(-1, self._checkpoint.channels, frames.shape[1]).transpose(1, 0, 2)
        return codes

    def _waveform(self, frames: Array, visit: Visit) -> Waveform:
        """[codebook, frame] -> [channel, sample]; every channel is decoded by itself (spec 4.3).

        The longer a song, the later it is due: then the short do not wait for the long, and of songs that came together
        one is done after the other, so that the decoder has the next while the codec has these.
        """
        due = visit.arrived + frames.shape[1] / self._checkpoint.frames_per_second
        song = self._song(frames.shape[1], visit, lambda: due)
        return Waveform(song.push(self.by_channel(frames)), self._checkpoint.sample_rate)

    def _song(self, frames: int, visit: Visit, due: Callable[[], float]) -> SongDecoder:
        def run(inputs: Tensors) -> Tensors:
            with self._turns.turn(visit, due()):
                return self._stages.run(CODEC_DECODER, inputs)

        return SongDecoder(run, self._checkpoint.codec, channels=self._checkpoint.channels, frames=frames)
