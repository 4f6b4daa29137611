"""Folders under names that a shell may read unquoted.

Triton's Python backend starts its processes through ``bash -c`` and quotes nothing, so that a checkout in
"My Songs" would not start. Such a folder gets a link with a plain name.
"""

from __future__ import annotations

import re
import shutil
import tempfile
from pathlib import Path

PLAIN = re.compile(r"[\w/.,:@%+=-]+")


class PlainPaths:
    """Links to folders whose own paths a shell would misread; ``close`` removes them."""

    def __init__(self) -> None:
        self._links: list[Path] = []

    def of(self, folder: Path) -> Path:
        """The folder's whole path where that is plain, else that of a new link to it."""
        whole = folder.resolve()
        if PLAIN.fullmatch(str(whole)):
            return whole
        link = Path(tempfile.mkdtemp(prefix="songstarter-")) / "link"
        link.symlink_to(whole, target_is_directory=True)
        self._links.append(link)
        return link

    def close(self) -> None:
        """Remove every link that was made."""
        while self._links:
            shutil.rmtree(self._links.pop().parent, ignore_errors=True)
