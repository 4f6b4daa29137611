"""A song's codes to its waveform in chunks: what the codec must see around each, and what of its answer is exact.

The codec hears REACH frames to either side before its LSTM, and one frame to either side behind it. Of frames that
have come so far, the last REACH wait before the LSTM until their neighbours are there, and the last one behind it:

    frames that came     x x x x x x x x x x x x
    LSTM has seen        y y y y y y y y y . . .      REACH behind
    heard                s s s s s s s s . . . .      one more behind
    at the song's end    s s s s s s s s s s s s      mirrored, as the whole decoding would

Chunks of any lengths give the same samples, up to rounding.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np

from songstarter.array import Array
from songstarter.checkpoint import Codec
from songstarter.waveform import Samples

REACH = 3  # frames that the first convolution sees on either side
AHEAD = 1  # frame to the right, and to the left, that the up-sampling half hears
KEPT = 2 * AHEAD  # outputs of the LSTM that are carried on: one frame is yet to be heard, and one stands before it
WIDTH = 10  # frames: chunks are padded to a multiple of this, so that those of different songs share a batch
LONGEST = 100  # frames of one run, which bounds its memory: 64 MB for a channel of a codec of true size

Run = Callable[[Mapping[str, Array]], Mapping[str, Array]]


class SongDecoder:
    """One song on its way through the codec: codes go in as they come, samples come out as soon as they are exact."""

    def __init__(self, run: Run, codec: Codec, *, channels: int, frames: int) -> None:
        """``run`` is the codec's decoder (``contract.CODEC_DECODER_INPUTS``), ``frames`` the length of the song."""
        self._run = run
        self._silence = codec.codebook_size
        self._frames = frames
        self._codes = np.zeros((channels, codec.codebooks, 0), np.int64)  # of frame ``_first`` and those after it
        self._memory = np.zeros((channels, *codec.memory), np.float32)
        self._first = self._seen = self._heard = 0

    @property
    def heard(self) -> int:
        """Frames whose samples have come out."""
        return self._heard

    @property
    def complete(self) -> bool:
        return self._heard == self._frames

    def push(self, codes: Array) -> Samples:
        """The next codes [channel, codebook, frame], any number of them -> samples [channel, sample], maybe none."""
        self._codes = np.concatenate([self._codes, codes.astype(np.int64)], axis=2)
        came = self._first + self._codes.shape[2]
        ready = came if came == self._frames else came - REACH
        pieces = [np.zeros((len(codes), 0), np.float32)]
        while self._seen < ready:
            pieces.append(self._chunk(min(ready - self._seen, LONGEST)))
        return np.concatenate(pieces, axis=1)

    def _chunk(self, count: int) -> Samples:
        kept, start, end = min(self._seen, KEPT), self._seen, self._seen + count
        rows = len(self._codes)
        outputs = self._run(
            {
                "codes": self._around(start, count + -count % WIDTH),
                "frames": np.full((rows, 1), count, np.int64),
                "kept": np.full((rows, 1), kept, np.int64),
                "memory": self._memory,
            }
        )
        self._memory, self._seen = outputs["next_memory"], end
        heard, self._heard = self._heard, end if end == self._frames else max(end - AHEAD, 0)
        self._forget_before(end - REACH)
        waveform = outputs["waveform"]
        hop = waveform.shape[1] // (KEPT + count + -count % WIDTH)
        exact: Samples = waveform[:, (heard - start + kept) * hop : (self._heard - start + kept) * hop]
        return exact

    def _around(self, start: int, width: int) -> Array:
        """Codes of ``width`` frames from ``start`` on with REACH on either side, mirrored at the song's own ends.

        A song not longer than that reach is first continued with silence, as the original does.
        """
        places = np.abs(np.arange(start - REACH, start + width + REACH))
        turn = max(self._frames, REACH + 1) - 1
        places = np.where(places > turn, 2 * turn - places, places) - self._first
        known = (places >= 0) & (places < self._codes.shape[2])
        around: Array = np.where(known, self._codes[:, :, np.where(known, places, 0)], self._silence)
        return around

    def _forget_before(self, frame: int) -> None:
        passed = max(frame - self._first, 0)
        self._codes = self._codes[:, :, passed:]
        self._first += passed
