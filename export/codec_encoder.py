"""One channel's waveform to its codes: EnCodec's encoder and its residual quantiser (spec 4.2)."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import nn
from transformers import EncodecModel

from export.ragged import RaggedLayers, inside, require_mirrored
from export.readable_weights import move_weights_out
from export.tracing import trace
from export.verify import Check, largest_difference, run_graph, share_unequal
from songstarter.contract import CODEC_ENCODER, CODEC_ENCODER_INPUTS, CODEC_ENCODER_OUTPUTS

TOLERANCE = 1e-4
UNEQUAL_CODES = 1e-3  # of two codes nearly as near, rounding may choose the other one


class CodecEncoder(nn.Module):
    """Each row's codes are those it would have alone; behind its end they are zero."""

    def __init__(self, codec: EncodecModel) -> None:
        super().__init__()
        require_mirrored(codec)
        self.layers = RaggedLayers(codec.encoder.layers)
        self.tables = nn.ParameterList(layer.codebook.embed for layer in codec.quantizer.layers)

    def embed(self, waveform: torch.Tensor, samples: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """[batch, sample] and [batch, 1] -> [batch, latent, frame] and frames [batch, 1]."""
        return self.layers(waveform[:, None], samples)

    def forward(self, waveform: torch.Tensor, samples: torch.Tensor) -> torch.Tensor:
        """[batch, sample] and [batch, 1] -> [batch, codebook, frame]."""
        embeddings, frames = self.embed(waveform, samples)
        rest = embeddings.transpose(1, 2)
        chosen = []
        for table in self.tables:
            codes = (rest @ table.T - table.pow(2).sum(1) / 2).argmax(2)  # the nearest by Euclid
            rest = rest - nn.functional.embedding(codes, table)
            chosen.append(codes)
        codes = torch.stack(chosen, dim=1)
        return codes * inside(codes, frames)


def export_codec_encoder(codec: EncodecModel, folder: Path) -> list[Check]:
    """Write the graph into ``folder`` and check each row of a ragged batch against its own encoding."""
    hop = codec.config.hop_length
    module = CodecEncoder(codec)
    waveform, samples = random_waveforms([5 * hop, 16 * hop, 700], 16 * hop)
    path = trace(
        module,
        (waveform, samples),
        folder,
        inputs=CODEC_ENCODER_INPUTS,
        outputs=CODEC_ENCODER_OUTPUTS,
    )
    move_weights_out(path)
    return _checks(codec, module, path)


def _checks(codec: EncodecModel, module: CodecEncoder, path: Path) -> list[Check]:
    hop = codec.config.hop_length
    lengths = [24 * hop, 1, 17 * hop + 1, 23 * hop - 1, hop // 2 + 3]
    waveform, samples = random_waveforms(lengths, 24 * hop)
    alone = [encoded_alone(codec, row[:length]) for row, length in zip(waveform, lengths, strict=True)]
    with torch.no_grad():
        embeddings, frames = module.embed(waveform, samples)
    codes = run_graph(path, {"waveform": waveform, "samples": samples})["codes"]
    counts = frames[:, 0].tolist()
    error = largest_difference(_cut(embeddings, counts), [vectors for vectors, _ in alone])
    unequal = share_unequal(_cut(codes, counts), [chosen for _, chosen in alone])
    return [
        Check(CODEC_ENCODER, "embeddings", error, TOLERANCE),
        Check(CODEC_ENCODER, "share of unequal codes", unequal, UNEQUAL_CODES),
    ]


def encoded_alone(codec: EncodecModel, waveform: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """What the original makes of one row: [sample] -> [latent, frame] and [codebook, frame]."""
    with torch.no_grad():
        embeddings = codec.encoder(waveform[None, None])
        codes = codec.quantizer.encode(embeddings, codec.config.target_bandwidths[-1])
    return embeddings[0], codes[:, 0]


def random_waveforms(lengths: list[int], width: int) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    samples = torch.tensor(lengths)[:, None]
    noise = torch.randn(len(lengths), width, generator=generator) * 0.1
    return noise * (torch.arange(width) < samples), samples


def _cut(rows: torch.Tensor, counts: list[int]) -> list[torch.Tensor]:
    return [row[:, :count] for row, count in zip(rows, counts, strict=True)]
