"""A checkpoint in memory, whatever form it had on disk."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from transformers import (
    EncodecModel,
    MusicgenForConditionalGeneration,
    MusicgenMelodyForConditionalGeneration,
    PreTrainedTokenizerFast,
    T5EncoderModel,
)

from songstarter.checkpoint import Family

MusicGen = MusicgenMelodyForConditionalGeneration | MusicgenForConditionalGeneration
FAMILIES: dict[str, Family] = {"musicgen_melody": "melody", "musicgen": "text"}


@dataclass(frozen=True)
class Loaded:
    """A MusicGen model in evaluation mode and float32, and the tokenizer of its text encoder."""

    name: str
    model: MusicGen
    tokenizer: PreTrainedTokenizerFast

    @property
    def family(self) -> Family:
        return FAMILIES[self.model.config.model_type]

    @property
    def text_encoder(self) -> T5EncoderModel:
        return self.model.text_encoder

    @property
    def codec(self) -> EncodecModel:
        return self.model.audio_encoder

    @property
    def channels(self) -> int:
        return self.model.decoder.config.audio_channels

    @property
    def codebooks(self) -> int:
        return self.model.decoder.config.num_codebooks

    @property
    def delays(self) -> tuple[int, ...]:
        """Columns that each codebook waits; the channels of a codebook wait together (spec 2.2)."""
        return tuple(row // self.channels for row in range(self.codebooks))


def save(loaded: Loaded, folder: Path) -> None:
    """Write an ordinary transformers folder, which ``load`` reads again."""
    loaded.model.save_pretrained(folder)
    loaded.tokenizer.save_pretrained(folder)
