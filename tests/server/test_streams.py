"""Songs that are heard while they are made, through a running server."""

from __future__ import annotations

import io
import socket
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
from asking import ask_grpc
from streams import PATH, StreamError, events, opened_grpc, opened_sse, stream_grpc, stream_sse
from test_metrics import Scrape, growth
from test_songs import counts

from songstarter.array import Array
from songstarter.server.server import Server
from songstarter_client import AsyncClient, Client

pytestmark = pytest.mark.triton

RATE = 32_000
SONG: dict[str, Any] = {"prompt": "synth, dark, a minor", "duration": 3.0, "seed": 11}
CLIP = SONG | {"normalization_strategy": "clip"}
LONG = SONG | {"duration": 120.0}
WAYS: dict[str, Callable[..., list[dict[str, Any]]]] = {
    "grpc": lambda server, **fields: stream_grpc(server.grpc_url, **fields),
    "sse": lambda server, **fields: stream_sse(server.http_url, **fields),
}


def audio(messages: list[dict[str, Any]], variation: int = 0) -> bytes:
    return b"".join(one["audio"] for one in messages if one["variation"] == variation)


def samples(file: bytes) -> Array:
    read: Array = soundfile.read(io.BytesIO(file), always_2d=True, dtype="int16")[0].astype(int)
    return read


@pytest.mark.parametrize("way", WAYS)
def test_a_stream_without_a_gain_is_the_file_of_the_same_seed(songs: Server, way: str) -> None:
    streamed = samples(audio(WAYS[way](songs, **CLIP)))
    whole = samples(ask_grpc(songs.grpc_url, **CLIP, num_outputs=1).files[0])
    assert streamed.shape == whole.shape == (3 * RATE, 2)
    assert np.abs(streamed - whole).max() <= 1  # of 32768: where rounding to 16 bits falls either way


def test_variations_come_in_turns_and_each_is_that_of_its_file(songs: Server) -> None:
    streamed = stream_grpc(songs.grpc_url, **CLIP, num_outputs=3)
    whole = ask_grpc(songs.grpc_url, **CLIP, num_outputs=3)
    turns = [one["variation"] for one in streamed if one["audio"]]
    assert turns != sorted(turns)
    for variation, file in enumerate(whole.files):
        assert np.abs(samples(audio(streamed, variation)) - samples(file)).max() <= 1


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("audio_format", ["wav", "mp3", "pcm"])
def test_every_format_is_as_long_as_the_song(songs: Server, way: str, audio_format: str) -> None:
    file = audio(WAYS[way](songs, **SONG, output_format=audio_format))
    layout = {"samplerate": RATE, "channels": 2, "format": "RAW", "subtype": "PCM_16"} if audio_format == "pcm" else {}
    decoded, rate = soundfile.read(io.BytesIO(file), **layout)
    assert (decoded.shape, rate) == ((3 * RATE, 2), RATE)


def test_a_song_longer_than_a_window_streams_as_it_is_answered(songs: Server) -> None:
    song = CLIP | {"duration": 33.0}
    streamed = samples(audio(stream_grpc(songs.grpc_url, **song)))
    whole = samples(ask_grpc(songs.grpc_url, **song, num_outputs=1).files[0])
    assert np.abs(streamed - whole).max() <= 1


@pytest.mark.parametrize("way", WAYS)
def test_a_refusal_is_one_sentence_with_its_code_in_front(songs: Server, way: str) -> None:
    with pytest.raises(StreamError, match=r"^INVALID_ARG: duration: found -1, allowed is 0.02 to 300 seconds$"):
        WAYS[way](songs, **SONG | {"duration": -1.0})
    with pytest.raises(StreamError, match=r"^INVALID_ARG: input_audio: found .* that do not decode"):
        WAYS[way](songs, **SONG, input_audio="this is no audio")


def test_a_refusal_has_the_status_of_one(songs: Server) -> None:
    with opened_sse(songs.http_url, **SONG, chunk_seconds=99.0) as response:
        assert response.status == 400


@pytest.mark.parametrize("way", ["grpc", "sse"])
def test_who_goes_away_frees_the_slot(songs: Server, way: str) -> None:
    def leave() -> None:
        if way == "grpc":
            with opened_grpc(songs.grpc_url, **LONG) as messages:
                next(messages)
        else:
            with opened_sse(songs.http_url, **LONG) as response:
                next(events(response))
        left = time.monotonic()
        stream_grpc(songs.grpc_url, **SONG)
        while (now := Scrape(songs))["songstarter_slots_in_use"] or now["songstarter_requests_in_flight"]:
            assert time.monotonic() - left < 15
            time.sleep(0.1)

    counters = {
        "songstarter_requests_total{cancelled}": 1,
        "songstarter_takes_total{cancelled}": 1,
        "songstarter_takes_total{finished}": 1,
    }
    assert growth(songs, leave, counters) == counters


def test_the_first_audio_of_a_stream_is_observed_long_before_its_end(songs: Server) -> None:
    time.sleep(2)
    before = Scrape(songs)
    stream_grpc(songs.grpc_url, **SONG | {"duration": 20.0})
    time.sleep(2)
    after = Scrape(songs)
    first, whole = (
        after[f"songstarter_{name}_seconds_sum"] - before[f"songstarter_{name}_seconds_sum"]
        for name in ("first_audio", "request")
    )
    assert 0 < first < whole / 2
    assert after["songstarter_audio_seconds_total"] - before["songstarter_audio_seconds_total"] == pytest.approx(20)


def test_streams_share_the_codec_s_executions(songs: Server) -> None:
    before = counts(songs, "codec_decoder")
    with ThreadPoolExecutor(8) as threads:
        list(threads.map(lambda seed: stream_grpc(songs.grpc_url, **SONG | {"seed": seed}), range(8)))
    rows, executions = (after - start for after, start in zip(counts(songs, "codec_decoder"), before, strict=True))
    assert rows == 8 * 2 * 8  # songs, channels, chunks of 13, 10, 10, 10, 20, 30, 40 and 17 frames
    assert executions <= rows * 0.7  # a song alone would take an execution for each channel


def test_a_reader_who_does_not_read_holds_up_nobody_else(songs: Server) -> None:
    address, port = songs.http_url.removeprefix("http://").split(":")
    body = b'{"prompt": "never read", "duration": 60, "output_format": "pcm"}'
    head = f"POST {PATH} HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    with socket.socket() as lazy:
        lazy.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        lazy.connect((address, int(port)))
        lazy.sendall(head.encode() + body)
        time.sleep(1)
        for _ in range(3):
            assert stream_sse(songs.http_url, **SONG)[-1]["last"]


def test_the_client_streams_over_both_protocols(songs: Server) -> None:
    for url in (songs.grpc_url, songs.http_url):
        with Client(url, timeout=60) as client:
            chunks = list(client.stream(SONG["prompt"], duration=3.0, seed=11, normalization_strategy="clip"))
            file = b"".join(chunk.audio for chunk in chunks)
        assert samples(file).shape == (3 * RATE, 2)
        assert chunks[-1].last
        assert (chunks[-1].seed, chunks[-1].seconds, chunks[-1].gain) == (11, 3.0, 1.0)


@pytest.mark.parametrize("way", ["grpc_url", "http_url"])
def test_a_closed_stream_of_the_client_ends_the_work(songs: Server, way: str) -> None:
    def work() -> None:
        with Client(getattr(songs, way), timeout=60) as client:
            chunks = client.stream(LONG["prompt"], duration=120.0)
            next(chunks)
            chunks.close()

    counters = {"songstarter_requests_total{cancelled}": 1, "songstarter_takes_total{cancelled}": 1}
    assert growth(songs, work, counters) == counters


async def first_chunks(client: AsyncClient, seed: int) -> list[float]:
    return [chunk.seconds async for chunk in client.stream("many", duration=1.0, seed=seed)]


def test_one_asynchronous_client_holds_many_streams(songs: Server) -> None:
    import asyncio

    async def all_of_them() -> list[list[float]]:
        async with AsyncClient(songs.grpc_url, timeout=60) as client:
            return await asyncio.gather(*(first_chunks(client, seed) for seed in range(6)))

    assert [seconds[-1] for seconds in asyncio.run(all_of_them())] == [1.0] * 6


def resident(repository: Path, model: str) -> int:
    """Bytes in memory of the process that serves a model of a repository."""
    for status in Path("/proc").glob("[0-9]*/status"):
        try:
            command = (status.parent / "cmdline").read_bytes()
            if b"triton_python_backend_stub" in command and f"{repository}/{model}/1/".encode() in command:
                kilobytes = next(line for line in status.read_text().splitlines() if line.startswith("VmRSS"))
                return int(kilobytes.split()[1]) * 1024
        except OSError:
            continue
    raise AssertionError(f"no process serves {model}")


@pytest.mark.slow
def test_memory_does_not_grow_with_a_song_s_length(songs: Server) -> None:
    stream_grpc(songs.grpc_url, **SONG | {"duration": 20.0})
    before = resident(songs.repository, "songstarter_stream")
    with opened_grpc(songs.grpc_url, **SONG | {"duration": 300.0, "output_encoding": "raw"}) as messages:
        length = sum(len(message["audio"]) for message in messages)
    assert length > 300 * RATE * 4
    assert resident(songs.repository, "songstarter_stream") - before < 16 * 2**20  # the song's samples are 77 MB
