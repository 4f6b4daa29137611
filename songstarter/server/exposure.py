"""Who reaches a server, and which of Triton's APIs answer them.

::

    health                                                   everybody: probes and load balancers
    inference, metadata, model-config, statistics            who has the key, where there is one
    shared-memory, model-repository, logging, trace          nobody
"""

from __future__ import annotations

import ipaddress
import secrets
from dataclasses import dataclass

from songstarter.errors import UnusableKey
from songstarter.key import FILE_VARIABLE, HEADER, VARIABLE, Key

LOOPBACK = "127.0.0.1"
EVERY_ADDRESS = "0.0.0.0"
KEYED = "inference,metadata,model-config,statistics"
# A model's configuration may bring code along, shared memory is any process's, a trace file may be any file.
CLOSED = "shared-memory,model-repository,logging,trace"
CLOSED_HEADER = "songstarter-closed"
FLAGS = ("--http-restricted-api", "--grpc-restricted-protocol")


@dataclass(frozen=True)
class Exposure:
    """The address to listen on, and the key that inference asks for."""

    host: str = LOOPBACK
    key: Key | None = None

    @classmethod
    def checked(cls, host: str, key: Key | None, *, without_key: bool) -> Exposure:
        """An exposure that is safe, or that somebody has answered for.

        Raises:
            UnusableKey: others could reach the server, and there is no key.
        """
        if key is None and not without_key and not ipaddress.ip_address(host).is_loopback:
            raise UnusableKey(
                f"--host {host} lets others reach the server, and there is no key for them to show: give one with"
                f" --key-file, {FILE_VARIABLE} or {VARIABLE}, or let everybody in with --without-key"
            )
        return cls(host, key)

    @property
    def reached_at(self) -> str:
        """An address at which this machine itself reaches the server."""
        return LOOPBACK if self.host == EVERY_ADDRESS else self.host

    @property
    def restrictions(self) -> list[str]:
        """Triton's flags for the table above; they hold secrets, one of which nobody is ever told."""
        nobody = secrets.token_urlsafe(32)
        keyed = [f"{flag}={KEYED}:{HEADER}={self.key.bearer}" for flag in FLAGS] if self.key else []
        return keyed + [f"{flag}={CLOSED}:{CLOSED_HEADER}={nobody}" for flag in FLAGS]


LOOPBACK_ALONE = Exposure()
