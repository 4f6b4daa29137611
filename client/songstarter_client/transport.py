"""One server spoken to over one protocol: tensors out, a song back, failures in this project's words."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from importlib import import_module
from typing import Any, Protocol

from songstarter import contract
from songstarter.key import Key
from songstarter_client.address import Address
from songstarter_client.chunk import Chunk
from songstarter_client.errors import RequestFailed, SongstarterError
from songstarter_client.fields import InputTensor
from songstarter_client.outgoing import Outgoing
from songstarter_client.trust import Trust


@dataclass(frozen=True)
class Answer:
    """The public model's outputs."""

    output: tuple[bytes, ...]
    seed: int
    sample_rate: int


class Messages(Protocol):
    """How a stream's messages come over one protocol; closed early, the request is cancelled."""

    def __call__(self, transport: Transport, outgoing: Outgoing) -> AsyncGenerator[Mapping[str, Any], None]: ...


@dataclass(frozen=True)
class Transport:
    """tritonclient's module and asyncio client for one protocol, and how that protocol words its failures."""

    triton: Any
    client: Any
    failures: tuple[type[Exception], ...]
    explain: Callable[[Exception], SongstarterError]
    headers: Mapping[str, str]
    messages: Messages
    notices_who_hangs_up: bool  # whether Triton does, before it has an answer

    async def infer(self, outgoing: Outgoing, seconds: float) -> Answer:
        """The answer, which is waited for no longer than so many seconds; nor shall the server work on it longer."""
        if not self.notices_who_hangs_up:
            outgoing = outgoing.given_up_after(seconds)
        wanted = [self.triton.InferRequestedOutput(tensor.name) for tensor in contract.OUTPUTS]
        try:
            result = await self.client.infer(
                contract.PUBLIC_MODEL,
                self.inputs(outgoing.tensors),
                outputs=wanted,
                request_id=outgoing.request_id,
                parameters=dict(outgoing.parameters),
                headers=dict(self.headers),
            )
        except self.failures as failure:
            raise self.explain(failure) from failure
        return _answer(result)

    async def stream(self, outgoing: Outgoing) -> AsyncGenerator[Chunk, None]:
        """The answer of the streaming model, message by message; closed early, the request is cancelled."""
        try:
            async with aclosing(self.messages(self, outgoing)) as messages:
                async for message in messages:
                    yield Chunk.of(message)
        except self.failures as failure:
            raise self.explain(failure) from failure

    async def ready(self) -> bool:
        try:
            return bool(await self.client.is_model_ready(contract.PUBLIC_MODEL))
        except self.failures as failure:
            raise self.explain(failure) from failure

    async def close(self) -> None:
        await self.client.close()

    def inputs(self, tensors: Sequence[InputTensor]) -> list[Any]:
        """The tensors in tritonclient's own form."""
        return [self._input(tensor) for tensor in tensors]

    def _input(self, tensor: InputTensor) -> Any:
        sent = self.triton.InferInput(tensor.name, list(tensor.values.shape), tensor.datatype)
        sent.set_data_from_numpy(tensor.values)
        return sent


def connect(address: Address, key: Key | None, trust: Trust | None) -> Transport:
    """A transport to address, by TLS where there is trust, to be used and closed in the running event loop.

    Nothing is sent yet.
    """
    over: Any = import_module(f"songstarter_client.over_{address.protocol}")
    transport: Transport = over.connect(address, key, trust)
    return transport


def _answer(result: Any) -> Answer:
    arrays = {tensor.name: result.as_numpy(tensor.name) for tensor in contract.OUTPUTS}
    missing = [name for name, array in arrays.items() if array is None]
    if missing:
        raise RequestFailed(f"the answer holds no output {missing[0]!r}, expected were {', '.join(arrays)}")
    return Answer(
        output=tuple(arrays["output"].tolist()),
        seed=int(arrays["seed"][0]),
        sample_rate=int(arrays["sample_rate"][0]),
    )
