"""Which sizes of the kernels' blocks suit a device: a step with weights of some layers and no decoder around it.

    python -m benchmarks.gpu_blocks [--layers 24] [--songs 1,2] [--context 448]

Random weights at the large one's width are made here, the same for each layer: only bytes and launches count. Prints
the milliseconds of a step as the sizes are, and with one of them changed at a time; takes half a minute.
"""

from __future__ import annotations

import argparse
import math
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from statistics import median
from typing import Any

import numpy as np

from benchmarks.arguments import numbers
from benchmarks.shapes import SIZES, Size
from songstarter.array import Array
from songstarter.request import Sampling
from songstarter.stages.buckets import KernelBucket, kernel_inputs, write_inputs
from songstarter.stages.cuda import chain
from songstarter.stages.cuda.driver import Driver
from songstarter.stages.cuda.layout import HALF, Layout
from songstarter.stages.cuda.libraries import Opener, open_library
from songstarter.stages.cuda.step import Kernels
from songstarter.stages.dimensions import HEAD_SIZE
from songstarter.stages.graph_weights import Weight, Weights
from songstarter.stages.kv_memory import ROWS_PER_SLOT
from songstarter.stages.packed_inputs import Packing
from songstarter.stages.places import Place
from songstarter.stages.sampler import Draw

POSITIONS = 2048
WARM_STEPS = 2
NORMS = ("self_attn_layer_norm", "final_layer_norm")
# What is changed, one at a time: the name of a size, and its values.
CHANGES: tuple[tuple[str, tuple[Any, ...]], ...] = (
    ("FEWEST_BLOCKS", (64, 96, 128, 192, 256, 384)),
    ("ATTENDING_BLOCKS", (128, 256, 512, 1024)),
    ("FEW_ROWS", ((), (2,))),
)


def main(arguments: Sequence[str] | None = None, opener: Opener = open_library) -> None:
    parsed = _parse(arguments)
    size = Size("blocks", layers=parsed.layers, hidden=SIZES[parsed.size].hidden)
    most = max(parsed.songs)
    given = Packing(kernel_inputs(most, size.codebooks)).bytes
    with ExitStack() as largest:  # memory is taken at the start, and must do for every size that is tried
        for name, values in CHANGES:
            largest.enter_context(_changed(name, max(values)))
        kernels = Kernels(Layout(synthetic(size)), most * ROWS_PER_SLOT, given, opener)
    memory = _memory(Driver(opener), size, most)
    for name, value in (("", None), *((name, value) for name, values in CHANGES for value in values), ("", None)):
        with _changed(name, value):
            found = (f"{songs}: {_step(kernels, size, memory, songs, parsed):.3f}" for songs in parsed.songs)
            print(f"{name} {value}" if name else "as it is", *found, sep="  ", flush=True)


def synthetic(size: Size) -> Weights:
    """The weights of a decoder whose layers are all alike, as a data file would hold them."""
    random = np.random.default_rng(0)
    hidden, wide, logits = size.hidden, 4 * size.hidden, size.codebooks * size.vocabulary
    shapes = {
        "self_attn.qkv.weight": (hidden, 3 * hidden),
        "self_attn.out_proj.weight": (hidden, hidden),
        "fc1.weight": (hidden, wide),
        "fc2.weight": (wide, hidden),
        **{f"{norm}.{kind}": (hidden,) for norm in NORMS for kind in ("weight", "bias")},
    }
    index: dict[str, Weight] = {}
    parts: list[Array] = []

    def put(names: Sequence[str], shape: tuple[int, ...]) -> None:
        dtype = HALF if len(shape) == 2 and names[0] not in ("embed_tokens", "sinusoid") else "float32"
        for name in names:
            index[name] = Weight(dtype, shape, sum(part.nbytes for part in parts))
        parts.append((random.standard_normal(shape, np.float32) * 0.02).astype(dtype).reshape(-1).view(np.uint8))

    for part, shape in shapes.items():
        put([f"model.decoder.layers.{layer}.{part}" for layer in range(size.layers)], shape)
    put(["lm_heads.weight"], (hidden, logits))
    put(["model.decoder.layer_norm.weight"], (hidden,))
    put(["model.decoder.layer_norm.bias"], (hidden,))
    put(["embed_tokens"], (size.codebooks * (size.vocabulary + 2), hidden))
    put(["sinusoid"], (POSITIONS, hidden))
    return Weights(np.concatenate(parts), index)


def _memory(driver: Driver, size: Size, songs: int) -> dict[str, Place]:
    """Keys and values of so many slots."""
    shape = (songs * ROWS_PER_SLOT, size.heads, POSITIONS, HEAD_SIZE)
    names = (f"{kind}_{layer}" for kind in ("key", "value") for layer in range(size.layers))
    size_of_block = math.prod(shape) * np.dtype(np.float16).itemsize
    return {name: Place("cuda", np.float16, shape, driver.allocate(size_of_block)) for name in names}


def _step(kernels: Kernels, size: Size, memory: Mapping[str, Place], songs: int, asked: argparse.Namespace) -> float:
    """Milliseconds of a step of so many songs, upload, download and wait included."""
    bucket = KernelBucket(kernels, songs, size.codebooks, memory)
    columns = np.zeros((songs, size.codebooks), np.int64)
    draws = {slot: Draw(Sampling(), seed=slot, variation=0, step=asked.context) for slot in range(songs)}
    write_inputs(bucket.views, columns, np.full((songs, ROWS_PER_SLOT), asked.context), draws)
    seconds = []
    for _ in range(WARM_STEPS + asked.steps):
        start = time.perf_counter()
        bucket.run()
        seconds.append(time.perf_counter() - start)
    return median(seconds[WARM_STEPS:]) * 1e3


@contextmanager
def _changed(name: str, value: object) -> Iterator[None]:
    """With one of the chain's sizes as it is not."""
    if not name:
        yield
        return
    usual = getattr(chain, name)
    setattr(chain, name, value)
    try:
        yield
    finally:
        setattr(chain, name, usual)


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.gpu_blocks", description=(__doc__ or "").splitlines()[0]
    )
    parser.add_argument("--size", choices=SIZES, default="large", help="whose width")
    parser.add_argument("--layers", type=int, default=24)
    parser.add_argument("--songs", type=numbers, default=[1, 2])
    parser.add_argument("--context", type=int, default=448)
    parser.add_argument("--steps", type=int, default=16)
    return parser.parse_args(arguments)


if __name__ == "__main__":
    main()
