"""A codec stored by audiocraft, read into the transformers class (spec 4.2 and 6.4)."""

from __future__ import annotations

import re

import torch
from transformers import EncodecConfig, EncodecModel

from export.checkpoints.stored_settings import StoredSettings
from songstarter.errors import UnknownCheckpoint

State = dict[str, torch.Tensor]

SAMPLE_RATE = 32_000
_RENAMES: tuple[tuple[str, str], ...] = (
    (r"^(encoder|decoder)\.model\.", r"\1.layers."),
    (r"\.(conv|convtr)\.\1\.", r".conv."),
    (r"\.weight_g$", r".parametrizations.weight.original0"),
    (r"\.weight_v$", r".parametrizations.weight.original1"),
    (r"^quantizer\.vq\.layers\.(\d+)\._codebook\.", r"quantizer.layers.\1.codebook."),
)


def codec_from_state(stored: State, settings: StoredSettings) -> EncodecModel:
    """Build the codec that a self-contained ``compression_state_dict.bin`` holds.

    Raises:
        UnknownCheckpoint: its tensors are not those of an EnCodec.
    """
    state = {_renamed(key): tensor.detach().float() for key, tensor in stored.items()}
    try:
        codec = EncodecModel(_config(state, settings))
        codec.load_state_dict(state)
    except (KeyError, RuntimeError, ValueError) as error:
        reason = " ".join(str(error).split())[:200]
        raise UnknownCheckpoint(f"the stored codec is no EnCodec that transformers can hold ({reason})") from None
    return codec.eval()


def _renamed(key: str) -> str:
    for pattern, replacement in _RENAMES:
        key = re.sub(pattern, replacement, key)
    return key


def _config(state: State, settings: StoredSettings) -> EncodecConfig:
    """Sizes from the shapes of the tensors; padding, causality and rate, which no tensor tells, from the settings."""
    rate = settings.get("sample_rate", SAMPLE_RATE)
    size, latent = state["quantizer.layers.0.codebook.embed"].shape
    filters, channels, kernel = _weight(state, "encoder.layers.0").shape
    narrow, wide, residual_kernel = _weight(state, "encoder.layers.1.block.1").shape
    codebooks = _count(state, r"quantizer\.layers\.\d+\.codebook\.embed")
    ratios = _ratios(state)
    bits_per_second = codebooks * (size - 1).bit_length() * rate / torch.tensor(ratios).prod().item()
    return EncodecConfig(
        sampling_rate=rate,
        audio_channels=channels,
        target_bandwidths=[bits_per_second / 1000],
        num_filters=filters,
        hidden_size=latent,
        upsampling_ratios=ratios,
        kernel_size=kernel,
        last_kernel_size=_weight(state, f"decoder.layers.{_last(state, 'decoder')}").shape[-1],
        residual_kernel_size=residual_kernel,
        compress=wide // narrow,
        num_lstm_layers=_count(state, r"encoder\.layers\.\d+\.lstm\.weight_ih_l\d+"),
        codebook_size=size,
        use_conv_shortcut=any(".shortcut." in key for key in state),
        use_causal_conv=settings.flag("seanet.causal", False),
        pad_mode=settings.get("seanet.pad_mode", "reflect"),
    )


def _ratios(state: State) -> list[int]:
    """The decoder's upsampling steps in order: its transposed kernels are twice their step."""
    layers = range(_last(state, "decoder"))
    kernels = {index: _weight(state, f"decoder.layers.{index}") for index in layers if _has(state, index)}
    return [weight.shape[-1] // 2 for index, weight in sorted(kernels.items()) if index > 0]


def _has(state: State, index: int) -> bool:
    return f"decoder.layers.{index}.conv.parametrizations.weight.original1" in state


def _weight(state: State, layer: str) -> torch.Tensor:
    return state[f"{layer}.conv.parametrizations.weight.original1"]


def _last(state: State, half: str) -> int:
    return max(int(key.split(".")[2]) for key in state if key.startswith(f"{half}.layers."))


def _count(state: State, pattern: str) -> int:
    return sum(re.fullmatch(pattern, key) is not None for key in state)
