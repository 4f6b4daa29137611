"""What a caller of the client can meet: the project's tree, and the leaves that only a caller sees.

SongstarterError
├── InvalidRequest         a field holds something that is not allowed
│   └── RefusedRequest     ... and it was the server that said so
├── Unavailable            the server cannot take the request now; trying again may help
│   ├── NoServer           nothing answers at the address, or no songstarter model does
│   ├── BrokenOff          the connection ended or the server fell silent, and the song may have begun
│   └── DeadlinePassed     the deadline that came with the request has passed, and the server gave it up
├── UntrustedServer        its certificate is another host's, or signed by nobody who is trusted
├── RefusedKey             the server asks for a key, and got none or another one
├── TimedOut               no answer within the time the caller gave (also a TimeoutError)
├── Cancelled              the server gave the request up because it was cancelled
└── RequestFailed          the server could not finish the request

``request_id`` of one that befell a request is the name of that request in the server's log.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

from songstarter.errors import Cancelled, InvalidRequest, SongstarterError, Unavailable
from songstarter_client.address import Address

__all__ = [
    "BrokenOff",
    "Cancelled",
    "DeadlinePassed",
    "InvalidRequest",
    "NoServer",
    "RefusedKey",
    "RefusedRequest",
    "RequestFailed",
    "SongstarterError",
    "TimedOut",
    "Unavailable",
    "UntrustedServer",
    "of_code",
    "of_request",
    "of_stream",
]

LONGEST_MESSAGE = 500
DEADLINE_PASSED = re.compile(r"the deadline of \S+ s has passed")  # Triton has no code of its own for it


class RefusedRequest(InvalidRequest):
    """The server refused the request; the message is its own and begins with the field's name."""

    def __init__(self, message: str) -> None:
        Exception.__init__(self, message)
        self.field = message.partition(":")[0]


class NoServer(Unavailable):
    """Nothing answers at the address, or what answers there serves no songstarter model."""

    @classmethod
    def at(cls, address: Address) -> NoServer:
        if address.secure:
            return cls(f"nothing that speaks TLS answers at {address}; is it {address.protocol}:// there?")
        return cls(f"no server answers at {address}; start one with `songstarter serve`")

    @classmethod
    def of_another_protocol(cls, address: Address) -> NoServer:
        wanted, other = ("gRPC", "HTTP") if address.protocol == "grpc" else ("HTTP", "gRPC")
        return cls(f"what answers at {address} does not speak {wanted}; is it a server's {other} port?")


class BrokenOff(Unavailable):
    """The server has stopped answering, but may go on working: the same request again would begin a second song."""

    @classmethod
    def unanswered(cls, address: Address) -> BrokenOff:
        return cls(f"the server at {address} ended the connection before it had answered")


class DeadlinePassed(Unavailable):
    """The server gave the request up at the deadline that came with it; the same one again would fare no better."""


class UntrustedServer(SongstarterError):
    """What answers at the address cannot show that it is the server that was meant."""

    @classmethod
    def at(cls, address: Address) -> UntrustedServer:
        return cls(
            f"the certificate of the server at {address} is for another host, or signed by nobody who is trusted;"
            " a CA file says who else is"
        )


class RefusedKey(SongstarterError):
    """The server asks for a key, and was shown none or another one."""

    @classmethod
    def by(cls, address: Address) -> RefusedKey:
        return cls(f"the server at {address} asks for a key, and none or another one was shown")


class TimedOut(SongstarterError, TimeoutError):
    """No answer came within the time that the caller gave."""


class RequestFailed(SongstarterError):
    """The server could not finish the request; the message carries its reason."""


def _unavailable(message: str) -> Unavailable:
    kind = DeadlinePassed if DEADLINE_PASSED.fullmatch(message) else Unavailable
    return kind(message)


_BY_CODE: Mapping[str, Callable[[str], SongstarterError]] = {
    # gRPC
    "INVALID_ARGUMENT": RefusedRequest,
    "UNAVAILABLE": _unavailable,
    "NOT_FOUND": NoServer,
    "DEADLINE_EXCEEDED": TimedOut,
    "CANCELLED": Cancelled,
    # streams, whose errors begin with it
    "INVALID_ARG": RefusedRequest,
    "INTERNAL": RequestFailed,
    # HTTP, where Triton answers a cancelled request with 400 too
    "400": RefusedRequest,
    "503": _unavailable,
    "404": NoServer,
    "504": TimedOut,
}


def of_code(code: str, message: str) -> SongstarterError:
    """The error for a gRPC code or HTTP status and the server's message, brought onto one line."""
    line = " ".join(message.split())
    return _BY_CODE.get(code, RequestFailed)(line[:LONGEST_MESSAGE])


def of_stream(message: str) -> SongstarterError:
    """The error in a stream, which has no code but the one in front of its message; without one the server failed."""
    code, separator, rest = message.partition(": ")
    return of_code(code, rest) if separator and code in _BY_CODE else of_code("INTERNAL", message)


@contextmanager
def of_request(request_id: str) -> Iterator[None]:
    """An error that leaves the block says which request it befell."""
    try:
        yield
    except SongstarterError as error:
        error.request_id = request_id
        raise
