"""One channel's codes to its waveform: EnCodec's decoder (spec 4.2)."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import nn
from transformers import EncodecModel

from export.ragged import RaggedLayers, inside
from export.tracing import trace
from export.verify import Check, largest_difference, run_graph
from songstarter.contract import CODEC_DECODER, CODEC_DECODER_INPUTS, CODEC_DECODER_OUTPUTS

TOLERANCE = 1e-4


class CodecDecoder(nn.Module):
    """Each row sounds as if it were decoded alone; behind its end it is silent."""

    def __init__(self, codec: EncodecModel) -> None:
        super().__init__()
        self.tables = nn.ParameterList(layer.codebook.embed for layer in codec.quantizer.layers)
        self.layers = RaggedLayers(codec.decoder.layers)

    def forward(self, codes: torch.Tensor, frames: torch.Tensor) -> torch.Tensor:
        """[batch, codebook, frame] and [batch, 1] -> [batch, sample]."""
        vectors = sum(nn.functional.embedding(codes[:, row], table) for row, table in enumerate(self.tables))
        waveform, samples = self.layers(vectors.transpose(1, 2), frames)
        return (waveform * inside(waveform, samples))[:, 0]


def export_codec_decoder(codec: EncodecModel, folder: Path) -> list[Check]:
    """Write the graph into ``folder`` and check each row of a ragged batch against its own decoding."""
    codes, frames = random_codes(codec, [7, 16, 3], 16)
    path = trace(
        CodecDecoder(codec),
        (codes, frames),
        folder,
        inputs=CODEC_DECODER_INPUTS,
        outputs=CODEC_DECODER_OUTPUTS,
    )
    lengths = [24, 1, 2, 17, 23]
    codes, frames = random_codes(codec, lengths, 24)
    waveforms = run_graph(path, {"codes": codes, "frames": frames})["waveform"]
    expected = [decoded_alone(codec, row[:, :length]) for row, length in zip(codes, lengths, strict=True)]
    found = [row[: len(alone)] for row, alone in zip(waveforms, expected, strict=True)]
    return [Check(CODEC_DECODER, "waveform", largest_difference(found, expected), TOLERANCE)]


def decoded_alone(codec: EncodecModel, codes: torch.Tensor) -> torch.Tensor:
    """What the original makes of one row: [codebook, frame] -> [sample]."""
    with torch.no_grad():
        return codec.decode(codes[None, None], [None]).audio_values[0, 0]


def random_codes(codec: EncodecModel, lengths: list[int], width: int) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    shape = (len(lengths), codec.quantizer.num_quantizers, width)
    frames = torch.tensor(lengths)[:, None]
    codes = torch.randint(codec.config.codebook_size, shape, generator=generator)
    return codes * (torch.arange(width) < frames)[:, None], frames
