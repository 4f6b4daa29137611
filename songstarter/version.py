"""Which version of this package runs."""

from __future__ import annotations

from functools import cache
from importlib import metadata


@cache
def version() -> str:
    """The installed distribution's, or "unknown" where the sources run without one."""
    try:
        return metadata.version("songstarter")
    except metadata.PackageNotFoundError:
        return "unknown"
