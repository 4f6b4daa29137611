"""Are the exported files still those that were exported."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from pathlib import Path

from songstarter.errors import CheckpointError

BLOCK = 1 << 24  # bytes that are read at a time


def regardless() -> None:
    """Go on, whatever happens."""


def digest(path: Path, go_on: Callable[[], None] = regardless) -> str:
    """The SHA-256 of a file; ``go_on`` is called now and then, and may raise to end it."""
    found = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(BLOCK):
            found.update(block)
            go_on()
    return found.hexdigest()


def size_of(repository: Path, digests: Mapping[str, str]) -> int:
    """Bytes of all files that are here."""
    return sum(path.stat().st_size for path in (repository / file for file in digests) if path.is_file())


def require_unaltered(repository: Path, digests: Mapping[str, str], go_on: Callable[[], None] = regardless) -> None:
    """Compare every file with the digest that its export wrote down; ``go_on`` as in ``digest``.

    Raises:
        CheckpointError: a file is missing, or is not what was exported.
    """
    for file, expected in digests.items():
        path = repository / file
        if not path.is_file():
            raise CheckpointError(f"{file} is missing in {repository}: export again")
        if digest(path, go_on) != expected:
            raise CheckpointError(f"{file} in {repository} is not the file that was exported: export again")
