"""The language model as one ONNX graph over preallocated memory.

    tokens [row, codebook, position] ─ embed, sum ─┐
    prefix [row, position, hidden] ────────────────┴─ + ─ + sinusoid ─ layers ─ norm ─ heads ─ logits
                                                                        │  ▲
                                            key_i, value_i [row, head, position, 64], updated in place

One graph serves the first call (prefix and several columns, empty memory) and every later one (one column). A
position is a column or a piece of the prefix; of the other it has nothing, which is zero: no input is ever empty,
which a CUDA graph could not hold. Rows stand at lengths of their own: ``lengths`` counts what a row holds after
the call, less one. Text checkpoints have no prefix; each layer attends to ``cross_key_i`` and ``cross_value_i``,
which a second graph, ``cross_attention.onnx``, computes once per take; ``text_ceiling`` hides the text's padding.
A graph for a device that samples also ends in a sampler, and stands beside those that make and copy its memory.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch

from export.device_memory import write_memory_graphs
from export.graph import Graph
from export.linear import FORMS, Form, linear_of_rounded
from export.memory_form import MemoryForm
from export.rounding import round_weights
from export.sampler import write_sampler
from export.songs import Songs, noise
from songstarter.errors import CheckpointError
from songstarter.stages.decoder import CROSS_GRAPH, GRAPH
from songstarter.stages.runtime import CROSS_PREFIX

EPSILON = 1e-5

State = dict[str, torch.Tensor]


@dataclass(frozen=True)
class Shape:
    """The sizes of a language model, as its graph needs them."""

    layers: int
    hidden: int
    heads: int
    codebooks: int
    vocabulary: int
    positions: int
    attends_to_text: bool

    @property
    def head_size(self) -> int:
        return self.hidden // self.heads


def shape_of(model: torch.nn.Module, positions: int) -> Shape:
    """Read the sizes from a transformers ``MusicgenForCausalLM`` or its melody sister."""
    config = model.config
    return Shape(
        layers=config.num_hidden_layers,
        hidden=config.hidden_size,
        heads=config.num_attention_heads,
        codebooks=config.num_codebooks,
        vocabulary=config.vocab_size,
        positions=positions,
        attends_to_text=config.model_type == "musicgen_decoder",
    )


def form_of(precision: str, device: str) -> Form:
    """The form of a precision on a device.

    Raises:
        CheckpointError: there is none; attention on CUDA, say, has no fp32.
    """
    if (precision, device) not in FORMS:
        known = ", ".join(f"{p} on {d}" for p, d in FORMS)
        raise CheckpointError(f"the decoder cannot be exported as {precision} on {device}; possible are: {known}")
    return FORMS[precision, device]


def write_decoder(
    model: torch.nn.Module, shape: Shape, form: Form, folder: Path, songs: Songs | None = None
) -> list[Path]:
    """Write the decoder's graphs into ``folder`` and return their paths; ``songs``, else noise, decide on roundings."""
    state = model.state_dict()
    linear = linear_of_rounded(round_weights(model, songs or noise(model))) if form.rounds else form.linear
    paths = [folder / GRAPH.name]
    with Graph(paths[0]) as graph:
        _DecoderGraph(graph, shape, replace(form, linear=linear), state, form.keeping.of(model)).write()
        if form.samples:
            write_sampler(graph, codebooks=shape.codebooks, vocabulary=shape.vocabulary)
    if shape.attends_to_text:
        paths.append(folder / CROSS_GRAPH.name)
        with Graph(paths[-1]) as graph:
            _write_cross_attention(graph, shape, state)
    if form.samples:
        paths += write_memory_graphs(folder, shape.layers, form.memory)
        paths += write_memory_graphs(folder, shape.layers, np.float32, CROSS_PREFIX) if shape.attends_to_text else []
    return paths


class _DecoderGraph:
    """Writes the decoder's nodes, first to last."""

    def __init__(self, graph: Graph, shape: Shape, form: Form, state: State, keeping: MemoryForm) -> None:
        self.graph, self.shape, self.form, self.state, self.keeping = graph, shape, form, state, keeping

    def write(self) -> None:
        x, change = self._embed(), None
        for layer in range(self.shape.layers):
            x, change = self._layer(layer, x, change)
        self._heads(self._changed(x, change))

    def _embed(self) -> str:
        graph, shape = self.graph, self.shape
        tokens = graph.input("tokens", np.int64, ["row", shape.codebooks, "position"])
        tables = [self._table(codebook) for codebook in range(shape.codebooks)]
        starts = np.cumsum([0] + [len(table) for table in tables[:-1]], dtype=np.int64)
        places = graph.node("Add", [tokens, graph.constant(starts.reshape(1, -1, 1))], "token_places")
        table = graph.weight("embed_tokens", np.concatenate(tables))
        looked_up = graph.node("Gather", [table, places], "token_vectors")
        axis = graph.constant(np.array([1], np.int64))
        x = graph.node("ReduceSum", [looked_up, axis], "columns_in", keepdims=0)
        if not shape.attends_to_text:
            prefix = graph.input("prefix", np.float32, ["row", "position", shape.hidden])
            x = graph.node("Add", [prefix, x], "sequence")
        positions = graph.input("positions", np.int64, ["row", "position"])
        sinusoid = graph.weight("sinusoid", sinusoids(shape.positions, shape.hidden))
        return graph.node("Add", [x, graph.node("Gather", [sinusoid, positions], "phases")], "embedded")

    def _table(self, codebook: int) -> np.ndarray:
        """A codebook's embeddings, and below them that of no token at all."""
        table = _array(self.state, f"model.decoder.embed_tokens.{codebook}.weight")
        return np.concatenate([table, np.zeros_like(table[:1])])

    def _layer(self, layer: int, x: str, change: str | None) -> tuple[str, str]:
        """The residual stream before a layer's last change of it, and that change."""
        key = f"model.decoder.layers.{layer}"
        normed, x = self._norm(f"{key}.self_attn_layer_norm", x, change)
        change = self._self_attention(layer, key, normed)
        if self.shape.attends_to_text:
            normed, x = self._norm(f"{key}.encoder_attn_layer_norm", x, change)
            change = self._cross_attention(layer, key, normed)
        normed, x = self._norm(f"{key}.final_layer_norm", x, change)
        return x, self._feed_forward(key, normed)

    def _self_attention(self, layer: int, key: str, normed: str) -> str:
        packed = np.concatenate([_array(self.state, f"{key}.self_attn.{p}_proj.weight") for p in "qkv"])
        packed, out = self.keeping.fold(layer, packed, _array(self.state, f"{key}.self_attn.out_proj.weight"))
        attended = self._grouped_query_attention(layer, self._linear(f"{key}.self_attn.qkv", normed, packed))
        return self._linear(f"{key}.self_attn.out_proj", attended, out)

    def _grouped_query_attention(self, layer: int, packed: str) -> str:
        graph, shape, memory, copies = self.graph, self.shape, self.form.memory, self.keeping.query_copies
        dims = ["row", shape.heads, shape.positions, shape.head_size]
        if layer == 0:
            graph.input("lengths", np.int32, ["row"])
            graph.input("longest", np.int32, [1])
        past = [graph.input(f"{kind}_{layer}", memory, dims) for kind in ("key", "value")]
        present = [f"{name}_present" for name in past]
        for name in present:
            graph.output(name, memory, dims)
        extras, kinds = self.keeping.extras(graph, layer)
        attended, *_ = graph.contrib(
            "GroupQueryAttention",
            [self._copy_queries(layer, packed), "", "", *past, "lengths", "longest", *extras],
            [f"attended_{layer}", *present],
            num_heads=shape.heads * copies,
            kv_num_heads=shape.heads,
            **kinds,
        )
        return self._first_copies(layer, attended)

    def _copy_queries(self, layer: int, packed: str) -> str:
        """Queries, keys and values with each head's queries standing as often as the memory's form wants."""
        if self.keeping.query_copies == 1:
            return packed
        hidden = self.shape.hidden
        heads = np.arange(hidden).reshape(self.shape.heads, 1, -1).repeat(self.keeping.query_copies, axis=1)
        channels = np.concatenate([heads.reshape(-1), np.arange(hidden, 3 * hidden)])
        index = self.graph.weight("copied_channels", channels)
        return self.graph.node("Gather", [packed, index], f"copied_{layer}", axis=-1)

    def _first_copies(self, layer: int, attended: str) -> str:
        if self.keeping.query_copies == 1:
            return attended
        channels = np.arange(self.shape.hidden * self.keeping.query_copies)
        first = channels.reshape(self.shape.heads, self.keeping.query_copies, -1)[:, 0].reshape(-1)
        index = self.graph.weight("first_channels", first)
        return self.graph.node("Gather", [attended, index], f"first_{layer}", axis=-1)

    def _cross_attention(self, layer: int, key: str, normed: str) -> str:
        """Softmax over the text's places, under a ceiling that is very low where a row has no text."""
        graph, shape = self.graph, self.shape
        name = f"{key}.encoder_attn"
        dims = ["row", shape.heads, "text_place", shape.head_size]
        keys = graph.input(f"cross_key_{layer}", np.float32, dims)
        values = graph.input(f"cross_value_{layer}", np.float32, dims)
        if layer == 0:
            graph.input("text_ceiling", np.float32, ["row", 1, 1, "text_place"])
        query = self._linear_of(f"{name}.q_proj", normed)
        query = self._cast(query, f"{name}.query_fp32", np.float32)
        split = graph.constant(np.array([0, 0, shape.heads, shape.head_size], np.int64))
        heads = graph.node("Reshape", [query, split], f"{name}.split")
        by_head = graph.node("Transpose", [heads], f"{name}.by_head", perm=[0, 2, 1, 3])
        scale = graph.constant(np.array(shape.head_size**-0.5, np.float32))
        scaled = graph.node("Mul", [by_head, scale], f"{name}.scaled")
        turned = graph.node("Transpose", [keys], f"{name}.turned", perm=[0, 1, 3, 2])
        scores = graph.node("MatMul", [scaled, turned], f"{name}.scores")
        masked = graph.node("Min", [scores, "text_ceiling"], f"{name}.masked")
        shares = graph.node("Softmax", [masked], f"{name}.shares", axis=-1)
        mixed = graph.node("MatMul", [shares, values], f"{name}.mixed")
        by_position = graph.node("Transpose", [mixed], f"{name}.by_position", perm=[0, 2, 1, 3])
        join = graph.constant(np.array([0, 0, shape.hidden], np.int64))
        joined = graph.node("Reshape", [by_position, join], f"{name}.joined")
        return self._linear_of(f"{name}.out_proj", self._cast(joined, f"{name}.joined_cast", self.form.activation))

    def _feed_forward(self, key: str, normed: str) -> str:
        wide = self._linear_of(f"{key}.fc1", normed)
        active, *_ = self.graph.contrib("Gelu", [wide], [f"{key}.gelu"])
        return self._linear_of(f"{key}.fc2", active)

    def _heads(self, x: str) -> None:
        """Logits of the last position only: the others' columns are known already."""
        graph, shape = self.graph, self.shape
        last = graph.constant(np.array(-1, np.int64))
        final = graph.node("Gather", [x, last], "last_position", axis=1)
        single = graph.node("Unsqueeze", [final, graph.constant(np.array([1], np.int64))], "last_as_sequence")
        normed, _ = self._norm("model.decoder.layer_norm", single, None)
        heads = np.concatenate([_array(self.state, f"lm_heads.{k}.weight") for k in range(shape.codebooks)])
        flat = self._cast(self._linear("lm_heads", normed, heads), "flat_logits", np.float32)
        split = graph.constant(np.array([0, shape.codebooks, shape.vocabulary], np.int64))
        graph.node("Reshape", [flat, split], "logits")
        graph.output("logits", np.float32, ["row", shape.codebooks, shape.vocabulary])

    def _norm(self, key: str, x: str, change: str | None) -> tuple[str, str]:
        """Layer norm in fp32 of the changed stream, handed on in the type that products take; and the stream."""
        scale = self.graph.weight(f"{key}.weight", _array(self.state, f"{key}.weight"))
        shift = self.graph.weight(f"{key}.bias", _array(self.state, f"{key}.bias"))
        if change is None or not self.form.adds_in_norm:
            x = self._changed(x, change)
            normed = self.graph.node("LayerNormalization", [x, scale, shift], key, axis=-1, epsilon=EPSILON)
        else:
            inputs = [x, self._cast(change, f"{change}.fp32", np.float32), scale, shift]
            outputs = [key, "", "", f"{change}.residual"]
            normed, _, _, x = self.graph.contrib("SkipLayerNormalization", inputs, outputs, epsilon=EPSILON)
        return self._cast(normed, f"{key}.cast", self.form.activation), x

    def _changed(self, x: str, change: str | None) -> str:
        if change is None:
            return x
        return self.graph.node("Add", [x, self._cast(change, f"{change}.fp32", np.float32)], f"{change}.residual")

    def _linear_of(self, key: str, x: str) -> str:
        return self._linear(key, x, _array(self.state, f"{key}.weight"))

    def _linear(self, name: str, x: str, weight: np.ndarray) -> str:
        return self.form.linear(self.graph, name, x, weight)

    def _cast(self, x: str, name: str, dtype: type[np.generic]) -> str:
        """``x`` in another type, where the form's products use one other than fp32."""
        if self.form.activation is np.float32:
            return x
        return self.graph.node("Cast", [x], name, to=TYPES[dtype])


TYPES = {np.float32: 1, np.float16: 10}


def _write_cross_attention(graph: Graph, shape: Shape, state: State) -> None:
    """text [row, text place, hidden] -> cross_key_i, cross_value_i [row, head, text place, 64]."""
    graph.input("text", np.float32, ["row", "text_place", shape.hidden])
    split = graph.constant(np.array([0, 0, shape.heads, shape.head_size], np.int64))
    dims = ["row", shape.heads, "text_place", shape.head_size]
    for layer in range(shape.layers):
        for kind, letter in (("key", "k"), ("value", "v")):
            name = f"cross_{kind}_{layer}"
            weight = _array(state, f"model.decoder.layers.{layer}.encoder_attn.{letter}_proj.weight")
            flat = graph.node("MatMul", ["text", graph.weight(f"{name}.weight", weight.T)], f"{name}.flat")
            heads = graph.node("Reshape", [flat, split], f"{name}.split")
            graph.node("Transpose", [heads], name, perm=[0, 2, 1, 3])
            graph.output(name, np.float32, dims)


def sinusoids(positions: int, hidden: int) -> np.ndarray:
    """Position embeddings [position, hidden]: cosines, then sines, phase p / 10000^(i / (h - 1)) (spec 3.4).

    Computed in fp32 in the order of the original, whose rounding shows at the far positions.
    """
    half = hidden // 2
    rates = torch.exp(torch.arange(half).float() * -(np.log(10000) / (half - 1)))
    phases = torch.arange(positions).float().unsqueeze(1) * rates.unsqueeze(0)
    return torch.cat([phases.cos(), phases.sin()], dim=1).numpy()


def _array(state: State, key: str) -> np.ndarray:
    array: np.ndarray = state[key].detach().float().cpu().numpy()
    return array
