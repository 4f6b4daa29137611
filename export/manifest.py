"""The facts of a checkpoint that the runtime needs, gathered from its configurations."""

from __future__ import annotations

from export.checkpoints import Loaded
from export.codec_decoder import memory_of
from export.melody_encoder import BLOCK, samples_of
from export.positions import MAX_TOKENS, WINDOW_SECONDS, positions_of
from songstarter.checkpoint import Checkpoint, Codec, Decoder, Device, Melody, Precision, Text, exact_division
from songstarter.contract import (
    CODEC_DECODER,
    CODEC_ENCODER,
    DECODER,
    MELODY_ENCODER,
    PUBLIC_MODEL,
    STREAM_MODEL,
    TEXT_ENCODER,
)

PAD_TO = 16  # tokens
BLOCK_FRAMES = 250  # five seconds


def describe(loaded: Loaded, precision: Precision, device: Device) -> Checkpoint:
    """Everything but the digests of the files, which are yet to be written."""
    codec = loaded.codec.config
    melody = _melody(loaded)
    return Checkpoint(
        name=loaded.name,
        family=loaded.family,
        sample_rate=codec.sampling_rate,
        samples_per_frame=codec.hop_length,
        channels=loaded.channels,
        delays=loaded.delays,
        special_token=loaded.model.decoder.config.vocab_size,
        window_seconds=WINDOW_SECONDS,
        text=Text(
            end_token=loaded.tokenizer.eos_token_id,
            pad_token=loaded.tokenizer.pad_token_id,
            max_tokens=MAX_TOKENS,
            pad_to=PAD_TO,
        ),
        melody=melody,
        codec=Codec(
            codebooks=loaded.codec.quantizer.num_quantizers,
            codebook_size=codec.codebook_size,
            block_frames=BLOCK_FRAMES,
            memory=memory_of(loaded.codec),
        ),
        decoder=_decoder(loaded, melody, precision, device),
        models=models_of(melody),
        digests={},
    )


def models_of(melody: Melody | None) -> tuple[str, ...]:
    """What Triton must load, in the order in which the stages depend on each other."""
    melody_models = (MELODY_ENCODER,) if melody else ()
    return (TEXT_ENCODER, *melody_models, CODEC_ENCODER, CODEC_DECODER, DECODER, PUBLIC_MODEL, STREAM_MODEL)


def _melody(loaded: Loaded) -> Melody | None:
    if loaded.family != "melody":
        return None
    frames = loaded.model.config.chroma_length
    return Melody(frames=frames, samples=samples_of(frames), block_samples=BLOCK)


def _decoder(loaded: Loaded, melody: Melody | None, precision: Precision, device: Device) -> Decoder:
    config = loaded.model.decoder.config
    return Decoder(
        layers=config.num_hidden_layers,
        hidden=config.hidden_size,
        heads=config.num_attention_heads,
        head_size=config.hidden_size // config.num_attention_heads,
        positions=_positions(loaded, melody),
        precision=precision,
        device=device,
    )


def _positions(loaded: Loaded, melody: Melody | None) -> int:
    codec = loaded.codec.config
    return positions_of(
        melody_frames=melody.frames if melody else None,
        frames_per_second=exact_division(codec.sampling_rate, codec.hop_length),
        latest_column=max(loaded.delays),
    )
