"""One word for each way in which a request, an order or a take ends without being done, in metrics and in the log."""

from __future__ import annotations

from songstarter.errors import Cancelled, DeadlineExceeded, InvalidRequest, Unavailable

FAILED = "failed"
_WORDS: dict[type[Exception], str] = {
    InvalidRequest: "invalid",
    Unavailable: "unavailable",
    Cancelled: "cancelled",
    DeadlineExceeded: "cancelled",
}
UNDONE = (FAILED, *dict.fromkeys(_WORDS.values()))


def undone_by(error: Exception) -> str:
    """The word for what an error ended."""
    return _WORDS.get(type(error), FAILED)
