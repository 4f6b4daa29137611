"""What many tests share: tiny checkpoints, made once, and a running server."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import hypothesis
import pytest
from exporting import export_into

from songstarter.checkpoint import Family
from songstarter.server.launch import Ports
from songstarter.server.server import Server

if TYPE_CHECKING:
    from export.checkpoints import Loaded

# A busy machine is slow at times; that is no property of the code.
hypothesis.settings.register_profile(
    "any machine", deadline=None, suppress_health_check=[hypothesis.HealthCheck.too_slow]
)
hypothesis.settings.load_profile("any machine")


def _tiny(family: Family, channels: int) -> Loaded:
    from export.checkpoints import make_checkpoint  # torch is slow to import: only where it is needed

    return make_checkpoint(family=family, channels=channels)


@pytest.fixture(scope="session")
def melody_checkpoint() -> Loaded:
    """A tiny checkpoint of the melody family, stereo."""
    return _tiny("melody", 2)


@pytest.fixture(scope="session")
def melody_mono_checkpoint() -> Loaded:
    return _tiny("melody", 1)


@pytest.fixture(scope="session")
def text_checkpoint() -> Loaded:
    """A tiny checkpoint of the text family, mono."""
    return _tiny("text", 1)


@pytest.fixture(scope="session")
def text_stereo_checkpoint() -> Loaded:
    return _tiny("text", 2)


@pytest.fixture(scope="session")
def embedded_repository(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The embedded checkpoint, exported as `make export` does."""
    return export_into(tmp_path_factory.mktemp("embedded") / "model_repository", "embedded", "int8_kv8")


@pytest.fixture(scope="session")
def songs(embedded_repository: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A running server with the embedded checkpoint, for every test that asks it for songs."""
    with Server(embedded_repository, Ports.free(), tmp_path_factory.mktemp("run")) as server:
        yield server
