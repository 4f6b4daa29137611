"""Streams as a caller of the client meets them, over both protocols."""

from __future__ import annotations

import asyncio
import inspect
import json
import signal
import subprocess
import sys
import time
from contextlib import aclosing
from pathlib import Path
from typing import get_args, get_type_hints

import pytest
from triton_for_client import Addresses

from songstarter import contract
from songstarter_client import (
    AsyncClient,
    BrokenOff,
    Chunk,
    Client,
    InvalidRequest,
    NoServer,
    RefusedRequest,
    RequestFailed,
    TimedOut,
    Unavailable,
    streaming,
)
from songstarter_client.cli_stream import with_named_format
from songstarter_client.errors import of_stream
from songstarter_client.fields import StreamFields, StreamFormat
from songstarter_client.outgoing import HANDLING

COMMAND = (sys.executable, "-m", "songstarter.cli", "generate")


@pytest.mark.triton
class TestStreams:
    def test_chunks_come_with_all_they_say(self, client: Client) -> None:
        chunks = list(client.stream("a stream", seed=5))
        assert [chunk.audio for chunk in chunks] == [b"RIFF", b"\x00\xff\n\n", b"end"]
        assert chunks[-1] == Chunk(b"end", 0, 3.0, 3.0, chunks[-1].gain, True, 5, 32000, 2)

    def test_variations_are_told_apart(self, client: Client) -> None:
        chunks = list(client.stream("two", num_outputs=2))
        assert [chunk.variation for chunk in chunks] == [0, 1, 0, 0, 1, 1]

    def test_a_file_reaches_the_server_as_the_same_bytes_or_their_data_uri(self, client: Client) -> None:
        assert list(client.stream(input_audio=b"\x00\xff", chunk_seconds=0.5, continuation=True))

    def test_a_refusal_names_its_field(self, client: Client) -> None:
        with pytest.raises(RefusedRequest, match=r"^duration: found 99, allowed is 8$") as refused:
            list(client.stream("refused"))
        assert refused.value.field == "duration"

    def test_what_came_before_an_error_was_given(self, client: Client) -> None:
        chunks = client.stream("breaks")
        assert next(chunks).audio == b"RIFF"
        with pytest.raises(RequestFailed, match=r"^variation 1 could not be finished$"):
            next(chunks)

    def test_a_stream_that_ends_too_soon_is_not_taken_for_a_song(self, client: Client) -> None:
        with pytest.raises(BrokenOff, match="ended the stream before the song was complete"):
            list(client.stream("short"))

    def test_a_full_server_is_asked_again_before_the_first_chunk(self, url: str) -> None:
        with Client(url, timeout=20, retries=4) as patient:
            assert list(patient.stream("busy twice"))[-1].last
            with pytest.raises(Unavailable, match="the service is full"):
                Client(url, timeout=20).stream("busy").__next__()

    def test_time_is_up_when_the_server_was_waited_for_so_long(self, client: Client) -> None:
        began = time.monotonic()
        with pytest.raises(TimedOut):
            list(client.stream("slow", timeout=0.5))
        assert time.monotonic() - began < 2

    def test_what_the_caller_does_between_chunks_does_not_count(self, client: Client) -> None:
        for _ in client.stream("patience", timeout=1.5):
            time.sleep(0.6)

    def test_a_server_that_falls_silent_is_given_up(self, client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(streaming, "SILENCE", 0.5)
        with pytest.raises(BrokenOff, match=r"has fallen silent for 0\.5 s"):
            list(client.stream("silent"))

    def test_a_closed_stream_is_cancelled_at_the_server(self, client: Client) -> None:
        before = next(client.stream("how many were cancelled")).gain
        chunks = client.stream("slow")
        next(chunks)
        chunks.close()
        deadline = time.monotonic() + 5
        while next(client.stream("how many were cancelled")).gain <= before:
            assert time.monotonic() < deadline
            time.sleep(0.1)

    def test_an_asynchronous_stream_is_cancelled_with_its_task(self, url: str) -> None:
        async def listen(client: AsyncClient) -> None:
            async with aclosing(client.stream("slow")) as chunks:
                async for _ in chunks:
                    pass

        async def give_up() -> float:
            async with AsyncClient(url, timeout=20) as client:
                with pytest.raises(TimeoutError):
                    async with asyncio.timeout(1):
                        await listen(client)
                await asyncio.sleep(0.5)
                async with aclosing(client.stream("how many were cancelled")) as chunks:
                    return (await anext(chunks)).gain

        assert asyncio.run(give_up()) > 0

    def test_ctrl_c_ends_the_command_and_the_work(self, url: str, tmp_path: Path) -> None:
        command = [*COMMAND, "slow", "--stream", "-o", "-", "--url", url]
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as running:
            assert running.stdout
            assert running.stdout.read(4) == b"RIFF"
            running.send_signal(signal.SIGINT)
            assert running.wait(timeout=10) == 130

    def test_stdout_gets_the_song_and_nothing_else(self, url: str) -> None:
        command = [*COMMAND, "piped", "--stream", "-o", "-", "--url", url]
        done = subprocess.run(command, capture_output=True, timeout=30, check=False)
        assert (done.returncode, done.stdout, done.stderr) == (0, b"RIFF\x00\xff\n\nend", b"")

    def test_a_player_that_closes_its_ears_ends_the_command(self, url: str) -> None:
        command = [*COMMAND, "slow", "--stream", "-o", "-", "--url", url]
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as running:
            assert running.stdout
            assert running.stderr
            running.stdout.close()
            assert running.wait(timeout=10) == 1
            assert running.stderr.read() == b"songstarter: [Errno 32] Broken pipe\n"

    def test_files_are_named_or_go_into_a_folder(self, url: str, tmp_path: Path) -> None:
        for arguments, expected in (
            (["-o", "new/song.wav"], ["new/song.wav"]),
            (["-o", "songs", "--num-outputs", "2"], ["songs/a-b-7-1.wav", "songs/a-b-7-2.wav"]),
            (["-o", "songs"], ["songs/a-b-7-1-2.wav"]),
        ):
            command = [*COMMAND, "a b", "--stream", *arguments, "--url", url]
            done = subprocess.run(command, capture_output=True, text=True, timeout=30, cwd=tmp_path, check=False)
            assert (done.returncode, done.stdout.splitlines(), done.stderr) == (0, expected, "")
            assert all((tmp_path / path).read_bytes() == b"RIFF\x00\xff\n\nend" for path in expected)

    def test_the_ending_of_a_file_s_name_is_its_format(self, url: str, tmp_path: Path) -> None:
        for arguments, expected in (
            (["-o", "song.mp3"], "mp3"),
            (["-o", "song.PCM"], "pcm"),
            (["-o", "song.wav", "--output-format", "wav"], "wav"),
            (["-o", "song.raw", "--output-format", "pcm"], "pcm"),
            (["-o", "songs"], None),
        ):
            command = [*COMMAND, "which format?", "--stream", "--json", *arguments, "--url", url]
            done = subprocess.run(command, capture_output=True, text=True, timeout=30, cwd=tmp_path, check=True)
            document = json.loads(done.stdout)
            assert (document["format"], document["request"].get("output_format")) == (expected or "wav", expected)
            assert (tmp_path / document["files"][0]).read_bytes() == (expected or "none").encode()


@pytest.mark.parametrize("protocol", ["grpc", "http"])
def test_where_nobody_answers_there_is_no_server(protocol: str) -> None:
    with Client(f"{protocol}://127.0.0.1:1", timeout=5) as client, pytest.raises(NoServer):
        next(client.stream("hello"))


@pytest.mark.triton
def test_the_wrong_port_is_named(triton: Addresses) -> None:
    with (
        Client(triton.grpc.replace("grpc", "http"), timeout=5) as client,
        pytest.raises(NoServer, match="does not speak HTTP"),
    ):
        next(client.stream("hello"))


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--chunk-seconds", "1"], "--chunk-seconds: found 1, allowed is nothing without --stream"),
        (["-o", "-"], "-o: found -, allowed is a folder without --stream"),
        (["--stream", "-o", "-", "--num-outputs", "2"], "num_outputs: found 2, allowed is 1, or -o with the name"),
        (["-o", "song.mp3"], "-o: found song.mp3, allowed is a folder without --stream"),
        (
            ["--stream", "-o", "song.mp3", "--output-format", "wav"],
            "output_format: found 'wav', allowed is mp3, the ending of -o song.mp3",
        ),
        (
            ["--stream", "-o", "song.ogg"],
            "-o: found 'song.ogg', allowed is a folder that exists, or a file's name ending in .wav or .mp3 or .pcm",
        ),
        (["--stream", "-o", "-", "--json"], "--json: found -o -, allowed is a file or a folder"),
    ],
)
def test_bad_usage_is_said_before_anything_is_sent(arguments: list[str], said: str, tmp_path: Path) -> None:
    command = [*COMMAND, "x", *arguments, "--url", "127.0.0.1:1"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=30, cwd=tmp_path, check=False)
    assert done.returncode == 2
    assert said in done.stderr
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("out", "said", "expected"),
    [
        ("song.mp3", {}, {"output_format": "mp3"}),
        ("new/song.WAV", {"seed": 1}, {"seed": 1, "output_format": "wav"}),
        ("song.mp3", {"output_format": "mp3"}, {"output_format": "mp3"}),
        ("song.raw", {"output_format": "pcm"}, {"output_format": "pcm"}),
        ("songs", {"seed": 1}, {"seed": 1}),
        ("folder.mp3", {}, {}),
        ("-", {}, {}),
    ],
)
def test_a_file_s_name_says_the_format_where_nothing_else_does(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, out: str, said: dict[str, object], expected: dict[str, object]
) -> None:
    (tmp_path / "folder.mp3").mkdir()
    monkeypatch.chdir(tmp_path)
    assert with_named_format(said, Path(out)) == expected


def test_the_typed_fields_are_the_contracts() -> None:
    public = {field.name for field in contract.STREAM_FIELDS} - {"prompt", "output_encoding"}
    assert get_type_hints(StreamFields).keys() == public | {field.name for field in HANDLING}
    assert get_args(StreamFormat) == contract.STREAM_FORMATS
    assert set(inspect.get_annotations(Chunk)) == {tensor.name for tensor in contract.STREAM_OUTPUTS}


def test_an_error_without_a_code_is_the_server_s() -> None:
    assert isinstance(of_stream("something: else"), RequestFailed)
    assert str(of_stream("something: else")) == "something: else"
    with pytest.raises(InvalidRequest):
        raise of_stream("INVALID_ARG: seed: found -2, allowed is 0 to 9")
