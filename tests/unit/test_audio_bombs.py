"""Small files that decode to hours, in a process of their own: what the kernel says it took."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile

MINUTES = 60
RATE = 48_000
ALLOWED_GROWTH = 16 * 2**20  # bytes; a minute of these samples alone is 11 MiB

READ = """
import resource, sys
from pathlib import Path
from songstarter.audio_file import read
from songstarter.errors import InvalidRequest

def most():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024

def refusal(path, seconds):
    try:
        read(Path(path).read_bytes(), max_seconds=seconds)
    except InvalidRequest as refused:
        return str(refused)

refusal(sys.argv[1], 30)  # libraries load, buffers are made
before = most()
for path in sys.argv[2:]:
    print(refusal(path, 600))
print(most() - before)
"""


def silence(path: Path, minutes: int, subtype: str) -> Path:
    second = np.zeros((RATE, 1), np.float32)  # libsndfile's Vorbis takes a block to its stack
    with soundfile.SoundFile(path, "w", samplerate=RATE, channels=1, format="OGG", subtype=subtype) as file:
        for _ in range(60 * minutes):
            file.write(second)
    return path


def without_last_pages(path: Path) -> Path:
    """The same, cut, so that its end does not say how long it is."""
    cut = path.with_suffix(".cut.ogg")
    cut.write_bytes(path.read_bytes()[:-20_000])
    return cut


@pytest.mark.slow
@pytest.mark.parametrize("subtype", ["OPUS", "VORBIS"])
def test_an_hour_in_a_small_file_is_refused_and_costs_no_memory(tmp_path: Path, subtype: str) -> None:
    hour = silence(tmp_path / "hour.ogg", MINUTES, subtype)
    assert hour.stat().st_size < 2 * 2**20
    short = silence(tmp_path / "short.ogg", 2, subtype)
    command = [sys.executable, "-c", READ, str(short), str(hour), str(without_last_pages(hour))]
    said = subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()
    assert all("allowed is at most 600 seconds" in refused for refused in said[:2]), said
    assert int(said[2]) < ALLOWED_GROWTH
