"""Write a checkpoint in audiocraft's form, as its authors export it (spec 6)."""

from __future__ import annotations

import re
from collections import OrderedDict
from pathlib import Path

import torch
import yaml

from export.checkpoints import Loaded

REFERENCE = "facebook/encodec_32khz"

_LANGUAGE_MODEL = (
    (r"^model\.decoder\.embed_tokens\.", "emb."),
    (r"^model\.decoder\.layers\.", "transformer.layers."),
    (r"\.fc([12])\.", r".linear\1."),
    (r"\.self_attn_layer_norm\.", ".norm1."),
    (r"\.encoder_attn_layer_norm\.", ".norm_cross."),
    (r"\.final_layer_norm\.", ".norm2."),
    (r"\.encoder_attn\.", ".cross_attention."),
    (r"^model\.decoder\.layer_norm\.", "out_norm."),
    (r"^lm_heads\.", "linears."),
)
_CODEC = (
    (r"^(encoder|decoder)\.layers\.", r"\1.model."),
    (r"\.parametrizations\.weight\.original0$", ".weight_g"),
    (r"\.parametrizations\.weight\.original1$", ".weight_v"),
    (r"^quantizer\.layers\.(\d+)\.codebook\.", r"quantizer.vq.layers.\1._codebook."),
)


def write_audiocraft(loaded: Loaded, folder: Path, *, reference: bool) -> None:
    """Write ``state_dict.bin`` and ``compression_state_dict.bin``: a codec, or only the name of one."""
    folder.mkdir(parents=True, exist_ok=True)
    config = loaded.model.decoder.config
    settings = {
        "lm_model": "transformer_lm",
        "codebooks_pattern": {"modeling": "delay", "delay": {"delays": list(loaded.delays)}},
        "transformer_lm": {
            "num_heads": config.num_attention_heads,
            "dim": config.hidden_size,
            "activation": "gelu",
            "norm": "layer_norm",
            "norm_first": True,
            "positional_embedding": "sin",
            "causal": True,
        },
    }
    _write(folder / "state_dict.bin", _language_model(loaded), settings)
    codec = folder / "compression_state_dict.bin"
    if reference:
        torch.save({"pretrained": REFERENCE, "exported": True, "version": "1.2.0"}, codec)
    else:
        # Hydra's references are stored as they were written.
        seanet = {"causal": "${encodec.causal}", "pad_mode": "reflect"}
        _write(codec, _codec(loaded), {"sample_rate": 32_000, "encodec": {"causal": False}, "seanet": seanet})


def _write(path: Path, state: OrderedDict[str, torch.Tensor], settings: dict[str, object]) -> None:
    content = {"best_state": state, "xp.cfg": yaml.safe_dump(settings), "version": "1.2.0", "exported": True}
    torch.save(content, path)


def _language_model(loaded: Loaded) -> OrderedDict[str, torch.Tensor]:
    state: OrderedDict[str, torch.Tensor] = OrderedDict()
    stored = loaded.model.decoder.state_dict()
    for key, tensor in stored.items():
        name = _renamed(key, _LANGUAGE_MODEL)
        if name.endswith(".q_proj.weight"):
            rows = [stored[key.replace("q_proj", f"{part}_proj")] for part in "qkv"]
            state[name.replace("q_proj.weight", "in_proj_weight")] = torch.cat(rows)
        elif not re.search(r"\.[kv]_proj\.weight$", name):
            state[name] = tensor
    for conditioner, projection in (("description", "enc_to_dec_proj"), ("self_wav", "audio_enc_to_dec_proj")):
        for key, tensor in getattr(loaded.model, projection, torch.nn.Module()).state_dict().items():
            state[f"condition_provider.conditioners.{conditioner}.output_proj.{key}"] = tensor
    if loaded.family == "melody":
        state["condition_provider.conditioners.self_wav.chroma.spec.window"] = torch.hann_window(16_384)
    return state


def _codec(loaded: Loaded) -> OrderedDict[str, torch.Tensor]:
    transposed = {name for name, module in loaded.codec.named_modules() if isinstance(module, torch.nn.ConvTranspose1d)}
    state: OrderedDict[str, torch.Tensor] = OrderedDict()
    for key, tensor in loaded.codec.state_dict().items():
        owner = key.partition(".parametrizations")[0].removesuffix(".bias")
        kind = "convtr" if owner in transposed else "conv"
        state[_renamed(re.sub(r"\.conv\.", f".{kind}.{kind}.", key), _CODEC)] = tensor
    return state


def _renamed(key: str, table: tuple[tuple[str, str], ...]) -> str:
    for pattern, replacement in table:
        key = re.sub(pattern, replacement, key)
    return key
