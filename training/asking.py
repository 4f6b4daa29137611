"""Many songs at once from a running server, as waveforms."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import soundfile

from songstarter_client import Client
from training.synthesiser import RATE

AT_ONCE = 16
Array = np.ndarray


@dataclass(frozen=True)
class Wish:
    """One song: a prompt, other fields of the contract, and perhaps a melody [sample]."""

    prompt: str
    fields: Mapping[str, Any] = field(default_factory=dict)
    melody: Array | None = None


def ask_all(url: str, wishes: Sequence[Wish]) -> list[Array]:
    """The mono waveform of each wish: [sample]."""
    with Client(url, timeout=600) as client, ThreadPoolExecutor(AT_ONCE) as pool:
        return list(pool.map(lambda wish: _ask(client, wish), wishes))


def _ask(client: Client, wish: Wish) -> Array:
    melody = {} if wish.melody is None else {"input_audio": wav(wish.melody)}
    song = client.generate(wish.prompt, num_outputs=1, **wish.fields, **melody)
    samples, _ = soundfile.read(io.BytesIO(song.files[0]), always_2d=True)
    return samples.mean(axis=1)


def wav(waveform: Array) -> bytes:
    buffer = io.BytesIO()
    soundfile.write(buffer, waveform, RATE, format="WAV", subtype="PCM_16")
    return buffer.getvalue()
