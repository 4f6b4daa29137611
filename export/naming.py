"""What an exported checkpoint is called."""

from __future__ import annotations

from pathlib import Path


def name_of(source: str) -> str:
    """The name of a checkpoint: its id, or its folder's name without the way there."""
    folder = Path(source).expanduser()
    return folder.resolve().name if folder.is_dir() else source
