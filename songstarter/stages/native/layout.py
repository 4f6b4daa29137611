"""What ``decoder.c`` must know of an exported decoder, read off its weights: dimensions and every weight's place."""

from __future__ import annotations

import ctypes
from dataclasses import dataclass
from functools import cached_property

from songstarter.stages.dimensions import HEAD_SIZE, Dimensions
from songstarter.stages.graph_weights import Weights
from songstarter.stages.kv_memory import POSITIONS_TOGETHER

CHANNELS = 32  # what every product's width is a multiple of
KINDS = ("key", "value", "cross_key", "cross_value")  # of a layer's memory, in the order of the C struct


class Shape(ctypes.Structure):
    """``Shape`` of ``decoder.c``."""

    _fields_ = tuple(
        (name, ctypes.c_int32)
        for name in [
            "layers",
            "hidden",
            "wide",
            "heads",
            "codebooks",
            "vocabulary",
            "table_rows",
            "positions",
            "text_places",
            "threads",
        ]
    )


@dataclass(frozen=True)
class Layout(Dimensions):
    """An int8 decoder graph's dimensions and weights."""

    matrix = "levels"

    @classmethod
    def of(cls, weights: Weights) -> Layout | None:
        """The layout of a decoder that ``decoder.c`` is made for; None of another precision or odd dimensions."""
        if "lm_heads.levels" not in weights:
            return None
        layout = cls(weights)
        fits = layout.hidden % HEAD_SIZE == 0 and layout.logits % CHANNELS == 0 and layout.wide % CHANNELS == 0
        whole = not layout.remembers_bytes or layout.positions % POSITIONS_TOGETHER == 0
        return layout if fits and whole else None

    @property
    def remembers_bytes(self) -> bool:
        return "key_scale_0" in self.weights

    @property
    def attends_to_text(self) -> bool:
        return "model.decoder.layers.0.encoder_attn.q_proj.levels" in self.weights

    @property
    def bytes(self) -> int:
        """Of the weights that a step multiplies by."""
        of_layer = self.hidden * (4 * self.hidden + 2 * self.wide + (2 * self.hidden if self.attends_to_text else 0))
        return self.layers * of_layer + self.hidden * self.logits

    @cached_property
    def memory_names(self) -> list[list[str]]:
        """The graph's names of each layer's memory, in the order of ``KINDS``."""
        kinds = KINDS if self.attends_to_text else KINDS[:2]
        return [[f"{kind}_{layer}" for kind in kinds] for layer in range(self.layers)]

    def shape(self, *, text_places: int, threads: int) -> Shape:
        return Shape(
            layers=self.layers,
            hidden=self.hidden,
            wide=self.wide,
            heads=self.heads,
            codebooks=self.codebooks,
            vocabulary=self.vocabulary,
            table_rows=self.table_rows,
            positions=self.positions,
            text_places=text_places,
            threads=threads,
        )

    def parts(self) -> ctypes.Array[ctypes.c_void_p]:
        """Every weight's address, in the order of ``decoder_open``; null where the graph has none."""
        names = [name for layer in range(self.layers) for name in _parts_of(f"model.decoder.layers.{layer}", layer)]
        names += ["embed_tokens", "sinusoid", *_norm("model.decoder.layer_norm"), *_product("lm_heads")]
        return addresses([self.weights.address(name) for name in names])


def addresses(found: list[int | None]) -> ctypes.Array[ctypes.c_void_p]:
    return (ctypes.c_void_p * len(found))(*found)


def _parts_of(key: str, layer: int) -> list[str]:
    return [
        *_norm(f"{key}.self_attn_layer_norm"),
        *_product(f"{key}.self_attn.qkv"),
        *_product(f"{key}.self_attn.out_proj"),
        *_norm(f"{key}.final_layer_norm"),
        *_product(f"{key}.fc1"),
        *_product(f"{key}.fc2"),
        f"key_scale_{layer}",
        f"value_scale_{layer}",
        *_norm(f"{key}.encoder_attn_layer_norm"),
        *_product(f"{key}.encoder_attn.q_proj"),
        *_product(f"{key}.encoder_attn.out_proj"),
    ]


def _norm(name: str) -> list[str]:
    return [f"{name}.weight", f"{name}.bias"]


def _product(name: str) -> list[str]:
    return [f"{name}.levels", f"{name}.scales"]
