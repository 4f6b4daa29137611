"""Decoder graphs of seeded random weights at true dimensions, written once and kept under build/bench/."""

from __future__ import annotations

import hashlib
import shutil
from pathlib import Path
from typing import cast

from benchmarks.machine import ROOT
from benchmarks.shapes import Size
from export.checkpoints import Loaded, make_checkpoint
from export.decoder import form_of, shape_of, write_decoder
from export.manifest import describe
from songstarter.checkpoint import Checkpoint, Precision
from songstarter.stages.decoder import GRAPH

CACHE = ROOT / "build" / "bench"
STAMP = "made-from"
SEED = 0


# The second has the dimensions of encodec_32khz.
CODECS: dict[str, dict[str, int]] = {"tiny": {}, "true": {"filters": 64, "latent": 128}}


def make_weights(size: Size, codec: str = "tiny") -> Loaded:
    """A whole melody checkpoint whose decoder has the size's dimensions; its text encoder is tiny.

    Weights are scaled so that logits spread as a trained model's do: nearly flat ones would make every precision
    look alike.
    """
    return make_checkpoint(
        family="melody",
        channels=2,
        seed=SEED,
        hidden=size.hidden,
        layers=size.layers,
        name=f"random-{size.name}",
        **CODECS[codec],
    )


def exported(loaded: Loaded, size: Size, precision: str, cache: Path) -> tuple[Path, Checkpoint]:
    """The repository with the decoder's graph in a precision, and its facts; written where it is not there."""
    checkpoint = describe(loaded, cast(Precision, precision), "cpu")
    repository = cache / f"{size.name}-{precision}"
    stamp = repository / STAMP
    digest = _digest_of_exporter(repr(size))
    if not stamp.is_file() or stamp.read_text() != digest:
        _write(loaded, checkpoint, repository)
        stamp.write_text(digest)
    return repository, checkpoint


def _write(loaded: Loaded, checkpoint: Checkpoint, repository: Path) -> None:
    shutil.rmtree(repository, ignore_errors=True)
    folder = (repository / GRAPH).parent
    folder.mkdir(parents=True)
    decoder, facts = loaded.model.decoder, checkpoint.decoder
    write_decoder(decoder, shape_of(decoder, facts.positions), form_of(facts.precision, facts.device), folder)


def _digest_of_exporter(size: str) -> str:
    """A change anywhere in the exporter makes the graphs stale."""
    digest = hashlib.sha256(size.encode())
    for path in sorted((ROOT / "export").rglob("*.py")):
        digest.update(path.read_bytes())
    return digest.hexdigest()
