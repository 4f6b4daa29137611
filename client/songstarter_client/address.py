"""Where a server listens and which protocol it is spoken to."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal
from urllib.parse import urlsplit

from songstarter.errors import Description, InvalidRequest

Protocol = Literal["grpc", "http"]

DEFAULT_HOST = "127.0.0.1"
DEFAULT_PORTS: dict[Protocol, int] = {"grpc": 8001, "http": 8000}
PROTOCOLS: dict[str, Protocol] = {"grpc": "grpc", "http": "http"}
ALLOWED = "HOST[:PORT], grpc://HOST[:PORT] or http://HOST[:PORT]"


@dataclass(frozen=True)
class Address:
    """One protocol at one host and port."""

    protocol: Protocol
    host: str
    port: int

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{host}:{self.port}"


def parse_address(url: str, protocol: Protocol | None = None) -> Address:
    """An address from HOST[:PORT] or a URL; its scheme chooses the protocol, gRPC where neither does."""
    scheme, separator, rest = url.rpartition("://")
    chosen = PROTOCOLS.get(scheme) if separator else (protocol or "grpc")
    if chosen is None or chosen != (protocol or chosen):
        raise InvalidRequest("url", url, f"{protocol or ' or '.join(PROTOCOLS)} as protocol")
    try:
        parts = urlsplit(f"//{rest}")
        port = parts.port or DEFAULT_PORTS[chosen]
    except ValueError as problem:
        raise InvalidRequest("url", Description(f"{url!r} ({problem})"), ALLOWED) from None
    if not parts.hostname or parts.path.strip("/") or parts.query or parts.username:
        raise InvalidRequest("url", url, ALLOWED)
    return Address(chosen, parts.hostname, port)
