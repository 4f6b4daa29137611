"""Whether this server is about to end: who stops it makes a file, and the public models look for that.

Triton closes its HTTP port at once, but takes new requests over gRPC for as long as HTTP ones play.
"""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

from songstarter.errors import Unavailable

VARIABLE = "SONGSTARTER_DRAINING"  # the path of the file, for the model processes


def begin(path: Path) -> None:
    with contextlib.suppress(OSError):  # a clean stop is wanted nevertheless
        path.touch()


def check() -> None:
    """Raise Unavailable when this process's server is about to end."""
    if os.path.exists(os.environ.get(VARIABLE, "")):
        raise Unavailable("the server is stopping: it finishes what it has and takes nothing new")
