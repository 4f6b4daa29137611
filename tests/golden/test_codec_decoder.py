"""Songs decoded chunk by chunk against their whole decoding by transformers."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from export.checkpoints.tiny import make_codec
from export.codec_decoder import (
    decoded_in_chunks,
    decoded_whole,
    example,
    export_codec_decoder,
    memory_of,
    random_codes,
)
from export.verify import require_agreement
from songstarter.array import Array
from songstarter.checkpoint import Codec
from songstarter.chunks import AHEAD, KEPT, LONGEST, REACH, SongDecoder
from songstarter.stages.session import Session

HOP = 640
TOLERANCE = {"rtol": 0, "atol": 1e-4}


@pytest.fixture(scope="module")
def codec() -> Any:
    with torch.random.fork_rng(), torch.no_grad():
        torch.manual_seed(3)
        return make_codec(filters=4, latent=16)


@pytest.fixture(scope="module")
def run(codec: Any, tmp_path_factory: pytest.TempPathFactory) -> Callable[[Mapping[str, Array]], dict[str, Array]]:
    folder = tmp_path_factory.mktemp("codec")
    require_agreement(export_codec_decoder(codec, folder))
    return Session(folder / "model.onnx").run


@pytest.mark.parametrize("chunk", [1, 2, 3, 4, 5, 7, 10, 13, 50, 100, 101])
def test_a_song_sounds_the_same_whatever_its_chunks(codec: Any, run: Any, chunk: int) -> None:
    song = random_codes(codec, 2, 230)
    torch.testing.assert_close(decoded_in_chunks(run, codec, song, [chunk]), decoded_whole(codec, song), **TOLERANCE)


@settings(max_examples=60)
@given(st.integers(1, 130), st.lists(st.integers(1, 60), min_size=1, max_size=5))
def test_any_song_in_any_chunks_is_the_whole_song(codec: Any, run: Any, frames: int, chunks: list[int]) -> None:
    song = random_codes(codec, 1, frames)
    torch.testing.assert_close(decoded_in_chunks(run, codec, song, chunks), decoded_whole(codec, song), **TOLERANCE)


@pytest.mark.parametrize("frames", range(1, 9))
def test_the_shortest_songs_end_as_the_original_ends_them(codec: Any, run: Any, frames: int) -> None:
    song = random_codes(codec, 2, frames)
    for chunk in (1, 2, frames):
        found = decoded_in_chunks(run, codec, song, [chunk])
        torch.testing.assert_close(found, decoded_whole(codec, song), **TOLERANCE)


def test_samples_come_four_frames_behind_the_codes(codec: Any, run: Any) -> None:
    facts = Codec(4, 2048, 250, memory_of(codec))
    song = SongDecoder(run, facts, channels=2, frames=60)
    codes = random_codes(codec, 2, 60).numpy()
    heard = [song.push(codes[:, :, frame : frame + 1]).shape[1] // HOP for frame in range(60)]
    assert heard == [0] * (REACH + AHEAD) + [1] * (60 - REACH - AHEAD - 1) + [1 + REACH + AHEAD]


def test_what_a_song_remembers_does_not_grow(codec: Any, run: Any) -> None:
    facts = Codec(4, 2048, 250, memory_of(codec))
    song = SongDecoder(run, facts, channels=1, frames=10**6)
    for _ in range(8):
        song.push(random_codes(codec, 1, 50).numpy())
        assert song._codes.shape[2] <= 2 * REACH
        assert song._memory.shape == (1, *facts.memory)


def test_songs_at_different_places_share_a_run_and_do_not_hear_each_other(codec: Any, run: Any) -> None:
    """One step of four songs together against the same steps alone; behind a row's end nothing is heard or kept."""
    generator = torch.Generator().manual_seed(1)
    frames, kept = np.array([[20], [1], [7], [13]]), np.array([[0], [1], [2], [2]])
    codes = random_codes(codec, 4, 20 + 2 * REACH).numpy()
    memory = torch.randn(4, *memory_of(codec), generator=generator).numpy() / 3
    together = run({"codes": codes, "frames": frames, "kept": kept, "memory": memory})
    for row in range(4):
        own = slice(row, row + 1)
        disturbed = codes[own].copy()
        disturbed[:, :, 2 * REACH + frames[row, 0] :] = 7
        alone = run({"codes": disturbed, "frames": frames[own], "kept": kept[own], "memory": memory[own]})
        for name in ("waveform", "next_memory"):
            np.testing.assert_allclose(together[name][own], alone[name], rtol=0, atol=1e-6)
        assert not together["waveform"][row, (frames[row, 0] + kept[row, 0]) * HOP :].any()


def test_the_graph_takes_the_longest_chunk_as_it_takes_theexample(codec: Any, run: Any) -> None:
    assert example(codec)[0].shape[2] < LONGEST
    song = random_codes(codec, 1, 3 * LONGEST)
    torch.testing.assert_close(
        decoded_in_chunks(run, codec, song, [3 * LONGEST]), decoded_whole(codec, song), **TOLERANCE
    )


def test_no_run_is_longer_than_the_longest_however_many_codes_come_at_once() -> None:
    """Or a song that comes as a whole takes the memory of a whole song."""
    widths: list[int] = []

    def silent(inputs: Mapping[str, Array]) -> dict[str, Array]:
        rows, _, width = inputs["codes"].shape
        widths.append(width)
        samples = np.zeros((rows, (KEPT + width - 2 * REACH) * HOP), np.float32)
        return {"waveform": samples, "next_memory": inputs["memory"]}

    song = SongDecoder(silent, Codec(4, 2048, 250, (6, 8)), channels=2, frames=1_234)
    assert song.push(np.zeros((2, 4, 1_234), np.int64)).shape == (2, 1_234 * HOP)
    assert max(widths) <= LONGEST + 2 * REACH
    assert song.complete


@pytest.mark.slow
def test_the_codec_at_its_true_size_streams_without_a_seam(tmp_path: Path) -> None:
    """Filters 64, latent 128, an LSTM of 1024: the sizes of ``facebook/encodec_32khz``, with random weights."""
    with torch.random.fork_rng(), torch.no_grad():
        torch.manual_seed(0)
        codec = make_codec(filters=64, latent=128)
    require_agreement(export_codec_decoder(codec, tmp_path))
    song = random_codes(codec, 2, 120)
    whole = decoded_whole(codec, song)
    for chunks in ([15, 50], [7], [120]):
        found = decoded_in_chunks(Session(tmp_path / "model.onnx").run, codec, song, chunks)
        torch.testing.assert_close(found, whole, **TOLERANCE)
