"""What comes back: the files of one request, and how they reach a folder."""

from __future__ import annotations

import itertools
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from io import FileIO
from pathlib import Path
from uuid import uuid4

LONGEST_SLUG = 48


@dataclass(frozen=True, repr=False)
class Song:
    """The answer to one request: a file for each variation, and the seed that makes them again."""

    prompt: str
    files: tuple[bytes, ...]
    audio_format: str
    seed: int
    sample_rate: int

    def __repr__(self) -> str:
        sizes = ", ".join(f"{len(file)} bytes" for file in self.files)
        return f"Song({self.prompt!r}, {self.audio_format}: [{sizes}], seed {self.seed}, {self.sample_rate} Hz)"

    def save(self, directory: str | os.PathLike[str], stem: str | None = None) -> list[Path]:
        """Write `<stem>-<seed>-<variation>.<format>` into directory, made if missing; -2, -3 where taken.

        A file appears whole or not at all, and never in the place of another. The stem is the prompt's
        words if none is given.
        """
        folder = Path(directory)
        folder.mkdir(parents=True, exist_ok=True)
        name = stem or slug(self.prompt)
        return [
            write_new(folder, f"{name}-{self.seed}-{variation}", self.audio_format, file)
            for variation, file in enumerate(self.files, start=1)
        ]


def slug(prompt: str) -> str:
    """The prompt's words, joined so that they can be a file's name."""
    words = re.sub(r"[\W_]+", "-", prompt.lower())[:LONGEST_SLUG].strip("-")
    return words or "song"


def write_new(folder: Path, stem: str, extension: str, content: bytes) -> Path:
    """Write content under the first free name of stem.ext, stem-2.ext, stem-3.ext ...; return its path."""
    part = folder / f".{uuid4().hex}.part"
    try:
        part.write_bytes(content)
        return next(path for path in _names(folder, stem, extension) if _placed(part, path))
    finally:
        part.unlink(missing_ok=True)


def create_new(folder: Path, stem: str, extension: str) -> tuple[Path, FileIO]:
    """A file to be written bit by bit, under the first free name as in ``write_new``."""
    for path in _names(folder, stem, extension):
        try:
            return path, FileIO(path, "x")
        except FileExistsError:
            continue
    raise AssertionError("there is no end of names")


def _names(folder: Path, stem: str, extension: str) -> Iterator[Path]:
    yield folder / f"{stem}.{extension}"
    for copy in itertools.count(2):
        yield folder / f"{stem}-{copy}.{extension}"


def _placed(part: Path, path: Path) -> bool:
    """Give the complete file its name unless that is taken; a hard link does both in one step."""
    try:
        os.link(part, path)
    except FileExistsError:
        return False
    except OSError:  # a file system without hard links
        return _placed_by_moving(part, path)
    return True


def _placed_by_moving(part: Path, path: Path) -> bool:
    """The same in two steps: hold the name, then move the file over it."""
    try:
        path.open("xb").close()
    except FileExistsError:
        return False
    part.replace(path)
    return True
