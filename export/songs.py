"""What a decoder plays while its weights are rounded: music of its own, or noise where it knows none."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch

from export.checkpoints import Loaded

# Of every kind and tempo: a direction that no song takes is one that rounding does not look at.
PROMPTS = (
    "slow lofi hip hop, electric piano, a minor, 80 bpm",
    "fast techno, distorted kick, acid bass, 140 bpm",
    "solo acoustic guitar, sad folk ballad",
    "orchestral film score, strings and brass, epic",
    "jazz trio, walking bass, brushes, c major",
    "dark ambient drone, bells, no drums",
    "happy pop song, synth lead, claps, g major, 120 bpm",
    "trap, 808 bass, hi-hats, d minor, 150 bpm",
)
COLUMNS = 256
NOISE_ROWS = 8
NOISE_PREFIX = 64


@dataclass(frozen=True)
class Songs:
    """Rows of a decoder's input, guided and unguided."""

    columns: torch.Tensor  # [row, codebook, column]
    prefix: torch.Tensor  # [row, position, hidden]
    text_mask: torch.Tensor | None  # [row, position], of a family that attends to texts

    def play(self, decoder: torch.nn.Module) -> None:
        """Send them through a transformers ``MusicgenForCausalLM`` or its melody sister, all columns at once."""
        with torch.no_grad():
            decoder(
                input_ids=self.columns.flatten(0, 1),
                encoder_hidden_states=self.prefix,
                encoder_attention_mask=self.text_mask,
            )


def own_songs(loaded: Loaded, columns: int = COLUMNS) -> Songs:
    """What a checkpoint plays to ``PROMPTS``, sampled."""
    heard: list[dict[str, Any]] = []

    def listen(module: torch.nn.Module, args: tuple[object, ...], kwargs: dict[str, Any]) -> None:
        heard.append(kwargs)

    tokens = loaded.tokenizer(list(PROMPTS), padding=True, return_tensors="pt")
    generator_state = torch.get_rng_state()
    torch.manual_seed(0)
    handle = loaded.model.decoder.register_forward_pre_hook(listen, with_kwargs=True)
    try:
        with torch.no_grad():
            loaded.model.generate(**tokens, do_sample=True, guidance_scale=3.0, max_new_tokens=columns)
    finally:
        handle.remove()
        torch.set_rng_state(generator_state)
    played = torch.cat([call["input_ids"] for call in heard], dim=1)
    return Songs(
        played.reshape(-1, loaded.codebooks, played.shape[1]),
        heard[0]["encoder_hidden_states"],
        heard[0].get("encoder_attention_mask"),
    )


def noise(decoder: torch.nn.Module, columns: int = COLUMNS) -> Songs:
    """Random columns behind random embeddings of the size of its own."""
    generator = torch.Generator().manual_seed(0)
    config = decoder.config
    spread = sum(table.weight.var().item() for table in decoder.model.decoder.embed_tokens) ** 0.5
    shape = (NOISE_ROWS, config.num_codebooks, columns)
    prefix = spread * torch.randn((NOISE_ROWS, NOISE_PREFIX, config.hidden_size), generator=generator)
    return Songs(torch.randint(config.vocab_size, shape, generator=generator), prefix, None)
