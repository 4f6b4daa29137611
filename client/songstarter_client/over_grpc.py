"""gRPC: how to connect, and what its failures mean."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping
from functools import partial
from typing import Any

import grpc
import tritonclient.grpc.aio as triton
from tritonclient.utils import InferenceServerException

from songstarter import contract
from songstarter.key import Key
from songstarter_client.address import Address
from songstarter_client.errors import (
    BrokenOff,
    NoServer,
    RefusedKey,
    SongstarterError,
    UntrustedServer,
    of_code,
    of_stream,
)
from songstarter_client.outgoing import Outgoing
from songstarter_client.transport import Transport
from songstarter_client.trust import Trust

CHANNEL = [
    # Eight songs of 30 s as WAV are 31 MB, and a melody may be 25 MB: no bound but Triton's own.
    ("grpc.max_send_message_length", -1),
    ("grpc.max_receive_message_length", -1),
    # A server that starts while a caller waits is noticed within a second.
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 1000),
    # As over HTTP: the address given is the one connected to, whatever http_proxy says.
    ("grpc.enable_http_proxy", 0),
    # A host's name may have several addresses, one for each server: they are asked in turns, not the first one alone.
    ("grpc.lb_policy_name", "round_robin"),
]

# What gRPC itself reports, as UNAVAILABLE, where there was no server to say anything.
UNREACHED = (
    "connections to all backends failing",
    "failed to connect to all addresses",
    "DNS resolution failed",
    "errors resolving",
)
BROKEN_OFF = ("Socket closed", "Connection reset", "recvmsg", "Stream removed", "GOAWAY")
# Why there was none, by words of the same message; the first that fits counts.
REASONS: tuple[tuple[tuple[str, ...], Callable[[Address], SongstarterError]], ...] = (
    (("CERTIFICATE_VERIFY_FAILED", "Hostname Verification Check failed"), UntrustedServer.at),
    (("Socket closed", "missing selected ALPN"), NoServer.of_another_protocol),
    (("",), NoServer.at),
)

RESTRICTED = "This protocol is restricted"  # Triton calls a wrong key UNAVAILABLE


def connect(address: Address, key: Key | None, trust: Trust | None) -> Transport:
    credentials = grpc.ssl_channel_credentials(trust.pem) if trust else None
    client = triton.InferenceServerClient(str(address), creds=credentials, channel_args=CHANNEL)
    headers = key.grpc_metadata if key else {}
    failures, explain = (InferenceServerException,), partial(_explained, address)
    return Transport(triton, client, failures, explain, headers, _messages, notices_who_hangs_up=True)


async def _messages(transport: Transport, outgoing: Outgoing) -> AsyncGenerator[Mapping[str, Any], None]:
    """The stream ends when the server has nothing left to say to its one request."""

    async def requests() -> AsyncIterator[dict[str, Any]]:
        yield {
            "model_name": contract.STREAM_MODEL,
            "inputs": transport.inputs(outgoing.tensors),
            "request_id": outgoing.request_id,
            "parameters": dict(outgoing.parameters),
        }

    answers = transport.client.stream_infer(requests(), headers=dict(transport.headers))
    try:
        async for answer, error in answers:
            if error is not None:
                raise of_stream(error.message())
            yield {tensor.name: answer.as_numpy(tensor.name).item() for tensor in contract.STREAM_OUTPUTS}
    except grpc.aio.AioRpcError as error:  # tritonclient does not translate what befalls a stream
        raise InferenceServerException(error.details(), str(error.code())) from error
    finally:
        answers.cancel()


def _explained(address: Address, failure: Exception) -> SongstarterError:
    if not isinstance(failure, InferenceServerException):
        raise TypeError(f"found {type(failure).__name__}, expected an InferenceServerException")
    code = str(failure.status()).removeprefix("StatusCode.")
    message = str(failure.message())
    if code == "UNAVAILABLE" and message.startswith(UNREACHED):
        return next(reason(address) for words, reason in REASONS if any(word in message for word in words))
    if code == "UNAVAILABLE" and message.startswith(BROKEN_OFF):
        return BrokenOff.unanswered(address)
    if code == "UNAVAILABLE" and message.startswith(RESTRICTED):
        return RefusedKey.by(address)
    return of_code(code, message)
