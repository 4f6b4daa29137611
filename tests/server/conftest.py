"""A running server with the embedded checkpoint, for every test that asks it for songs."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from songstarter.server.launch import Ports
from songstarter.server.server import Server


@pytest.fixture(scope="session")
def songs(embedded_repository: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with Server(embedded_repository, Ports.free(), tmp_path_factory.mktemp("run")) as server:
        yield server
