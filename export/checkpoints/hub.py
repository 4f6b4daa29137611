"""The doorway to the model hub: one file at a time, and one sentence when it cannot be had."""

from __future__ import annotations

from pathlib import Path

from huggingface_hub import hf_hub_download
from huggingface_hub.errors import (
    EntryNotFoundError,
    GatedRepoError,
    HFValidationError,
    LocalEntryNotFoundError,
    RepositoryNotFoundError,
)

from songstarter.errors import UnknownCheckpoint


def file_of(source: str, name: str) -> Path | None:
    """The path of file ``name`` of a folder or hub id, fetched if need be; None if it has no such file.

    Raises:
        UnknownCheckpoint: there is no such folder or id, or the hub cannot be reached.
    """
    folder = Path(source).expanduser()
    if folder.is_dir():
        return folder / name if (folder / name).is_file() else None
    try:
        return Path(hf_hub_download(source, name))
    except LocalEntryNotFoundError:
        raise UnknownCheckpoint(
            f"{source}: no such folder, and the hub cannot be reached for {name}: give a folder that holds it"
        ) from None
    except GatedRepoError:
        raise UnknownCheckpoint(f"{source}: the hub asks for a login that may read it") from None
    except RepositoryNotFoundError:
        raise UnknownCheckpoint(f"{source}: neither a folder nor an id that the hub knows") from None
    except EntryNotFoundError:
        return None
    except HFValidationError:
        raise UnknownCheckpoint(f"{source}: no such folder, and no id that the hub could know") from None
    except OSError as error:
        raise UnknownCheckpoint(f"{source}: the hub did not give {name} ({_first_line(error)})") from None


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]
