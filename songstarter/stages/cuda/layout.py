"""What the kernels must know of an exported decoder, read off its weights."""

from __future__ import annotations

from dataclasses import dataclass

from songstarter.stages.dimensions import HEAD_SIZE, Dimensions
from songstarter.stages.graph_weights import Weights

COLUMNS = 64  # of a block: what every product's width is a multiple of
WIDEST, MOST_TOKENS = 4096, 2048  # that a block normalizes, that a block samples from
HALF, FLOAT = "float16", "float32"


@dataclass(frozen=True)
class Layout(Dimensions):
    """A decoder graph's dimensions, and the names of its weights."""

    matrix = "weight"

    @classmethod
    def of(cls, weights: Weights) -> Layout | None:
        """The layout of a decoder that the kernels are made for; None of another precision, family or width."""
        if "lm_heads.weight" not in weights or weights.index["lm_heads.weight"].dtype != HALF:
            return None
        layout = cls(weights)
        fits = (
            weights.index["embed_tokens"].dtype == FLOAT
            and not any(".encoder_attn." in name for name in weights.index)
            and layout.hidden % HEAD_SIZE == 0
            and layout.hidden <= WIDEST
            and layout.wide % COLUMNS == 0
            and layout.vocabulary <= MOST_TOKENS
            and layout.logits % COLUMNS == 0
        )
        return layout if fits else None

    @property
    def level(self) -> float | None:
        """The step between two levels of 8-bit keys and values; None where they are halves."""
        return float(self.weights["memory_step"][0]) if "memory_step" in self.weights else None

    def names(self) -> list[str]:
        """Every weight that a step reads."""
        parts = ("self_attn_layer_norm", "self_attn.qkv", "self_attn.out_proj", "final_layer_norm", "fc1", "fc2")
        keys = [f"model.decoder.layers.{layer}.{part}" for layer in range(self.layers) for part in parts]
        keys += ["model.decoder.layer_norm", "lm_heads"]
        found = [f"{key}.{kind}" for key in keys for kind in ("weight", "bias")]
        return ["embed_tokens", "sinusoid", *(name for name in found if name in self.weights)]
