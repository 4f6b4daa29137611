"""Whole greedy songs, from a request to frames, against transformers token for token."""

from __future__ import annotations

import io
import shutil
from collections.abc import Generator, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch
from exporting import export_into
from transformers_songs import greedy_frames

from benchmarks.local_stages import LocalStages
from export.checkpoints import Loaded
from export.checkpoints.loaded import save
from songstarter.array import Array
from songstarter.audio_file import read
from songstarter.checkpoint import Checkpoint
from songstarter.errors import InvalidRequest
from songstarter.faces.face import Face
from songstarter.faces.stages import Tensors
from songstarter.faces.visits import Visit

PROMPT = "synth, dark, hip hop, a minor, 140 bpm"
SECONDS = 8
FRAMES = 400
RATE = 32_000
CHECKPOINTS = ["melody_checkpoint", "melody_mono_checkpoint", "text_checkpoint", "text_stereo_checkpoint"]


class ListeningStages(LocalStages):
    """Remembers the frames of the last order, which is of one take."""

    def decode(self, inputs: Tensors) -> Generator[Tensors, None, None]:
        self._chunks: list[Array] = []
        for response in super().decode(inputs):
            self._chunks.append(response["codes"])
            yield response

    @property
    def frames(self) -> Array:
        return np.concatenate(self._chunks, axis=1)


@pytest.fixture(scope="module", params=CHECKPOINTS)
def loaded(request: pytest.FixtureRequest) -> Loaded:
    checkpoint: Loaded = request.getfixturevalue(request.param)
    return checkpoint


@pytest.fixture(scope="module")
def repository(loaded: Loaded, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("checkpoint")
    save(loaded, folder)
    return export_into(tmp_path_factory.mktemp("exported") / "model_repository", str(folder))


@pytest.fixture(scope="module")
def stages(repository: Path) -> Iterator[ListeningStages]:
    with ListeningStages(repository) as stages:
        yield stages


def our_frames(stages: ListeningStages, repository: Path, fields: Mapping[str, Any]) -> Array:
    greedy = {"prompt": PROMPT, "duration": float(SECONDS), "temperature": 0.0, "num_outputs": 1}
    list(Face(repository, stages).answer(greedy | fields, Visit("golden")))
    return stages.frames


def clip(seconds: float, channels: int) -> Array:
    """A broken chord [sample, channel], loud enough for a codec."""
    time = np.arange(int(seconds * RATE)) / RATE
    pitch = 220 * 2 ** (np.array([0, 3, 7, 12])[(time * 3).astype(int) % 4] / 12)
    wave = 0.5 * np.sin(2 * np.pi * np.cumsum(pitch) / RATE) * (1 - 0.5 * (time * 3 % 1))
    return np.stack([wave * gain for gain in (1.0, 0.6)[:channels]], axis=1)


def wav(samples: Array) -> bytes:
    buffer = io.BytesIO()
    soundfile.write(buffer, samples, RATE, format="WAV", subtype="FLOAT")
    return buffer.getvalue()


def test_a_song_from_text_alone(loaded: Loaded, stages: ListeningStages, repository: Path) -> None:
    ours = our_frames(stages, repository, {})
    assert ours.shape == (loaded.codebooks, FRAMES)
    assert len(np.unique(ours)) > 20
    np.testing.assert_array_equal(ours, greedy_frames(loaded, PROMPT, FRAMES, guidance=3.0))


def test_a_song_from_an_empty_prompt(loaded: Loaded, stages: ListeningStages, repository: Path) -> None:
    ours = our_frames(stages, repository, {"prompt": "", "duration": 2.0})
    np.testing.assert_array_equal(ours, greedy_frames(loaded, "", 100, guidance=3.0))


@pytest.mark.parametrize("guidance", [1.5, 6.0])
def test_a_song_under_another_guidance(
    loaded: Loaded, stages: ListeningStages, repository: Path, guidance: float
) -> None:
    ours = our_frames(stages, repository, {"classifier_free_guidance": guidance, "duration": 2.0})
    np.testing.assert_array_equal(ours, greedy_frames(loaded, PROMPT, 100, guidance=guidance))


def test_a_song_that_follows_a_melody(loaded: Loaded, stages: ListeningStages, repository: Path) -> None:
    samples = clip(5, 2)
    if loaded.family == "text":
        with pytest.raises(InvalidRequest, match="input_audio: found audio to take a melody from"):
            our_frames(stages, repository, {"input_audio": wav(samples)})
        return
    theirs = greedy_frames(loaded, PROMPT, FRAMES, guidance=3.0, chroma=chroma(samples.mean(axis=1)))
    ours = our_frames(stages, repository, {"input_audio": wav(samples)})
    np.testing.assert_array_equal(ours, theirs)
    assert (ours != our_frames(stages, repository, {})).any()


def test_a_song_that_goes_on_from_an_opening(loaded: Loaded, stages: ListeningStages, repository: Path) -> None:
    data = wav(clip(2.01, loaded.channels))
    codes = their_codes(loaded, read(data, max_seconds=10).samples)
    theirs = greedy_frames(loaded, PROMPT, FRAMES, guidance=3.0, opening=codes)
    ours = our_frames(stages, repository, {"input_audio": data, "continuation": True})
    np.testing.assert_array_equal(ours[:, : codes.shape[1]], codes)
    np.testing.assert_array_equal(ours, theirs)


# -- longer than a window ---------------------------------------------------------------------------------------

SHORT_WINDOW = 1  # seconds
LONG = 2.5
WINDOWS = [(0, 50), (30, 50), (60, 50), (90, 35)]  # their first frames and their lengths


@pytest.fixture(scope="module")
def short_windows(repository: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same export with windows of a second, so that a song of several is soon made."""
    folder = shutil.copytree(repository, tmp_path_factory.mktemp("short") / "model_repository")
    replace(Checkpoint.read(folder), window_seconds=SHORT_WINDOW).write(folder)
    return folder


@pytest.fixture(scope="module")
def long_stages(short_windows: Path) -> Iterator[ListeningStages]:
    with ListeningStages(short_windows) as stages:
        yield stages


def their_windows(loaded: Loaded, chromas: Sequence[torch.Tensor | None], opening: Array) -> Array:
    """A long song by transformers: every window is asked for by itself, with the end of the last as its opening."""
    made = opening
    for (start, frames), chroma in zip(WINDOWS, chromas, strict=True):
        known = made[:, start:] if made.shape[1] else None
        codes = greedy_frames(loaded, PROMPT, frames, guidance=3.0, chroma=chroma, opening=known)
        made = np.concatenate([made[:, :start], codes], axis=1)
    return made


def test_a_song_of_several_windows(loaded: Loaded, long_stages: ListeningStages, short_windows: Path) -> None:
    ours = our_frames(long_stages, short_windows, {"duration": LONG})
    theirs = their_windows(loaded, [None] * 4, np.zeros((loaded.codebooks, 0), np.int64))
    assert ours.shape == (loaded.codebooks, 125)
    np.testing.assert_array_equal(ours, theirs)


def test_a_song_of_several_windows_that_goes_on_from_an_opening(
    loaded: Loaded, long_stages: ListeningStages, short_windows: Path
) -> None:
    data = wav(clip(0.7, loaded.channels))
    opening = their_codes(loaded, read(data, max_seconds=10).samples)
    ours = our_frames(long_stages, short_windows, {"duration": LONG, "input_audio": data, "continuation": True})
    np.testing.assert_array_equal(ours, their_windows(loaded, [None] * 4, opening))


# Shorter than a window; as long as half the song, so that it ends within a window; longer than the song.
@pytest.mark.parametrize("seconds", [0.7, 1.6, 3.1, 9.0])
def test_a_song_of_several_windows_follows_a_melody_that_repeats_its_samples(
    loaded: Loaded, long_stages: ListeningStages, short_windows: Path, seconds: float
) -> None:
    if loaded.family == "text":
        pytest.skip("a text checkpoint follows no melody")
    samples = clip(seconds, 2)
    endless = np.tile(samples.mean(axis=1), 20)
    starts = [start * RATE // 50 for start, _ in WINDOWS]
    chromas = [chroma(endless[start : start + SHORT_WINDOW * RATE]) for start in starts]
    ours = our_frames(long_stages, short_windows, {"duration": LONG, "input_audio": wav(samples)})
    np.testing.assert_array_equal(ours, their_windows(loaded, chromas, np.zeros((loaded.codebooks, 0), np.int64)))


def their_codes(loaded: Loaded, samples: Array) -> Array:
    """Samples [channel, sample] as codes [codebook, frame], each channel by itself, then interleaved."""
    with torch.no_grad():
        encoded = loaded.codec.encode(torch.from_numpy(samples)[:, None]).audio_codes[0]
    codes: Array = encoded.permute(1, 0, 2).reshape(loaded.codebooks, -1).numpy()
    return codes


def chroma(mono: Array) -> torch.Tensor:
    """One-hot chroma [1, chroma frame, 12] by the formula of the spec (3.2), without our graph."""
    from transformers.audio_utils import chroma_filter_bank

    window = torch.hann_window(16384)
    spectrum = torch.stft(torch.from_numpy(mono).float(), 16384, 4096, window=window, return_complex=True)
    power = (spectrum.abs() / window.square().sum().sqrt()) ** 2
    filters = torch.from_numpy(
        chroma_filter_bank(sampling_rate=RATE, num_frequency_bins=16384, tuning=0, num_chroma=12)
    )
    strengths = filters.float() @ power
    return torch.nn.functional.one_hot(strengths.argmax(dim=0), 12)[None].float()
