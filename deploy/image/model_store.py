"""Brings a pod its models, before its server starts.

``wait`` returns when an export that is still being written is whole: its manifest comes last. ``fetch`` downloads a
tar file of a repository, and unpacks it only if its SHA-256 is the one that was asked for: that covers the models'
code too, which the manifest does not. Then, as `songstarter serve` does at every start, it compares each exported
file with the manifest.
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
from songstarter.digests import require_unaltered
from songstarter.errors import CheckpointError, SongstarterError

BLOCK = 2**20
LOOK = 5.0  # seconds between two looks for a manifest
IDLE = 60.0  # seconds without a byte until a download counts as failed


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    verbs = parser.add_subparsers(dest="verb", required=True)
    waiting = verbs.add_parser("wait")
    waiting.add_argument("repository", type=Path)
    waiting.add_argument("--seconds", type=float, required=True, help="how long at most")
    fetching = verbs.add_parser("fetch")
    fetching.add_argument("url")
    fetching.add_argument("--sha256", required=True, help="of the tar file")
    fetching.add_argument("--into", type=Path, required=True, metavar="REPOSITORY")
    args = parser.parse_args(argv)
    try:
        if args.verb == "wait":
            wait(args.repository, args.seconds)
        else:
            fetch(args.url, args.sha256, args.into)
    except SongstarterError as error:
        print(f"model store: {error}", file=sys.stderr)
        return 1
    return 0


def wait(repository: Path, seconds: float) -> None:
    """Return as soon as there is a manifest; raise CheckpointError when there is none in time."""
    end = time.monotonic() + seconds
    while not (repository / MANIFEST).exists():
        left = end - time.monotonic()
        if left <= 0:
            raise CheckpointError(f"no {MANIFEST} in {repository} after {seconds:g} s: look at the export's log")
        time.sleep(min(LOOK, left))


def fetch(url: str, sha256: str, into: Path) -> None:
    """Download, compare, unpack beside the target, move into place: what stands there is whole.

    Raises:
        CheckpointError: nothing was put there.
    """
    with tempfile.TemporaryDirectory(dir=into.parent, prefix=".fetch-") as scratch:
        archive, unpacked = Path(scratch) / "archive", Path(scratch) / "repository"
        found = download(url, archive)
        if found != sha256:
            raise CheckpointError(f"{url} has SHA-256 {found}, expected is {sha256}: wrong or damaged archive")
        try:
            with tarfile.open(archive) as tar:
                tar.extractall(unpacked, filter="data")
        except tarfile.TarError as error:
            raise CheckpointError(f"{url} cannot be unpacked ({error})") from error
        require_unaltered(unpacked, Checkpoint.read(unpacked).digests)
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
