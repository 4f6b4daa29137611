"""Streams without Triton: the real graphs and the real decoder in this process."""

from __future__ import annotations

import base64
import io
import itertools
import threading
import time
from collections import Counter
from collections.abc import Generator, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

from benchmarks.local_stages import LocalStages
from songstarter.contract import FIELDS, STREAM_FIELDS, STREAM_FORMATS, STREAM_OUTPUTS
from songstarter.errors import InvalidRequest, SongstarterError, TakeFailed
from songstarter.faces import streaming
from songstarter.faces.face import Face
from songstarter.faces.heartbeat import with_beats
from songstarter.faces.stages import Tensors
from songstarter.faces.streaming import StreamFace, chunk_lengths
from songstarter.faces.visits import Visit
from songstarter.loudness import METERS

RATE = 32_000
# None of its samples is cut at -1 dB.
ASKED: dict[str, Any] = {
    "prompt": "flute, calm, ambient, c major, 90 bpm",
    "duration": 2.5,
    "seed": 3,
    "output_encoding": "raw",
}
CLIP = ASKED | {"normalization_strategy": "clip"}


@pytest.fixture(scope="module")
def stages(embedded_repository: Path) -> Iterator[LocalStages]:
    with LocalStages(embedded_repository) as stages:
        yield stages


@pytest.fixture(scope="module")
def face(embedded_repository: Path, stages: LocalStages) -> StreamFace:
    return StreamFace(embedded_repository, stages)


def messages(face: StreamFace, **values: Any) -> list[dict[str, Any]]:
    return [{name: array.item() for name, array in one.items()} for one in face.answer(values, Visit("test"))]


def samples(file: bytes) -> Any:
    return soundfile.read(io.BytesIO(file), always_2d=True, dtype="int16")[0].astype(int)


@pytest.fixture(scope="module")
def whole(embedded_repository: Path, stages: LocalStages) -> Any:
    """The unary answer to CLIP."""
    (answer,) = Face(embedded_repository, stages).answer(CLIP | {"num_outputs": 1}, Visit("test"))
    return samples(answer["output"][0])


@pytest.mark.parametrize("chunk", [0.1, 0.33, 1.0, 30.0])
def test_what_streams_with_clip_is_what_the_file_holds(face: StreamFace, whole: Any, chunk: float) -> None:
    found = messages(face, **CLIP, chunk_seconds=chunk)
    streamed = samples(b"".join(one["audio"] for one in found))
    assert streamed.shape == whole.shape == (80_000, 2)
    assert np.abs(streamed - whole).max() <= 1  # of 32768: rounding to 16 bits may fall either way


def test_each_message_says_how_far_its_variation_is(face: StreamFace) -> None:
    found = messages(face, **ASKED, num_outputs=3)
    assert all(set(one) == {tensor.name for tensor in STREAM_OUTPUTS} for one in found)
    assert {one["total_seconds"] for one in found} == {2.5}
    assert {(one["seed"], one["sample_rate"], one["channels"]) for one in found} == {(3, RATE, 2)}
    for variation in range(3):
        own = [one for one in found if one["variation"] == variation]
        seconds = [one["seconds"] for one in own]
        assert seconds == sorted(seconds)
        assert [one["last"] for one in own] == [False] * (len(own) - 1) + [True]
        assert seconds[-1] == 2.5
    turns = [one["variation"] for one in found if one["audio"]]
    assert turns != sorted(turns)  # they come in turns


def test_the_first_chunks_are_short_and_then_as_long_as_asked(face: StreamFace) -> None:
    found = messages(face, **CLIP | {"output_format": "pcm", "duration": 4.0})
    frames = [len(one["audio"]) // 4 / 640 for one in found if one["audio"]]
    assert frames == [9, 10, 10, 10, 20, 30, 40, 50, 21]


@pytest.mark.parametrize("longest", [13, 20, 50, 100, 1500])
def test_playing_never_waits_for_a_take_that_is_made_half_again_as_fast(longest: int) -> None:
    lengths = chunk_lengths(longest)
    heard = next(lengths) - 4  # what the codec holds back
    made = 0
    for length in itertools.islice(lengths, 60):
        made += length
        assert made / 1.5 <= heard
        heard += length
    assert length == longest


@pytest.mark.parametrize("audio_format", STREAM_FORMATS)
def test_every_format_is_as_long_as_the_song(face: StreamFace, audio_format: str) -> None:
    found = messages(face, **ASKED | {"output_format": audio_format, "output_encoding": "base64"})
    file = b"".join(base64.b64decode(one["audio"]) for one in found)
    layout = {"samplerate": RATE, "channels": 2, "format": "RAW", "subtype": "PCM_16"} if audio_format == "pcm" else {}
    assert soundfile.read(io.BytesIO(file), **layout)[0].shape == (80_000, 2)


@pytest.mark.parametrize("strategy", ["loudness", "peak", "rms"])
def test_the_last_message_has_the_gain_of_the_whole_file(face: StreamFace, whole: Any, strategy: str) -> None:
    last = messages(face, **ASKED | {"normalization_strategy": strategy})[-1]
    meter = METERS[strategy](RATE)
    raw = (whole.T / 2**15).astype(np.float32)  # of clip: the embedded checkpoint stays below -1 dB
    assert np.abs(raw).max() < 0.89
    meter.hear(raw)
    assert last["gain"] == pytest.approx(meter.gain, rel=1e-3)


def test_streams_know_the_inputs_of_songs_and_their_own() -> None:
    assert [field.name for field in STREAM_FIELDS] == [*(field.name for field in FIELDS), "chunk_seconds"]
    changed = {field.name for field in STREAM_FIELDS} - {field.name for field in STREAM_FIELDS if field in FIELDS}
    assert changed == {"output_format", "num_outputs", "output_encoding", "chunk_seconds"}


@pytest.mark.parametrize(
    ("name", "value"),
    [("chunk_seconds", 0.05), ("chunk_seconds", 31.0), ("output_format", "flac"), ("output_encoding", "data_uri")],
)
def test_what_no_stream_can_be_is_refused_before_the_first_message(face: StreamFace, name: str, value: Any) -> None:
    with pytest.raises(InvalidRequest, match=rf"^{name}: found"):
        next(face.answer(ASKED | {name: value}, Visit("test")))


def test_time_that_passes_without_audio_is_told(face: StreamFace, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(streaming, "BEAT", 0.001)
    found = messages(face, **ASKED)
    beats = [one for one in found if not one["audio"]]
    assert beats
    assert found[0] in beats
    assert all(not one["last"] for one in beats)


def test_the_first_audio_is_noted_when_it_is_sent(face: StreamFace) -> None:
    visit = Visit("test")
    for message in face.answer(dict(ASKED), visit):
        assert (visit.first_audio is not None) == (message["seconds"].item() > 0)
    assert visit.audio_seconds == pytest.approx(2.5)


def test_a_stream_that_is_closed_stops_its_takes(face: StreamFace, stages: LocalStages) -> None:
    visit = Visit("test")
    before = set(threading.enumerate())
    answers = face.answer(ASKED | {"duration": 30.0}, visit)
    next(answers)
    answers.close()
    assert isinstance(visit.stopped, SongstarterError)
    assert not [thread for thread in threading.enumerate() if thread not in before]
    messages(face, **ASKED | {"duration": 0.1})  # the slots are free, or this would wait


def test_a_stream_that_is_closed_while_its_takes_wait_is_stopped_at_once(
    embedded_repository: Path, stages: LocalStages
) -> None:
    visit = Visit("test")

    class Queued(LocalStages):
        """Sends nothing until the visit is stopped, at which the watch would have its order cancelled."""

        def __init__(self) -> None:
            pass

        def run(self, model: str, inputs: Tensors) -> Tensors:
            return stages.run(model, inputs)

        def decode(self, inputs: Tensors) -> Generator[Tensors, None, None]:
            waits_until = time.monotonic() + 10
            while not visit.stopped and time.monotonic() < waits_until:
                time.sleep(0.01)
            yield from ()

    answers = StreamFace(embedded_repository, Queued()).answer(dict(ASKED), visit)
    next(answers)
    began = time.monotonic()
    answers.close()
    assert time.monotonic() - began < 3


def test_a_decoder_that_ends_too_soon_is_an_error(embedded_repository: Path, stages: LocalStages) -> None:
    class Short(LocalStages):
        def __init__(self) -> None:
            pass

        def run(self, model: str, inputs: Tensors) -> Tensors:
            return stages.run(model, inputs)

        def decode(self, inputs: Tensors) -> Generator[Tensors, None, None]:
            for count, piece in enumerate(stages.decode(inputs)):
                if count == 3:
                    return
                yield piece

    with pytest.raises(TakeFailed, match="before all of 1 takes"):
        messages(StreamFace(embedded_repository, Short()), **ASKED)


def numbers(count: int, pause: threading.Event) -> Generator[int, None, None]:
    for number in range(count):
        yield number
        pause.wait(0.3)


def test_beats_come_between_pieces_and_none_is_lost() -> None:
    found = Counter(with_beats(numbers(3, threading.Event()), 0.05))
    assert {key: count for key, count in found.items() if key is not None} == {0: 1, 1: 1, 2: 1}
    assert found[None] >= 6


def test_an_error_behind_the_beats_comes_through() -> None:
    def failing() -> Generator[int, None, None]:
        yield 1
        raise TakeFailed("gone")

    with pytest.raises(TakeFailed, match="gone"):
        list(with_beats(failing(), 1.0))


def test_an_upload_is_let_go_before_the_first_message(face: StreamFace) -> None:
    """A song may play for minutes, and its melody is known by then."""
    file = io.BytesIO()
    soundfile.write(file, np.zeros((32_000, 2), np.float32), 32_000, format="WAV")
    values = ASKED | {"input_audio": file.getvalue()}
    visit = Visit("test")
    answers = face.answer(values, visit)
    next(answers)
    assert not values
    assert visit.request is not None
    assert visit.request.audio is None
    answers.close()
