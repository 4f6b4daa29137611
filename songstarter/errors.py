"""Everything that can go wrong, as one tree.

SongstarterError
├── InvalidRequest         the caller asked for something that is not allowed   (INVALID_ARG)
├── Unavailable            the service cannot take the request now              (UNAVAILABLE)
├── TakeFailed             a take could not be finished; others go on           (INTERNAL)
├── Cancelled              the caller went away or asked to stop                (CANCELLED)
├── DeadlineExceeded       the time that the caller gave has passed             (UNAVAILABLE)
├── UnusableKey            the key of a server is missing, or is none
├── ReplayRefused          a captured graph was asked to run on memory that it does not know
├── DeviceError            a GPU's driver, compiler or library is missing or refuses something
├── CheckpointError        a checkpoint or an export cannot be used
│   ├── UnsafeCheckpoint   a pickle holds more than tensors and plain values
│   ├── UnknownCheckpoint  the folder or id is no MusicGen checkpoint
│   └── ExportMismatch     a graph does not compute what its torch module does
└── ServerError            the Triton server cannot start or cannot go on
    ├── PortInUse
    ├── MissingLibrary
    ├── ModelNotLoaded
    └── ServerDied

A message says what was found, what was expected and where, in one sentence, and names no path of the
server to a remote caller.
"""

from __future__ import annotations


class SongstarterError(Exception):
    """The root: catching it catches every error this project raises on purpose."""

    triton_code = "INTERNAL"
    request_id: str | None = None  # at a caller's: of the request that it befell


class InvalidRequest(SongstarterError):
    """A field of a request holds something that is not allowed."""

    triton_code = "INVALID_ARG"

    def __init__(self, field: str, found: object, allowed: str) -> None:
        super().__init__(f"{field}: found {_shown(found)}, allowed is {allowed}")
        self.field = field


class Unavailable(SongstarterError):
    """The service is full or is stopping; the same request may succeed later."""

    triton_code = "UNAVAILABLE"


class TakeFailed(SongstarterError):
    """One take ended without its audio; its neighbours were not touched."""


class Cancelled(SongstarterError):
    """The caller went away, or asked to stop, before the take was done."""

    triton_code = "CANCELLED"


class DeadlineExceeded(SongstarterError):
    """The caller's own bound on the time passed before the answer was there.

    Triton has no code for it. Over HTTP, CANCELLED is 400, which would blame the caller; UNAVAILABLE is 503.
    """

    triton_code = "UNAVAILABLE"


class UnusableKey(SongstarterError):
    """A key is missing where one is needed, or what was given is no key."""


class ReplayRefused(SongstarterError):
    """A captured graph would have computed something else than it was asked for."""


class DeviceError(SongstarterError):
    """A GPU's driver, its compiler or one of its libraries is missing, or refused a call."""


class CheckpointError(SongstarterError):
    """A checkpoint or an exported repository cannot be used."""


class UnsafeCheckpoint(CheckpointError):
    """A pickle asks for more than tensors and plain values."""


class UnknownCheckpoint(CheckpointError):
    """A folder or id holds no MusicGen checkpoint that can be exported."""


class ExportMismatch(CheckpointError):
    """An exported graph and the torch module it came from disagree."""


class ServerError(SongstarterError):
    """The Triton server cannot start or cannot go on."""


class PortInUse(ServerError):
    """Another process listens where the server should."""


class MissingLibrary(ServerError):
    """A file or shared library that Triton needs is not on this machine."""


class ModelNotLoaded(ServerError):
    """Triton refused to load a model; the message carries its reason."""


class ServerDied(ServerError):
    """The server, or one of its model processes, ended by itself."""


def _shown(found: object) -> str:
    """A value as it may stand in a one-line message: short, printable, never a file's content."""
    if isinstance(found, bytes):
        return f"{len(found)} bytes"
    if isinstance(found, float):
        return f"{found:g}"
    text = found if isinstance(found, Description) else repr(found)
    return text if len(text) <= 80 else text[:77] + "..."


class Description(str):
    """A phrase that describes what was found, shown without quotes."""
