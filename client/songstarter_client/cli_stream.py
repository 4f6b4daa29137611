"""`songstarter generate --stream`: chunks to stdout or into files as they come."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Mapping
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any, Protocol, cast

from songstarter import contract
from songstarter_client.chunk import Chunk
from songstarter_client.client import Client
from songstarter_client.errors import InvalidRequest
from songstarter_client.fields import StreamFields
from songstarter_client.song import create_new, slug

STDOUT = Path("-")
ENDINGS = " or ".join(f".{audio_format}" for audio_format in contract.STREAM_FORMATS)


class Outlet(Protocol):
    """Where the variations' bytes go; ``paths`` are the files that they made."""

    paths: dict[int, Path]

    def write(self, chunk: Chunk) -> None: ...


class Pipe:
    """stdout, unbuffered: what is heard now must not wait, and a player that is gone is noticed here."""

    def __init__(self) -> None:
        self.paths: dict[int, Path] = {}

    def write(self, chunk: Chunk) -> None:
        left = memoryview(chunk.audio)
        while left:
            left = left[os.write(sys.stdout.fileno(), left) :]


class Files:
    """One file for each variation: the one that was named, or new ones in a folder, named as ``Song.save`` does."""

    def __init__(self, out: Path, stem: str, audio_format: str, stack: ExitStack) -> None:
        self._out = out
        self._stem = stem
        self._format = audio_format
        self._stack = stack
        self._files: dict[int, Any] = {}
        self.paths: dict[int, Path] = {}

    def write(self, chunk: Chunk) -> None:
        if chunk.audio:
            self._file(chunk).write(chunk.audio)

    def _file(self, chunk: Chunk) -> Any:
        variation = chunk.variation
        if variation not in self._files:
            path, file = self._opened(f"{self._stem}-{chunk.seed}-{variation + 1}")
            self.paths[variation] = path
            self._files[variation] = self._stack.enter_context(file)
        return self._files[variation]

    def _opened(self, stem: str) -> tuple[Path, Any]:
        if is_file(self._out):
            return self._out, self._out.open("wb", buffering=0)
        return create_new(self._out, stem, self._format)


def is_file(out: Path) -> bool:
    """Whether a stream goes to the one file of that name: it has an ending, and is no folder."""
    return bool(out.suffix) and not out.is_dir()


def named_format(out: Path) -> str | None:
    """The format that the ending of a file's name says, if it says one."""
    ending = out.suffix.lower().removeprefix(".")
    return ending if is_file(out) and ending in contract.STREAM_FORMATS else None


def with_named_format(given: Mapping[str, Any], out: Path) -> dict[str, Any]:
    """The given fields, with the format of the one file where they say none.

    Raises:
        InvalidRequest: they say one and its name another, or neither says any.
    """
    if not is_file(out):
        return dict(given)
    said, named = given.get("output_format"), named_format(out)
    if said is None and named is None:
        allowed = f"a folder that exists, or a file's name ending in {ENDINGS} or beside --output-format"
        raise InvalidRequest("-o", str(out), allowed)
    if said and named and said != named:
        raise InvalidRequest("output_format", said, f"{named}, the ending of -o {out.name}")
    return {**given, "output_format": said or named}


def stream(client: Client, args: argparse.Namespace, given: Mapping[str, Any]) -> tuple[list[Path], Chunk]:
    """Make the song that args ask for; the files, and the last chunk."""
    with ExitStack() as stack:
        outlet = _outlet(args, given, stack)
        chunks = stack.enter_context(closing(client.stream(args.prompt, **cast(StreamFields, given))))
        for chunk in chunks:
            outlet.write(chunk)
        return [path for _, path in sorted(outlet.paths.items())], chunk


def _outlet(args: argparse.Namespace, given: Mapping[str, Any], stack: ExitStack) -> Outlet:
    one_place = args.out == STDOUT or is_file(args.out)
    if one_place and given.get("num_outputs", 1) != 1:
        raise InvalidRequest("num_outputs", given["num_outputs"], "1, or -o with the name of a folder")
    if args.out == STDOUT:
        return Pipe()
    folder = args.out.parent if one_place else args.out
    folder.mkdir(parents=True, exist_ok=True)
    return Files(args.out, slug(args.prompt), given.get("output_format", "wav"), stack)
