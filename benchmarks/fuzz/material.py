"""What cases are made of: broken bytes, odd values, a request that would be right."""

from __future__ import annotations

import json
import string
from random import Random
from typing import Any

from songstarter.contract import (
    CODEC_DECODER,
    CODEC_ENCODER,
    DECODER,
    MELODY_ENCODER,
    PUBLIC_MODEL,
    STREAM_FIELDS,
    STREAM_MODEL,
    TEXT_ENCODER,
)

PUBLIC = (PUBLIC_MODEL, STREAM_MODEL)
MODELS = (*PUBLIC, DECODER, TEXT_ENCODER, MELODY_ENCODER, CODEC_ENCODER, CODEC_DECODER)
NAMES = (
    *(field.name for field in STREAM_FIELDS),
    "priority",
    "songstarter_priority",
    "deadline",
    "id",
    "parameters",
    "",
)
ODD_NUMBERS = (0, -1, 1, 2**31 - 1, -(2**31), 2**63 - 1, -(2**63), 2**64, 10**30, 1e308, -1e308, 1e-320, 0.1, 3.5)
ODD_TEXT = ("", "\0", "a\0b", "é", "𝄞" * 50, "x" * 9000, "NaN", "../../etc/passwd", "http://127.0.0.1:1/a.wav", "%n%s")
ODD_AUDIO = (
    "data:audio/wav;base64,",
    "data:;base64,UklGRg==",
    "RIFF",
    "OggS" + "\0" * 40,
    "data:audio/wav,RIFF",
    "ID3",
)
LONGEST_SONG = 0.4  # seconds: what is right by chance must not cost much
LONGEST_ALLOWED = 300.0
MOST_BYTES = 4096


def noise(random: Random, most: int = MOST_BYTES) -> bytes:
    return random.randbytes(random.randrange(most))


def damaged(random: Random, data: bytes) -> bytes:
    """Some bytes changed, some left out, some put in."""
    found = bytearray(data)
    for _ in range(random.randint(1, 8)):
        place = random.randrange(len(found) + 1)
        match random.randrange(4):
            case 0:
                found[place:place] = random.randbytes(random.randint(1, 8))
            case 1:
                del found[place : place + random.randint(1, 8)]
            case 2 if place < len(found):
                found[place] ^= 1 << random.randrange(8)
            case _:
                found[place : place + 1] = bytes([random.choice((0, 255, 34, 92, 123, 125))])
    return bytes(found)


def odd_value(random: Random, depth: int = 0) -> Any:
    """Any JSON value, odd ones first of all."""
    match random.randrange(9 if depth < 3 else 7):
        case 0 | 1:
            return random.choice(ODD_NUMBERS)
        case 2 | 3:
            return random.choice(ODD_TEXT + ODD_AUDIO)
        case 4:
            return random.choice((None, True, False))
        case 5:
            return random.uniform(-40, 40)
        case 6:
            return "".join(random.choices(string.printable, k=random.randrange(40)))
        case 7:
            return [odd_value(random, depth + 1) for _ in range(random.randrange(4))]
        case _:
            return {random.choice(NAMES): odd_value(random, depth + 1) for _ in range(random.randrange(3))}


def right_fields(random: Random) -> dict[str, Any]:
    """A request that would be answered, soon."""
    return {"prompt": "piano", "duration": round(random.uniform(0.02, LONGEST_SONG), 2), "num_outputs": 1, "seed": 7}


def odd_fields(random: Random) -> dict[str, Any]:
    """The same with some of it odd."""
    fields = right_fields(random)
    for _ in range(random.randint(1, 4)):
        fields[random.choice(NAMES)] = odd_value(random)
    return _short(fields)


def _short(fields: dict[str, Any]) -> dict[str, Any]:
    """Songs that are right by chance, and long, would only take time."""
    for name, most in (("duration", LONGEST_SONG), ("num_outputs", 2)):
        value = fields.get(name, 99)
        if isinstance(value, int | float) and not isinstance(value, bool) and most < value <= LONGEST_ALLOWED:
            fields[name] = most
    return fields


def right_json(random: Random) -> bytes:
    return json.dumps(right_fields(random)).encode()


def odd_json(random: Random) -> bytes:
    return json.dumps(odd_fields(random), ensure_ascii=random.random() < 0.5).encode()
