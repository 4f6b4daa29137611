"""Random weights made where they are used, and the decoder's graphs written from there, a weight at a time."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import cast

import torch

from benchmarks.shapes import Size
from export.checkpoints import Loaded, make_checkpoint
from export.checkpoints.tiny import make_decoder
from export.decoder import form_of, shape_of, write_decoder
from export.manifest import describe
from songstarter.checkpoint import Checkpoint, Device, Precision
from songstarter.stages.decoder import GRAPH

SEED = 0
TYPES: dict[Device, torch.dtype] = {"cuda": torch.float16, "cpu": torch.float32}


def make_model(size: Size, device: Device) -> Loaded:
    """A whole melody checkpoint on a device, its decoder of the size's dimensions, in the type that it is run in."""
    loaded = make_checkpoint(family="melody", channels=2, seed=SEED, hidden=size.hidden, layers=1, name=size.name)
    model = loaded.model
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(SEED)
        torch.set_default_dtype(TYPES[device])
        try:
            with torch.device(device):
                model.decoder = make_decoder("melody", 2, size.hidden, size.layers).eval()
        finally:
            torch.set_default_dtype(torch.float32)
    model.config.decoder = model.decoder.config
    model.to(device=device, dtype=TYPES[device])
    return replace(loaded, model=model)


def write_graph(loaded: Loaded, precision: str, folder: Path) -> Checkpoint:
    """Write the decoder's graphs for CUDA in a precision, and a manifest that suffices to run them."""
    checkpoint = describe(loaded, cast(Precision, precision), "cuda")
    decoder = loaded.model.decoder
    graphs = (folder / GRAPH).parent
    graphs.mkdir(parents=True, exist_ok=True)
    write_decoder(decoder, shape_of(decoder, checkpoint.decoder.positions), form_of(precision, "cuda"), graphs)
    checkpoint.write(folder)
    return checkpoint
