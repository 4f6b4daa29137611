"""A tiny checkpoint with seeded random weights: the real classes, the real grid, no songs learned.

The tests and the benchmarks make theirs here; nothing is stored. The weights are scaled so that such a model
behaves like one: logits that differ, attention that looks somewhere, a codec that is heard and whose codes depend
on what it hears.
"""

from __future__ import annotations

import torch
from torch import nn
from transformers import EncodecConfig, EncodecModel, T5Config, T5EncoderModel

from export.checkpoints.compose import DECODER_CONFIGS, LANGUAGE_MODELS, LanguageModel, compose
from export.checkpoints.loaded import Loaded, MusicGen
from export.checkpoints.tiny_tokenizer import make_tokenizer
from songstarter.checkpoint import Family

CODEBOOKS = 4  # per channel
CODEBOOK_SIZE = 2048
RATIOS = (8, 5, 4, 4)
HEAD_SIZE = 64
QUIET_BIAS = 0.1  # louder ones would drown what a fresh codec hears
LOUDNESS = 0.1  # root mean square of what random codes sound like
LOGIT_SPREAD = 3.0
QUIET_TEXT = 0.3  # louder, the unchanging text would decide every column alike


def make_checkpoint(
    *,
    family: Family,
    channels: int,
    seed: int = 0,
    hidden: int = 2 * HEAD_SIZE,
    layers: int = 2,
    filters: int = 4,
    latent: int = 16,
    name: str = "tiny",
) -> Loaded:
    """Make a checkpoint of either family, mono or stereo; the same arguments give the same weights.

    ``filters`` and ``latent`` are the codec's width at full rate and between its halves; 64 and 128 are those
    of ``facebook/encodec_32khz``. The caller's random state is left alone.
    """
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(seed)
        tokenizer = make_tokenizer()
        model = compose(
            family,
            text_encoder=_make_text_encoder(len(tokenizer)),
            codec=make_codec(filters=filters, latent=latent),
            decoder=make_decoder(family, channels, hidden, layers),
        )
        _vary_norms_and_biases(model)
        _fill_projections(model)
    return Loaded(name, model, tokenizer)


def make_codec(*, filters: int, latent: int, codebook_size: int = CODEBOOK_SIZE) -> EncodecModel:
    """A codec on the grid of ``facebook/encodec_32khz`` whose ends are scaled to what music measures."""
    config = EncodecConfig(
        sampling_rate=32_000,
        audio_channels=1,
        target_bandwidths=[2.2],
        num_filters=filters,
        hidden_size=latent,
        upsampling_ratios=list(RATIOS),
        codebook_size=codebook_size,
        use_causal_conv=False,
        pad_mode="reflect",
        use_conv_shortcut=False,
    )
    codec = EncodecModel(config).eval()
    for module in codec.modules():
        if isinstance(module, nn.Conv1d | nn.ConvTranspose1d):
            module.bias.mul_(QUIET_BIAS)
    for depth, layer in enumerate(codec.quantizer.layers):
        layer.codebook.embed.normal_(std=0.5**depth)
    _standardise(codec.encoder, torch.randn(1, 1, 32_000) * LOUDNESS, 1.0)
    codes = torch.randint(codebook_size, (CODEBOOKS, 1, 50))
    _standardise(codec.decoder, codec.quantizer.decode(codes), LOUDNESS)
    return codec


def _standardise(half: nn.Module, example: torch.Tensor, spread: float) -> None:
    """Give every channel of the half's output mean zero and the wanted standard deviation over the example."""
    last = half.layers[-1].conv
    output = half(example)
    gain = spread / output.std(dim=(0, 2))
    last.parametrizations.weight.original0.mul_(gain[:, None, None])
    last.bias.copy_((last.bias - output.mean(dim=(0, 2))) * gain)


def _make_text_encoder(vocabulary: int) -> T5EncoderModel:
    config = T5Config(
        vocab_size=vocabulary, d_model=48, d_kv=16, d_ff=96, num_layers=2, num_heads=4, is_encoder_decoder=False
    )
    return T5EncoderModel(config).eval()


def make_decoder(family: Family, channels: int, hidden: int, layers: int) -> LanguageModel:
    """A language model of random weights, on torch's default device and in its default type."""
    config = DECODER_CONFIGS[family](
        vocab_size=CODEBOOK_SIZE,
        num_hidden_layers=layers,
        hidden_size=hidden,
        ffn_dim=4 * hidden,
        num_attention_heads=hidden // HEAD_SIZE,
        num_codebooks=CODEBOOKS * channels,
        audio_channels=channels,
    )
    decoder = LANGUAGE_MODELS[family](config).eval()
    for module in decoder.modules():
        if isinstance(module, nn.Linear):
            module.weight.normal_(std=module.in_features**-0.5)
        elif isinstance(module, nn.Embedding):
            module.weight.normal_(std=(CODEBOOKS * channels) ** -0.5)
    for head in decoder.lm_heads:
        head.weight.mul_(LOGIT_SPREAD)
    for layer in decoder.model.decoder.layers:
        if hasattr(layer, "encoder_attn"):
            layer.encoder_attn.out_proj.weight.mul_(QUIET_TEXT)
    return decoder


def _vary_norms_and_biases(model: MusicGen) -> None:
    """Move every norm off one and zero, so that a weight put in the wrong place shows."""
    for module in model.decoder.modules():
        if isinstance(module, nn.LayerNorm):
            module.weight.normal_(mean=1.0, std=0.1)
            module.bias.normal_(std=0.1)


def _fill_projections(model: MusicGen) -> None:
    """Prefix embeddings of about the size of a column's."""
    for name in ("enc_to_dec_proj", "audio_enc_to_dec_proj"):
        if projection := getattr(model, name, None):
            projection.weight.normal_(std=projection.in_features**-0.5)
            projection.bias.normal_(std=0.1)
