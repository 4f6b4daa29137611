"""From a checkpoint to a repository that Triton serves: load, write each graph, check it, install."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from pathlib import Path

from export.checkpoints import Loaded, load
from export.codec_decoder import export_codec_decoder
from export.codec_encoder import export_codec_encoder
from export.decoder import form_of, shape_of, write_decoder
from export.decoder_check import check_decoder
from export.manifest import describe
from export.melody_encoder import export_melody_encoder
from export.repository import Staging, graph_folder
from export.songs import own_songs
from export.text_encoder import export_text_encoder
from export.verify import Check, require_agreement
from songstarter.checkpoint import MANIFEST, TOKENIZER, Device, Precision
from songstarter.contract import (
    CODEC_DECODER,
    CODEC_ENCODER,
    DECODER,
    MELODY_ENCODER,
    PUBLIC_MODEL,
    TEXT_ENCODER,
)
from songstarter.digests import digest

Step = Callable[[str], AbstractContextManager[None]]  # told what begins; left when it is done
WriteGraph = Callable[[Loaded, Path], list[Check]]

STAGES: Mapping[str, WriteGraph] = {
    TEXT_ENCODER: export_text_encoder,
    MELODY_ENCODER: export_melody_encoder,
    CODEC_ENCODER: lambda loaded, folder: export_codec_encoder(loaded.codec, folder),
    CODEC_DECODER: lambda loaded, folder: export_codec_decoder(loaded.codec, folder),
}


@dataclass(frozen=True)
class Export:
    """What is to be exported, and in which form."""

    source: str
    precision: Precision = "fp32"
    device: Device = "cpu"
    text_encoder: str | None = None
    codec: str | None = None


def export(wanted: Export, into: Path, step: Step) -> list[Check]:
    """Export a checkpoint into a model repository; what stood there stays until everything agrees.

    Raises:
        CheckpointError: the checkpoint cannot be loaded, or a graph does not compute what its module does.
    """
    form = form_of(wanted.precision, wanted.device)
    with step("load"):
        loaded = load(wanted.source, text_encoder=wanted.text_encoder, codec=wanted.codec)
    checkpoint = describe(loaded, wanted.precision, wanted.device)
    checks: list[Check] = []
    with Staging(into) as staging:
        for model, write in STAGES.items():
            if model in checkpoint.models:
                with step(model):
                    checks += write(loaded, graph_folder(staging.folder, model))
        with step(DECODER):
            decoder = loaded.model.decoder
            shape = shape_of(decoder, checkpoint.decoder.positions)
            songs = own_songs(loaded) if form.rounds else None
            write_decoder(decoder, shape, form, graph_folder(staging.folder, DECODER), songs)
            checks.append(check_decoder(decoder, staging.folder, checkpoint))
        require_agreement(checks)
        with step("install"):
            _write_tokenizer(loaded, graph_folder(staging.folder, PUBLIC_MODEL))
            replace(checkpoint, digests=digests_of(staging.folder)).write(staging.folder)
            staging.install(checkpoint.models)
    return checks


def digests_of(folder: Path) -> dict[str, str]:
    """The digest of every file by its path under a folder; the manifest has none."""
    files = sorted(path for path in folder.rglob("*") if path.is_file() and path.name != MANIFEST)
    return {path.relative_to(folder).as_posix(): digest(path) for path in files}


def _write_tokenizer(loaded: Loaded, folder: Path) -> None:
    core = loaded.tokenizer.backend_tokenizer
    core.no_padding()
    core.no_truncation()
    folder.mkdir(parents=True, exist_ok=True)
    core.save(str(folder / TOKENIZER.name))
