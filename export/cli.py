"""``songstarter export``: a checkpoint into a model repository, with progress and the table of checks."""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import get_args

from export.naming import name_of
from songstarter.checkpoint import Checkpoint, Device, Precision
from songstarter.digests import require_unaltered
from songstarter.errors import CheckpointError

DESCRIPTION = (
    "CHECKPOINT is a hub id, a folder in the form of transformers or of audiocraft, "
    "or the word 'embedded' for the small checkpoint that is part of this repository."
)


def configure(parser: argparse.ArgumentParser) -> None:
    parser.description = DESCRIPTION
    parser.add_argument("checkpoint", metavar="CHECKPOINT")
    parser.add_argument(
        "--into", type=Path, default=Path("model_repository"), metavar="FOLDER", help="model repository to fill"
    )
    parser.add_argument("--precision", choices=get_args(Precision), default="fp32", help="of the decoder's weights")
    parser.add_argument("--device", choices=get_args(Device), default="cpu", help="what the decoder will run on")
    parser.add_argument(
        "--if-needed",
        action="store_true",
        help="leave this checkpoint's export that stands there whole, in this precision and for this device, "
        "and refuse to replace another checkpoint's",
    )
    parser.add_argument("--text-encoder", metavar="FOLDER", help="stands in for the t5-base that a checkpoint names")
    parser.add_argument("--codec", metavar="FOLDER", help="stands in for the codec that a checkpoint names")


def run(args: argparse.Namespace) -> int:
    """Export, and print how far each graph is from its torch module; what goes wrong is raised."""
    if args.if_needed and _stands(args):
        print(
            f"{args.into} has an export of {args.checkpoint} in {args.precision} for {args.device} already, whole: "
            "nothing to do"
        )
        return 0
    with step("start torch"):
        from transformers.utils import logging

        from export.exporter import Export, export
        from export.verify import table

        logging.set_verbosity_error()
    wanted = Export(args.checkpoint, args.precision, args.device, args.text_encoder, args.codec)
    checks = export(wanted, args.into, step)
    print(f"\n{table(checks)}\n\n{args.checkpoint} stands in {args.into}: serve it with `songstarter serve`")
    return 0


def _stands(args: argparse.Namespace) -> bool:
    if args.text_encoder or args.codec:
        raise CheckpointError(
            "found --if-needed with --text-encoder or --codec, and an export does not say what stood in for its parts: "
            "leave --if-needed out"
        )
    return stands(args.into, args.checkpoint, args.precision, args.device)


def stands(repository: Path, source: str, precision: Precision, device: Device) -> bool:
    """Whether this checkpoint's export in this form is there, every file of it as it was written.

    Raises:
        CheckpointError: another checkpoint's export is there, whole or not.
    """
    try:
        found = Checkpoint.read(repository)
    except CheckpointError:
        return False
    if found.name != (name := name_of(source)):
        raise CheckpointError(
            f"{repository} holds an export of {found.name}, not of {name}: name another folder with --into, or leave "
            "--if-needed out to replace it"
        )
    return (found.decoder.precision, found.decoder.device) == (precision, device) and _unaltered(repository, found)


def _unaltered(repository: Path, checkpoint: Checkpoint) -> bool:
    try:
        require_unaltered(repository, checkpoint.digests)
    except CheckpointError:
        return False
    return True


@contextmanager
def step(name: str) -> Iterator[None]:
    """Say what begins at once, and how long it took when it is done."""
    print(f"{name:<16}", end=" ", flush=True)
    start = time.monotonic()
    try:
        yield
    except BaseException:
        print("failed", flush=True)
        raise
    print(f"{time.monotonic() - start:6.1f} s", flush=True)
