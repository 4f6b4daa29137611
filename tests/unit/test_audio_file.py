import base64
import io
import tracemalloc
from typing import Any

import numpy as np
import pytest
import soundfile
from hypothesis import given, settings
from hypothesis import strategies as st

from songstarter import audio_file
from songstarter.audio_file import data_uri, encode, file_bytes, read
from songstarter.errors import InvalidRequest
from songstarter.waveform import Waveform

KINDS = {  # kind: (libsndfile's container, subtype, rate, how far decoding may stray from what was written)
    "wav 8": ("WAV", "PCM_U8", 32_000, 2**-7),
    "wav 16": ("WAV", "PCM_16", 44_100, 2**-15),
    "wav 24": ("WAV", "PCM_24", 96_000, 2**-23),
    "wav 32": ("WAV", "PCM_32", 32_000, 2**-24),
    "wav float": ("WAV", "FLOAT", 48_000, 0.0),
    "wav extensible": ("WAVEX", "PCM_16", 32_000, 2**-15),
    "rf64": ("RF64", "PCM_16", 32_000, 2**-15),
    "flac": ("FLAC", "PCM_16", 44_100, 2**-15),
    "mp3": ("MP3", "MPEG_LAYER_III", 44_100, 0.03),
    "ogg vorbis": ("OGG", "VORBIS", 44_100, 0.03),
    "ogg opus": ("OGG", "OPUS", 48_000, 0.03),
}


def tones(length: int, rate: int, channels: int = 2) -> np.ndarray:
    """A tone of its own in every channel: float32 [channel, sample] of amplitude 0.4."""
    hertz = 220 * (1 + np.arange(channels))
    return (0.4 * np.sin(2 * np.pi * hertz[:, None] * np.arange(length) / rate)).astype(np.float32)


def file_of(samples: np.ndarray, rate: int, container: str, subtype: str, **settings: Any) -> bytes:
    buffer = io.BytesIO()
    soundfile.write(buffer, samples.T, rate, format=container, subtype=subtype, **settings)
    return buffer.getvalue()


def small_file(kind: str, seconds: float = 0.5, channels: int = 2) -> bytes:
    container, subtype, rate, _ = KINDS[kind]
    return file_of(tones(int(rate * seconds), rate, channels), rate, container, subtype)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("channels", [1, 2])
def test_every_format_is_read(kind: str, channels: int) -> None:
    _, _, rate, tolerance = KINDS[kind]
    waveform = read(small_file(kind, channels=channels), max_seconds=30)
    assert (waveform.rate, waveform.channels) == (rate, channels)
    assert waveform.length == rate // 2
    expected = tones(rate // 2, rate, channels)
    np.testing.assert_allclose(waveform.samples[:, 3000:-3000], expected[:, 3000:-3000], rtol=0, atol=tolerance)


def test_integer_samples_are_scaled_to_one() -> None:
    pcm = np.array([[-32768, -1, 0, 1, 32767]], np.int16)
    waveform = read(file_of(pcm, 32_000, "WAV", "PCM_16"), max_seconds=1)
    assert waveform.samples.tolist() == [[-1.0, -(2**-15), 0.0, 2**-15, 1 - 2**-15]]


@pytest.mark.parametrize("kind", ["flac", "mp3", "ogg vorbis", "ogg opus"])
def test_reading_by_blocks_gives_what_reading_at_once_gives(kind: str) -> None:
    data = small_file(kind, seconds=4)
    at_once = soundfile.read(io.BytesIO(data), dtype="float32", always_2d=True)[0].T
    assert at_once.shape[1] > 2 * audio_file.BLOCK
    np.testing.assert_array_equal(read(data, max_seconds=30).samples, at_once)


def test_a_wav_whose_size_reads_like_the_sign_of_a_url_is_a_file() -> None:
    length = (0x2F2F3A - 36) // 2  # of 16 bits each, behind a header of 44 bytes of which RIFF counts 36
    data = file_of(np.zeros((1, length), np.int16), 32_000, "WAV", "PCM_16")
    assert data.startswith(b"RIFF://\0WAVE")
    assert read(file_bytes(data, max_bytes=2**22), max_seconds=60).length == length


ID3_TAG = b"ID3\x03\x00\x00\x00\x00\x00\x0aTIT2\x00\x00\x00\x00\x00\x00"


def test_an_mp3_with_a_tag_in_front_is_read() -> None:
    assert read(ID3_TAG + small_file("mp3"), max_seconds=30).channels == 2


def refusal(data: bytes, max_seconds: float = 30) -> str:
    with pytest.raises(InvalidRequest) as caught:
        read(data, max_seconds=max_seconds)
    assert caught.value.field == "input_audio"
    return str(caught.value)


@pytest.mark.parametrize(
    "data",
    [
        b"hello",
        b"RIFF",
        b"RIFF\x24\x00\x00\x00WAVEfmt ",
        b"fLaC" + bytes(100),
        b"OggS" + bytes(100),
        b"ID3" + bytes(100),
        b"\xff\xfb" + bytes(100),
        base64.b64encode(b"RIFF"),
    ],
)
def test_bytes_that_are_no_audio_file_are_refused_in_one_sentence(data: bytes) -> None:
    assert refusal(data) == (
        f"input_audio: found {len(data)} bytes that do not decode, allowed is a wav, flac, mp3 or ogg file"
    )


def test_an_empty_file_is_refused() -> None:
    assert refusal(b"") == "input_audio: found an empty file, allowed is a wav, flac, mp3 or ogg file"


@pytest.mark.parametrize("container", ["AIFF", "AU", "CAF", "W64"])
def test_other_containers_are_refused_even_behind_a_tag(container: str) -> None:
    data = file_of(tones(100, 32_000), 32_000, container, "PCM_16")
    assert "do not decode" in refusal(data)
    assert "do not decode" in refusal(ID3_TAG + data)


def test_a_file_without_samples_is_refused() -> None:
    assert "a file without audio" in refusal(file_of(np.zeros((2, 0), np.float32), 32_000, "WAV", "PCM_16"))


@pytest.mark.parametrize("broken", [np.nan, np.inf, -np.inf, 1e30])
def test_samples_that_are_no_sound_are_refused(broken: float) -> None:
    samples = tones(1000, 32_000)
    samples[1, 500] = broken
    assert "infinite or no numbers" in refusal(file_of(samples, 32_000, "WAV", "FLOAT"))


@pytest.mark.parametrize("rate", [999, 384_001])
def test_absurd_rates_are_refused(rate: int) -> None:
    message = refusal(file_of(tones(10, 32_000), rate, "WAV", "PCM_16"))
    assert f"found {rate} samples a second, allowed is 1000 to 384000" in message


def test_more_than_eight_channels_are_refused() -> None:
    message = refusal(file_of(tones(10, 32_000, channels=9), 32_000, "WAV", "PCM_16"))
    assert "found 9 channels, allowed is 1 to 8 channels" in message


@pytest.mark.parametrize("kind", KINDS)
def test_a_file_that_is_too_long_is_refused_by_its_header(kind: str) -> None:
    assert "found 0.5 seconds of audio, allowed is at most 0.4 seconds" in refusal(small_file(kind), 0.4)


def test_a_file_as_long_as_allowed_is_read() -> None:
    assert read(small_file("wav 16"), max_seconds=0.5).seconds == 0.5


def without_length(flac: bytes) -> bytes:
    """The same flac as an encoder writes it that cannot seek back: its header names no length."""
    header = bytearray(flac)
    header[21] &= 0xF0  # the 36 bits of STREAMINFO's total samples
    header[22:26] = bytes(4)
    return bytes(header)


def test_a_flac_that_names_no_length_is_read() -> None:
    assert read(without_length(small_file("flac")), max_seconds=30).seconds == 0.5


def test_a_flac_that_names_no_length_is_stopped_while_it_decodes() -> None:
    hidden = without_length(small_file("flac", seconds=3))
    assert "found audio that goes on, allowed is at most 0.5 seconds" in refusal(hidden, 0.5)


@pytest.mark.parametrize(("container", "subtype"), [("FLAC", "PCM_16"), ("OGG", "OPUS")])
def test_a_small_file_that_decodes_to_much_costs_no_memory(container: str, subtype: str) -> None:
    silence = np.zeros((1, 48_000 * 300), np.float32)
    data = file_of(silence, 48_000, container, subtype)
    assert silence.nbytes > 20 * len(data)
    bombs = [data, without_length(data)] if container == "FLAC" else [data]
    tracemalloc.start()
    for bomb in bombs:
        assert "allowed is at most 2 seconds" in refusal(bomb, 2)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 4 * 2**20


def test_channels_and_rate_do_not_multiply_what_may_be_decoded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(audio_file, "MAX_SAMPLES", 8 * 1000)
    wide = file_of(tones(1001, 32_000, channels=8), 32_000, "WAV", "PCM_16")
    assert "at most 0.03125 seconds" in refusal(wide)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("share", [0.001, 0.02, 0.3, 0.7, 0.99])
def test_a_file_cut_short_is_read_as_far_as_it_goes_or_refused(kind: str, share: float) -> None:
    whole = small_file(kind)
    outcome = attempt(whole[: int(len(whole) * share)])
    assert outcome is None or outcome.seconds <= 0.5


def attempt(data: bytes) -> Waveform | None:
    """The waveform, or None where the bytes are refused; anything else that happens is an error."""
    try:
        return read(data, max_seconds=30)
    except InvalidRequest as error:
        message = str(error)
        assert "\n" not in message
        assert "BytesIO" not in message
        assert len(message) < 200
        return None


@settings(max_examples=200, deadline=None)
@given(st.sampled_from(audio_file.SIGNATURES), st.binary(max_size=300))
def test_any_bytes_are_read_or_refused(signature: bytes, rest: bytes) -> None:
    attempt(rest)
    attempt(signature + rest)


WHOLE = {kind: small_file(kind, seconds=0.1) for kind in KINDS}


@settings(max_examples=300, deadline=None)
@given(
    st.sampled_from(list(KINDS)),
    st.lists(st.tuples(st.integers(0, 2000), st.integers(0, 255)), min_size=1, max_size=6),
    st.floats(0, 1),
)
def test_damaged_files_are_read_or_refused(kind: str, damage: list[tuple[int, int]], kept: float) -> None:
    data = bytearray(WHOLE[kind])
    for place, value in damage:
        data[place % len(data)] = value
    waveform = attempt(bytes(data[: int(len(data) * (0.2 + 0.8 * kept))]))
    if waveform is not None:
        assert waveform.length > 0
        assert waveform.samples.dtype == np.float32
        assert np.isfinite(waveform.samples).all()


@pytest.mark.parametrize("start", ["data:audio/wav;base64,", "DATA:;BASE64,", "data:audio/x;rate=1;base64,"])
def test_a_data_uri_is_the_file_it_carries(start: str) -> None:
    data = small_file("wav 16")
    uri = start.encode() + base64.b64encode(data)
    assert file_bytes(uri, max_bytes=10**6) == data


def test_base64_may_be_broken_into_lines() -> None:
    data = small_file("wav 16")
    assert file_bytes(b"data:audio/wav;base64," + base64.encodebytes(data), max_bytes=10**6) == data


@given(st.binary(max_size=200))
def test_a_plain_file_passes_through_and_a_uri_of_it_comes_back(data: bytes) -> None:
    plain = b"RIFF" + data
    assert file_bytes(plain, max_bytes=204) == plain
    assert file_bytes(data_uri(data, "mp3").encode(), max_bytes=len(data)) == data


@pytest.mark.parametrize(
    ("sent", "found", "allowed"),
    [
        (b"https://example.com/a.wav", "a URL", "URLs are not fetched"),
        (b"HTTP://example.com", "a URL", "URLs are not fetched"),
        (b"file:///etc/passwd", "a URL", "URLs are not fetched"),
        (b"data:audio/wav,RIFF", "a data URI without ;base64", "data:audio/...;base64,..."),
        (b"data:audio/wav;base64,UklG!", "a data URI whose base64 is broken", "a wav, flac, mp3 or ogg file"),
        (b"data:audio/wav;base64,UklGR", "a data URI whose base64 is broken", "a wav, flac, mp3 or ogg file"),
        (b"data:audio/wav;base64,Ukl\xc3\xa9", "whose base64 is broken", "a wav, flac, mp3 or ogg file"),
        (b"RIFF" + bytes(97), "a file of 101 bytes", "at most 100 bytes"),
        (b"data:;base64," + base64.b64encode(bytes(101)), "a file of 101 bytes", "at most 100 bytes"),
    ],
)
def test_what_is_neither_file_nor_data_uri_is_refused(sent: bytes, found: str, allowed: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        file_bytes(sent, max_bytes=100)
    assert found in str(caught.value)
    assert allowed in str(caught.value)


def test_the_size_is_checked_before_base64_is_decoded() -> None:
    with pytest.raises(InvalidRequest, match="at most 100 bytes"):
        file_bytes(b"data:;base64," + b"!" * 1000, max_bytes=100)


def test_messages_name_the_field_they_are_about() -> None:
    with pytest.raises(InvalidRequest, match=r"^melody: "):
        read(b"", max_seconds=1, field="melody")
    with pytest.raises(InvalidRequest, match=r"^melody: "):
        file_bytes(b"http://x", max_bytes=1, field="melody")


def song(seconds: float = 1.0, channels: int = 2) -> Waveform:
    return Waveform(tones(int(32_000 * seconds), 32_000, channels), 32_000)


def test_wav_samples_are_rounded_to_the_nearest_step_and_saturate() -> None:
    steps = [-40_000.0, -32_768.0, -0.6, -0.4, 0.4, 0.6, 29_491.2, 32_766.6, 32_767.6, 40_000.0]
    data = encode(Waveform((np.array([steps]) / 2**15).astype(np.float32), 32_000), "wav")
    written = soundfile.read(io.BytesIO(data), dtype="int16")[0]
    assert written.tolist() == [-32768, -32768, -1, 0, 0, 1, 29491, 32767, 32767, 32767]


@pytest.mark.parametrize("channels", [1, 2])
def test_a_wav_is_sixteen_bit_and_as_long_as_the_song(channels: int) -> None:
    data = encode(song(channels=channels), "wav")
    info = soundfile.info(io.BytesIO(data))
    assert (info.format, info.subtype) == ("WAV", "PCM_16")
    assert (info.samplerate, info.channels, info.frames) == (32_000, channels, 32_000)
    np.testing.assert_allclose(read(data, max_seconds=1).samples, song(channels=channels).samples, atol=2**-16)


@pytest.mark.parametrize("channels", [1, 2])
def test_an_mp3_is_constant_320_kbit_and_as_long_as_the_song(channels: int) -> None:
    data = encode(song(2.0, channels), "mp3")
    frames = mpeg_frame_headers(data)
    assert len(frames) >= 55  # 2 s of 36 ms frames
    assert {(header[1], header[2] >> 4) for header in frames} == {(0xFB, 14)}  # MPEG-1 layer III, 320 kbit/s
    decoded = read(data, max_seconds=3)
    assert decoded.samples.shape == (channels, 64_000)
    np.testing.assert_allclose(
        decoded.samples[:, 2000:-2000], song(2.0, channels).samples[:, 2000:-2000], rtol=0, atol=0.01
    )


def mpeg_frame_headers(mp3: bytes) -> list[bytes]:
    """The four header bytes of every frame of a 320 kbit/s, 32 kHz stream between its two ID3 tags."""
    place = 10 + sum(byte << shift for byte, shift in zip(mp3[6:10], (21, 14, 7, 0), strict=True))
    end = len(mp3) - 128 if mp3[-128:].startswith(b"TAG") else len(mp3)
    headers = []
    while place < end:
        headers.append(mp3[place : place + 4])
        place += 144 * 320_000 // 32_000 + (mp3[place + 2] >> 1 & 1)
    return headers


@pytest.mark.parametrize("audio_format", ["wav", "mp3"])
def test_the_same_song_gives_the_same_bytes(audio_format: str) -> None:
    assert encode(song(), audio_format) == encode(song(), audio_format)


@pytest.mark.parametrize("audio_format", ["wav", "mp3"])
def test_a_file_says_that_a_machine_made_it(audio_format: str) -> None:
    with soundfile.SoundFile(io.BytesIO(encode(song(), audio_format))) as file:
        assert "trainedAlgorithmicMedia" in file.comment


def test_a_data_uri_names_the_type_of_its_file() -> None:
    assert data_uri(b"abc", "wav") == "data:audio/wav;base64,YWJj"
    assert data_uri(b"abc", "mp3") == "data:audio/mpeg;base64,YWJj"
