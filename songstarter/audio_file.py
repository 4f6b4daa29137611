"""Waveforms from and to the bytes of audio files; the only doorway to soundfile.

What comes from a caller is not to be trusted: how much is decoded is bounded by the header's word and,
since the header may lie, again while reading. Nothing that libsndfile says reaches the caller.
"""

from __future__ import annotations

import base64
import binascii
import io
import re
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
import soundfile

from songstarter.contract import MIME_TYPES
from songstarter.errors import Description, InvalidRequest
from songstarter.waveform import Samples, Waveform

READABLE = "a wav, flac, mp3 or ogg file"
CONTAINERS = frozenset({"WAV", "WAVEX", "RF64", "FLAC", "MP3", "OGG"})
# Known before libsndfile looks, so that its parsers of thirty rarer formats never see a caller's bytes, and before
# anybody looks for a URL: a wav of certain sizes begins with RIFF://.
SIGNATURES = (
    *(b"RIFF", b"RIFX", b"RF64", b"fLaC", b"OggS", b"ID3"),
    *(bytes((0xFF, second)) for second in (0xFB, 0xFA, 0xF3, 0xF2, 0xE3, 0xE2)),  # MPEG layer III
)

RATES = range(1_000, 384_001)
CHANNELS = range(1, 9)
LOUDEST = 1e6  # a float file may exceed full scale; beyond this its squares leave float32
MAX_SAMPLES = 2**26  # of all channels together: 256 MB, whatever rate and channels a file claims
BLOCK = 65_536  # samples per channel decoded at a time
UNKNOWN_LENGTH = 2**63 - 1  # libsndfile's word for a header that does not say

# Synthetic sound should say so where a machine can read it; the term is IPTC's digital source type.
MARK = "AI-generated music; digitalSourceType=trainedAlgorithmicMedia"

MP3 = {"format": "MP3", "subtype": "MPEG_LAYER_III", "bitrate_mode": "CONSTANT", "compression_level": 0.0}  # 320 kbit/s

DATA_URI = re.compile(rb"data:([^,]*),", re.IGNORECASE)
URL = re.compile(rb"[a-z][a-z0-9+.-]*://", re.IGNORECASE)
WHITE_SPACE = b" \t\r\n"


def file_bytes(data: bytes, *, max_bytes: int, field: str = "input_audio") -> bytes:
    """The file in what a caller sent: the file itself, or a base64 data URI of it.

    Raises:
        InvalidRequest: it is a URL, a broken data URI, or more than max_bytes once decoded.
    """
    header = DATA_URI.match(data)
    if header is None:
        if URL.match(data) and not data.startswith(SIGNATURES):
            raise InvalidRequest(field, Description("a URL"), f"{READABLE} or a data URI; URLs are not fetched")
        _check_size(len(data), max_bytes, field)
        return data
    if not header[1].lower().endswith(b";base64"):
        raise InvalidRequest(field, Description("a data URI without ;base64"), "data:audio/...;base64,...")
    payload = data[header.end() :].translate(None, WHITE_SPACE)
    _check_size(len(payload) // 4 * 3 - payload[-2:].count(b"="), max_bytes, field)
    try:
        return base64.b64decode(payload, validate=True)
    except binascii.Error:
        raise InvalidRequest(field, Description("a data URI whose base64 is broken"), READABLE) from None


def data_uri(data: bytes, audio_format: str) -> str:
    """A file as a data URI."""
    return f"data:{MIME_TYPES[audio_format]};base64,{base64.b64encode(data).decode()}"


def read(data: bytes, *, max_seconds: float, field: str = "input_audio") -> Waveform:
    """The waveform in a file's bytes; integer samples are scaled to [-1, 1].

    Raises:
        InvalidRequest: it is no wav, flac, mp3 or ogg file, or holds nothing, too much, or no numbers.
    """
    if not data:
        raise InvalidRequest(field, Description("an empty file"), READABLE)
    if not data.startswith(SIGNATURES):
        raise _undecodable(data, field)
    try:
        with _Forward(io.BytesIO(data)) as file:
            if file.format not in CONTAINERS:  # an ID3 tag may stand in front of anything
                raise _undecodable(data, field)
            return _read(file, max_seconds, field)
    except soundfile.SoundFileError:
        raise _undecodable(data, field) from None


def encode(waveform: Waveform, audio_format: str) -> bytes:
    """The bytes of a "wav" (16 bit) or "mp3" (320 kbit/s) file, marked as synthetic.

    The same waveform always gives the same bytes; samples beyond +-1 saturate.
    """
    return ENCODERS[audio_format](waveform)


class _Forward(soundfile.SoundFile):  # type: ignore[misc]  # soundfile is not typed
    """A file read from its start to its end.

    soundfile seeks to where it already is after every read. An mp3 decoder loses its reservoir by that, and
    the first samples of every block; a flac that does not name its length fails.
    """

    def seekable(self) -> bool:
        return False


def _read(file: _Forward, max_seconds: float, field: str) -> Waveform:
    """Check the header, decode, check the samples."""
    rate: int = file.samplerate
    _check_layout(rate, file.channels, field)
    limit = min(int(max_seconds * rate), MAX_SAMPLES // file.channels)
    if limit < file.frames < UNKNOWN_LENGTH:
        raise _too_long(f"{file.frames / rate:.6g} seconds of audio", limit / rate, field)
    blocks = _blocks(file, limit)
    length = sum(len(block) for block in blocks)
    if length == 0:
        raise InvalidRequest(field, Description("a file without audio"), "at least one sample")
    if length > limit:
        raise _too_long("audio that goes on", limit / rate, field)
    if not all((np.abs(block) <= LOUDEST).all() for block in blocks):
        raise InvalidRequest(field, Description("samples that are infinite or no numbers"), "finite samples")
    return Waveform(np.concatenate([block.T for block in blocks], axis=1), rate)


def _blocks(file: _Forward, limit: int) -> list[Samples]:
    """Blocks [sample, channel] until the file ends or goes beyond the limit."""
    blocks: list[Samples] = []
    missing = limit + 1
    while missing > 0:
        block: Samples = file.read(min(BLOCK, missing), dtype="float32", always_2d=True)
        if len(block) == 0:
            break
        blocks.append(block)
        missing -= len(block)
    return blocks


def _check_layout(rate: int, channels: int, field: str) -> None:
    if rate not in RATES:
        allowed = f"{RATES[0]} to {RATES[-1]} samples a second"
        raise InvalidRequest(field, Description(f"{rate} samples a second"), allowed)
    if channels not in CHANNELS:
        allowed = f"{CHANNELS[0]} to {CHANNELS[-1]} channels"
        raise InvalidRequest(field, Description(f"{channels} channels"), allowed)


def _check_size(size: int, max_bytes: int, field: str) -> None:
    if size > max_bytes:
        raise InvalidRequest(field, Description(f"a file of {size} bytes"), f"at most {max_bytes} bytes")


def _undecodable(data: bytes, field: str) -> InvalidRequest:
    return InvalidRequest(field, Description(f"{len(data)} bytes that do not decode"), READABLE)


def _too_long(found: str, seconds: float, field: str) -> InvalidRequest:
    return InvalidRequest(field, Description(found), f"at most {seconds:.6g} seconds")


def pcm16(samples: Samples) -> npt.NDArray[np.int16]:
    """Samples as whole numbers of 16 bits."""
    # libsndfile rounds floats down; ffmpeg, and so the original, to the nearest.
    steps = np.rint(samples * np.float32(2**15))  # exact: a power of two
    np.minimum(np.maximum(steps, np.float32(-(2**15)), out=steps), np.float32(2**15 - 1), out=steps)
    pcm: npt.NDArray[np.int16] = steps.astype(np.int16)
    return pcm


def _wav(waveform: Waveform) -> bytes:
    return _written(pcm16(waveform.samples), waveform.rate, format="WAV", subtype="PCM_16")


def _mp3(waveform: Waveform) -> bytes:
    return _written(np.clip(waveform.samples, -1, 1), waveform.rate, **MP3)


ENCODERS: dict[str, Callable[[Waveform], bytes]] = {"wav": _wav, "mp3": _mp3}


def _written(samples: Samples | npt.NDArray[np.int16], rate: int, **settings: Any) -> bytes:
    """A whole file of samples [channel, sample]."""
    buffer = io.BytesIO()
    with soundfile.SoundFile(buffer, "w", samplerate=rate, channels=len(samples), **settings) as file:
        file.comment = MARK
        file.write(np.ascontiguousarray(samples.T))
    return buffer.getvalue()
