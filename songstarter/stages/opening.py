"""Opening an exported decoder by what it was exported for."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from songstarter.checkpoint import Checkpoint, Device
from songstarter.stages.decoder import DecoderStage
from songstarter.stages.device_decoder import DeviceDecoder

STAGES: Mapping[Device, type[DecoderStage]] = {"cpu": DecoderStage, "cuda": DeviceDecoder}


def open_decoder(
    repository: Path, checkpoint: Checkpoint, *, slots: int, threads: int = 0, device: Device | None = None
) -> DecoderStage:
    """Load a decoder; ``device`` runs one on another device than its own, as the exporter's check does.

    Raises:
        CheckpointError: a graph is missing, or the device is not to be had.
    """
    stage = STAGES[checkpoint.decoder.device]
    return stage(repository, checkpoint, slots=slots, threads=threads, device=device or checkpoint.decoder.device)
