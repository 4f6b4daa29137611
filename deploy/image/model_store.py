"""Makes sure that a pod serves exactly what was exported.

``verify`` compares every file of a repository with the SHA-256 in its manifest, and can wait for an export that is
still being written: the manifest comes last. ``fetch`` downloads a tar file of a repository, unpacks it only if its own
SHA-256 is the one that was asked for, and verifies what came out.
"""

from __future__ import annotations

import argparse
import hashlib
import shutil
import sys
import tarfile
import tempfile
import time
import urllib.request
from collections.abc import Sequence
from pathlib import Path

from songstarter.checkpoint import MANIFEST, Checkpoint
from songstarter.errors import CheckpointError, SongstarterError

BLOCK = 2**20
LOOK = 5.0  # seconds between two looks for a manifest
IDLE = 60.0  # seconds without a byte until a download counts as failed


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    verbs = parser.add_subparsers(dest="verb", required=True)
    check = verbs.add_parser("verify")
    check.add_argument("repository", type=Path)
    check.add_argument("--wait", type=float, default=0.0, metavar="SECONDS", help="for an export under way")
    bring = verbs.add_parser("fetch")
    bring.add_argument("url")
    bring.add_argument("--sha256", required=True, help="of the tar file")
    bring.add_argument("--into", type=Path, required=True, metavar="REPOSITORY")
    args = parser.parse_args(argv)
    try:
        if args.verb == "fetch":
            fetch(args.url, args.sha256, args.into)
            verify(args.into)
        else:
            await_manifest(args.repository, args.wait)
            verify(args.repository)
    except SongstarterError as error:
        print(f"model store: {error}", file=sys.stderr)
        return 1
    return 0


def await_manifest(repository: Path, seconds: float) -> None:
    """Return as soon as there is a manifest, or when so many seconds are over."""
    end = time.monotonic() + seconds
    while not (repository / MANIFEST).exists() and (left := end - time.monotonic()) > 0:
        time.sleep(min(LOOK, left))


def verify(repository: Path) -> None:
    """Raise CheckpointError where a file is missing or is not what the manifest says."""
    for name, expected in Checkpoint.read(repository).digests.items():
        path = repository / name
        if not path.resolve().is_relative_to(repository.resolve()):
            raise CheckpointError(f"{MANIFEST} in {repository} names {name}, which lies outside: export again")
        if not path.is_file():
            raise CheckpointError(f"{name} is missing in {repository}: export again")
        with path.open("rb") as file:
            found = hashlib.file_digest(file, "sha256").hexdigest()
        if found != expected:
            raise CheckpointError(f"{name} in {repository} has SHA-256 {found}, expected is {expected}: export again")


def fetch(url: str, sha256: str, into: Path) -> None:
    """Download, compare, unpack beside the target, move into place: what stands there is whole."""
    with tempfile.TemporaryDirectory(dir=into.parent, prefix=".fetch-") as scratch:
        archive = Path(scratch) / "archive"
        found = download(url, archive)
        if found != sha256:
            raise CheckpointError(f"{url} has SHA-256 {found}, expected is {sha256}: wrong or damaged archive")
        unpacked = Path(scratch) / "repository"
        try:
            with tarfile.open(archive) as tar:
                tar.extractall(unpacked, filter="data")
        except tarfile.TarError as error:
            raise CheckpointError(f"{url} cannot be unpacked ({error})") from error
        archive.unlink()
        shutil.rmtree(into, ignore_errors=True)
        unpacked.rename(into)


def download(url: str, target: Path) -> str:
    """Write what a URL holds into a file; its SHA-256."""
    digest = hashlib.sha256()
    try:
        with urllib.request.urlopen(url, timeout=IDLE) as answer, target.open("wb") as file:
            while block := answer.read(BLOCK):
                digest.update(block)
                file.write(block)
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{url} cannot be downloaded ({error})") from error
    return digest.hexdigest()


if __name__ == "__main__":
    sys.exit(main())
