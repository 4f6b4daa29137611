"""gRPC's channel: a host's name may stand for several servers."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

import pytest
from relay import Relay
from triton_for_client import Addresses

from songstarter_client import over_grpc
from songstarter_client.address import Address, parse_address
from songstarter_client.outgoing import Outgoing

PROMPT = "long enough to be told from what any connection costs " * 40


@dataclass(frozen=True)
class Several(Address):
    """What a headless Service's name stands for."""

    ports: tuple[int, ...] = ()

    def __str__(self) -> str:
        return "ipv4:" + ",".join(f"{self.host}:{port}" for port in self.ports)


@pytest.mark.triton
def test_every_address_of_a_host_gets_its_share_of_the_requests(triton: Addresses) -> None:
    async def bytes_to_each() -> list[int]:
        relays = [Relay(parse_address(triton.grpc).port) for _ in range(3)]
        ports = [await relay.open() for relay in relays]
        transport = over_grpc.connect(Several("grpc", "127.0.0.1", 0, tuple(ports)), None, None)
        for _ in range(30):
            await transport.infer(Outgoing.of(PROMPT, {"num_outputs": 1}), 20)
        await transport.close()
        for relay in relays:
            await relay.cut()
        return [relay.passed for relay in relays]

    assert min(asyncio.run(bytes_to_each())) > 5 * len(PROMPT)
