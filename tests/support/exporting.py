"""Exported repositories for tests: the real exporter, without its progress lines."""

from __future__ import annotations

from contextlib import nullcontext
from pathlib import Path


def export_into(folder: Path, source: str, precision: str = "fp32") -> Path:
    """Export a checkpoint and return the repository."""
    from export.exporter import Export, export  # torch is slow to import: only where it is needed

    export(Export(source, precision), folder, lambda name: nullcontext())  # type: ignore[arg-type]
    return folder
