"""Three parts made one model, as the transformers library wants it."""

from __future__ import annotations

from transformers import (
    EncodecModel,
    MusicgenDecoderConfig,
    MusicgenForCausalLM,
    MusicgenForConditionalGeneration,
    MusicgenMelodyDecoderConfig,
    MusicgenMelodyForCausalLM,
    MusicgenMelodyForConditionalGeneration,
    T5EncoderModel,
)

from export.checkpoints.loaded import MusicGen
from songstarter.checkpoint import Family

ATTENTION = "sdpa"
LanguageModel = MusicgenMelodyForCausalLM | MusicgenForCausalLM
DecoderConfig = MusicgenMelodyDecoderConfig | MusicgenDecoderConfig

DECODER_CONFIGS: dict[Family, type[DecoderConfig]] = {
    "melody": MusicgenMelodyDecoderConfig,
    "text": MusicgenDecoderConfig,
}
LANGUAGE_MODELS: dict[Family, type[LanguageModel]] = {
    "melody": MusicgenMelodyForCausalLM,
    "text": MusicgenForCausalLM,
}
_WHOLE: dict[Family, type[MusicGen]] = {
    "melody": MusicgenMelodyForConditionalGeneration,
    "text": MusicgenForConditionalGeneration,
}


def compose(family: Family, *, text_encoder: T5EncoderModel, codec: EncodecModel, decoder: LanguageModel) -> MusicGen:
    """Join the parts; the projections between them are fresh and still to be filled."""
    model = _WHOLE[family](text_encoder=text_encoder, audio_encoder=codec, decoder=decoder)
    for part in (text_encoder, decoder):
        part.set_attn_implementation(ATTENTION)  # left unset, the library attends without its masks
    special = decoder.config.pad_token_id
    settings = {"decoder_start_token_id": special, "pad_token_id": special, "bos_token_id": special}
    model.generation_config.update(**settings, max_length=1500, do_sample=True, guidance_scale=3.0)
    return model.eval()
