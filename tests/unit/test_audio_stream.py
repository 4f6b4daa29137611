"""Files that are written without ever going back are the files that they claim to be."""

from __future__ import annotations

import io
import struct

import numpy as np
import pytest
import soundfile
from test_audio_file import mpeg_frame_headers, tones

from songstarter.audio_file import encode, read
from songstarter.audio_stream import ENCODERS, Mp3, wav_header
from songstarter.contract import STREAM_FORMATS
from songstarter.waveform import Samples, Waveform

RATE = 32_000


def pieces(audio_format: str, samples: Samples, piece: int = 16_000) -> list[bytes]:
    encoder = ENCODERS[audio_format](RATE, *samples.shape)
    pushed = [encoder.push(samples[:, start : start + piece]) for start in range(0, samples.shape[1], piece)]
    return [*pushed, encoder.finish()]


def test_there_is_an_encoder_for_every_format_of_the_contract() -> None:
    assert set(ENCODERS) == set(STREAM_FORMATS)


@pytest.mark.parametrize("channels", [1, 2])
def test_a_wav_holds_the_samples_and_the_mark_of_the_whole_file(channels: int) -> None:
    song = tones(RATE * 2 + 1, RATE, channels)
    streamed, whole = b"".join(pieces("wav", song)), encode(Waveform(song, RATE), "wav")
    np.testing.assert_array_equal(soundfile.read(io.BytesIO(streamed))[0], soundfile.read(io.BytesIO(whole))[0])
    assert struct.unpack("<I", streamed[4:8]) == (len(streamed) - 8,)
    with soundfile.SoundFile(io.BytesIO(streamed)) as file:
        assert "trainedAlgorithmicMedia" in file.comment


def test_pcm_is_a_wav_without_its_header() -> None:
    song = tones(5_000, RATE, 2)
    assert wav_header(RATE, 2, 5_000) + b"".join(pieces("pcm", song)) == b"".join(pieces("wav", song))


@pytest.mark.parametrize("channels", [1, 2])
@pytest.mark.parametrize("length", [640, 1_152, 5_000, 64_001])
def test_an_mp3_is_the_whole_file_s_but_for_its_checksum_and_table_of_contents(channels: int, length: int) -> None:
    song = tones(length, RATE, channels)
    streamed, whole = b"".join(pieces("mp3", song, 3_000)), encode(Waveform(song, RATE), "mp3")
    assert read(streamed, max_seconds=3).samples.shape == (channels, length)
    assert len(streamed) == len(whole)
    tag = whole.index(b"Info")
    assert streamed[tag : tag + 16] == whole[tag : tag + 16]  # frames and bytes
    assert streamed[tag + 141 : tag + 144] == whole[tag + 141 : tag + 144]  # the encoder's delay and padding
    assert streamed[tag + 160 :] == whole[tag + 160 :]
    assert len(mpeg_frame_headers(streamed)) == len(mpeg_frame_headers(whole))


def test_an_mp3_leaves_as_it_is_made() -> None:
    song = tones(RATE * 3, RATE, 2)
    sizes = np.array([len(piece) for piece in pieces("mp3", song, RATE // 2)])
    assert sizes[:-1].min() > 0.8 * 320_000 / 8 / 2  # bytes of half a second
    assert sizes[-1] < 0.25 * 320_000 / 8


def test_an_mp3_that_is_given_up_keeps_nothing() -> None:
    encoder = Mp3(RATE, 2, RATE)
    encoder.push(tones(RATE // 2, RATE, 2))
    del encoder  # as when a caller goes away: libsndfile closes its file and is not heard


def test_a_mono_wav_of_odd_parts_is_still_aligned() -> None:
    header = wav_header(RATE, 1, 3)
    assert len(header) % 2 == 0
    assert soundfile.info(io.BytesIO(header + bytes(6))).frames == 3
