"""Cases for the gRPC port: raw frames, broken protobuf, odd tensors to every model."""

from __future__ import annotations

import struct
from math import inf, nan, prod
from random import Random

import grpc
from tritonclient.grpc import service_pb2 as messages

from benchmarks.fuzz.material import LONGEST_SONG, MODELS, PUBLIC, damaged, noise
from benchmarks.fuzz.over_http import unframed
from benchmarks.fuzz.target import PATIENCE, Outcome, Target
from songstarter import contract
from songstarter.contract import PUBLIC_MODEL, Tensor

SERVICE = "/inference.GRPCInferenceService/"
UNARY = (
    "ModelInfer",
    "ModelReady",
    "ModelMetadata",
    "ModelStatistics",
    "RepositoryModelLoad",
    "LogSettings",
    "Nothing",
)
PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
SIZES = {"BOOL": 1, "INT32": 4, "INT64": 8, "FP32": 4, "FP64": 8, "UINT8": 1}
HUGE = 2**20  # a product beyond 64 bits ends a stage model in Triton 24.10: DECISIONS.md, what the fuzz found
BATCHED = set(MODELS) - {*PUBLIC, contract.DECODER}
INPUTS: dict[str, tuple[Tensor, ...]] = {
    PUBLIC_MODEL: tuple(field.tensor for field in contract.FIELDS),
    contract.STREAM_MODEL: tuple(field.tensor for field in contract.STREAM_FIELDS),
    contract.DECODER: contract.DECODER_INPUTS,
    contract.TEXT_ENCODER: contract.TEXT_ENCODER_INPUTS,
    contract.MELODY_ENCODER: contract.MELODY_ENCODER_INPUTS,
    contract.CODEC_ENCODER: contract.CODEC_ENCODER_INPUTS,
    contract.CODEC_DECODER: contract.CODEC_DECODER_INPUTS,
}


def raw_frames(random: Random, target: Target) -> Outcome:
    """HTTP/2 frames of any kind and length, behind a right or a wrong preface."""
    frames = b"".join(
        random.randrange(2**14).to_bytes(3, "big")
        + bytes([random.randrange(12), random.randrange(256)])
        + random.randrange(2**32).to_bytes(4, "big")
        + noise(random, 64)
        for _ in range(random.randrange(8))
    )
    return unframed(target.host, target.grpc, random.choice((PREFACE, damaged(random, PREFACE), b"")) + frames)


def broken_protobuf(random: Random, target: Target) -> Outcome:
    data = random.choice((noise(random), damaged(random, right_message(random)), right_message(random)[:-3]))
    return call(target, random.choice(UNARY), data)


def broken_protobuf_in_a_stream(random: Random, target: Target) -> Outcome:
    """All for one model: a stream that asks both ends Triton 24.10 now and then (DECISIONS.md, one stream)."""
    model = random.choice(PUBLIC)
    parts = [right_message(random, model) for _ in range(random.randint(1, 3))]
    parts[random.randrange(len(parts))] = random.choice((noise(random), damaged(random, right_message(random, model))))
    call_stream = target.channel.stream_stream(SERVICE + "ModelStreamInfer")
    try:
        return "answered" if [*call_stream(iter(parts), timeout=PATIENCE)] else "refused"
    except grpc.RpcError as error:
        return outcome(error)


def odd_tensors(random: Random, target: Target) -> Outcome:
    """A whole message to any model, whose tensors may have any type, shape and content; half of them fit."""
    model = random.choice(MODELS)
    message = messages.ModelInferRequest(model_name=model, id=str(random.randrange(9)))
    fits = random.random() < 0.5
    tensors = INPUTS[model] if fits else random.sample(INPUTS[model], random.randint(0, len(INPUTS[model])))
    for tensor in tensors:
        datatype = tensor.datatype.replace("STRING", "BYTES")
        shape = ([1] if model in BATCHED else []) + [abs(size) * (16 if size < 0 else 1) for size in tensor.dims]
        if not fits and random.random() < 0.5:
            datatype = random.choice((*SIZES, "BYTES", "NOPE"))
        elif not fits:
            shape = [random.choice((1, 1, 2, 0, 16, -1, HUGE)) for _ in range(random.choice((1, 1, 2, 3)))]
        message.inputs.add(name=tensor.name, datatype=datatype, shape=shape)
        message.raw_input_contents.append(content(random, datatype, prod(shape)))
    if model in PUBLIC and "duration" not in [tensor.name for tensor in tensors]:
        short(random, message)  # the default song is long
    return call(target, "ModelInfer", message.SerializeToString())


def short(random: Random, message: messages.ModelInferRequest) -> None:
    """Ask for a short song."""
    message.inputs.add(name="duration", datatype="FP32", shape=[1])
    message.raw_input_contents.append(struct.pack("<f", random.uniform(0.02, LONGEST_SONG)))


def content(random: Random, datatype: str, count: int) -> bytes:
    """Bytes for so many elements, odd ones, and now and then bytes for another number."""
    count = min(max(count, 0), 512)
    if random.random() < 0.1:
        return noise(random, 64)
    if datatype == "BYTES":
        return b"".join(struct.pack("<I", len(text)) + text for text in (noise(random, 16) for _ in range(count)))
    if datatype == "FP32":
        return struct.pack(f"<{count}f", *random.choices((0.1, 1.0, -1.0, nan, inf, 1e38, 1e-45), k=count))
    numbers = random.choices((0, 1, 7, 2**31, 2**60), k=count)
    return b"".join(number.to_bytes(8, "little")[: SIZES.get(datatype, 4)] for number in numbers)


def right_message(random: Random, model: str | None = None) -> bytes:
    message = messages.ModelInferRequest(model_name=model or random.choice(PUBLIC))
    short(random, message)
    for name, datatype, data in (
        ("num_outputs", "INT32", struct.pack("<i", 1)),
        ("prompt", "BYTES", struct.pack("<I", 5) + b"piano"),
    ):
        message.inputs.add(name=name, datatype=datatype, shape=[1])
        message.raw_input_contents.append(data)
    return message.SerializeToString()


def call(target: Target, method: str, data: bytes) -> Outcome:
    try:
        target.channel.unary_unary(SERVICE + method)(data, timeout=PATIENCE)
    except grpc.RpcError as error:
        return outcome(error)
    return "answered"


def outcome(error: grpc.RpcError) -> Outcome:
    match error.code(), error.details() or "":
        case grpc.StatusCode.DEADLINE_EXCEEDED, _:
            return "hung"
        case grpc.StatusCode.UNAVAILABLE, details if "Socket closed" in details or "connect" in details:
            return "closed"
        case _:
            return "refused"
