"""One channel's codes to its waveform, a chunk at a time: EnCodec's decoder (spec 4.2), with its state outside.

A chunk is a step along a song. What must be known of the song before it comes in as ``memory`` and goes out
again for the next one, so that nothing stays behind here and the chunks of different songs share a batch. A song
in one chunk is the usual, whole decoding.

    codes     r r|x x x x x x|r r     x: the chunk's frames, r: REACH neighbours that the first convolution sees
    LSTM      h c|y y y y y y|h c     starts from the memory's state, leaves it behind the chunk's last frame
    outputs   k k|y y y y y y|        k: outputs kept from before; the waveform is that of kept and new ones
    heard       .|. . . . . o|o       o: not exact unless the song ends here; dropped, and computed again next time

Whoever calls mirrors the codes at a song's ends (``songstarter/chunks.py``); behind the LSTM, where it is not codes
that are mirrored, this graph does. A frame kept as ``KEPT`` context is one that the up-sampling half can still hear.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate, cycle, takewhile
from pathlib import Path

import numpy as np
import torch
from torch import nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence
from transformers import EncodecModel

from export.ragged import RaggedLayers, inside, require_mirrored, unpadded
from export.readable_weights import move_weights_out
from export.tracing import trace
from export.verify import Check, largest_difference
from songstarter.checkpoint import Codec
from songstarter.chunks import KEPT, REACH, Run, SongDecoder
from songstarter.contract import CODEC_DECODER, CODEC_DECODER_INPUTS, CODEC_DECODER_OUTPUTS
from songstarter.errors import UnknownCheckpoint
from songstarter.stages.session import Session

TOLERANCE = 1e-4


class CodecDecoder(nn.Module):
    """Each row sounds as if it were decoded alone; behind its end it is silent."""

    def __init__(self, codec: EncodecModel) -> None:
        super().__init__()
        first, recurrent, *rest = codec.decoder.layers
        tables = [layer.codebook.embed for layer in codec.quantizer.layers]
        self.tables = nn.ParameterList(nn.functional.pad(table, (0, 0, 0, 1)) for table in tables)  # and silence
        self.conv = unpadded(first)
        self.lstm = recurrent.lstm
        self.upsampling = RaggedLayers(nn.ModuleList(rest))
        require_mirrored(codec)
        if self.conv.kernel_size != (2 * REACH + 1,) or self.conv.dilation != (1,):
            raise UnknownCheckpoint(f"the codec's first convolution is {self.conv}; expected one of 7 frames")

    def forward(
        self, codes: torch.Tensor, frames: torch.Tensor, kept: torch.Tensor, memory: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """[batch, codebook, 2 * REACH + frame], [batch, 1], [batch, 1] and [batch, row, channel] -> the same
        kind of memory, and [batch, sample] of KEPT + frame frames."""
        vectors = sum(nn.functional.embedding(codes[:, row], table) for row, table in enumerate(self.tables))
        columns = self.conv(vectors.transpose(1, 2))
        layers = self.lstm.num_layers
        hidden, cell, before = memory.split([layers, layers, KEPT], dim=1)
        columns, hidden, cell = self._recur(columns, frames, hidden, cell)
        known = torch.cat([before.transpose(1, 2), columns], dim=2)
        after = _columns(known, frames, KEPT)
        audible = _columns(known, KEPT - kept, known.shape[2])
        waveform, samples = self.upsampling(audible, kept + frames)
        return (waveform * inside(waveform, samples))[:, 0], torch.cat([hidden, cell, after.transpose(1, 2)], dim=1)

    def _recur(
        self, columns: torch.Tensor, frames: torch.Tensor, hidden: torch.Tensor, cell: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """The LSTM with its skip; its state is that behind each row's own end."""
        packed = pack_padded_sequence(columns.permute(2, 0, 1), frames[:, 0], enforce_sorted=False)
        packed, (hidden, cell) = self.lstm(packed, (hidden.transpose(0, 1), cell.transpose(0, 1)))
        steps, _ = pad_packed_sequence(packed, total_length=columns.shape[2])
        return steps.permute(1, 2, 0) + columns, hidden.transpose(0, 1), cell.transpose(0, 1)


def export_codec_decoder(codec: EncodecModel, folder: Path) -> list[Check]:
    """Write the graph into ``folder`` and check songs that it decodes chunk by chunk against their whole decoding."""
    path = trace(
        CodecDecoder(codec),
        example(codec),
        folder,
        inputs=CODEC_DECODER_INPUTS,
        outputs=CODEC_DECODER_OUTPUTS,
    )
    move_weights_out(path)
    session = Session(path)
    lengths, chunkings = [1, 2, 3, 4, 24, 31], [(1,), (13, 2), (40,)]
    songs = [random_codes(codec, 2, length) for length in lengths]
    expected = [decoded_whole(codec, song) for song in songs]
    errors = [
        largest_difference([decoded_in_chunks(session.run, codec, song, chunks)], [whole])
        for song, whole in zip(songs, expected, strict=True)
        for chunks in chunkings
    ]
    return [Check(CODEC_DECODER, "waveform", max(errors), TOLERANCE)]


def decoded_in_chunks(run: Run, codec: EncodecModel, codes: torch.Tensor, chunks: Sequence[int]) -> torch.Tensor:
    """[channel, codebook, frame] -> [channel, sample] by chunks of these lengths, over and over."""
    facts = Codec(codec.quantizer.num_quantizers, codec.config.codebook_size, 0, memory_of(codec))
    song = SongDecoder(run, facts, channels=len(codes), frames=codes.shape[2])
    ends = takewhile(lambda end: end < codes.shape[2], accumulate(cycle(chunks)))
    pieces = np.split(codes.numpy(), list(ends), axis=2)
    return torch.from_numpy(np.concatenate([song.push(piece) for piece in pieces], axis=1))


def decoded_whole(codec: EncodecModel, codes: torch.Tensor) -> torch.Tensor:
    """What the original makes of each channel: [channel, codebook, frame] -> [channel, sample]."""
    with torch.no_grad():
        return codec.decode(codes[None], [None] * len(codes)).audio_values[:, 0]


def random_codes(codec: EncodecModel, channels: int, frames: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(frames)
    shape = (channels, codec.quantizer.num_quantizers, frames)
    return torch.randint(codec.config.codebook_size, shape, generator=generator)


def memory_of(codec: EncodecModel) -> tuple[int, int]:
    """Rows and channels of the decoder's memory: two states of each LSTM layer, and the kept outputs."""
    lstm = codec.decoder.layers[1].lstm
    return 2 * lstm.num_layers + KEPT, lstm.hidden_size


def example(codec: EncodecModel) -> tuple[torch.Tensor, ...]:
    frames, kept = torch.tensor([[7], [16], [3]]), torch.tensor([[0], [2], [1]])
    codes = random_codes(codec, 3, 16 + 2 * REACH)
    return codes, frames, kept, torch.zeros(3, *memory_of(codec))


def _columns(x: torch.Tensor, start: torch.Tensor, count: int) -> torch.Tensor:
    """``count`` columns of each row from its own ``start`` on; what lies behind the last is never heard."""
    indices = (start + torch.arange(count)).clamp(max=x.shape[2] - 1)
    return x.gather(2, indices[:, None].expand(-1, x.shape[1], -1))
