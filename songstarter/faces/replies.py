"""Errors on the wire between models: a call from one model to another keeps only the message of an error."""

from __future__ import annotations

from songstarter.errors import Cancelled, SongstarterError, TakeFailed, Unavailable

KINDS: dict[str, type[SongstarterError]] = {kind.triton_code: kind for kind in (Unavailable, Cancelled, TakeFailed)}


def to_wire(error: Exception) -> tuple[str, str]:
    """The Triton code and the message of an error, fit for a caller's eyes.

    What is not ours may hold paths and addresses; the caller learns that it happened, the log holds the rest.
    """
    if isinstance(error, SongstarterError):
        return error.triton_code, str(error)
    return TakeFailed.triton_code, f"the server failed ({type(error).__name__}); its log says more"


def to_inner_wire(error: Exception) -> tuple[str, str]:
    """As ``to_wire``, with the code in front of the message, where ``from_inner_wire`` finds it."""
    code, message = to_wire(error)
    return code, f"{code}: {message}"


def from_inner_wire(message: str) -> SongstarterError:
    """The error that another of our models sent."""
    code, _, rest = message.partition(": ")
    kind = KINDS.get(code)
    return kind(rest) if kind else TakeFailed(f"a stage failed: {message}")
