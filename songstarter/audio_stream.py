"""A song's file, written from its start to its end without ever going back.

The length of a song is known before its first sample, so that a wav's header is exact, and an mp3's information frame
(Xing's and LAME's, by which players know the length and cut what the encoder added) can be sent first, where
libsndfile writes it last.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from typing import Protocol

import numpy as np
import soundfile

from songstarter.audio_file import MARK, MP3, pcm16
from songstarter.waveform import Samples


class ChunkEncoder(Protocol):
    """Takes a song's samples [channel, sample] and gives its file's bytes, piece by piece."""

    def push(self, samples: Samples) -> bytes: ...

    def finish(self) -> bytes:
        """The rest of the file, once every sample was pushed."""


class Pcm:
    """No header: 16 bits, little-endian, channels interleaved."""

    def __init__(self, rate: int, channels: int, length: int) -> None:
        pass

    def push(self, samples: Samples) -> bytes:
        return pcm16(samples).T.astype("<i2").tobytes()

    def finish(self) -> bytes:
        return b""


class Wav(Pcm):
    """The same behind a header that names the length, and the mark of synthetic sound."""

    def __init__(self, rate: int, channels: int, length: int) -> None:
        self._header = wav_header(rate, channels, length)

    def push(self, samples: Samples) -> bytes:
        header, self._header = self._header, b""
        return header + super().push(samples)


def wav_header(rate: int, channels: int, length: int) -> bytes:
    """What stands before ``length`` samples per channel of 16 bits."""
    frame = 2 * channels
    layout = struct.pack("<HHIIHH", 1, channels, rate, rate * frame, frame, 16)
    comment = MARK.encode() + bytes(1 + (len(MARK) + 1) % 2)
    parts = _riff(b"fmt ", layout) + _riff(b"LIST", b"INFO" + _riff(b"ICMT", comment))
    data = struct.pack("<4sI", b"data", length * frame)
    return struct.pack("<4sI4s", b"RIFF", 4 + len(parts) + len(data) + length * frame, b"WAVE") + parts + data


def _riff(name: bytes, content: bytes) -> bytes:
    return struct.pack("<4sI", name, len(content)) + content


class Mp3:
    """320 kbit/s; MPEG frames leave as soon as LAME has made them, about 0.1 s behind the samples."""

    def __init__(self, rate: int, channels: int, length: int) -> None:
        self._channels = channels
        self._length = length
        self._sink = _Forward()
        self._file = soundfile.SoundFile(self._sink, "w", samplerate=rate, channels=channels, **MP3)
        self._file.comment = MARK
        self._begun = False

    def push(self, samples: Samples) -> bytes:
        self._file.write(np.ascontiguousarray(np.clip(samples, -1, 1).T))
        return self._taken()

    def finish(self) -> bytes:
        self._file.close()
        return self._taken()

    def _taken(self) -> bytes:
        data = self._sink.take()
        if self._begun or not data:
            return data
        self._begun = True
        return with_information(data, self._length)


class _Forward:
    """A file for libsndfile to write; what it rewrites is dropped, what it appends can be taken away."""

    def __init__(self) -> None:
        self._fresh = bytearray()
        self._place = self._end = 0

    def take(self) -> bytes:
        data = bytes(self._fresh)
        self._fresh.clear()
        return data

    def write(self, data: bytes) -> int:
        if self._place == self._end:
            self._fresh += data
            self._end += len(data)
        self._place += len(data)
        return len(data)

    def seek(self, offset: int, whence: int = 0) -> int:
        self._place = offset + (0, self._place, self._end)[whence]
        return self._place

    def tell(self) -> int:
        return self._place

    def readinto(self, buffer: bytearray) -> int:
        raise OSError("a stream is only written")


# MPEG 1, layer III.
SAMPLES_PER_FRAME = 1152
ENCODER_DELAY = 576  # samples that LAME puts in front; it puts at least as many behind
SIDE_INFORMATION = {1: 17, 2: 32}  # bytes, by channels
MONO = 3  # in the last two bits but six of a frame's header


def with_information(data: bytes, length: int) -> bytes:
    """The beginning of an mp3 with its information frame filled in, for ``length`` samples per channel.

    The frame is there already and empty: it follows the ID3 tag, and LAME has only written its header.
    """
    start = _id3_bytes(data)
    header = data[start : start + 4]
    size = frame_bytes(header)
    channels = 1 if header[3] >> 6 == MONO else 2
    filled = header + bytes(SIDE_INFORMATION[channels]) + _information(length, size, channels)
    content = filled + struct.pack(">H", _crc16(filled))
    return data[:start] + content.ljust(size, b"\0") + data[start + size :]


def frame_bytes(header: bytes) -> int:
    """Bytes of a frame without padding; at 32 kHz and 320 kbit/s none has any."""
    kbits = (0, 32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320)[header[2] >> 4]
    rate = (44_100, 48_000, 32_000)[header[2] >> 2 & 3]
    return SAMPLES_PER_FRAME // 8 * kbits * 1000 // rate


def _information(length: int, size: int, channels: int) -> bytes:
    """Xing's fields, a table of contents for a constant bit rate, and LAME's fields but for their checksum."""
    added = -(length + ENCODER_DELAY) % SAMPLES_PER_FRAME or SAMPLES_PER_FRAME
    padding = added if added >= ENCODER_DELAY else added + SAMPLES_PER_FRAME
    frames = (ENCODER_DELAY + length + padding) // SAMPLES_PER_FRAME
    total = (frames + 1) * size
    contents = bytes(256 * percent // 100 for percent in range(100))
    xing = struct.pack(">4sIII", b"Info", 0b1111, frames, total) + contents + bytes(4)
    delays = (ENCODER_DELAY << 12 | padding).to_bytes(3, "big")
    return xing + b"LAME3.100" + bytes([1, 0]) + bytes(9) + b"\xff" + delays + bytes(4) + struct.pack(">IH", total, 0)


def _id3_bytes(data: bytes) -> int:
    if not data.startswith(b"ID3"):
        return 0
    return 10 + sum(byte << shift for byte, shift in zip(data[6:10], (21, 14, 7, 0), strict=True))


def _crc16(data: bytes) -> int:
    """The checksum of LAME's tag: polynomial 0x8005, bits reversed."""
    crc = 0
    for byte in data:
        crc ^= byte
        for _ in range(8):
            crc = crc >> 1 ^ (0xA001 if crc & 1 else 0)
    return crc


ENCODERS: dict[str, Callable[[int, int, int], ChunkEncoder]] = {"wav": Wav, "pcm": Pcm, "mp3": Mp3}
