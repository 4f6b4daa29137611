"""Whose word is taken for who a server is, where it is spoken to by TLS."""

from __future__ import annotations

import os
import ssl
from dataclasses import dataclass
from pathlib import Path

from songstarter.errors import Description, InvalidRequest

VARIABLE = "SONGSTARTER_CA_FILE"


@dataclass(frozen=True)
class Trust:
    """The certificates of the authorities that may sign a server's.

    ``pem`` None: over HTTP those that this machine trusts, over gRPC those of the list that gRPC brings.
    """

    context: ssl.SSLContext
    pem: bytes | None

    @classmethod
    def in_file(cls, ca_file: str | os.PathLike[str] | None) -> Trust:
        """Trust in the authorities of a file alone.

        Raises:
            InvalidRequest: it cannot be read, or holds no certificate.
        """
        try:
            context = ssl.create_default_context(cafile=ca_file)
            return cls(context, Path(ca_file).read_bytes() if ca_file else None)
        except OSError as problem:  # ssl's own errors too
            reason = "no certificate" if isinstance(problem, ssl.SSLError) else problem.strerror
            found = Description(f"{str(ca_file)!r} ({reason})")
            raise InvalidRequest("ca_file", found, "a readable file of certificates in PEM") from None


def chosen(ca_file: Path | None) -> Path | None:
    """The file that was named, or else the one that the environment names."""
    file = ca_file or os.environ.get(VARIABLE)
    return Path(file) if file else None
