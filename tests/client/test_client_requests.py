"""What the clients send and hand back, on a real Triton with a model that answers with what it received."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
import threading
from hashlib import sha256
from pathlib import Path

import pytest
from triton_for_client import Addresses, received

from songstarter_client import AsyncClient, Client, InvalidRequest, Song

pytestmark = pytest.mark.triton

EVERY_FIELD = {
    "duration": (12.5, ["float32", [1], 12.5]),
    "continuation": (True, ["bool", [1], True]),
    "continuation_start": (0.25, ["float32", [1], 0.25]),
    "continuation_end": (-1, ["float32", [1], -1.0]),
    "normalization_strategy": ("peak", ["object", [1], "peak"]),
    "top_k": (2048, ["int32", [1], 2048]),
    "top_p": (0.5, ["float32", [1], 0.5]),
    "temperature": (0, ["float32", [1], 0.0]),
    "classifier_free_guidance": (3, ["float32", [1], 3.0]),
    "output_format": ("mp3", ["object", [1], "mp3"]),
    "seed": (2**32 - 1, ["int64", [1], 2**32 - 1]),
    "num_outputs": (2, ["int32", [1], 2]),
}


def test_every_field_arrives_with_its_type_and_value(client: Client) -> None:
    song = client.generate(
        "synth, señor", input_audio=b"\x00RIFF\xff", **{name: value for name, (value, _) in EVERY_FIELD.items()}
    )
    inputs = received(song.files[0])["inputs"]
    assert inputs.pop("prompt") == ["object", [1], "synth, señor"]
    assert inputs.pop("input_audio") == ["object", [1], [6, sha256(b"\x00RIFF\xff").hexdigest()]]
    assert inputs.pop("output_encoding") == ["object", [1], "raw"]
    assert inputs == {name: seen for name, (_, seen) in EVERY_FIELD.items()}


def test_what_is_left_out_or_none_is_not_sent(client: Client) -> None:
    song = client.generate("only this", seed=None, input_audio=None)
    assert set(received(song.files[0])["inputs"]) == {"prompt", "output_encoding"}


def test_a_song_has_a_file_for_each_variation_and_says_its_seed(client: Client) -> None:
    song = client.generate("two", num_outputs=2, seed=0)
    assert [received(file)["variation"] for file in song.files] == [0, 1]
    assert (song.prompt, song.audio_format, song.seed, song.sample_rate) == ("two", "wav", 0, 32000)
    assert client.generate("two").seed == 7  # the seed that the server chose


def test_a_path_is_read_and_a_data_uri_is_sent_as_it_is(client: Client, tmp_path: Path) -> None:
    melody = tmp_path / "melody.wav"
    melody.write_bytes(b"RIFF of a melody")
    for given in (melody, str(melody)):
        echo = received(client.generate(input_audio=given).files[0])
        assert echo["inputs"]["input_audio"][2] == "RIFF of a melody"
    echo = received(client.generate(input_audio="data:audio/wav;base64,UklGRg==").files[0])
    assert echo["inputs"]["input_audio"][2] == "data:audio/wav;base64,UklGRg=="


def test_the_longest_songs_and_the_largest_melody_pass(client: Client) -> None:
    melody = bytes(25_000_000)
    song = client.generate("big", duration=30, num_outputs=8, input_audio=melody)
    assert [len(file) for file in song.files] == [30 * 32000 * 4 + 44] * 8
    echo = json.loads(song.files[7][44:2000].rstrip())
    assert echo["inputs"]["input_audio"][2] == [len(melody), sha256(melody).hexdigest()]


def test_sixteen_requests_at_once_are_answered_each_with_its_own(url: str) -> None:
    async def all_of_them() -> list[Song]:
        async with AsyncClient(url, timeout=20) as client:
            return await asyncio.gather(*(client.generate(f"take {i}", seed=i, num_outputs=1) for i in range(16)))

    songs = asyncio.run(all_of_them())
    assert [received(song.files[0])["inputs"]["prompt"][2] for song in songs] == [f"take {i}" for i in range(16)]
    assert [song.seed for song in songs] == list(range(16))


def test_threads_share_one_client(client: Client) -> None:
    seeds: dict[int, int] = {}
    threads = [threading.Thread(target=lambda i=i: seeds.update({i: client.generate(seed=i).seed})) for i in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert seeds == {i: i for i in range(8)}


def test_the_synchronous_client_works_where_an_event_loop_runs_already(url: str) -> None:
    async def notebook() -> int:
        with Client(url, timeout=20) as client:
            return client.generate("in a notebook", seed=5).seed

    assert asyncio.run(notebook()) == 5


def test_a_ready_server_is_ready(client: Client) -> None:
    client.wait_ready(timeout=5)
    assert client.ready()


@pytest.mark.parametrize(
    ("field", "value", "allowed"),
    [
        ("duration", "8", "a number"),
        ("duration", 1e300, "a number that fits 32 bits"),
        ("top_k", 2.5, "a whole number"),
        ("top_k", 2**31, "a whole number of 32 bits"),
        ("seed", 2**63, "a whole number of 64 bits"),
        ("continuation", 1, "True or False"),
        ("output_format", 3, "a text"),
        ("prompt", "\ud800", "a text of Unicode"),
        ("input_audio", 3, "bytes, a path or a data URI"),
        ("input_audio", "no-such-file.wav", "a readable file"),
    ],
)
def test_a_value_that_no_tensor_can_carry_is_refused_before_anything_is_sent(
    field: str, value: object, allowed: str
) -> None:
    with Client("127.0.0.1:1") as client, pytest.raises(InvalidRequest, match=rf"^{field}: found .*{allowed}$") as why:
        client.generate(**{field: value})  # type: ignore[arg-type]
    assert why.value.field == field


def test_a_misspelt_field_is_a_type_error_that_lists_the_fields() -> None:
    with Client("127.0.0.1:1") as client, pytest.raises(TypeError, match=r"'durration'.* duration,"):
        client.generate(durration=8)  # type: ignore[call-arg]


@pytest.mark.parametrize("protocol", ["grpc", "http"])
def test_a_song_needs_neither_torch_nor_onnxruntime_nor_soundfile(protocol: str, triton: Addresses) -> None:
    script = (
        "import sys; from songstarter_client import Client\n"
        "heavy = {'torch', 'onnxruntime', 'soundfile', 'transformers', 'scipy'}\n"
        f"with Client({getattr(triton, protocol)!r}, timeout=20) as client: client.generate('light')\n"
        "print(sorted(heavy & sys.modules.keys()), any('tritonclient' in name for name in sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=30, check=True)
    assert (done.stdout, done.stderr) == ("[] True\n", "")
