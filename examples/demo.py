"""The main job in one go: start Triton, ask for two songs, say where they are, stop.

The second song follows a melody, a short tune that is synthesised here and kept beside the songs.
"""

from __future__ import annotations

import math
import struct
import sys
import time
import wave
from pathlib import Path

from songstarter.errors import SongstarterError
from songstarter.server.launch import Ports
from songstarter.server.server import Server
from songstarter_client import Client
from songstarter_client.progress import Progress

ROOT = Path(__file__).parents[1]
PROMPT = "synth, dark, hip hop, a minor, 140 bpm"
RATE = 32_000
TUNE = (440.0, 523.25, 659.25, 523.25, 587.33, 493.88, 523.25, 440.0)  # hertz, half a second each


def main() -> int:
    """Make the songs; 0 when they stand."""
    out = ROOT / "out"
    out.mkdir(exist_ok=True)
    try:
        with Server(ROOT / "model_repository", Ports.free(), ROOT / "run", tell=tell) as server:
            make_songs(server.grpc_url, out)
            tell("stopping Triton")
    except SongstarterError as error:
        tell(str(error))
        return 1
    except KeyboardInterrupt:
        tell("stopped")
        return 130
    return 0


def make_songs(url: str, out: Path) -> None:
    melody = write_tune(out / "melody.wav")
    with Client(url) as client:
        for name, fields in {"from-a-prompt": {}, "from-a-melody": {"input_audio": melody}}.items():
            started = time.monotonic()
            tell(f"{name}: 4 variations of {PROMPT!r}, 8 seconds each")
            with Progress("demo: decoding"):
                song = client.generate(PROMPT, seed=1, **fields)
            tell(f"made 32 seconds of music in {time.monotonic() - started:.1f} s, seed {song.seed}")
            for path in song.save(out, name):
                print(path.relative_to(ROOT))


def write_tune(path: Path) -> Path:
    """A plain sine melody, mono, 16 bits."""
    count = RATE // 2
    samples = [
        int(12_000 * math.sin(2 * math.pi * pitch * i / RATE) * (1 - i / count)) for pitch in TUNE for i in range(count)
    ]
    with wave.open(str(path), "wb") as file:
        file.setparams((1, 2, RATE, len(samples), "NONE", "not compressed"))
        file.writeframes(struct.pack(f"<{len(samples)}h", *samples))
    return path


def tell(line: str) -> None:
    print(f"demo: {line}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
