"""Files that Triton reads and no import finds: in a checkout beside the package, in a wheel inside it."""

from __future__ import annotations

from pathlib import Path

from songstarter.errors import MissingLibrary

PACKAGE = Path(__file__).resolve().parent


def shipped(path: str) -> Path:
    """Where a file or folder of the checkout is on this machine; pyproject.toml lists what a wheel carries.

    Raises:
        MissingLibrary: it is not here.
    """
    for root in (PACKAGE, PACKAGE.parent):
        if (root / path).exists():
            return root / path
    raise MissingLibrary(f"{path} is neither in the package songstarter nor beside it: install songstarter again")
