"""The main job through a running server: every input, every protocol, crowds and refusals."""

from __future__ import annotations

import base64
import io
import json
import math
import urllib.request
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
import soundfile
import tritonclient.grpc as triton_grpc
from asking import Answer, Refused, ask_generate, ask_grpc, ask_http, post
from tritonclient.utils import InferenceServerException

from songstarter.array import Array
from songstarter.contract import FIELDS, PUBLIC_MODEL
from songstarter.server.server import Server

pytestmark = pytest.mark.triton

PROMPT = "synth, dark, hip hop, a minor, 140 bpm"
RATE = 32_000


def tune(seconds: float, *, rate: int = 44_100, channels: int = 1, pitch: float = 440.0) -> Array:
    """A decaying tone [sample, channel] that climbs by a semitone every half second."""
    time = np.arange(int(seconds * rate)) / rate
    notes = pitch * 2 ** (np.floor(time * 2) / 12)
    wave = 0.4 * np.sin(2 * np.pi * np.cumsum(notes) / rate)
    return np.stack([wave * (1 - 0.2 * channel) for channel in range(channels)], axis=1)


def audio_file(samples: Array, rate: int = 44_100, audio_format: str = "WAV") -> bytes:
    buffer = io.BytesIO()
    soundfile.write(buffer, samples, rate, format=audio_format)
    return buffer.getvalue()


def uri(data: bytes) -> str:
    return "data:audio/wav;base64," + base64.b64encode(data).decode()


TUNE = audio_file(tune(2))
SHORT: dict[str, Any] = {"prompt": PROMPT, "duration": 0.5, "num_outputs": 1, "seed": 5}


@pytest.fixture
def ask(songs: Server) -> Callable[..., Answer]:
    """Ask for half a second of one variation unless told otherwise."""
    return lambda **fields: ask_grpc(songs.grpc_url, **(SHORT | fields))


# -- answers --------------------------------------------------------------------------------------------------


def test_nothing_but_defaults_gives_four_variations_of_eight_seconds(songs: Server) -> None:
    answer = ask_http(songs.http_url)
    assert len(set(answer.output)) == 4
    assert answer.sample_rate == RATE
    for variation in range(4):
        assert answer.samples(variation).shape == (8 * RATE, 2)
    assert all(item.startswith(b"data:audio/wav;base64,") for item in answer.output)


def test_the_same_seed_gives_the_same_bytes_over_every_protocol(songs: Server) -> None:
    fields = {"prompt": PROMPT, "duration": 1, "num_outputs": 2, "seed": 1234}
    answers = [
        ask_grpc(songs.grpc_url, **fields),
        ask_http(songs.http_url, **fields),
        ask_generate(songs.http_url, **fields),
    ]
    assert {answer.seed for answer in answers} == {1234}
    assert answers[0].output == answers[1].output == answers[2].output
    assert answers[0].output[0] != answers[0].output[1]


def test_a_drawn_seed_is_told_and_repeats_its_song(ask: Callable[..., Answer]) -> None:
    first, second = ask(seed=-1), ask(seed=-1)
    assert first.seed != second.seed
    assert ask(seed=first.seed).output == first.output


def test_a_variation_is_the_same_whatever_their_number(ask: Callable[..., Answer]) -> None:
    assert ask(num_outputs=3).output[:1] == ask(num_outputs=1).output


@pytest.mark.parametrize(
    "fields",
    [
        {"prompt": "piano, c major, 90 bpm"},
        {"input_audio": TUNE},
        {"top_k": 5},
        {"top_p": 0.3},
        {"temperature": 0.5},
        {"classifier_free_guidance": 1.0},
        {"seed": 6},
        {"seed": 0},
        {"normalization_strategy": "rms"},
        {"output_format": "mp3"},
    ],
    ids=lambda fields: "-".join(fields),
)
def test_an_input_changes_the_song(ask: Callable[..., Answer], fields: dict[str, Any]) -> None:
    assert ask(**fields).output != ask().output


@pytest.mark.parametrize("seconds", [0.02, 0.3, 1, 2.5])
def test_a_song_lasts_as_long_as_asked(ask: Callable[..., Answer], seconds: float) -> None:
    assert len(ask(duration=seconds).samples()) == 640 * round(50 * seconds)


def test_temperature_zero_makes_all_variations_one(ask: Callable[..., Answer]) -> None:
    assert len(set(ask(temperature=0, num_outputs=3).output)) == 1
    assert ask(temperature=0, seed=1).output == ask(temperature=0, seed=2).output == ask(top_k=1).output


@pytest.mark.parametrize(
    ("strategy", "measure", "expected"),
    [
        ("peak", lambda x: np.abs(x).max(), 10 ** (-1 / 20)),
        ("rms", lambda x: math.sqrt((x.mean(axis=1) ** 2).mean()), 10 ** (-18 / 20)),
    ],
)
def test_a_strategy_brings_the_song_to_its_level(
    ask: Callable[..., Answer], strategy: str, measure: Callable[[Array], float], expected: float
) -> None:
    assert measure(ask(normalization_strategy=strategy).samples()) == pytest.approx(expected, rel=0.02)


def test_clip_keeps_below_minus_one_decibel(ask: Callable[..., Answer]) -> None:
    assert np.abs(ask(normalization_strategy="clip").samples()).max() <= 10 ** (-1 / 20) + 1e-4


def test_mp3_is_really_mp3(ask: Callable[..., Answer]) -> None:
    answer = ask(output_format="mp3")
    assert answer.output[0].startswith(b"data:audio/mpeg;base64,")
    assert soundfile.info(io.BytesIO(answer.files[0])).format == "MP3"


def test_raw_gives_the_bytes_of_the_data_uri(ask: Callable[..., Answer]) -> None:
    assert ask(output_encoding="raw").output[0] == ask().files[0]


@pytest.mark.parametrize("audio_format", ["WAV", "FLAC", "MP3", "OGG"])
def test_a_melody_is_read_from_every_format(ask: Callable[..., Answer], audio_format: str) -> None:
    followed = ask(input_audio=audio_file(tune(2), audio_format=audio_format))
    assert followed.output != ask().output


def test_a_data_uri_counts_as_its_file(songs: Server, ask: Callable[..., Answer]) -> None:
    assert ask_generate(songs.http_url, **SHORT, input_audio=uri(TUNE)).output == ask(input_audio=TUNE).output


def test_start_and_end_choose_a_part_of_the_melody(ask: Callable[..., Answer]) -> None:
    whole = tune(2)
    part = audio_file(whole[int(0.5 * 44_100) : int(1.5 * 44_100)])
    asked = ask(input_audio=audio_file(whole), continuation_start=0.5, continuation_end=1.5)
    assert asked.output == ask(input_audio=part).output
    assert asked.output != ask(input_audio=audio_file(whole)).output


def test_an_end_of_minus_one_is_the_clips_end(ask: Callable[..., Answer]) -> None:
    assert ask(input_audio=TUNE, continuation_end=-1.0).output == ask(input_audio=TUNE).output


def test_a_continuation_begins_with_its_opening(ask: Callable[..., Answer]) -> None:
    opening = audio_file(tune(1, rate=RATE, channels=2), RATE)
    fields = {"input_audio": opening, "continuation": True, "duration": 2, "normalization_strategy": "clip"}
    one, other = (ask(seed=seed, **fields).samples() for seed in (1, 2))
    assert len(one) == 2 * RATE
    # What the codec makes of the opening does not depend on the seed, up to its look-ahead of four frames.
    head = RATE - 4 * 640
    assert np.abs(one[:head] - other[:head]).max() < 1e-3
    assert np.abs(one[RATE:] - other[RATE:]).max() > 1e-2


def test_an_empty_prompt_is_unconditional(ask: Callable[..., Answer]) -> None:
    assert ask(prompt="", classifier_free_guidance=1.0).output == ask(prompt="").output


def test_whole_numbers_are_accepted_where_the_published_schema_has_them(songs: Server) -> None:
    fields = SHORT | {"duration": 1, "continuation_start": 0, "continuation_end": 1, "classifier_free_guidance": 3}
    assert len(ask_generate(songs.http_url, **fields, input_audio=uri(TUNE)).samples()) == RATE


# -- crowds ---------------------------------------------------------------------------------------------------

CROWD = [
    {
        "prompt": f"song number {number}, " + "loud, " * (number % 5) + "c minor",
        "duration": 0.5 + 0.25 * (number % 7),
        "num_outputs": 1 + number % 3,
        "seed": number,
        "top_k": (250, 0, 5)[number % 3],
        "temperature": (1.0, 0.7)[number % 2],
        "classifier_free_guidance": float(number % 4),
        **({"input_audio": audio_file(tune(0.5 + 0.1 * number, pitch=220 + 10 * number))} if number % 2 else {}),
        **({"continuation": True, "duration": 3.0} if number % 4 == 3 else {}),
    }
    for number in range(16)
]


def test_sixteen_requests_at_once_get_what_each_would_get_alone(songs: Server) -> None:
    with ThreadPoolExecutor(16) as threads:
        together = list(threads.map(lambda fields: ask_grpc(songs.grpc_url, **fields), CROWD))
    for fields, answer in zip(CROWD, together, strict=True):
        assert answer.output == ask_grpc(songs.grpc_url, **fields).output


def counts(server: Server, model: str) -> tuple[int, int]:
    """Inferences and executions of a model, from Triton's own statistics."""
    with urllib.request.urlopen(f"{server.http_url}/v2/models/{model}/stats", timeout=10) as response:
        statistics = json.load(response)["model_stats"][0]
    return statistics["inference_count"], statistics["execution_count"]


@pytest.mark.parametrize("model", ["text_encoder", "melody_encoder", "codec_encoder", "codec_decoder"])
def test_requests_of_different_lengths_share_executions(songs: Server, model: str) -> None:
    before = counts(songs, model)
    openings = [audio_file(tune(0.3 + 0.1 * number)) for number in range(8)]
    requests = [
        SHORT
        | {
            "prompt": PROMPT + ", loud" * number,
            "duration": 1.4 + 0.02 * number,  # in the codec, tens of frames share a run
            "input_audio": opening,
            "continuation": model == "codec_encoder",
        }
        for number, opening in enumerate(openings)
    ]
    for _ in range(3):
        with ThreadPoolExecutor(8) as threads:
            list(threads.map(lambda fields: ask_grpc(songs.grpc_url, **fields), requests))
    inferences, executions = (after - start for after, start in zip(counts(songs, model), before, strict=True))
    assert inferences >= 24
    assert executions < inferences * 0.8


# -- refusals -------------------------------------------------------------------------------------------------

LONG_TUNE = audio_file(tune(9, rate=8_000), 8_000)

REFUSALS: dict[str, tuple[dict[str, Any], str, str]] = {
    "duration of zero": ({"duration": 0.0}, "duration", "0.02 to 300 seconds"),
    "duration below zero": ({"duration": -3.0}, "duration", "0.02 to 300 seconds"),
    "duration beyond the bound": ({"duration": 300.5}, "duration", "0.02 to 300 seconds"),
    "duration of no number": ({"duration": math.nan}, "duration", "0.02 to 300 seconds"),
    "endless duration": ({"duration": math.inf}, "duration", "0.02 to 300 seconds"),
    "undecodable file": ({"input_audio": b"this is no audio"}, "input_audio", "wav, flac, mp3"),
    "address instead of a file": ({"input_audio": "http://127.0.0.1/a.wav"}, "input_audio", "data URI"),
    "broken data URI": ({"input_audio": "data:audio/wav;base64,@@@"}, "input_audio", "base64"),
    "start beyond the clip": ({"input_audio": TUNE, "continuation_start": 5.0}, "continuation_start", "before"),
    "start at the clip's end": ({"input_audio": TUNE, "continuation_start": 2.0}, "continuation_start", "before"),
    "start below zero": ({"input_audio": TUNE, "continuation_start": -1.0}, "continuation_start", "from 0"),
    "end before the start": (
        {"input_audio": TUNE, "continuation_start": 1.0, "continuation_end": 0.5},
        "continuation_end",
        "more than",
    ),
    "end at the start": ({"input_audio": TUNE, "continuation_end": 0.0}, "continuation_end", "more than"),
    "end of -2": ({"input_audio": TUNE, "continuation_end": -2.0}, "continuation_end", "-1"),
    "opening longer than the song": (
        {"input_audio": LONG_TUNE, "continuation": True, "duration": 8.0},
        "duration",
        "longer song",
    ),
    "opening as long as the song": (
        {"input_audio": TUNE, "continuation": True, "duration": 2.0},
        "duration",
        "opening",
    ),
    "opening of one sample": ({"input_audio": audio_file(tune(2)[:1]), "continuation": True}, "input_audio", "longer"),
    "melody of one sample": ({"input_audio": audio_file(tune(2)[:1])}, "input_audio", "longer"),
    "continuation of nothing": ({"continuation": True}, "input_audio", "audio file"),
    "unknown strategy": ({"normalization_strategy": "loud"}, "normalization_strategy", "loudness, clip, peak, rms"),
    "unknown format": ({"output_format": "flac"}, "output_format", "wav, mp3"),
    "unknown encoding": ({"output_encoding": "hex"}, "output_encoding", "data_uri, raw"),
    "top_k below zero": ({"top_k": -1}, "top_k", "0 to 2048"),
    "top_k beyond the vocabulary": ({"top_k": 2049}, "top_k", "0 to 2048"),
    "top_p below zero": ({"top_p": -0.5}, "top_p", "0 to 1"),
    "top_p above one": ({"top_p": 1.5}, "top_p", "0 to 1"),
    "temperature below zero": ({"temperature": -1.0}, "temperature", "0 to 5"),
    "guidance below zero": ({"classifier_free_guidance": -1.0}, "classifier_free_guidance", "0 to 20"),
    "seed of -2": ({"seed": -2}, "seed", "0 to 4294967295"),
    "seed of 2^32": ({"seed": 2**32}, "seed", "0 to 4294967295"),
    "no output": ({"num_outputs": 0}, "num_outputs", "1 to 8"),
    "nine outputs": ({"num_outputs": 9}, "num_outputs", "1 to 8"),
    "prompt of a thousand words": ({"prompt": "word " * 1000}, "prompt", "tokens"),
    "prompt of a megabyte": ({"prompt": "x" * 2**20}, "prompt", "bytes"),
    "prompt that is no text": ({"prompt": b"\xff\xfe\xfd"}, "prompt", "UTF-8"),
}


@pytest.mark.parametrize("case", REFUSALS)
def test_a_bad_input_is_refused_with_one_sentence_and_the_server_goes_on(songs: Server, case: str) -> None:
    fields, field, allowed = REFUSALS[case]
    with pytest.raises(InferenceServerException) as caught:
        ask_grpc(songs.grpc_url, **(SHORT | fields))
    message = caught.value.message()
    assert caught.value.status() == "StatusCode.INVALID_ARGUMENT"
    assert message.startswith(f"{field}: found ")
    assert allowed in message
    assert "\n" not in message
    assert "Traceback" not in message
    assert "/" not in message.replace("http://", "").replace("audio/", "")
    assert len(ask_grpc(songs.grpc_url, **SHORT).output) == 1


def test_a_refusal_over_http_has_status_400(songs: Server) -> None:
    with pytest.raises(Refused, match=r"400.*top_k: found -1, allowed is 0 to 2048"):
        ask_generate(songs.http_url, **SHORT, top_k=-1)


@pytest.mark.parametrize("priority", [0, 6, "first", True, 1.5])
def test_a_priority_that_is_none_is_refused(songs: Server, priority: object) -> None:
    with pytest.raises(Refused, match=r"400.*priority: found .*, allowed is a whole number, 1 \(first\) to 5"):
        ask_generate(songs.http_url, **SHORT, priority=priority)


def test_a_priority_comes_as_a_parameter_by_either_name(songs: Server, ask: Callable[..., Answer]) -> None:
    assert ask_generate(songs.http_url, **SHORT, priority=1).output == ask().output
    with (
        triton_grpc.InferenceServerClient(songs.grpc_url) as client,
        pytest.raises(InferenceServerException, match="priority: found 9"),
    ):
        client.infer(PUBLIC_MODEL, [], parameters={"songstarter_priority": 9})


def test_json_of_the_wrong_type_is_an_error_and_the_server_goes_on(songs: Server) -> None:
    with pytest.raises(Refused):
        post(f"{songs.http_url}/v2/models/{PUBLIC_MODEL}/generate", b'{"duration": "eight"}')
    assert len(ask_generate(songs.http_url, **SHORT).output) == 1


def test_a_tensor_of_the_wrong_shape_is_refused(songs: Server) -> None:
    tensor = triton_grpc.InferInput("duration", [2], "FP32")
    tensor.set_data_from_numpy(np.array([1, 2], np.float32))
    with (
        triton_grpc.InferenceServerClient(songs.grpc_url) as client,
        pytest.raises(InferenceServerException, match="unexpected shape for input 'duration'"),
    ):
        client.infer(PUBLIC_MODEL, [tensor])


def test_these_tests_send_every_input() -> None:
    sent = {name for fields in [SHORT, *CROWD] for name in fields}
    sent |= {name for fields, *_ in REFUSALS.values() for name in fields}
    assert sent == {field.name for field in FIELDS}
