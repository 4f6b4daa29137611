"""Where a server listens, which protocol it is spoken to, and whether by TLS."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal
from urllib.parse import urlsplit

from songstarter.errors import Description, InvalidRequest

Protocol = Literal["grpc", "http"]
SchemeName = Literal["grpc", "http", "grpcs", "https"]

DEFAULT_HOST = "127.0.0.1"
ALLOWED = "HOST[:PORT], alone or behind grpc://, http://, grpcs:// or https://"


@dataclass(frozen=True)
class Scheme:
    """What the word in front of :// says, and the port where none is given."""

    protocol: Protocol
    port: int
    secure: bool = False


SCHEMES: dict[SchemeName, Scheme] = {
    "grpc": Scheme("grpc", 8001),
    "http": Scheme("http", 8000),
    "grpcs": Scheme("grpc", 443, secure=True),
    "https": Scheme("http", 443, secure=True),
}


@dataclass(frozen=True)
class Address:
    """One protocol at one host and port."""

    scheme: SchemeName
    host: str
    port: int

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{host}:{self.port}"

    @property
    def protocol(self) -> Protocol:
        return SCHEMES[self.scheme].protocol

    @property
    def secure(self) -> bool:
        """Whether it is spoken to by TLS."""
        return SCHEMES[self.scheme].secure

    @property
    def url(self) -> str:
        return f"{self.scheme}://{self}"


def parse_address(url: str, protocol: Protocol | None = None) -> Address:
    """An address from HOST[:PORT] or a URL; its scheme chooses the protocol, gRPC where neither does."""
    named, separator, rest = url.rpartition("://")
    allowed = [name for name, scheme in SCHEMES.items() if protocol in (None, scheme.protocol)]
    chosen = next((name for name in allowed if name == (named if separator else protocol or "grpc")), None)
    if chosen is None:
        raise InvalidRequest("url", url, f"{' or '.join(allowed)} as protocol")
    try:
        parts = urlsplit(f"//{rest}")
        port = parts.port or SCHEMES[chosen].port
    except ValueError as problem:
        raise InvalidRequest("url", Description(f"{url!r} ({problem})"), ALLOWED) from None
    if not parts.hostname or parts.path.strip("/") or parts.query or parts.username:
        raise InvalidRequest("url", url, ALLOWED)
    return Address(chosen, parts.hostname, port)
