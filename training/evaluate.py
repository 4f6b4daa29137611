"""How good the embedded checkpoint is: ``python -m training.evaluate --json FILE``. The last line is the report.

Every song is asked of a real server, as a caller would, and measured by its sound alone. Each figure stands beside
what chance gives (the same songs, held against another's prompt) and the ceiling (the composer's own rendering of the
prompt, through the codec).
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import EncodecModel

from benchmarks.machine import facts
from export.checkpoints import load
from export.checkpoints.tiny import make_codec
from export.exporter import Export, export
from songstarter.server.launch import Ports
from songstarter.server.server import Server
from training.asking import Wish, ask_all
from training.codec import CODEBOOK_SIZE, FILTERS, LATENT
from training.composer import Song, compose, songs_with_all_tags
from training.decoder import SONGS
from training.measures import (
    Classifier,
    chroma_agreement,
    scale_asked,
    scale_of,
    share_in_scale,
    signal_to_noise,
    spectral_distance,
    tempo,
    tempo_matches,
    timbre,
)
from training.rendering import lead, looped, render
from training.synthesiser import RATE

SECONDS = 5
PROMPTS, MELODIES = range(2_000_000, 2_000_400), range(2_100_000, 2_100_016)
PIECES, EXAMPLES = range(2_200_000, 2_200_030), range(2_300_000, 2_300_150)
Array = np.ndarray


@dataclass(frozen=True)
class Setting:
    """A way to make the same songs."""

    name: str
    precision: str
    guidance: float


SETTINGS = (
    Setting("fp32, guidance 1", "fp32", 1.0),
    Setting("fp32, guidance 3", "fp32", 3.0),
    Setting("int8, guidance 3", "int8", 3.0),
    Setting("int8_kv8, guidance 3", "int8_kv8", 3.0),
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", type=Path, help="write the report here too")
    parser.add_argument("--checkpoint", default="embedded", help="what `songstarter export` takes")
    parser.add_argument("--prompts", type=int, default=200, help="fewer, for a quick look")
    arguments = parser.parse_args()
    began = time.monotonic()
    codec = load(arguments.checkpoint).codec
    judge = Judge(codec)
    report = {"machine": facts(), "codec": codec_figures(codec)}
    report |= song_figures(arguments.checkpoint, judge, arguments.prompts)
    report["minutes"] = round((time.monotonic() - began) / 60, 1)
    line = json.dumps(report)
    if arguments.json:
        arguments.json.parent.mkdir(parents=True, exist_ok=True)
        arguments.json.write_text(json.dumps(report, indent=2) + "\n")
    print(line)


def sound_of(song: Song) -> Array:
    """The song's beginning: [channel, sample]."""
    return looped(render(song), SECONDS * RATE)


@torch.no_grad()
def through(codec: EncodecModel, waveform: Array) -> Array:
    """What the codec makes of each channel of a waveform: [channel, sample] -> [channel, sample]."""
    heard = torch.from_numpy(waveform)[:, None]
    codes = codec.encode(heard).audio_codes
    return codec.decode(codes, [None] * len(heard)).audio_values[:, 0, : waveform.shape[1]].numpy()


def codec_figures(codec: EncodecModel) -> dict[str, Any]:
    """Reconstruction of unheard pieces, beside a codec that learned nothing and beside any other piece."""
    pieces = [sound_of(compose(seed)) for seed in PIECES]
    sides = [side for piece in pieces for side in piece]
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(0)
        untrained = make_codec(filters=FILTERS, latent=LATENT, codebook_size=CODEBOOK_SIZE)
    rows = {
        "trained": [side for piece in pieces for side in through(codec, piece)],
        "untrained": [side for piece in pieces for side in through(untrained, piece)],
        "another piece": sides[2:] + sides[:2],
    }
    tell("the codec is measured")
    likenesses = {
        f"{name}, {side}": _likeness(found[number::2], sides[number::2])
        for name, found in rows.items()
        for number, side in enumerate(("lead", "bass and drums"))
    }
    return {"pieces": len(pieces), **likenesses}


def _likeness(found: Sequence[Array], wanted: Sequence[Array]) -> dict[str, float]:
    pairs = list(zip(found, wanted, strict=True))
    return {
        "si_snr_db": round(float(np.mean([signal_to_noise(*pair) for pair in pairs])), 2),
        "spectral_distance_db": round(float(np.mean([spectral_distance(*pair) for pair in pairs])), 2),
    }


class Judge:
    """Measures songs against what was asked; it learned to tell timbres and drums from composed examples."""

    def __init__(self, codec: EncodecModel) -> None:
        songs = [compose(seed) for seed in EXAMPLES]
        features = np.stack([timbre(through(codec, sound_of(song)).mean(0)) for song in songs])
        self._instrument = Classifier(features, [song.instrument for song in songs])
        self._drums = Classifier(features, [str(song.has_drums) for song in songs])
        tell("the judge has learned its timbres")

    def follow(self, heard: Sequence[Array], asked: Sequence[Song]) -> dict[str, float]:
        """Shares of the songs that are as asked."""
        features = np.stack([timbre(waveform) for waveform in heard])
        tempos = [tempo_matches(tempo(wave), song.tempo) for wave, song in zip(heard, asked, strict=True)]
        scales = [scale_asked(song.tonic, song.mode) for song in asked]
        shares = {
            "tempo": [exact for exact, _ in tempos],
            "tempo, or its half or double": [octave for _, octave in tempos],
            "scale": [scale_of(wave) == scale for wave, scale in zip(heard, scales, strict=True)],
            "energy in scale": [share_in_scale(wave, scale) for wave, scale in zip(heard, scales, strict=True)],
            "drums": np.array(self._drums(features)) == [str(song.has_drums) for song in asked],
            "instrument": np.array(self._instrument(features)) == [song.instrument for song in asked],
        }
        return {name: round(float(np.mean(values)), 3) for name, values in shares.items()}


def song_figures(checkpoint: str, judge: Judge, count: int) -> dict[str, Any]:
    """What the server's songs show: how they follow prompts and melodies, under every setting."""
    songs = unheard_songs()[:count]
    codec = load(checkpoint).codec
    ceiling = judge.follow([through(codec, sound_of(song)).mean(0) for song in songs], songs)
    following: dict[str, Any] = {"prompts": count, "ceiling": ceiling}
    report: dict[str, Any] = {"seconds": SECONDS, "following": following, "melody": {}}
    for precision in dict.fromkeys(setting.precision for setting in SETTINGS):
        with tempfile.TemporaryDirectory() as folder:
            repository = Path(folder) / "repository"
            export(Export(checkpoint, precision), repository, lambda name: nullcontext())
            with Server(repository, Ports.free(), Path(folder) / "run") as server:
                for setting in (setting for setting in SETTINGS if setting.precision == precision):
                    heard = ask_all(server.grpc_url, [wish(song, setting) for song in songs])
                    following[setting.name] = judge.follow(heard, songs)
                    following[f"chance, {setting.name}"] = judge.follow(heard, songs[1:] + songs[:1])
                    tell(f"{setting.name}: {following[setting.name]}")
                report["melody"][precision] = melody_figures(server.grpc_url)
    return report


def unheard_songs() -> list[Song]:
    """Songs whose prompts say everything, and which no song that the decoder learned from had."""
    heard = {compose(seed).prompt for seed in SONGS}
    return [song for song in map(compose, songs_with_all_tags(PROMPTS)) if song.prompt not in heard]


def wish(song: Song, setting: Setting) -> Wish:
    return Wish(song.prompt, {"classifier_free_guidance": setting.guidance, "duration": float(SECONDS), "seed": 1})


def melody_figures(url: str) -> dict[str, float]:
    """How often the loudest pitch class is the melody's: with no prompt at all, and with its own song's prompt."""
    songs = [compose(seed) for seed in MELODIES]
    melodies = [looped(lead(song), SECONDS * RATE) for song in songs]
    figures: dict[str, float] = {}
    for name, prompts in {"no prompt": [""] * len(songs), "prompt": [song.prompt for song in songs]}.items():
        wishes = [
            Wish(prompt, {"duration": float(SECONDS), "seed": 1}, melody)
            for prompt, melody in zip(prompts, melodies, strict=True)
        ]
        heard = ask_all(url, wishes)
        for pairing, others in {"own": melodies, "another's": melodies[1:] + melodies[:1]}.items():
            agreement = [chroma_agreement(*pair) for pair in zip(heard, others, strict=True)]
            figures[f"{name}, {pairing} melody"] = round(float(np.mean(agreement)), 3)
    tell(f"melodies: {figures}")
    return figures


def tell(line: str) -> None:
    print(f"evaluate: {line}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
