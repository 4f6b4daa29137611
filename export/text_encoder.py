"""A prompt's tokens to its embeddings: T5 and the projection into the decoder's width (spec 3.1)."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import nn

from export.checkpoints import Loaded
from export.tracing import trace
from export.verify import Check, largest_difference, run_graph
from songstarter.contract import TEXT_ENCODER, TEXT_ENCODER_INPUTS, TEXT_ENCODER_OUTPUTS

TOLERANCE = 1e-4


class TextEncoder(nn.Module):
    """T5's encoder and the projection; padded tokens become exact zeros, bias and all."""

    def __init__(self, loaded: Loaded) -> None:
        super().__init__()
        self.encoder = loaded.text_encoder
        self.projection = getattr(loaded.model, "enc_to_dec_proj", nn.Identity())

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
        """[batch, token] twice -> [batch, token, hidden]."""
        states = self.encoder(input_ids=input_ids, attention_mask=attention_mask).last_hidden_state
        return self.projection(states) * attention_mask[..., None].to(states.dtype)


def export_text_encoder(loaded: Loaded, folder: Path) -> list[Check]:
    """Write the graph into ``folder`` and check it on prompts of different lengths."""
    module = TextEncoder(loaded)
    vocabulary = loaded.text_encoder.config.vocab_size
    examples = random_prompts([5, 1, 16], 16, vocabulary)
    path = trace(module, examples, folder, inputs=TEXT_ENCODER_INPUTS, outputs=TEXT_ENCODER_OUTPUTS)
    lengths = [48, 3, 31, 1]
    tokens, mask = random_prompts(lengths, 48, vocabulary)
    embeddings = run_graph(path, {"input_ids": tokens, "attention_mask": mask})["embeddings"]
    found = [row[:length] for row, length in zip(embeddings, lengths, strict=True)]
    expected = [encoded_alone(module, row[:length]) for row, length in zip(tokens, lengths, strict=True)]
    padding = (embeddings * (1 - mask[..., None])).abs().max().item()
    return [
        Check(TEXT_ENCODER, "embeddings", largest_difference(found, expected), TOLERANCE),
        Check(TEXT_ENCODER, "padding, to be zero", padding, 0.0),
    ]


def encoded_alone(module: TextEncoder, tokens: torch.Tensor) -> torch.Tensor:
    """What torch makes of one prompt without padding: [token] -> [token, hidden]."""
    with torch.no_grad():
        return module(tokens[None], torch.ones_like(tokens)[None])[0]


def random_prompts(lengths: list[int], width: int, vocabulary: int) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    mask = (torch.arange(width) < torch.tensor(lengths)[:, None]).long()
    return torch.randint(2, vocabulary, (len(lengths), width), generator=generator) * mask, mask
