"""The key that a server asks for where others can reach it: where it is kept, and how it travels.

Over HTTP it is a bearer token. Triton looks for a header of the same name in gRPC's metadata, with a prefix of its own.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path

from songstarter.errors import UnusableKey

VARIABLE = "SONGSTARTER_KEY"
FILE_VARIABLE = "SONGSTARTER_KEY_FILE"
HEADER = "authorization"
GRPC_HEADER = f"triton-grpc-protocol-{HEADER}"
ALLOWED = re.compile(r"[A-Za-z0-9._~+/=-]{16,512}")


@dataclass(frozen=True, repr=False)
class Key:
    """A secret that callers and server share; it never stands in a message or a repr."""

    text: str

    def __post_init__(self) -> None:
        if not ALLOWED.fullmatch(self.text):
            raise UnusableKey(
                f"a key: found {len(self.text)} characters, allowed are 16 to 512 letters, digits and ._~+/=-"
                " (`openssl rand -hex 32` makes one)"
            )

    def __repr__(self) -> str:
        return "Key(...)"

    @classmethod
    def given(cls, path: Path | None = None) -> Key | None:
        """The key in a file, or else in the file or the text that the environment names; None where there is none.

        Raises:
            UnusableKey: the file cannot be read, or what it holds is no key.
        """
        file = path or os.environ.get(FILE_VARIABLE)
        text = _read(Path(file)) if file else os.environ.get(VARIABLE)
        return cls(text) if text else None

    @property
    def bearer(self) -> str:
        return f"Bearer {self.text}"

    @property
    def http_headers(self) -> dict[str, str]:
        return {HEADER: self.bearer}

    @property
    def grpc_metadata(self) -> dict[str, str]:
        return {GRPC_HEADER: self.bearer}


def _read(path: Path) -> str:
    try:
        text = path.read_text().strip()
    except (OSError, UnicodeDecodeError) as error:
        raise UnusableKey(f"the key's file {path} cannot be read ({type(error).__name__})") from None
    if not text:
        raise UnusableKey(f"the key's file {path} is empty")
    return text
