"""What no honest client sends: each case is one INVALID_ARG in one sentence, and nothing else is disturbed."""

from __future__ import annotations

import io
import math
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import tritonclient.grpc as triton_grpc
from asking import ask_generate, ask_grpc
from tritonclient.utils import InferenceServerException

from songstarter.audio_file import data_uri
from songstarter.contract import FIELDS, PUBLIC_MODEL
from songstarter.server.server import Server

pytestmark = pytest.mark.triton

SHORT = {"duration": 0.2, "num_outputs": 1, "seed": 5}
MOST_GROWTH = 32 * 2**20  # bytes, over dozens of hostile files
ARRAYS: dict[str, Any] = {
    "BYTES": np.array([b"7"], object),
    "FP32": np.array([7], np.float32),
    "FP64": np.array([7], np.float64),
    "INT32": np.array([7], np.int32),
    "INT64": np.array([7], np.int64),
    "BOOL": np.array([True]),
}
WIRE = {"STRING": "BYTES"}
WRONG_TYPES = [
    (field.name, datatype)
    for field in FIELDS
    for datatype in ARRAYS
    if datatype != WIRE.get(field.datatype, field.datatype)
]


@pytest.fixture(autouse=True, scope="module")
def _others_are_not_disturbed(songs: Server) -> Iterator[None]:
    """The same song before and after all of it, from the same processes."""
    before, processes = ask_grpc(songs.grpc_url, **SHORT), songs.stubs()
    yield
    assert ask_grpc(songs.grpc_url, **SHORT).output == before.output
    assert songs.stubs() == processes


def refused(server: Server, *tensors: Any, **fields: Any) -> str:
    """The sentence of an INVALID_ARG."""
    with pytest.raises(InferenceServerException) as caught:
        ask_grpc(server.grpc_url, **(SHORT | fields)) if fields else send(server, list(tensors))
    assert caught.value.status() == "StatusCode.INVALID_ARGUMENT"
    message = str(caught.value.message())
    assert "\n" not in message
    assert len(message) < 400
    return message


def send(server: Server, tensors: list[Any]) -> None:
    with triton_grpc.InferenceServerClient(server.grpc_url) as client:
        client.infer(PUBLIC_MODEL, tensors)


def tensor(name: str, datatype: str, array: Any) -> Any:
    made = triton_grpc.InferInput(name, list(array.shape), datatype)
    made.set_data_from_numpy(array)
    return made


@pytest.mark.parametrize(("name", "datatype"), WRONG_TYPES)
def test_a_tensor_of_another_type_is_refused_by_name(songs: Server, name: str, datatype: str) -> None:
    assert name in refused(songs, tensor(name, datatype, ARRAYS[datatype]))


@pytest.mark.parametrize("name", [field.name for field in FIELDS])
@pytest.mark.parametrize("shape", [(0,), (2,), (1, 1), (3, 2)])
def test_a_tensor_of_another_shape_is_refused_by_name(songs: Server, name: str, shape: tuple[int, ...]) -> None:
    (datatype,) = (WIRE.get(field.datatype, field.datatype) for field in FIELDS if field.name == name)
    assert name in refused(songs, tensor(name, datatype, np.resize(ARRAYS[datatype], shape)))


FLOATS = [field.name for field in FIELDS if field.datatype == "FP32"]


@pytest.mark.parametrize("name", FLOATS)
@pytest.mark.parametrize("number", [math.nan, math.inf, -math.inf, -3.4e38, 3.4e38], ids=str)
def test_a_number_that_is_none_or_out_of_all_bounds_is_refused_by_name(songs: Server, name: str, number: float) -> None:
    if (name, number) == ("continuation_end", 3.4e38):
        pytest.skip("an end behind the clip means the clip's end")
    sent: dict[str, Any] = {"input_audio": wav(tone(0.5)), name: number}
    assert refused(songs, **sent).startswith(f"{name}: found ")


@pytest.mark.parametrize("name", ["top_k", "seed", "num_outputs"])
@pytest.mark.parametrize("number", [-(2**31), 2**31 - 1])
def test_an_integer_at_its_type_s_end_is_refused_by_name(songs: Server, name: str, number: int) -> None:
    if (name, number) == ("seed", 2**31 - 1):
        pytest.skip("a seed like any other")
    assert refused(songs, **{name: number}).startswith(f"{name}: found ")


STRINGS = [field.name for field in FIELDS if field.datatype == "STRING" and field.name != "input_audio"]


@pytest.mark.parametrize("name", STRINGS)
@pytest.mark.parametrize("text", [b"\xff\xfe", b"a\x00b", b"\x00" * 4096, b"x" * 2**20, b"\xed\xa0\x80"], ids=len)
def test_text_that_is_none_is_refused_by_name(songs: Server, name: str, text: bytes) -> None:
    assert refused(songs, **{name: text}).startswith(f"{name}: found ")


# -- audio ------------------------------------------------------------------------------------------------------------


def tone(seconds: float, rate: int = 8_000, channels: int = 1) -> np.ndarray:
    wave = 0.3 * np.sin(2 * np.pi * 440 * np.arange(int(seconds * rate)) / rate)
    return np.repeat(wave[:, None], channels, axis=1).astype(np.float32)


def wav(samples: np.ndarray, rate: int = 8_000, subtype: str = "FLOAT") -> bytes:
    buffer = io.BytesIO()
    soundfile.write(buffer, samples, rate, format="WAV", subtype=subtype)
    return buffer.getvalue()


def header(rate: int = 8_000, channels: int = 1, bits: int = 16, size: int = 2**32 - 1) -> bytes:
    """A wav header of our own making, and eight bytes behind it."""
    width = min(channels * bits // 8, 65535)
    form = struct.pack("<HHIIHH", 1, channels, rate, (rate * width) % 2**32, width, bits)
    return (
        b"RIFF"
        + struct.pack("<I", size)
        + b"WAVEfmt "
        + struct.pack("<I", 16)
        + form
        + b"data"
        + struct.pack("<I", size)
        + bytes(8)
    )


def much_opus() -> bytes:
    buffer = io.BytesIO()
    with soundfile.SoundFile(buffer, "w", samplerate=48_000, channels=1, format="OGG", subtype="OPUS") as file:
        for _ in range(15 * 60):
            file.write(np.zeros(48_000, np.float32))
    return buffer.getvalue()


def with_sample(value: float) -> bytes:
    samples = tone(1.0)
    samples[4_000] = value
    return wav(samples)


AUDIO = {
    "cut in its header": wav(tone(1.0))[:30],
    "a header alone": wav(tone(1.0))[:44],
    "no samples": wav(tone(0.0)),
    "a sample that is no number": with_sample(math.nan),
    "an infinite sample": with_sample(math.inf),
    "one sample a second": wav(tone(1.0), 1),
    "a million samples a second": wav(tone(1.0), 1_000_000),
    "sixty-four channels": wav(tone(0.1, channels=64)),
    "a header of four billion samples a second": header(rate=2**32 - 1),
    "a header of 65535 channels": header(channels=65_535),
    "a header of no channels": header(channels=0),
    "a header of no rate": header(rate=0),
    "a quarter of an hour of Opus in a small file": much_opus(),
    "an Ogg page alone": b"OggS" + bytes(200),
    "a tag alone": b"ID3\x03\x00\x00\x7f\x7f\x7f\x7f" + bytes(100),
    "a picture": b"\x89PNG\r\n\x1a\n" + bytes(100),
    "a page": b"<!doctype html><title>not found</title>",
    "a path": b"/etc/passwd",
    "an address": b"http://127.0.0.1:1/tune.wav",
    "a file's address": b"file:///etc/passwd",
    "a data URI without its data": b"data:audio/wav;base64,",
    "a data URI of another coding": b"data:audio/wav,RIFF",
    "33 megabytes": b"RIFF" + bytes(33 * 2**20),
}


@pytest.mark.parametrize("case", AUDIO)
@pytest.mark.parametrize("continuation", [False, True], ids=["melody", "opening"])
def test_audio_that_is_none_is_refused(songs: Server, case: str, continuation: bool) -> None:
    message = refused(songs, input_audio=AUDIO[case], continuation=continuation, duration=8.0)
    assert message.startswith("input_audio: found ")
    assert "/etc" not in message


def test_what_a_data_uri_calls_its_file_does_not_matter(songs: Server) -> None:
    tune = wav(tone(1.0), subtype="PCM_16")
    expected = ask_grpc(songs.grpc_url, **SHORT, input_audio=tune).output
    uri = data_uri(tune, "wav")
    for called in ("audio/mpeg", "image/png", "text/html;charset=utf-8", ""):
        assert ask_generate(songs.http_url, **SHORT, input_audio=uri.replace("audio/wav", called)).output == expected


def resident(pid: int) -> int:
    """Bytes of memory of its own that a process has."""
    lines = dict(line.split(":", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines())
    return int(lines["RssAnon"].split()[0]) * 1024


def test_memory_stays_flat_under_hostile_files(songs: Server) -> None:
    (pid,) = songs.stubs()[PUBLIC_MODEL]

    def all_of_them() -> None:
        for data in AUDIO.values():
            refused(songs, input_audio=data)

    all_of_them()
    before = resident(pid)
    for _ in range(3):
        all_of_them()
    assert resident(pid) - before < MOST_GROWTH
