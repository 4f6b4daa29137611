"""The log of a model process: one line of JSON for each event, on stdout, where Triton's own log does not write.

Of what a caller sent, lines hold the request id alone. (The message of an exception from outside stands as it is:
where a machine's memory or a driver fails, it is all that there is to go by.)
"""

from __future__ import annotations

import contextlib
import json
import os
import traceback
from datetime import UTC, datetime

from songstarter.errors import InvalidRequest, SongstarterError

STDOUT = 1
LONGEST = 256  # characters of a value; a line must stay below the 4096 bytes that a pipe takes as one piece


def write(event: str, **facts: object) -> None:
    """Write one line; facts that are None are left out."""
    now = datetime.now(UTC).isoformat(timespec="milliseconds")
    shown = {name: _shown(value) for name, value in facts.items() if value is not None}
    line = json.dumps({"time": now, "event": event} | shown, ensure_ascii=False)
    with contextlib.suppress(OSError):  # nobody may be listening any more
        # One call, past Python's buffers: lines of several threads and processes do not mix.
        os.write(STDOUT, f"{line}\n".encode(errors="replace"))


def facts_of(error: Exception) -> dict[str, object]:
    """What may be told of an error. The message of an InvalidRequest quotes its caller, and is left out."""
    kind = type(error).__name__
    if isinstance(error, InvalidRequest):
        return {"error": kind, "field": error.field}
    if isinstance(error, SongstarterError):
        return {"error": kind, "reason": str(error)}
    frames = traceback.extract_tb(error.__traceback__)[-3:]
    where = " < ".join(
        f"{frame.name} ({os.path.basename(frame.filename)}:{frame.lineno})" for frame in reversed(frames)
    )
    return {"error": kind, "reason": str(error), "where": where}


def _shown(value: object) -> object:
    if isinstance(value, float):
        return round(value, 4)
    return value[:LONGEST] if isinstance(value, str) else value
