from __future__ import annotations

from collections.abc import Iterator

import pytest
from triton_for_client import Addresses, running_triton

from songstarter_client import Client


@pytest.fixture(scope="session")
def triton(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Addresses]:
    with running_triton(tmp_path_factory.mktemp("triton")) as addresses:
        yield addresses


@pytest.fixture(params=["grpc", "http"])
def url(request: pytest.FixtureRequest, triton: Addresses) -> str:
    """The server's address, once for each protocol."""
    return str(getattr(triton, request.param))


@pytest.fixture
def client(url: str) -> Iterator[Client]:
    with Client(url, timeout=20) as opened:
        yield opened
