"""The doorway to ``native/decoder.c``: an int8 decoder's graph, computed without onnxruntime.

It has the graph's inputs and results and takes its weights from the graph's data file, so that whoever runs one can run the
other. The graph is its twin: it runs where this cannot, and tests hold the two together.
"""

from __future__ import annotations

import ctypes
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np

from songstarter.array import Array
from songstarter.errors import CheckpointError
from songstarter.stages.native.compile import INSTRUCTION_SETS, InstructionSet
from songstarter.stages.session import Place

INDEX_SUFFIX = ".weights.json"  # what lies where in the graph's data file, as the exporter wrote it
HEAD_SIZE = 64
MOST_ROWS = 64  # of a call, as in decoder.c
CHANNELS = 32  # what every product's width is a multiple of
CPU_FACTS = Path("/proc/cpuinfo")


class _Shape(ctypes.Structure):
    _fields_ = tuple(
        (name, ctypes.c_int32)
        for name in (
            "layers",
            "hidden",
            "heads",
            "codebooks",
            "vocabulary",
            "table_rows",
            "positions",
            "text_places",
            "threads",
        )
    )


class _Call(ctypes.Structure):
    _fields_ = (
        ("rows", ctypes.c_int32),
        ("first_asked", ctypes.c_int32),
        *((n, ctypes.c_void_p) for n in ("tokens", "prefix", "memory_rows", "places", "text_lengths", "memory", "logits")),
    )


@dataclass(frozen=True)
class Weights:
    """The weights of a decoder graph by name, mapped from its data file."""

    data: Array
    index: Mapping[str, tuple[str, tuple[int, ...], int]]

    @classmethod
    def of(cls, graph: Path) -> Weights | None:
        """Those of a graph that has an index beside it; None otherwise."""
        path = graph.with_name(graph.name + INDEX_SUFFIX)
        if not path.is_file():
            return None
        try:
            found = {name: (kind, tuple(shape), offset) for name, (kind, shape, offset) in json.loads(path.read_text()).items()}
            return cls(np.memmap(graph.with_name(graph.name + ".data"), np.uint8, "r"), found)
        except (OSError, ValueError, TypeError) as error:
            raise CheckpointError(f"{path.name} or the data beside it cannot be read ({error}): export again") from error

    def __contains__(self, name: str) -> bool:
        return name in self.index

    def __getitem__(self, name: str) -> Array:
        kind, shape, offset = self.index[name]
        dtype = np.dtype(kind)
        weight: Array = self.data[offset : offset + dtype.itemsize * int(np.prod(shape))].view(dtype).reshape(shape)
        return weight

    def address(self, name: str) -> int | None:
        return self[name].ctypes.data if name in self else None


def open_native(graph: Path, *, threads: int) -> NativeSession | None:
    """A session for a decoder graph, or None where there is none for it: another precision, processor or shape."""
    instructions = _instructions()
    weights = Weights.of(graph)
    if instructions is None or weights is None or "lm_heads.levels" not in weights:
        return None
    facts = Facts(weights)
    return NativeSession(facts, instructions, threads or len(os.sched_getaffinity(0))) if facts.fit else None


def _instructions() -> InstructionSet | None:
    """The fastest compiled library that this processor can run."""
    lines = CPU_FACTS.read_text().splitlines() if CPU_FACTS.is_file() else []
    flags = set(next((line.split(":", 1)[1].split() for line in lines if line.startswith("flags")), []))
    usable = (one for one in INSTRUCTION_SETS if one.needs <= flags and one.library.is_file())
    return next(usable, None)


@dataclass(frozen=True)
class Facts:
    """A decoder's dimensions, read off its weights."""

    weights: Weights

    @cached_property
    def layers(self) -> int:
        return sum(name.endswith("self_attn.qkv.levels") for name in self.weights.index)

    @property
    def hidden(self) -> int:
        return int(self.weights.index["sinusoid"][1][1])

    @property
    def positions(self) -> int:
        return int(self.weights.index["sinusoid"][1][0])

    @property
    def heads(self) -> int:
        return self.hidden // HEAD_SIZE

    @property
    def codebooks(self) -> int:
        """The tables have two rows more for each codebook than the heads have channels: see ``export/decoder.py``."""
        return (self.weights.index["embed_tokens"][1][0] - self.logits) // 2

    @property
    def logits(self) -> int:
        return int(self.weights.index["lm_heads.levels"][1][1])

    @property
    def attends_to_text(self) -> bool:
        return "model.decoder.layers.0.encoder_attn.q_proj.levels" in self.weights

    @property
    def fit(self) -> bool:
        """Whether ``decoder.c`` is made for such dimensions."""
        return self.hidden % HEAD_SIZE == 0 and self.logits % CHANNELS == 0

    @property
    def memory_names(self) -> list[list[str]]:
        """The graph's names for each layer's memory, in the order of the C struct."""
        kinds = ("key", "value", "cross_key", "cross_value")[: 4 if self.attends_to_text else 2]
        return [[f"{kind}_{layer}" for kind in kinds] for layer in range(self.layers)]

    def shape(self, *, text_places: int, threads: int) -> _Shape:
        return _Shape(
            layers=self.layers,
            hidden=self.hidden,
            heads=self.heads,
            codebooks=self.codebooks,
            vocabulary=self.logits // self.codebooks,
            table_rows=self.logits // self.codebooks + 2,
            positions=self.positions,
            text_places=text_places,
            threads=threads,
        )

    def parts(self) -> list[int | None]:
        """The weights' addresses in the order that ``decoder_open`` expects."""
        names = [name for layer in range(self.layers) for name in _layer_parts(layer)]
        names += ["embed_tokens", "sinusoid", *_norm("model.decoder.layer_norm"), *_product("lm_heads")]
        return [self.weights.address(name) for name in names]


def _layer_parts(layer: int) -> list[str]:
    key = f"model.decoder.layers.{layer}"
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


class NativeSession:
    """Stands where ``Session`` would; the memory it works on is the caller's, and it moves none of it."""

    def __init__(self, facts: Facts, instructions: InstructionSet, threads: int) -> None:
        self._facts = facts
        self._threads = threads
        self._library = ctypes.CDLL(str(instructions.library))
        self._library.decoder_open.restype = ctypes.c_void_p
        self._opened: int | None = None
        memory = [name for layer in facts.memory_names for name in layer]
        conditioning = ["text_mask"] if facts.attends_to_text else ["prefix"]
        self.inputs = ("tokens", "positions", "lengths", "longest", *conditioning, *memory)
        self.outputs = ("logits", *(f"{name}_present" for name in memory if not name.startswith("cross_")))

    def run_in_place(
        self, feeds: Mapping[str, Array], places: Mapping[str, Place], results: Sequence[str]
    ) -> list[Array]:
        """As ``Session.run_in_place``; the only result there is to ask for is ``logits`` [row, codebook, token]."""
        facts = self._facts
        rows, codebooks, positions = feeds["tokens"].shape
        tokens = np.ascontiguousarray(feeds["tokens"].transpose(0, 2, 1).reshape(-1, codebooks), np.int64)
        prefix = np.ascontiguousarray(feeds["prefix"].reshape(-1, facts.hidden), np.float32) if "prefix" in feeds else None
        memory_rows = np.repeat(np.arange(rows, dtype=np.int32), positions)
        at = np.ascontiguousarray(feeds["positions"].reshape(-1), np.int32)
        text_places, text_lengths = _text(places.get("text_mask"), positions)
        memory = _addresses(facts, places)
        logits = np.empty((rows, facts.logits), np.float32)
        decoder = self._decoder(text_places)
        for start in range(0, len(at), MOST_ROWS):
            count = min(MOST_ROWS, len(at) - start)
            # Of a row with several positions the last one is asked for; a call has either one position in each row or one row.
            first_asked = 0 if positions == 1 else count - 1
            call = _Call(
                rows=count,
                first_asked=first_asked,
                tokens=tokens[start:].ctypes.data,
                prefix=None if prefix is None else prefix[start:].ctypes.data,
                memory_rows=memory_rows[start:].ctypes.data,
                places=at[start:].ctypes.data,
                text_lengths=None if text_lengths is None else text_lengths[start:].ctypes.data,
                memory=ctypes.addressof(memory),
                logits=logits[start if positions == 1 else 0 :].ctypes.data,
            )
            self._library.decoder_run(ctypes.c_void_p(decoder), ctypes.byref(call))
        return [logits.reshape(rows, codebooks, -1)]

    def __del__(self) -> None:
        if getattr(self, "_opened", None):
            self._library.decoder_close(ctypes.c_void_p(self._opened))

    def _decoder(self, text_places: int) -> int:
        """Opened at the first call, which tells how wide the text's memory is."""
        if self._opened is None:
            parts = self._facts.parts()
            shape = self._facts.shape(text_places=text_places, threads=self._threads)
            self._opened = self._library.decoder_open(ctypes.byref(shape), (ctypes.c_void_p * len(parts))(*parts))
            if not self._opened:
                raise MemoryError("there is no memory for the decoder's weights")
        return self._opened


def _text(mask: Place | None, positions: int) -> tuple[int, Array | None]:
    """How many places a text has at most, and for each row of a call how many it has; the mask is 0 over them."""
    if mask is None:
        return 0, None
    count = int(np.prod(mask.shape))
    values = np.ctypeslib.as_array((ctypes.c_float * count).from_address(mask.address)).reshape(mask.shape)
    lengths = (values == 0).reshape(len(values), -1).sum(axis=1)
    return values.shape[-1], np.repeat(lengths, positions).astype(np.int32)


def _addresses(facts: Facts, places: Mapping[str, Place]) -> ctypes.Array[ctypes.c_void_p]:
    """Where each layer's memory lies, four addresses a layer, the last two of them 0 without text."""
    addresses = [
        places[names[kind]].address if kind < len(names) else None for names in facts.memory_names for kind in range(4)
    ]
    return (ctypes.c_void_p * len(addresses))(*addresses)
