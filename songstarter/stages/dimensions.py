"""A decoder graph's dimensions, read off its weights, for those who compute it without onnxruntime."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from songstarter.stages.graph_weights import Weights

HEAD_SIZE = 64
ROWS_BESIDE_TOKENS = 2  # of a codebook's table: the special token's, and that of no token at all


@dataclass(frozen=True)
class Dimensions:
    """Sizes of a decoder whose products have their matrices under the names ``<product>.<matrix>``, [in, out] each."""

    matrix: ClassVar[str]
    weights: Weights

    @property
    def layers(self) -> int:
        return sum(name.endswith(f".self_attn.qkv.{self.matrix}") for name in self.weights.index)

    @property
    def positions(self) -> int:
        return self.weights.index["sinusoid"].shape[0]

    @property
    def hidden(self) -> int:
        return self.weights.index["sinusoid"].shape[1]

    @property
    def heads(self) -> int:
        return self.hidden // HEAD_SIZE

    @property
    def wide(self) -> int:
        """Between the two products of a layer's feed-forward part."""
        return self.weights.index[f"model.decoder.layers.0.fc1.{self.matrix}"].shape[1]

    @property
    def logits(self) -> int:
        """Of all codebooks."""
        return self.weights.index[f"lm_heads.{self.matrix}"].shape[1]

    @property
    def codebooks(self) -> int:
        return (self.weights.index["embed_tokens"].shape[0] - self.logits) // ROWS_BESIDE_TOKENS

    @property
    def vocabulary(self) -> int:
        return self.logits // self.codebooks

    @property
    def table_rows(self) -> int:
        return self.vocabulary + ROWS_BESIDE_TOKENS
