"""What the decoder learns from: of every song its tokens, the codes of one cycle, and the chroma of its melodies.

A cycle is encoded with its neighbours around it and joins itself, so half a minute of a song is its cycle going
round; windows of any length and place are cut from that.
"""

from __future__ import annotations

import pickle
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from itertools import zip_longest
from multiprocessing import get_context
from pathlib import Path
from typing import cast

import numpy as np
import torch
from transformers import EncodecModel, PreTrainedTokenizerFast
from transformers.audio_utils import chroma_filter_bank

from export.melody_encoder import HOP, POINTS
from songstarter.delay_pattern import DelayPattern
from songstarter.digests import digest
from training.composer import compose
from training.rendering import lead, looped, render
from training.synthesiser import RATE, SAMPLES_PER_FRAME
from training.together import stand_alone
from training.tokenizer import make_tokenizer

BEFORE, AFTER = 15, 8  # frames that the codec hears around a cycle
WINDOW_FRAMES = 1500
CHROMA_FRAMES = 235
Array = np.ndarray


@dataclass(frozen=True)
class Piece:
    """``codes`` [codebook, frame] of one cycle; ``chroma`` [melody, chroma frame]: of the mix, and of the lead."""

    tokens: tuple[int, ...]
    codes: Array
    chroma: Array

    def columns(self, pattern: DelayPattern) -> Array:
        """The columns of half a minute: [codebook, column]."""
        frames = np.take(self.codes, np.arange(WINDOW_FRAMES), axis=1, mode="wrap")
        return pattern.to_columns(frames)


def encode_cycle(codec: EncodecModel, cycle: Array) -> Array:
    """[channel, sample] -> codes [codebook, frame], channels interleaved."""
    frames = cycle.shape[1] // SAMPLES_PER_FRAME
    heard = looped(cycle, (BEFORE + frames + AFTER) * SAMPLES_PER_FRAME, -BEFORE * SAMPLES_PER_FRAME)
    with torch.no_grad():
        latents = codec.encoder(torch.from_numpy(heard)[:, None])
        codes = codec.quantizer.encode(latents)[..., BEFORE : BEFORE + frames]  # [codec codebook, channel, frame]
    return codes.reshape(-1, frames).numpy().astype(np.int16)


def chroma_of(waveform: Array) -> Array:
    """The loudest pitch class of each chroma frame, as ``export/melody_encoder.py`` finds it: [sample] -> [frame]."""
    spectra = torch.stft(torch.from_numpy(waveform), POINTS, HOP, window=torch.hann_window(POINTS), return_complex=True)
    bank = chroma_filter_bank(sampling_rate=RATE, num_frequency_bins=POINTS, tuning=0, num_chroma=12)
    return (torch.from_numpy(bank).float() @ spectra.abs().pow(2)).argmax(0).numpy().astype(np.uint8)


def make_piece(seed: int, codec: EncodecModel, tokenizer: PreTrainedTokenizerFast) -> Piece:
    song = compose(seed)
    cycle = render(song)
    length = WINDOW_FRAMES * SAMPLES_PER_FRAME
    melodies = (looped(wave, length) for wave in (cycle.mean(0), lead(song)))
    chroma = np.stack([chroma_of(melody)[:CHROMA_FRAMES] for melody in melodies])
    return Piece(tuple(tokenizer(song.prompt).input_ids), encode_cycle(codec, cycle), chroma)


def make_pieces(seeds: Sequence[int], codec_folder: Path, processes: int) -> list[Piece]:
    """The pieces of the seeds, made by so many processes."""
    shares = [seeds[start::processes] for start in range(processes)]
    with ProcessPoolExecutor(processes, get_context("spawn"), stand_alone) as pool:
        lists = list(pool.map(_make_share, shares, [codec_folder] * processes))
    return [piece for group in zip_longest(*lists) for piece in group if piece is not None]


def _make_share(seeds: Sequence[int], codec_folder: Path) -> list[Piece]:
    codec, tokenizer = EncodecModel.from_pretrained(codec_folder).eval(), make_tokenizer()
    return [make_piece(seed, codec, tokenizer) for seed in seeds]


def kept_pieces(path: Path, seeds: range, codec_folder: Path, processes: int) -> list[Piece]:
    """The pieces of just these seeds and this codec, made before and kept at ``path``, or made and kept now."""
    origin = (seeds, digest(codec_folder / "model.safetensors"))
    if path.exists():
        made_of, pieces = pickle.loads(path.read_bytes())
        if made_of == origin:
            return cast(list[Piece], pieces)
    pieces = make_pieces(seeds, codec_folder, processes)
    path.write_bytes(pickle.dumps((origin, pieces)))
    return pieces
