"""A song's spectrogram as a PNG: ``python -m training.picture SONG.wav PICTURE.png``.

Time runs to the right, pitch upwards on a logarithmic scale from 40 Hz to 12 kHz, and brighter is louder.
"""

from __future__ import annotations

import argparse
import struct
import zlib
from itertools import pairwise
from pathlib import Path

import numpy as np
import soundfile
from scipy.signal import stft

WIDTH, HEIGHT = 960, 320
LOWEST, HIGHEST = 40.0, 12_000.0  # hertz
POINTS = 4096
SHADES, INDEXED = 64, 3
DARKEST = -75.0  # decibels below the loudest
COLOURS = ((0, (8, 8, 24)), (0.35, (62, 24, 110)), (0.65, (214, 70, 90)), (0.88, (252, 180, 90)), (1, (255, 250, 225)))
Array = np.ndarray


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("song", type=Path)
    parser.add_argument("picture", type=Path)
    arguments = parser.parse_args()
    samples, rate = soundfile.read(arguments.song, always_2d=True)
    arguments.picture.write_bytes(png(levels(samples.mean(axis=1), rate)))


def levels(waveform: Array, rate: int) -> Array:
    """How loud it is, 0 to 1: [height, width], the highest pitch first."""
    hop = max(1, len(waveform) // WIDTH)
    magnitudes = np.abs(stft(waveform, rate, nperseg=POINTS, noverlap=POINTS - hop)[2])[:, :WIDTH]
    places = np.geomspace(HIGHEST, LOWEST, HEIGHT + 1) * POINTS / rate
    rows = [magnitudes[int(low) : int(high) + 1].max(axis=0) for high, low in pairwise(places)]
    decibels = 20 * np.log10(np.array(rows) / magnitudes.max() + 1e-9)
    return np.clip(1 - decibels / DARKEST, 0, 1)


def png(image: Array) -> bytes:
    """Levels [height, width] as a file of so many shades."""
    height, width = image.shape
    header = struct.pack(">IIBBBBB", width, height, 8, INDEXED, 0, 0, 0)
    lines = b"".join(b"\0" + line.tobytes() for line in np.rint(image * (SHADES - 1)).astype(np.uint8))
    parts = ((b"IHDR", header), (b"PLTE", palette()), (b"IDAT", zlib.compress(lines, 9)), (b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(_part(name, data) for name, data in parts)


def palette() -> bytes:
    """Red, green and blue of every shade."""
    marks, colours = zip(*COLOURS, strict=True)
    channels = [np.interp(np.linspace(0, 1, SHADES), marks, channel) for channel in zip(*colours, strict=True)]
    return np.stack(channels, axis=1).astype(np.uint8).tobytes()


def _part(name: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))


if __name__ == "__main__":
    main()
