"""Checkpoints in the form of audiocraft: a language model, a codec or its name, both as pickles (spec 6).

The text encoder is never stored, only named. Sizes are read from the tensors themselves; of the stored
configuration only what no tensor tells is used.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn
from transformers import EncodecModel

from export.checkpoints.audiocraft_codec import codec_from_state
from export.checkpoints.compose import DECODER_CONFIGS, LANGUAGE_MODELS, LanguageModel, compose
from export.checkpoints.hub import file_of
from export.checkpoints.loaded import Loaded, MusicGen
from export.checkpoints.pickles import read_pickle
from export.checkpoints.stored_settings import StoredSettings
from export.checkpoints.transformers_folder import load_codec, load_text_encoder, load_tokenizer
from songstarter.checkpoint import Family, exact_division
from songstarter.errors import UnknownCheckpoint

LANGUAGE_MODEL_FILE = "state_dict.bin"
CODEC_FILE = "compression_state_dict.bin"
TEXT_ENCODER = "t5-base"
HEAD_SIZE = 64

State = dict[str, torch.Tensor]

_LAYER = r"transformer\.layers\.(\d+)\."
_CONDITIONER = r"condition_provider\.conditioners\."
_RENAMES: tuple[tuple[str, str], ...] = (
    (r"emb\.(\d+)\.", r"decoder.model.decoder.embed_tokens.\1."),
    (_LAYER + r"self_attn\.out_proj\.", r"decoder.model.decoder.layers.\1.self_attn.out_proj."),
    (_LAYER + r"cross_attention\.out_proj\.", r"decoder.model.decoder.layers.\1.encoder_attn.out_proj."),
    (_LAYER + r"linear([12])\.", r"decoder.model.decoder.layers.\1.fc\2."),
    (_LAYER + r"norm1\.", r"decoder.model.decoder.layers.\1.self_attn_layer_norm."),
    (_LAYER + r"norm_cross\.", r"decoder.model.decoder.layers.\1.encoder_attn_layer_norm."),
    (_LAYER + r"norm2\.", r"decoder.model.decoder.layers.\1.final_layer_norm."),
    (r"out_norm\.", r"decoder.model.decoder.layer_norm."),
    (r"linears\.(\d+)\.", r"decoder.lm_heads.\1."),
    (_CONDITIONER + r"description\.output_proj\.", r"enc_to_dec_proj."),
    (_CONDITIONER + r"self_wav\.output_proj\.", r"audio_enc_to_dec_proj."),
)
# One matrix holds the rows of query, key and value, in this order.
_JOINED: tuple[tuple[str, str], ...] = (
    (_LAYER + r"self_attn\.in_proj_weight", r"decoder.model.decoder.layers.\1.self_attn."),
    (_LAYER + r"cross_attention\.in_proj_weight", r"decoder.model.decoder.layers.\1.encoder_attn."),
)
_DROPPED = re.compile(_CONDITIONER + r"self_wav\.chroma\.")  # the window of its spectrogram


@dataclass(frozen=True)
class _Sizes:
    """What the tensors of a language model tell of it."""

    family: Family
    hidden: int
    layers: int
    feed_forward: int
    codebooks: int
    codebook_size: int


def load_audiocraft(source: str, weights: Path, *, text_encoder: str | None, codec: str | None) -> Loaded:
    """Load a folder or hub id whose ``state_dict.bin`` is at ``weights``.

    Raises:
        UnsafeCheckpoint: a pickle holds more than tensors and plain values.
        UnknownCheckpoint: the tensors are not those of a MusicGen language model.
    """
    content = read_pickle(weights)
    state = content.get("best_state")
    if not isinstance(state, dict):
        raise UnknownCheckpoint(f"{source}: {weights.name} has no 'best_state' with the weights of a language model")
    settings = StoredSettings(content)
    text_source = text_encoder or settings.get("conditioners.description.t5.name", TEXT_ENCODER)
    codec_model = _codec_of(source, codec)
    sizes = _sizes(source, state)
    channels = exact_division(sizes.codebooks, codec_model.quantizer.num_quantizers)
    decoder = _empty_decoder(sizes, channels, settings.get("transformer_lm.num_heads"))
    model = compose(sizes.family, text_encoder=load_text_encoder(text_source), codec=codec_model, decoder=decoder)
    _project_equal_widths(model)
    _fill(source, model, state)
    loaded = Loaded(source, model, load_tokenizer(text_source))
    settings.require_musicgen(source, loaded.delays)
    return loaded


def _project_equal_widths(model: MusicGen) -> None:
    """audiocraft always projects the text, transformers only where the widths differ (spec 3.1)."""
    if not hasattr(model, "enc_to_dec_proj"):
        model.enc_to_dec_proj = nn.Linear(model.text_encoder.config.hidden_size, model.decoder.config.hidden_size)


def _codec_of(source: str, given: str | None) -> EncodecModel:
    """The codec: the one that was given, the one that is stored, or the one that the checkpoint names."""
    if given and file_of(given, "config.json"):
        return load_codec(given)
    path = file_of(given or source, CODEC_FILE)
    if path is None:
        raise UnknownCheckpoint(f"{given or source}: found no codec; expected {CODEC_FILE}, or name one with --codec")
    content = read_pickle(path)
    if isinstance(content.get("best_state"), dict):
        return codec_from_state(content["best_state"], StoredSettings(content))
    if not isinstance(content.get("pretrained"), str):
        raise UnknownCheckpoint(f"{source}: {CODEC_FILE} holds neither a codec nor the name of one")
    return load_codec(content["pretrained"].removeprefix("//pretrained/"))


def _sizes(source: str, state: State) -> _Sizes:
    try:
        rows, hidden = state["emb.0.weight"].shape
        return _Sizes(
            family="text" if "transformer.layers.0.cross_attention.in_proj_weight" in state else "melody",
            hidden=hidden,
            layers=_count(state, _LAYER + r"norm1\.weight"),
            feed_forward=state["transformer.layers.0.linear1.weight"].shape[0],
            codebooks=_count(state, r"emb\.(\d+)\.weight"),
            codebook_size=rows - 1,  # the last row is the special token's
        )
    except (KeyError, ValueError) as error:
        raise UnknownCheckpoint(f"{source}: these are no weights of a MusicGen language model ({error})") from None


def _count(state: State, pattern: str) -> int:
    return sum(re.fullmatch(pattern, key) is not None for key in state)


def _empty_decoder(sizes: _Sizes, channels: int, heads: int | None) -> LanguageModel:
    """The language model without memory for its weights, which are the stored tensors themselves."""
    config = DECODER_CONFIGS[sizes.family](
        vocab_size=sizes.codebook_size,
        num_hidden_layers=sizes.layers,
        hidden_size=sizes.hidden,
        ffn_dim=sizes.feed_forward,
        num_attention_heads=heads or exact_division(sizes.hidden, HEAD_SIZE),
        num_codebooks=sizes.codebooks,
        audio_channels=channels,
        pad_token_id=sizes.codebook_size,
        bos_token_id=sizes.codebook_size,
    )
    with torch.device("meta"):
        return LANGUAGE_MODELS[sizes.family](config)


def _fill(source: str, model: MusicGen, state: State) -> None:
    """Put the stored tensors in their places; every tensor has a place and every place a tensor."""
    weights = dict(_translated(source, state))
    try:
        result = model.load_state_dict(weights, strict=False, assign=True)
    except RuntimeError as error:
        raise UnknownCheckpoint(f"{source}: {' '.join(str(error).split())[:200]}") from None
    missing = [key for key in result.missing_keys if not key.startswith(("text_encoder.", "audio_encoder."))]
    if missing or result.unexpected_keys:
        raise UnknownCheckpoint(f"{source}: weights that do not fit: {(missing + result.unexpected_keys)[:3]}")
    positions = model.decoder.model.decoder.embed_positions
    positions.weights = positions.get_embedding(positions.num_positions, positions.embedding_dim)


def _translated(source: str, state: State) -> Iterator[tuple[str, torch.Tensor]]:
    for key, tensor in state.items():
        if _DROPPED.match(key):
            continue
        values = tensor.detach().float()
        if stem := _renamed(key, _JOINED):
            yield from zip((f"{stem}{part}_proj.weight" for part in "qkv"), values.chunk(3), strict=True)
        elif name := _renamed(key, _RENAMES):
            yield name, values
        else:
            raise UnknownCheckpoint(f"{source}: {LANGUAGE_MODEL_FILE} holds {key!r}, which MusicGen does not have")


def _renamed(key: str, table: tuple[tuple[str, str], ...]) -> str | None:
    for pattern, replacement in table:
        name, count = re.subn("^" + pattern, replacement, key)
        if count:
            return name
    return None
