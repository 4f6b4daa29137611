"""From a take's frames to a file: codec, normalisation, encoding."""

from __future__ import annotations

import numpy as np

from songstarter.array import Array
from songstarter.audio_file import data_uri, encode
from songstarter.checkpoint import Checkpoint
from songstarter.contract import CODEC_DECODER
from songstarter.faces.stages import Stages
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
        """Decode every channel by itself (spec 4.3): [codebook, frame] -> [channel, sample]."""
        checkpoint = self._checkpoint
        count = frames.shape[1]
        # [codec codebook, channel, frame] -> [channel, codec codebook, frame]
        codes = frames.reshape(-1, checkpoint.channels, count).transpose(1, 0, 2).astype(np.int64)
        padded = np.pad(codes, ((0, 0), (0, 0), (0, -count % checkpoint.codec.block_frames)))
        counts = np.full((checkpoint.channels, 1), count, np.int64)
        samples = self._stages.run(CODEC_DECODER, {"codes": padded, "frames": counts})["waveform"]
        return Waveform(samples[:, : count * checkpoint.samples_per_frame], checkpoint.sample_rate)
