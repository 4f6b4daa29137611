"""From a take's frames to a file: codec, normalisation, encoding."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from contextvars import copy_context

import numpy as np

from songstarter.array import Array
from songstarter.audio_file import data_uri, encode
from songstarter.checkpoint import Checkpoint
from songstarter.chunks import SongDecoder
from songstarter.contract import CODEC_DECODER
from songstarter.faces.stages import Stages, Tensors
from songstarter.loudness import normalize
from songstarter.request import Request
from songstarter.waveform import Waveform


class Renderer:
    """Makes audible what the decoder wrote."""

    def __init__(self, checkpoint: Checkpoint, stages: Stages) -> None:
        self._checkpoint = checkpoint
        self._stages = stages

    def file(self, frames: Array, request: Request) -> bytes:
        """``frames`` [codebook, frame] as the bytes of a file, or of its data URI, as the request wants it."""
        waveform = normalize(self.waveform(frames), request.normalization)
        data = encode(waveform, request.audio_format)
        return data if request.encoding == "raw" else data_uri(data, request.audio_format).encode()

    def waveform(self, frames: Array) -> Waveform:
        """[codebook, frame] -> [channel, sample]; every channel is decoded by itself (spec 4.3)."""
        song = self.song(frames.shape[1])
        return Waveform(song.push(self.by_channel(frames)), self._checkpoint.sample_rate)

    def song(self, frames: int) -> SongDecoder:
        """A song of so many frames, to be decoded as its codes come."""
        facts = self._checkpoint
        return SongDecoder(self._decode, facts.codec, channels=facts.channels, frames=frames)

    def by_channel(self, frames: Array) -> Array:
        """[codebook, frame] -> [channel, codec codebook, frame]."""
        codes: Array = frames.reshape(-1, self._checkpoint.channels, frames.shape[1]).transpose(1, 0, 2)
        return codes

    def _decode(self, inputs: Tensors) -> Tensors:
        """A run of the codec for each channel, all under way at once: every instance of it that is free takes one."""
        count = self._checkpoint.channels
        with ThreadPoolExecutor(count) as pool:
            calls = [
                pool.submit(copy_context().run, self._stages.run, CODEC_DECODER, one)
                for one in ({name: rows[[channel]] for name, rows in inputs.items()} for channel in range(count))
            ]
        answers = [call.result() for call in calls]
        return {name: np.concatenate([answer[name] for answer in answers]) for name in answers[0]}
