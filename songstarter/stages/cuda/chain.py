"""A step over some rows as a chain of launches: what ``decoder.cu`` draws, for one decoder."""

from __future__ import annotations

import ctypes
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from songstarter.stages.cuda.arguments import Attend, Embed, Gelu, Norm, Product, Sample
from songstarter.stages.cuda.blas import Gemm
from songstarter.stages.cuda.driver import Launch
from songstarter.stages.cuda.layout import COLUMNS, Layout
from songstarter.stages.dimensions import HEAD_SIZE

EPSILON = 1e-5
THREADS, ATTENDING = 256, 128
DOWN, WARPS = 32, 8  # of a product's block
QUAD = 4  # halves that a thread activates
FLOAT_BYTES, HALF_BYTES, COUNTER_BYTES = 4, 2, 4

FEW_ROWS = (2,)  # whose products are the project's own: of four rows cuBLAS's are faster
LARGEST_SHARE = 1024  # of a product's inner width
FEWEST_BLOCKS = 192  # more than one for each processor of a large device
ATTENDING_BLOCKS = 512
MOST_SHARES = 16  # of a row's positions
LEFT = HEAD_SIZE + 2  # numbers that a share of attention leaves

Work = Launch | Gemm


@dataclass(frozen=True)
class Scratch:
    """Addresses of what a chain's launches leave each other."""

    stream: int  # [row, hidden] fp32
    normed: int  # [row, hidden]
    packed: int  # [row, 3 x hidden]
    mixed: int  # [row, hidden]
    active: int  # [row, wide]
    partial: int  # of blocks that share something
    arrived: int  # how many of them are done


def scratch_bytes(layout: Layout, rows: int) -> dict[str, int]:
    """How large each part of the scratch is, for chains of up to so many rows."""
    products = [
        (layout.hidden, 3 * layout.hidden),
        (layout.hidden, layout.hidden),
        (layout.hidden, layout.wide),
        (layout.wide, layout.hidden),
        (layout.hidden, layout.logits),
    ]
    shared_out = [_shares(inner, columns) * max(FEW_ROWS, default=0) * columns for inner, columns in products]
    pairs = [count * layout.heads for count in range(2, rows + 1, 2)]
    attention = [count * _attention_shares(count) * LEFT for count in pairs]
    return {
        "stream": rows * layout.hidden * FLOAT_BYTES,
        "normed": rows * layout.hidden * HALF_BYTES,
        "packed": 3 * rows * layout.hidden * HALF_BYTES,
        "mixed": rows * layout.hidden * HALF_BYTES,
        "active": rows * layout.wide * HALF_BYTES,
        "partial": max(*shared_out, *attention) * FLOAT_BYTES,
        "arrived": max(*(columns // COLUMNS for _, columns in products), *pairs) * COUNTER_BYTES,
    }


@dataclass(frozen=True)
class Chain:
    """The launches of a step; ``weights`` and ``places`` are addresses by name."""

    layout: Layout
    weights: Mapping[str, int]
    places: Mapping[str, int]
    scratch: Scratch
    rows: int

    def __iter__(self) -> Iterator[Work]:
        yield self._embed()
        for layer in range(self.layout.layers):
            yield from self._layer(layer)
        yield from self._normed_product("tell", "model.decoder.layer_norm", "lm_heads", self.places["logits"])
        yield self._sample()

    def _layer(self, layer: int) -> Iterator[Work]:
        key, scratch = f"model.decoder.layers.{layer}", self.scratch
        yield from self._normed_product("keep", f"{key}.self_attn_layer_norm", f"{key}.self_attn.qkv", scratch.packed)
        yield self._attend(layer)
        yield self._product("add", f"{key}.self_attn.out_proj", scratch.mixed, scratch.stream)
        yield from self._normed_product("activate", f"{key}.final_layer_norm", f"{key}.fc1", scratch.active)
        if not self._is_own(f"{key}.fc1"):  # cuBLAS does not activate on its way
            yield self._gelu()
        yield self._product("add", f"{key}.fc2", scratch.active, scratch.stream)

    def _embed(self) -> Launch:
        layout, places = self.layout, self.places
        arguments = Embed(
            tokens=places["tokens"],
            positions=places["positions"],
            table=self.weights["embed_tokens"],
            sinusoid=self.weights["sinusoid"],
            stream=self.scratch.stream,
            codebooks=layout.codebooks,
            table_rows=layout.table_rows,
            hidden=layout.hidden,
        )
        return Launch("embed", (self.rows, 1, 1), THREADS, arguments, overlaps=False)  # it reads what was just sent

    def _norm(self, key: str) -> Launch:
        arguments = Norm(
            stream=self.scratch.stream,
            scale=self.weights[f"{key}.weight"],
            shift=self.weights[f"{key}.bias"],
            out=self.scratch.normed,
            hidden=self.layout.hidden,
            epsilon=EPSILON,
        )
        return self._launch("normalize", (self.rows, 1, 1), arguments)

    def _normed_product(self, kind: str, norm: str, key: str, out: int) -> Iterator[Work]:
        """The stream's norm and its product: one launch where the product is the project's own."""
        if self._is_own(key):
            yield self._own(kind, key, self.scratch.stream, out, norm)
        else:
            yield self._norm(norm)
            yield self._blas(kind, key, self.scratch.normed, out)

    def _product(self, kind: str, key: str, x: int, out: int) -> Work:
        return self._own(kind, key, x, out) if self._is_own(key) else self._blas(kind, key, x, out)

    def _own(self, kind: str, key: str, x: int, out: int, norm: str | None = None) -> Launch:
        inner, columns = self.layout.weights.index[f"{key}.weight"].shape
        shares = _shares(inner, columns)
        arguments = Product(
            x=x,
            scale=self.weights[f"{norm}.weight"] if norm else 0,
            shift=self.weights[f"{norm}.bias"] if norm else 0,
            weight=self.weights[f"{key}.weight"],
            out=out,
            partial=self.scratch.partial,
            arrived=self.scratch.arrived,
            inner=inner,
            columns=columns,
            epsilon=EPSILON,
        )
        grid = columns // COLUMNS, shares, 1
        return self._launch(f"{kind}_{self.rows}", grid, arguments, shared_bytes=held_bytes(inner // shares, self.rows))

    def _blas(self, kind: str, key: str, x: int, out: int) -> Gemm:
        inner, columns = self.layout.weights.index[f"{key}.weight"].shape
        in_floats = kind in ("add", "tell")
        weight = self.weights[f"{key}.weight"]
        return Gemm(x, weight, out, self.rows, inner, columns, in_floats=in_floats, adds=kind == "add")

    def _is_own(self, key: str) -> bool:
        """Whether a product is the project's own: of few rows, and of shares that a block has room for."""
        inner, columns = self.layout.weights.index[f"{key}.weight"].shape
        return self.rows in FEW_ROWS and inner // _shares(inner, columns) <= LARGEST_SHARE

    def _attend(self, layer: int) -> Launch:
        layout, scratch = self.layout, self.scratch
        arguments = Attend(
            packed=scratch.packed,
            out=scratch.mixed,
            keys=self.places[f"key_{layer}"],
            values=self.places[f"value_{layer}"],
            lengths=self.places["lengths"],
            shared=self.places["shared"],
            partial=scratch.partial,
            arrived=scratch.arrived,
            heads=layout.heads,
            positions=layout.positions,
            level=layout.level or 0,
        )
        kernel = "attend_halves" if layout.level is None else "attend_bytes"
        shares = _attention_shares(self.rows * layout.heads)
        return self._launch(kernel, (layout.heads, self.rows, shares), arguments, threads=ATTENDING)

    def _gelu(self) -> Launch:
        quads = self.rows * self.layout.wide // QUAD
        return self._launch("gelu_all", (-(-quads // THREADS), 1, 1), Gelu(values=self.scratch.active, quads=quads))

    def _sample(self) -> Launch:
        layout, slots = self.layout, self.rows // 2
        arguments = Sample(
            **{name: self.places[name] for name in ("logits", "settings", "uniforms", "columns")},
            slots=slots,
            codebooks=layout.codebooks,
            vocabulary=layout.vocabulary,
        )
        return self._launch("sample", (layout.codebooks, slots, 1), arguments)

    def _launch(
        self,
        kernel: str,
        grid: tuple[int, int, int],
        arguments: ctypes.Structure,
        *,
        threads: int = THREADS,
        shared_bytes: int = 0,
    ) -> Launch:
        """Of our own kernels each may begin while the one before ends; cuBLAS's do not tell when that is."""
        return Launch(kernel, grid, threads, arguments, shared_bytes, overlaps=self.rows in FEW_ROWS)


def held_bytes(share: int, rows: int) -> int:
    """What a product's block holds: its share of the rows and of a norm's scale and shift; later its warps' sums."""
    return max(share * (rows + 2), WARPS * COLUMNS * rows) * FLOAT_BYTES


def kernels_of(layout: Layout) -> tuple[str, ...]:
    """The names of all that a chain may launch."""
    products = (f"{kind}_{rows}" for kind in ("keep", "activate", "add", "tell") for rows in FEW_ROWS)
    attention = "attend_halves" if layout.level is None else "attend_bytes"
    return ("embed", "normalize", "gelu_all", "sample", attention, *products)


def _shares(inner: int, columns: int) -> int:
    """Among how many blocks a product's inner width is shared out: the fewest that keep the device busy."""
    shares = 1
    while (inner // shares > LARGEST_SHARE or columns // COLUMNS * shares < FEWEST_BLOCKS) and inner % (
        2 * shares * DOWN
    ) == 0:
        shares *= 2
    return shares


def _attention_shares(pairs: int) -> int:
    """Among how many blocks the positions of each row and head are shared out."""
    return max(1, min(MOST_SHARES, ATTENDING_BLOCKS // pairs))
