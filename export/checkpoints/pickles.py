"""The doorway to pickles: tensors and plain values, or nothing."""

from __future__ import annotations

import pickle
import re
import zipfile
from pathlib import Path
from typing import Any

import torch

from songstarter.errors import UnsafeCheckpoint

# Tensors that carry attributes, as songstarter's own do, are rebuilt through this (spec 6.2).
_ALLOWED = [torch._tensor._rebuild_from_type_v2]


def read_pickle(path: Path) -> dict[str, Any]:
    """Read a torch pickle that holds a dictionary; weights stay mapped to the file where its form allows it.

    Raises:
        UnsafeCheckpoint: it asks for more than tensors and plain values; nothing of it has been run.
    """
    try:
        with torch.serialization.safe_globals(_ALLOWED):
            content = torch.load(path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path))
    except pickle.UnpicklingError as error:
        raise UnsafeCheckpoint(
            f"{path.name} holds {_what_it_asks_for(error)}; expected only tensors and plain values: not loaded"
        ) from None
    except Exception as error:  # bytes that are no pickle fail in many ways, none of which runs them
        raise UnsafeCheckpoint(f"{path.name} is no torch pickle ({type(error).__name__})") from error
    if not isinstance(content, dict):
        raise UnsafeCheckpoint(f"{path.name} holds a {type(content).__name__}; expected a dictionary")
    return content


def _what_it_asks_for(error: Exception) -> str:
    named = re.search(r"GLOBAL (\S+)", str(error))
    return f"the name {named[1]}" if named else "something that is not plain"
