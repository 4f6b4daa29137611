"""Opening an exported decoder by what it was exported for."""

from __future__ import annotations

from pathlib import Path

from songstarter.checkpoint import Checkpoint, Device
from songstarter.stages.decoder import DecoderStage
from songstarter.stages.device_decoder import DeviceDecoder


def open_decoder(
    repository: Path,
    checkpoint: Checkpoint,
    *,
    slots: int,
    threads: int = 0,
    fewest_slots: int = 1,
    device: Device | None = None,
) -> DecoderStage:
    """Load a decoder; ``device`` runs one on another device than its own, as the exporter's check does.

    ``threads`` are those of a CPU; steps of a GPU have at least ``fewest_slots`` slots.

    Raises:
        CheckpointError: a graph is missing, or the device is not to be had.
    """
    own = checkpoint.decoder.device
    if own == "cpu":
        return DecoderStage(repository, checkpoint, slots=slots, threads=threads, device=device or own)
    return DeviceDecoder(repository, checkpoint, slots=slots, fewest_slots=fewest_slots, device=device or own)
