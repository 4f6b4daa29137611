"""Are the exported files still those that were exported."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path

from songstarter.errors import CheckpointError


def digest(path: Path) -> str:
    """The SHA-256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def size_of(repository: Path, digests: Mapping[str, str]) -> int:
    """Bytes of all files that are here."""
    return sum(path.stat().st_size for path in (repository / file for file in digests) if path.is_file())


def require_unaltered(repository: Path, digests: Mapping[str, str]) -> None:
    """Compare every file with the digest that its export wrote down.

    Raises:
        CheckpointError: a file is missing, or is not what was exported.
    """
    for file, expected in digests.items():
        path = repository / file
        if not path.is_file():
            raise CheckpointError(f"{file} is missing in {repository}: export again")
        if digest(path) != expected:
            raise CheckpointError(f"{file} in {repository} is not the file that was exported: export again")
