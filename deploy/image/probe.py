"""Asks a running server's models one small real question each: exit code 0 where every one answers.

Triton's own health endpoints say 200 while a model's process is dead. Plain, it asks the public model alone, which is
cheap enough for every few seconds; with ``--every-model`` each model that has a canary. A key is found where the
server finds it, in SONGSTARTER_KEY_FILE or SONGSTARTER_KEY.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from songstarter.checkpoint import Checkpoint
from songstarter.contract import PUBLIC_MODEL
from songstarter.errors import SongstarterError
from songstarter.key import Key
from songstarter.server import canary
from songstarter.server.exposure import LOOPBACK
from songstarter.server.wire import HttpDoor


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--every-model", action="store_true")
    parser.add_argument("--host", default=os.environ.get("PROBE_HOST", LOOPBACK))
    parser.add_argument("--port", type=int, default=int(os.environ.get("PROBE_PORT", "8000")))
    parser.add_argument("--repository", type=Path, default=Path(os.environ.get("PROBE_REPOSITORY", "model_repository")))
    parser.add_argument("--timeout", type=float, default=30.0, help="seconds that each model may take")
    args = parser.parse_args(argv)
    try:
        door = HttpDoor(args.host, args.port, Key.given())
        asked = [
            watched
            for watched in canary.canaries(Checkpoint.read(args.repository))
            if args.every_model or watched.model == PUBLIC_MODEL
        ]
    except SongstarterError as error:
        return refuse(str(error))
    if not ready(door, args.timeout):
        return refuse(f"Triton on port {args.port} is not ready")
    for watched in asked:
        if complaint := watched.ask(door, args.timeout):
            return refuse(complaint)
    return 0


def ready(door: HttpDoor, timeout: float) -> bool:
    """Whether all models are loaded and the server is not about to end."""
    try:
        return door.ask("GET", "/v2/health/ready", timeout=timeout)[0] == 200
    except OSError:
        return False


def refuse(sentence: str) -> int:
    print(f"probe: {sentence}", file=sys.stderr)
    return 1


if __name__ == "__main__":
    sys.exit(main())
